"""A webhook made through the product's actions, with a delivery that has come to its end."""

from typing import Any

import sqlalchemy as sa
from tests.serving import RunningServer

from agentidp.core.caller import Caller
from agentidp.db.schema import webhook_deliveries, webhook_queues, webhook_secrets, webhooks
from agentidp.db.unit import Tx
from agentidp.webhooks.actions import create_webhook, send_test

NOWHERE = "https://hooks.acme.example/agentidp"


def make_webhook(server: RunningServer, organization_id: str, url: str = NOWHERE, events: tuple[str, ...] = ("tier.downgraded",)) -> dict[str, str]:
    """The ids as path parameters."""
    return dict(server.write(_make, Caller(organization_id), server, url, events))


def drop_webhook(server: RunningServer, organization_id: str, webhook_id: str) -> None:
    """Without a trace, at once: the product would do so some time after a webhook was deleted."""
    server.write(_drop, Caller(organization_id), webhook_id)


def _drop(tx: Tx, webhook_id: str) -> None:
    for table in (webhook_deliveries, webhook_secrets, webhook_queues, webhooks):
        tx.run(sa.delete(table).where(table.c.webhook_id == webhook_id))


def _make(tx: Tx, server: RunningServer, url: str, events: tuple[str, ...]) -> dict[str, Any]:
    webhook_id = create_webhook(tx, server.instance.sealer, name="made", url=url, events=events).webhook.webhook_id
    delivery = send_test(tx, webhook_id)
    ended = {"status": "delivered", "attempts": 1, "next_attempt_at": None, "completed_at": tx.now}
    tx.run(sa.update(webhook_deliveries).where(webhook_deliveries.c.delivery_id == delivery.delivery_id).values(**ended))
    return {"webhookId": webhook_id, "deliveryId": delivery.delivery_id}
