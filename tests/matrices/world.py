"""The cast of the tenancy matrix: a tenant, a stranger's tenant, and for each actor a token; fresh targets; the rows of both before and after."""

import contextlib
import uuid
from dataclasses import dataclass, field
from typing import Any

import httpx2
import sqlalchemy as sa
from tests import samples
from tests.auth.forgery import parts
from tests.fakes.fake_stripe import FakeStripe
from tests.fakes.stripe_webhooks import event_body, signature
from tests.matrices.declared import Operation
from tests.serving import RunningServer
from tests.tenants import ALL_SCOPES, Tenant, TestAgent, make_administrator, make_customer, make_tenant, registration
from tests.webhooks.made import drop_webhook, make_webhook

from agentidp.agents.actions import update_agent
from agentidp.auth.scopes import SCOPES
from agentidp.core.caller import SYSTEM, Caller
from agentidp.db.schema import (
    agent_activity,
    audit_checkpoints,
    audit_events,
    audit_followers,
    audit_heads,
    credential_uses,
    credentials,
    hourly_tokens,
    metadata,
    usage_counters,
    webhook_deliveries,
    webhook_queues,
)
from agentidp.db.unit import Tx
from agentidp.federation.actions import add_partner, remove_partner
from agentidp.federation.rules import NewPartner, PartnerNotFound
from agentidp.policies.actions import create_policy, delete_policy
from agentidp.policies.rules import NewPolicy, PolicyNotFound

Rows = dict[str, frozenset[tuple[Any, ...]]]
# every call leaves its mark there, some of it a moment later
_LEDGER = {audit_events, audit_heads, audit_checkpoints, audit_followers, usage_counters, agent_activity, hourly_tokens, credential_uses, webhook_queues}
# what the dispatcher does to a delivery in its own time
_OF_THE_DISPATCHER = {webhook_deliveries: {"status", "attempts", "history", "response_body", "next_attempt_at", "completed_at"}}
_WEBHOOKS_KEPT = 10


@dataclass
class World:
    """Two tenants of one server. Tokens are asked for once; agents that end up inactive got theirs while they were active."""

    server: RunningServer
    home: Tenant = field(init=False)
    away: Tenant = field(init=False)
    tokens: dict[tuple[str, str | None], str] = field(default_factory=dict)
    webhooks: list[str] = field(default_factory=list)
    policy_id: str = ""
    partner_id: str = ""

    def __post_init__(self) -> None:
        self.home, self.away = make_tenant(self.server), make_tenant(self.server)
        for tenant in (self.home, self.away):
            make_customer(tenant)
        self.actors: dict[str, TestAgent] = {
            "agent": self.home.admin,
            "sibling": self.home.agent(*ALL_SCOPES),
            "stranger": self.away.agent(*ALL_SCOPES),
            "administrator": self.home.agent(*ALL_SCOPES),
            "foreign administrator": self.away.admin,
        }
        for administrator in ("administrator", "foreign administrator"):
            make_administrator(self.actors[administrator])
        for state in ("suspended", "decommissioned"):
            agent = self.actors[state] = self.home.agent(*ALL_SCOPES)
            for scope in sorted(ALL_SCOPES):
                self.tokens[state, scope] = agent.token(scope)
            self.server.write(update_agent, agent.caller, agent.agent_id, {"status": state})

    def token(self, actor: str, scope: str | None) -> str:
        """A token of the actor with that scope; with all of them when None; with all but one when the scope begins with a minus sign."""
        if (actor, scope) not in self.tokens:
            asked = None if scope is None else " ".join(sorted(ALL_SCOPES - {scope[1:]})) if scope.startswith("-") else scope
            self.tokens[actor, scope] = self.actors[actor].token(asked)
        return self.tokens[actor, scope]

    def target(self) -> dict[str, str]:
        """A fresh thing of the home tenant for every path parameter that exists."""
        agent = self.home.agent("agents:write")
        (credential,) = self.rows_of(credentials, agent, "credential_id")
        (event,) = self.rows_of(audit_events, agent, "event_id", action="credential.generated", target_id=credential)
        webhook = make_webhook(self.server, self.home.organization_id)
        self.webhooks.append(webhook["webhookId"])
        if len(self.webhooks) > _WEBHOOKS_KEPT:  # an organization may have so many only
            drop_webhook(self.server, self.home.organization_id, self.webhooks.pop(0))
        ids = {"agentId": agent.agent_id, "credentialId": credential, "eventId": event}
        return ids | webhook | {"policyId": self._policy(agent), "partnerId": self._partner()}

    def webhook_of_away(self) -> str:
        return make_webhook(self.server, self.away.organization_id)["webhookId"]

    def _policy(self, agent: TestAgent) -> str:
        """A fresh one; the one before goes, because an organization may not have many."""
        if self.policy_id:
            with contextlib.suppress(PolicyNotFound):
                self.server.write(delete_policy, self.home.admin.caller, self.policy_id)
        repository = {"repository": "acme/screener", "branch": None, "conditions": {}}
        new = NewPolicy(
            "github", "https://github.test", f"{self.server.url}/organizations/{self.home.organization_id}", **repository, agent_id=agent.agent_id, scopes=None
        )
        self.policy_id = self.server.write(create_policy, self.home.admin.caller, new).policy_id
        return self.policy_id

    def _partner(self) -> str:
        """As for policies."""
        caller = Caller(self.home.organization_id, scopes=frozenset(SCOPES))
        if self.partner_id:
            with contextlib.suppress(PartnerNotFound):
                self.server.write(remove_partner, caller, self.partner_id)
        new = NewPartner("Partner", f"https://{uuid.uuid4()}.example", "https://id.partner.example/keys", [], None)
        self.partner_id = self.server.write(add_partner, caller, new).partner_id
        return self.partner_id

    def rows_of(self, table: sa.Table, agent: TestAgent, column: str, **equal: str) -> list[str]:
        query = sa.select(table.c[column]).where(table.c.organization_id == self.home.organization_id)
        query = query.where(*(table.c[name] == value for name, value in equal.items())) if equal else query.where(table.c.agent_id == agent.agent_id)
        return [row[0] for row in self.server.read(_all, agent.caller, query)]

    def snapshot(self, tenant: Tenant) -> Rows:
        return snapshot(self.server, tenant.organization_id)

    def events(self, request_id: str) -> list[tuple[str, str, str]]:
        return events(self.server, request_id)

    def request(self, operation: Operation, path: dict[str, str], token: str | None, **options: Any) -> httpx2.Response:
        headers = {"X-Request-Id": uuid.uuid4().hex} | ({"Authorization": f"Bearer {token}"} if token else {}) | options.pop("headers", {})
        body = {"json": sample_body(self.server, operation)} if operation.reads_body and "data" not in options else {}
        if str(operation) == "POST /api/v1/oidc/trust-policies" and token:  # for whoever asks: what it gives another, it must hold
            body["json"]["agentId"] = parts(token)[1]["sub"]
        if operation.path == "/api/v1/billing/webhook":
            body, signed = signed_event(self.server)
            headers |= signed
        if operation.path == "/api/v1/events":
            options.setdefault("params", {"seconds": "0"})  # else it goes on
        with self.server.client(headers=headers) as client:
            return client.request(operation.method, operation.path.format(**path), **body, **options)


def snapshot(server: RunningServer, organization_id: str) -> Rows:
    """Every row of the organization in every table but the ledger's, and all rows of the tables without tenant."""
    return dict(server.read(_rows, Caller(organization_id, is_system=True)))


def events(server: RunningServer, request_id: str) -> list[tuple[str, str, str]]:
    """What a request left on record anywhere: organization, action, outcome."""
    columns = (audit_events.c.organization_id, audit_events.c.action, audit_events.c.outcome)
    return [tuple(row) for row in server.read(_all, SYSTEM, sa.select(*columns).where(audit_events.c.request_id == request_id))]


def signed_event(server: RunningServer) -> tuple[dict[str, bytes], dict[str, str]]:
    """Body and headers of an event that Stripe would send, of a type that means nothing here."""
    secret, account = server.settings.stripe.webhook_secret, FakeStripe()
    assert secret is not None
    body = event_body(account.event("product.updated", {"id": "prod_1", "object": "product"}))
    return {"content": body}, {"Content-Type": "application/json", "Stripe-Signature": signature(body, [secret.get_secret_value()], account.now)}


def unknown_target() -> dict[str, str]:
    return {name: str(uuid.uuid4()) for name in ("agentId", "credentialId", "eventId", "webhookId", "deliveryId", "policyId", "partnerId")}


def sample_body(server: RunningServer, operation: Operation) -> Any:
    """A valid body, from the examples of the served document; `registration` where an example may be used only once."""
    if operation.path == "/api/v1/agents":
        return registration(scopes=[])
    if operation.path == "/api/v1/federation/trust":  # the server's own key set stands for a partner's: it is there
        return {"name": "Partner", "issuer": f"https://{uuid.uuid4()}.example", "jwksUri": f"{server.url}/.well-known/jwks.json"}
    return samples.sample_body(server.check.document, operation.method, operation.path)


def _all(tx: Tx, query: sa.Select[Any]) -> list[sa.Row[Any]]:
    return tx.all(query)


def _rows(tx: Tx) -> Rows:
    rows: Rows = {}
    for table in metadata.sorted_tables:
        if table in _LEDGER:
            continue
        query = sa.select(*(column for column in table.c if column.name not in _OF_THE_DISPATCHER.get(table, ())))
        if "organization_id" in table.c:
            query = query.where(table.c.organization_id == tx.caller.organization_id)
        rows[table.name] = frozenset(tuple(str(value) for value in row) for row in tx.all(query))
    return rows
