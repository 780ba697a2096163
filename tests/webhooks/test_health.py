"""What /health/detailed says of webhooks: behind is the server's matter, given up is its tenants'."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.fakes.fake_receiver import Behaviour, receiving
from tests.serving import RunningServer, settings_for
from tests.tenants import Tenant, make_tenant

from agentidp.auth.scopes import SCOPES
from agentidp.core import limits
from agentidp.core.caller import SYSTEM, Caller
from agentidp.db.schema import webhook_queues
from agentidp.db.unit import Tx
from agentidp.organizations.actions import update_organization
from agentidp.webhooks.queues import oldest_due
from agentidp.worker import watch_webhooks

HOUR_MS = 3_600_000


@pytest.fixture
def calling(database_url: str, tmp_path: Path) -> Iterator[RunningServer]:
    """A server that may call receivers on this machine."""
    server = RunningServer(settings_for(tmp_path / "data", database_url, webhooks={"allow_loopback": True}))
    yield server
    server.stop()


@pytest.fixture
def tenant(calling: RunningServer) -> Tenant:
    return make_tenant(calling)


def add_webhook(tenant: Tenant, url: str) -> str:
    with tenant.admin.client() as client:
        answer = client.post("/api/v1/webhooks", json={"name": "ops", "url": url, "events": ["agent.created"]})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["webhookId"])


def seen(server: RunningServer) -> tuple[int, str, float, int]:
    server.await_(watch_webhooks(server.instance))
    with server.client() as client:
        answer = client.get("/health/detailed")
    told = answer.json()
    return answer.status_code, told["status"], told["webhooks"]["lagSeconds"], told["webhooks"]["deadLetters"]


def test_dead_letters_are_told_and_degrade_nothing(calling: RunningServer, tenant: Tenant) -> None:
    assert seen(calling) == (200, "ok", 0, 0)
    with receiving(Behaviour(status=lambda _: 410)) as gone, tenant.admin.client() as client:
        webhook = f"/api/v1/webhooks/{add_webhook(tenant, gone.url)}"
        delivery = f"{webhook}/deliveries/{client.post(f'{webhook}/test').json()['deliveryId']}"
        until = time.monotonic() + 10
        while client.get(delivery).json()["status"] != "dead_letter" and time.monotonic() < until:
            time.sleep(0.02)
    assert seen(calling) == (200, "ok", 0, 1)


def test_a_server_that_does_not_keep_up_is_degraded(calling: RunningServer) -> None:
    lag, most = calling.instance.metrics.webhook_lag_seconds, limits.WEBHOOK_LAG_SECONDS_MAX
    with calling.client() as client:
        lag.set(most)
        assert client.get("/health/detailed").status_code == 200
        lag.set(most + 1)
        behind = client.get("/health/detailed")
        assert client.get("/health").status_code == 200  # it serves
    assert (behind.status_code, behind.json()["status"], behind.json()["webhooks"]) == (207, "degraded", {"lagSeconds": most + 1, "deadLetters": 0})


def test_the_lag_is_of_what_may_be_sent(calling: RunningServer, tenant: Tenant) -> None:
    webhook_id = add_webhook(tenant, "https://hooks.acme.example/agentidp")

    def since(tx: Tx, status: str, lease_until: int) -> int | None:
        """Asked and put back in one transaction, so that the dispatcher does not see it."""
        update_organization(tx, {"status": status})
        mine = sa.update(webhook_queues).where(webhook_queues.c.webhook_id == webhook_id, webhook_queues.c.organization_id == tenant.organization_id)
        tx.run(mine.values(due_at=tx.now - HOUR_MS, lease_until=lease_until))
        due_at = oldest_due(tx)
        tx.run(mine.values(due_at=None, lease_until=0))
        update_organization(tx, {"status": "active"})
        return None if due_at is None else tx.now - due_at

    caller = Caller(tenant.organization_id, scopes=frozenset(SCOPES))
    assert calling.read(oldest_due, SYSTEM) is None
    assert calling.write(since, caller, "active", 0) == HOUR_MS
    assert calling.write(since, caller, "suspended", 0) is None
    assert calling.write(since, caller, "active", calling.clock() + 30_000) is None
