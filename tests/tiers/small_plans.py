"""Servers whose plans are small enough to be used up, and organizations on them."""

from typing import Any

from tests.serving import RunningServer, settings_for
from tests.tenants import Tenant, make_tenant

from agentidp.core.caller import Caller
from agentidp.core.clock import system_clock
from agentidp.ledger.entries import DAY_MS
from agentidp.organizations.actions import update_organization
from agentidp.usage.queries import get_usage_today
from agentidp.usage.rules import Usage

AGENTS, CALLS, TOKENS = 5, 30, 20
PLANS: dict[str, Any] = {
    "free": {"max_agents": AGENTS, "max_calls_per_day": CALLS, "max_tokens_per_day": TOKENS, "requests_per_minute": 1_000_000},
    "pro": {"max_agents": 2 * AGENTS, "max_calls_per_day": 0, "max_tokens_per_day": 2 * TOKENS, "requests_per_minute": 1_000_000},
}
HALF_A_DAY = DAY_MS // 2000  # seconds


def small_server(folder: Any, url: str | None, **settings: Any) -> RunningServer:
    """It is noon there, so that no test meets midnight by chance."""
    server = RunningServer(settings_for(folder, url, **{"plans": PLANS} | settings))
    server.clock.shift_ms = (DAY_MS // 2 - system_clock()) % DAY_MS
    return server


def tenant_on(server: RunningServer, tier: str) -> Tenant:
    tenant = make_tenant(server)
    change(server, tenant.organization_id, plan_tier=tier)
    return tenant


def change(server: RunningServer, organization_id: str, **columns: Any) -> None:
    """As the operator, through this server."""
    server.write(update_organization, Caller(organization_id, scopes=frozenset({"admin:orgs"})), columns)


def used(server: RunningServer, organization_id: str) -> Usage:
    return server.read(get_usage_today, Caller(organization_id))  # type: ignore[no-any-return]


def rejections(server: RunningServer, limit: str) -> float:
    return server.instance.metrics.registry.get_sample_value("agentidp_billing_limit_rejections_total", {"limit": limit}) or 0
