"""Creating webhooks, changing and deleting them, their secrets, and what somebody asks to be delivered. Sends nothing: see `dispatch`."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import msgspec
import sqlalchemy as sa

from agentidp.core import limits
from agentidp.core.ids import new_id
from agentidp.core.secrets import Sealer
from agentidp.db.schema import organizations, webhook_deliveries, webhook_queues, webhook_secrets, webhooks
from agentidp.db.unit import Tx
from agentidp.ledger.following import SealedEvent, document, follow, unfollow
from agentidp.webhooks.queries import count_webhooks, get_delivery, get_webhook, lock_webhook
from agentidp.webhooks.rules import (
    FOLLOWER,
    TEST_EVENT,
    Delivery,
    DeliveryWaiting,
    DisabledReason,
    TooManyWebhooks,
    Webhook,
    WebhookNotActive,
    secret_text,
)


@dataclass(frozen=True, slots=True)
class WithSecret:
    """A webhook and what signs its deliveries from now on, to be shown once."""

    webhook: Webhook
    signing_secret: str


def create_webhook(tx: Tx, sealer: Sealer, *, name: str, url: str, events: tuple[str, ...]) -> WithSecret:
    """The url has passed the outgoing guard's first look. Raises TooManyWebhooks."""
    _lock_organization(tx)
    if count_webhooks(tx) >= limits.WEBHOOKS_PER_ORGANIZATION_MAX:
        raise TooManyWebhooks
    mine = {"organization_id": tx.caller.organization_id, "webhook_id": new_id(tx.now)}
    values = {"name": name, "url": url, "events": " ".join(sorted(events)), "is_active": True, "created_at": tx.now, "updated_at": tx.now}
    tx.run(sa.insert(webhooks).values(**mine, **values))
    tx.run(sa.insert(webhook_queues).values(**mine, lease_until=0, failures=0, paused_until=0))
    follow(tx, FOLLOWER)
    secret = _new_secret(tx, sealer, mine["webhook_id"])
    tx.record("webhook.created", "webhook", mine["webhook_id"], events=sorted(events), host=urlsplit(url).hostname)
    return WithSecret(get_webhook(tx, mine["webhook_id"]), secret)


def update_webhook(tx: Tx, webhook_id: str, patch: dict[str, object]) -> Webhook:
    """`patch` has the names of `Webhook`. Making it active, or giving it another url, lets its receiver begin anew. Raises WebhookNotFound."""
    stored = lock_webhook(tx, webhook_id)
    changed = {name: value for name, value in patch.items() if getattr(stored, name) != value}
    if not changed:
        return stored
    columns = {name: value for name, value in changed.items() if name in {"name", "url"}}
    if isinstance(events := changed.get("events"), tuple):
        columns["events"] = " ".join(sorted(events))
    if isinstance(active := changed.get("active"), bool):
        columns |= {"is_active": active, "disabled_reason": None if active else "by_request"}
    _change(tx, webhook_id, **columns)
    if changed.keys() & {"url", "active"}:
        _begin_anew(tx, webhook_id)
    tx.record("webhook.updated", "webhook", webhook_id, fields=sorted(changed))
    return get_webhook(tx, webhook_id)


def disable_webhook(tx: Tx, webhook_id: str, reason: DisabledReason) -> bool:
    """On behalf of its receiver, which is gone or fails for days; what waits for it is given up. Returns whether it was active.

    Raises WebhookNotFound.
    """
    if not lock_webhook(tx, webhook_id).active:
        return False
    _change(tx, webhook_id, is_active=False, disabled_reason=reason)
    tx.record("webhook.disabled", "webhook", webhook_id, reason=reason)
    return True


def delete_webhook(tx: Tx, webhook_id: str) -> None:
    """For good; its deliveries go after it. Raises WebhookNotFound."""
    _lock_organization(tx)
    lock_webhook(tx, webhook_id)
    _change(tx, webhook_id, deleted_at=tx.now, is_active=False)
    _end_secrets(tx, webhook_id, but=())
    _begin_anew(tx, webhook_id)
    if not count_webhooks(tx):
        unfollow(tx, FOLLOWER)
    tx.record("webhook.deleted", "webhook", webhook_id)


def rotate_secret(tx: Tx, webhook_id: str, sealer: Sealer) -> WithSecret:
    """A new secret signs from now on, beside the one before it for a day. Raises WebhookNotFound."""
    webhook = lock_webhook(tx, webhook_id)
    secret = webhook_secrets.c
    mine = sa.and_(secret.organization_id == tx.caller.organization_id, secret.webhook_id == webhook_id)
    tx.run(sa.update(webhook_secrets).where(mine, secret.valid_until.is_(None)).values(valid_until=tx.now + limits.WEBHOOK_OVERLAP_MS))
    newest = sa.select(secret.secret_id).where(mine, secret.valid_until > tx.now).order_by(secret.secret_id.desc())
    _end_secrets(tx, webhook_id, but=[row.secret_id for row in tx.all(newest.limit(limits.WEBHOOK_SECRETS_MAX - 1))])
    fresh = _new_secret(tx, sealer, webhook_id)
    _make_due(tx, webhook_id, lease_owner=None, lease_until=0)  # whoever is at the queue signs with the secrets of before
    tx.record("webhook.secret_rotated", "webhook", webhook_id)
    return WithSecret(webhook, fresh)


def send_test(tx: Tx, webhook_id: str) -> Delivery:
    """A delivery of an event that is in no history. Raises WebhookNotFound and WebhookNotActive."""
    _require_active(lock_webhook(tx, webhook_id))
    event_id = new_id(tx.now)
    event = SealedEvent(
        tx.caller.organization_id, event_id, 0, tx.caller.agent_id, TEST_EVENT, "success", "webhook", webhook_id, tx.caller.origin.request_id, {}, tx.now
    )
    delivery_id = new_id(tx.now)
    row = new_delivery(event, webhook_id, msgspec.json.encode(document(event)).decode(), delivery_id, now=tx.now, due_at=tx.now)
    tx.run(sa.insert(webhook_deliveries).values(**row))
    _make_due(tx, webhook_id, paused_until=0)
    return get_delivery(tx, webhook_id, delivery_id)


def redeliver(tx: Tx, webhook_id: str, delivery_id: str) -> Delivery:
    """Begin again with a delivery that has come to its end, under the same id. Raises WebhookNotFound, DeliveryNotFound, WebhookNotActive, DeliveryWaiting."""
    _require_active(lock_webhook(tx, webhook_id))
    delivery = get_delivery(tx, webhook_id, delivery_id)
    if delivery.next_attempt_at is not None:
        raise DeliveryWaiting
    again = {"status": "pending", "attempts": 0, "next_attempt_at": tx.now, "asked_at": tx.now, "completed_at": None}
    of = webhook_deliveries.c
    ended = sa.and_(of.organization_id == tx.caller.organization_id, of.delivery_id == delivery_id, of.next_attempt_at.is_(None))
    tx.run(sa.update(webhook_deliveries).where(ended).values(**again))
    _make_due(tx, webhook_id, paused_until=0)
    return replace(delivery, **again)  # type: ignore[arg-type]  # the columns are the fields


def new_delivery(event: SealedEvent, webhook_id: str, body: str, delivery_id: str, *, now: int, due_at: int) -> dict[str, object]:
    """The row of a delivery that nobody has tried yet."""
    return {
        "organization_id": event.organization_id,
        "delivery_id": delivery_id,
        "webhook_id": webhook_id,
        "event_id": event.event_id,
        "event_type": event.action,
        "seq": event.seq,
        "body": body,
        "status": "pending",
        "attempts": 0,
        "history": [],
        "next_attempt_at": due_at,
        "asked_at": now,
        "created_at": now,
    }


def _new_secret(tx: Tx, sealer: Sealer, webhook_id: str) -> str:
    raw, secret_id = os.urandom(limits.WEBHOOK_SECRET_BYTES), new_id(tx.now)
    sealed = sealer.seal(raw, "webhook_secrets", "sealed_secret", tx.caller.organization_id, webhook_id, secret_id)
    mine = {"organization_id": tx.caller.organization_id, "webhook_id": webhook_id, "secret_id": secret_id}
    tx.run(sa.insert(webhook_secrets).values(**mine, sealed_secret=sealed, created_at=tx.now))
    return secret_text(raw)


def _end_secrets(tx: Tx, webhook_id: str, *, but: Sequence[str]) -> None:
    secret = webhook_secrets.c
    mine = sa.and_(secret.organization_id == tx.caller.organization_id, secret.webhook_id == webhook_id)
    tx.run(sa.delete(webhook_secrets).where(mine, secret.secret_id.not_in(but)))


def _change(tx: Tx, webhook_id: str, **columns: object) -> None:
    mine = sa.and_(webhooks.c.organization_id == tx.caller.organization_id, webhooks.c.webhook_id == webhook_id)
    tx.run(sa.update(webhooks).where(mine).values(**columns, updated_at=tx.now))


def _begin_anew(tx: Tx, webhook_id: str) -> None:
    """The receiver's failures are forgotten, and whoever is at the queue looks at the webhook again before the next attempt."""
    _make_due(tx, webhook_id, failures=0, failing_since=None, paused_until=0, lease_owner=None, lease_until=0)


def _make_due(tx: Tx, webhook_id: str, **columns: object) -> None:
    """Somebody asks for a look at the queue now, however the receiver does."""
    mine = sa.and_(webhook_queues.c.organization_id == tx.caller.organization_id, webhook_queues.c.webhook_id == webhook_id)
    tx.run(sa.update(webhook_queues).where(mine).values(due_at=tx.now, **columns))


def _require_active(webhook: Webhook) -> None:
    if not webhook.active:
        raise WebhookNotActive


def _lock_organization(tx: Tx) -> None:
    """Webhooks of one organization come and go one after the other."""
    tx.one(sa.select(organizations.c.organization_id).where(organizations.c.organization_id == tx.caller.organization_id).with_for_update())
