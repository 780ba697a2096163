"""One tenant an engine whom every kind of bad input is aimed at. It must come out of all of it unchanged."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
from tests.bad_input.operations import Operation
from tests.serving import RunningServer
from tests.tenants import Tenant, TestAgent, make_tenant
from tests.webhooks.made import make_webhook

from agentidp.auth.scopes import SCOPES
from agentidp.core.caller import SYSTEM
from agentidp.db.schema import audit_events
from agentidp.db.unit import Tx


@dataclass
class Target:
    """`ids` are the path parameters of objects of the tenant's own; `token` holds every scope."""

    server: RunningServer
    tenant: Tenant
    agent: TestAgent
    token: str
    ids: dict[str, str]
    client: httpx2.Client  # its responses are held against the OpenAPI document

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def path(self, operation: Operation) -> str:
        """To an object of the tenant, unless the operation would change it without even a body."""
        return operation.path(self.ids if operation.body or operation.method == "GET" else None)

    def headers(self, operation: Operation) -> dict[str, str]:
        """What the operation needs to let anybody in."""
        return {} if operation.scope in {"public", "client"} else self.bearer

    def call(self, operation: Operation, *, path: str | None = None, **options: Any) -> httpx2.Response:
        headers = self.headers(operation) | options.pop("headers", {})
        if "seconds" in operation.query and path is None:
            options.setdefault("params", {"seconds": "0"})  # else it goes on
        return self.client.request(operation.method, path or self.path(operation), headers=headers, **options)

    def events(self, request_id: str) -> list[Any]:
        """The audit events that the request left, whosever they are."""

        def find(tx: Tx) -> list[Any]:
            return tx.all(sa.select(audit_events).where(audit_events.c.request_id == request_id))

        return list(self.server.read(find, SYSTEM))


def said(response: httpx2.Response) -> tuple[str, str]:
    """Code and message of a refusal, in either shape."""
    body = response.json()
    return ("VALIDATION_ERROR" if body.get("error") == "invalid_request" else body["code"]), body.get("message") or body["error_description"]


def fresh_request_id() -> str:
    return f"test-{uuid.uuid4()}"


@pytest.fixture(scope="session")
def _targets() -> Iterator[dict[str, Target]]:
    targets: dict[str, Target] = {}
    yield targets
    for target in targets.values():
        target.client.close()


@pytest.fixture
def target(server: RunningServer, _targets: dict[str, Target]) -> Target:
    if server.url not in _targets:
        tenant = make_tenant(server)
        agent = tenant.agent("agents:read", "tokens:read", "openid")
        with tenant.admin.client() as client:
            credential = client.get(f"/api/v1/agents/{agent.agent_id}/credentials").json()["data"][0]
            event = client.get("/api/v1/audit").json()["data"][0]
        ids = {"agentId": agent.agent_id, "credentialId": credential["credentialId"], "eventId": event["eventId"]}
        ids |= {"orgId": tenant.organization_id, **make_webhook(server, tenant.organization_id)}
        _targets[server.url] = Target(server, tenant, agent, tenant.agent(*SCOPES).token(" ".join(SCOPES)), ids, server.client())
    return _targets[server.url]
