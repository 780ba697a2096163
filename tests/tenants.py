"""Fresh tenants: every test gets its own organization, so that tests share a server and never meet."""

import itertools
import uuid
from dataclasses import dataclass
from typing import Any

import httpx2
from tests.serving import RunningServer

from agentidp.agents.actions import register_agent
from agentidp.agents.rules import NewAgent
from agentidp.auth.scopes import SCOPES
from agentidp.core import limits
from agentidp.core.caller import Caller
from agentidp.core.config import Settings
from agentidp.credentials.actions import generate_credential
from agentidp.db.unit import Tx
from agentidp.organizations.actions import add_member, create_organization, set_plan, update_organization

ALL_SCOPES = frozenset(SCOPES) - {"admin:orgs"}
_numbers = itertools.count(1)


@dataclass
class TestAgent:
    """An agent with a live credential. `token(scope)` gets a real token over HTTP."""

    __test__ = False

    server: RunningServer
    organization_id: str
    agent_id: str
    client_secret: str

    @property
    def caller(self) -> Caller:
        return Caller(self.organization_id, self.agent_id, ALL_SCOPES)

    def token_response(self, scope: str | None = None, **form: Any) -> httpx2.Response:
        data = {"grant_type": "client_credentials", "client_id": self.agent_id, "client_secret": self.client_secret, **form}
        with self.server.client() as client:
            return client.post("/api/v1/token", data=data | ({"scope": scope} if scope is not None else {}))

    def token(self, scope: str | None = None, **form: Any) -> str:
        response = self.token_response(scope, **form)
        assert response.status_code == 200, response.text
        return str(response.json()["access_token"])

    def client(self, scope: str | None = None) -> httpx2.Client:
        """An HTTP client that sends a token with that scope (all but admin:orgs when None)."""
        return self.server.client(headers={"Authorization": f"Bearer {self.token(scope)}"})


@dataclass
class Tenant:
    """An organization with an administrator that holds every scope but the operator's."""

    server: RunningServer
    organization_id: str
    admin: TestAgent

    def agent(self, *scopes: str, **values: Any) -> TestAgent:
        """One more agent with these scopes (default agents:read tokens:read openid) and a credential."""
        granted = frozenset(scopes) or frozenset({"agents:read", "tokens:read", "openid"})
        return self.server.write(_make_agent, Caller(self.organization_id, scopes=frozenset(SCOPES)), self.server, granted, values)


def make_tenant(server: RunningServer) -> Tenant:
    def make(tx: Tx) -> TestAgent:
        organization_id = tx.caller.organization_id
        create_organization(tx, organization_id, name="Tenant", slug=f"t-{uuid.uuid4().hex[:12]}", plan_tier="enterprise")
        return _make_agent(tx, server, ALL_SCOPES, {})

    caller = Caller(str(uuid.uuid4()), scopes=frozenset(SCOPES))
    return Tenant(server, caller.organization_id, server.write(make, caller))


def selling_server(settings: Settings) -> RunningServer:
    """A server that sells plans; its first organization, which then starts on the free one, is lifted above all limits."""
    server = RunningServer(settings)
    if server.first is not None:
        server.write(set_plan, Caller(server.first.organization_id, scopes=frozenset(SCOPES)), "enterprise", subscription=None)
    return server


def make_customer(tenant: Tenant) -> str:
    """Let the tenant have room for an upgrade, and open a checkout; returns its address."""
    caller = Caller(tenant.organization_id, scopes=frozenset(SCOPES))
    patch = {"plan_tier": "pro", "max_agents": limits.ORGANIZATION_LIMIT_MAX, "max_tokens_per_day": limits.ORGANIZATION_LIMIT_MAX}
    tenant.server.write(update_organization, caller, patch)
    with tenant.admin.client() as client:
        return str(client.post("/api/v1/billing/checkout").json()["checkoutUrl"])


def operator_of(server: RunningServer) -> TestAgent:
    """The instance's first agent, which alone may ask for admin:orgs."""
    first = server.first
    return TestAgent(server, first.organization_id, first.agent_id, first.client_secret)


def make_administrator(agent: TestAgent, role: str = "admin") -> None:
    """Give the agent a role in its own organization."""
    agent.server.write(add_member, Caller(agent.organization_id, scopes=frozenset(SCOPES)), agent.agent_id, role)


def registration(**values: Any) -> dict[str, Any]:
    """A valid body of POST /agents, with an email of its own."""
    return {
        "email": f"agent-{next(_numbers)}-{uuid.uuid4().hex[:8]}@acme.example",
        "agentType": "screener",
        "version": "1.0.0",
        "capabilities": ["resume:read"],
        "owner": "talent-team",
        "deploymentEnv": "production",
    } | values


def _make_agent(tx: Tx, server: RunningServer, scopes: frozenset[str], values: dict[str, Any]) -> TestAgent:
    fields = {
        "email": f"agent-{uuid.uuid4().hex}@acme.example",
        "agent_type": "custom",
        "version": "1.0.0",
        "capabilities": ("a:b",),
        "owner": "tests",
        "deployment_env": "development",
        "scopes": scopes,
    } | values
    agent = register_agent(tx, NewAgent(**fields), plans=server.instance.plans)
    secret = generate_credential(tx, agent.agent_id, server.instance.secret_key).secret
    return TestAgent(server, tx.caller.organization_id, agent.agent_id, secret.text)
