"""Looking up webhooks and what was delivered to them, always within one organization."""

from typing import Any

import sqlalchemy as sa

from agentidp.core.ids import is_id
from agentidp.db.paging import PageRequest, RowPage, fetch_page
from agentidp.db.schema import webhook_deliveries, webhook_queues, webhooks
from agentidp.db.unit import Tx
from agentidp.webhooks.rules import Delivery, DeliveryNotFound, Webhook, WebhookNotFound


def get_webhook(tx: Tx, webhook_id: str) -> Webhook:
    """Raises WebhookNotFound."""
    row = tx.one(_webhooks(tx).where(webhooks.c.webhook_id == webhook_id)) if is_id(webhook_id) else None
    if row is None:
        raise WebhookNotFound
    return to_webhook(row)


def list_webhooks(tx: Tx, request: PageRequest) -> RowPage:
    return fetch_page(tx, _webhooks(tx), webhooks.c.webhook_id, request)


def lock_webhook(tx: Tx, webhook_id: str) -> Webhook:
    """As `get_webhook`; nobody else changes it until the unit of work ends."""
    mine = sa.and_(webhooks.c.organization_id == tx.caller.organization_id, webhooks.c.webhook_id == webhook_id)
    if is_id(webhook_id):
        tx.one(sa.select(webhooks.c.webhook_id).where(mine).with_for_update())
    return get_webhook(tx, webhook_id)


def count_webhooks(tx: Tx) -> int:
    mine = sa.and_(webhooks.c.organization_id == tx.caller.organization_id, webhooks.c.deleted_at.is_(None))
    return tx.connection.scalar(sa.select(sa.func.count()).select_from(webhooks).where(mine)) or 0


def list_deliveries(tx: Tx, webhook_id: str, status: str | None, request: PageRequest) -> RowPage:
    """Raises WebhookNotFound."""
    get_webhook(tx, webhook_id)
    of = webhook_deliveries.c
    query = sa.select(webhook_deliveries).where(of.organization_id == tx.caller.organization_id, of.webhook_id == webhook_id)
    if status == "delivered":
        query = query.where(of.status == status)
    elif status is not None:  # said twice, and in the statement: only then is the index of what is not delivered of use
        query = query.where(of.status == status, of.status != sa.literal("delivered", literal_execute=True))
    return fetch_page(tx, query, of.delivery_id, request)


def get_delivery(tx: Tx, webhook_id: str, delivery_id: str) -> Delivery:
    """Raises WebhookNotFound and DeliveryNotFound."""
    get_webhook(tx, webhook_id)
    of = webhook_deliveries.c
    mine = sa.and_(of.organization_id == tx.caller.organization_id, of.webhook_id == webhook_id, of.delivery_id == delivery_id)
    row = tx.one(sa.select(webhook_deliveries).where(mine)) if is_id(delivery_id) else None
    if row is None:
        raise DeliveryNotFound
    return to_delivery(row)


def to_webhook(row: sa.Row[Any]) -> Webhook:
    fields = row._asdict()
    return Webhook(**fields | {"events": tuple(fields["events"].split())})


def to_delivery(row: sa.Row[Any]) -> Delivery:
    return Delivery(**row._asdict())


def _webhooks(tx: Tx) -> sa.Select[Any]:
    of, queue = webhooks.c, webhook_queues.c
    return (
        sa.select(
            *(of[name] for name in ("organization_id", "webhook_id", "name", "url", "events", "disabled_reason", "created_at", "updated_at")),
            of.is_active.label("active"),
            queue.failures.label("failure_count"),
            queue.failing_since,
            queue.last_delivery_at,
        )
        .select_from(webhooks.join(webhook_queues, sa.and_(queue.organization_id == of.organization_id, queue.webhook_id == of.webhook_id)))
        .where(of.organization_id == tx.caller.organization_id, of.deleted_at.is_(None))
    )
