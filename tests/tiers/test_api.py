"""The table, where an organization stands, and the way up."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.fake_stripe import FakeStripe
from tests.processes import wait_until
from tests.serving import RunningServer, stripe_settings
from tests.tenants import Tenant, operator_of, registration
from tests.tiers.small_plans import AGENTS, CALLS, TOKENS, change, small_server, tenant_on, used

from agentidp.core.clock import from_rfc3339
from agentidp.ledger.entries import DAY_MS

TIERS, STATUS, UPGRADE = "/api/v1/tiers", "/api/v1/tiers/status", "/api/v1/tiers/upgrade"
NO_LIMIT = {"maxAgents": None, "maxCallsPerDay": None, "maxTokensPerDay": None, "requestsPerMinute": 10_000}


@pytest.fixture
def shop(database_url: str, tmp_path: Path, stripe: FakeStripe) -> Iterator[RunningServer]:
    """A server of this test alone that sells small plans."""
    running = small_server(tmp_path / "shop", database_url, stripe=stripe_settings(stripe))
    running.clock.shift_ms = 0  # Stripe signs with the time of its own
    yield running
    running.stop()


def test_anybody_may_see_the_plans(server: RunningServer) -> None:
    with server.client() as client:
        table = client.get(TIERS)
    assert table.status_code == 200
    assert table.json()["data"] == [
        {"tier": "free", "maxAgents": 10, "maxCallsPerDay": 1000, "maxTokensPerDay": 1000, "requestsPerMinute": 100, "auditKeptDays": 90},
        {"tier": "pro", "maxAgents": 100, "maxCallsPerDay": 50_000, "maxTokensPerDay": 50_000, "requestsPerMinute": 1000, "auditKeptDays": 365},
        {"tier": "enterprise"} | NO_LIMIT | {"auditKeptDays": None},
    ]


def test_the_status_is_the_organizations_own(tenant: Tenant, other_tenant: Tenant) -> None:
    other_tenant.agent()
    agent = tenant.agent("openid")  # any token
    with agent.client() as client:
        first, second = client.get(STATUS).json(), client.get(STATUS).json()
    assert (first["tier"], first["limits"]) == ("enterprise", NO_LIMIT)
    assert first["usage"] == {"agentCount": 2, "callsToday": 1, "tokensToday": 1}
    assert second["usage"] == {"agentCount": 2, "callsToday": 2, "tokensToday": 1}
    assert from_rfc3339(first["resetsAt"]) == (tenant.server.clock() // DAY_MS + 1) * DAY_MS


def test_agents_that_are_gone_need_no_place(tenant: Tenant) -> None:
    first, second = tenant.agent(), tenant.agent()
    with tenant.admin.client() as client:
        assert client.patch(f"/api/v1/agents/{first.agent_id}", json={"status": "suspended"}).status_code == 200
        assert client.delete(f"/api/v1/agents/{second.agent_id}").status_code == 204
        assert client.get(STATUS).json()["usage"]["agentCount"] == 2


def test_an_upgrade_is_a_checkout(tenant: Tenant) -> None:
    change(tenant.server, tenant.organization_id, plan_tier="free")
    with tenant.admin.client("billing:write") as client:
        first, again = (client.post(UPGRADE, json={"targetTier": "pro"}) for _ in range(2))
        dearer = client.post(UPGRADE, json={"targetTier": "enterprise"})
    assert (first.status_code, first.json()) == (201, again.json())
    assert first.json()["checkoutUrl"].startswith("http")
    assert dearer.json()["checkoutUrl"] != first.json()["checkoutUrl"]


@pytest.mark.parametrize(("current", "target"), [("free", "free"), ("pro", "free"), ("pro", "pro"), ("enterprise", "pro"), ("enterprise", "enterprise")])
def test_only_a_higher_plan_can_be_bought(tenant: Tenant, current: str, target: str) -> None:
    change(tenant.server, tenant.organization_id, plan_tier=current)
    with tenant.admin.client("billing:write") as client:
        refused = client.post(UPGRADE, json={"targetTier": target})
    assert (refused.status_code, refused.json()["code"]) == (400, "VALIDATION_ERROR")
    assert [row["field"] for row in refused.json()["details"]["fields"]] == ["targetTier"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "targetTier"),
        ({"targetTier": None}, "targetTier"),
        ({"targetTier": "gold"}, "targetTier"),
        ({"targetTier": ["pro"]}, "targetTier"),
        ({"targetTier": "PRO"}, "targetTier"),
        ({"targetTier": "pro", "successUrl": "https://evil.example"}, "successUrl"),
        ({"target_tier": "pro"}, "targetTier"),
    ],
)
def test_bad_input_is_named(tenant: Tenant, body: dict[str, Any], field: str) -> None:
    with tenant.admin.client("billing:write") as client:
        refused = client.post(UPGRADE, json=body)
    assert refused.status_code == 400
    assert field in {row["field"] for row in refused.json()["details"]["fields"]}


def test_buying_needs_its_scope(tenant: Tenant) -> None:
    with tenant.admin.client("billing:read") as client:
        assert client.post(UPGRADE, json={"targetTier": "pro"}).status_code == 403


@pytest.mark.parametrize(("per_minute", "shown"), [(77, 77), (0, None)])
def test_a_rate_that_goes_before_all_plans_is_shown(database_url: str, tmp_path: Path, per_minute: int, shown: int | None) -> None:
    running = small_server(tmp_path / "rated", database_url, rate_limit={"per_minute": per_minute})
    try:
        with operator_of(running).client() as client:
            assert client.get(STATUS).json()["limits"]["requestsPerMinute"] == shown
            assert {plan["requestsPerMinute"] for plan in client.get(TIERS).json()["data"]} == {shown}
    finally:
        running.stop()


def test_whoever_has_used_up_the_day_can_buy_more(shop: RunningServer, stripe: FakeStripe) -> None:
    tenant = tenant_on(shop, "free")
    with tenant.admin.client() as client:
        for _ in range(CALLS):
            assert client.get("/api/v1/agents").status_code == 200
        assert client.get("/api/v1/agents").status_code == 429
        address = client.post(UPGRADE, json={"targetTier": "pro"}).json()["checkoutUrl"]
        stripe.pay(next(part for part in address.split("/") if part.startswith("cs_")))
        stripe.deliver(f"{shop.url}/api/v1/billing/webhook")
        wait_until(lambda: client.get(STATUS).json()["tier"] == "pro")
        assert client.get("/api/v1/agents").status_code == 200


def test_where_plans_are_sold_the_first_organization_is_on_the_free_one(shop: RunningServer) -> None:
    first = operator_of(shop)
    with first.client("openid") as client:
        status = client.get(STATUS).json()
    assert (status["tier"], status["limits"]["maxAgents"]) == ("free", AGENTS)
    with first.client("admin:orgs") as client:
        assert client.get(f"/api/v1/organizations/{first.organization_id}").json()["planTier"] == "free"


def test_where_nothing_is_sold_nothing_is_limited(own_server: RunningServer) -> None:
    with operator_of(own_server).client() as client:
        status = client.get(STATUS).json()
        assert (status["tier"], status["limits"]) == ("enterprise", NO_LIMIT)
        assert client.post(UPGRADE, json={"targetTier": "enterprise"}).status_code == 404


def test_without_enforcement_only_an_organizations_own_limits_count(database_url: str, tmp_path: Path) -> None:
    running = small_server(tmp_path / "free for all", database_url, features={"tier_enforcement": False})
    try:
        tenant = tenant_on(running, "free")
        with tenant.admin.client() as client:
            assert [plan["maxAgents"] for plan in client.get(TIERS).json()["data"]] == [None, None, None]
            made = [client.post("/api/v1/agents", json=registration()).status_code for _ in range(AGENTS + 1)]
            made += [client.get("/api/v1/agents").status_code for _ in range(CALLS)]
            assert set(made) == {200, 201}
            assert {tenant.admin.token_response().status_code for _ in range(TOKENS + 1)} == {200}
            assert used(running, tenant.organization_id).calls == AGENTS + 1 + CALLS  # counted all the same
            change(running, tenant.organization_id, max_agents=2, max_tokens_per_day=TOKENS)
            assert client.post("/api/v1/agents", json=registration()).status_code == 403
            assert tenant.admin.token_response().status_code == 429
            assert client.get(STATUS).json()["limits"]["maxTokensPerDay"] == TOKENS
    finally:
        running.stop()
