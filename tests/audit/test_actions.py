"""Every change and every refusal leaves its event: how to cause each action that the product records, and what it then says."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
from tests.serving import RunningServer
from tests.tenants import Tenant, TestAgent, registration

import agentidp
from agentidp.auth.keys import rotate_keys
from agentidp.core.caller import Caller
from agentidp.db.schema import audit_events
from agentidp.db.unit import Tx

Cause = Callable[[httpx2.Client, TestAgent], Any]


def _agent(agent: TestAgent) -> str:
    return f"/api/v1/agents/{agent.agent_id}"


def _credential(client: httpx2.Client, agent: TestAgent) -> str:
    return f"{_agent(agent)}/credentials/{client.get(f'{_agent(agent)}/credentials').json()['data'][-1]['credentialId']}"


def _reactivate(client: httpx2.Client, agent: TestAgent) -> None:
    client.patch(_agent(agent), json={"status": "suspended"})
    client.patch(_agent(agent), json={"status": "active"})


def _nobody(client: httpx2.Client, agent: TestAgent) -> None:
    client.patch(_agent(agent), json={"status": "suspended"})
    agent.token_response()


def _dead_token(client: httpx2.Client, agent: TestAgent) -> None:
    token = agent.token()
    client.post(f"{_agent(agent)}/revoke-tokens")
    client.get("/agent-info", headers={"Authorization": f"Bearer {token}"})


def _other_audience(client: httpx2.Client, agent: TestAgent) -> None:
    client.get("/agent-info", headers={"Authorization": f"Bearer {agent.token(resource='https://elsewhere.example')}"})


def _without_scope(client: httpx2.Client, agent: TestAgent) -> None:
    client.get("/api/v1/audit", headers={"Authorization": f"Bearer {agent.token()}"})


def _anothers_token(client: httpx2.Client, agent: TestAgent) -> None:
    theirs = client.headers["Authorization"].removeprefix("Bearer ")
    client.post("/api/v1/token/revoke", data={"token": theirs}, headers={"Authorization": f"Bearer {agent.token()}"})


def _grant_more(client: httpx2.Client, agent: TestAgent) -> None:
    client.patch(_agent(agent), json={"scopes": ["admin:orgs"]})


def _policy(client: httpx2.Client, agent: TestAgent) -> str:
    body = {"provider": "github", "repository": "acme/screener", "agentId": agent.agent_id}
    return str(client.post("/api/v1/oidc/trust-policies", json=body).json()["policyId"])


def _exchange(_: httpx2.Client, agent: TestAgent) -> None:
    kind = "urn:ietf:params:oauth:token-type:access_token"
    form = {"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange", "subject_token": agent.token(), "subject_token_type": kind}
    with agent.server.client() as client:
        client.post("/api/v1/token", data=form)


# (action, outcome) -> ways to cause it; each is given the administrator's client and an agent of the tenant
CAUSES: dict[tuple[str, str], list[Cause]] = {
    ("agent.created", "success"): [lambda client, _: client.post("/api/v1/agents", json=registration())],
    ("agent.updated", "success"): [lambda client, agent: client.patch(_agent(agent), json={"owner": "x"})],
    ("agent.suspended", "success"): [lambda client, agent: client.patch(_agent(agent), json={"status": "suspended"})],
    ("agent.reactivated", "success"): [_reactivate],
    ("agent.decommissioned", "success"): [
        lambda client, agent: client.delete(_agent(agent)),
        lambda client, agent: client.patch(_agent(agent), json={"status": "decommissioned"}),
    ],
    ("credential.generated", "success"): [lambda client, agent: client.post(f"{_agent(agent)}/credentials")],
    ("credential.rotated", "success"): [lambda client, agent: client.post(f"{_credential(client, agent)}/rotate")],
    ("credential.revoked", "success"): [lambda client, agent: client.delete(_credential(client, agent))],
    ("token.issued", "success"): [lambda _, agent: agent.token()],
    ("token.exchanged", "success"): [_exchange],
    ("policy.created", "success"): [_policy],
    ("policy.deleted", "success"): [lambda client, agent: client.delete(f"/api/v1/oidc/trust-policies/{_policy(client, agent)}")],
    ("token.introspected", "success"): [
        lambda client, agent: client.post("/api/v1/token/introspect", data={"token": agent.token()}),
        lambda client, _: client.post("/api/v1/token/introspect", data={"token": "unknown"}),
    ],
    ("token.revoked", "success"): [
        lambda client, agent: client.post("/api/v1/token/revoke", data={"token": agent.token()}),
        lambda client, agent: client.post(f"{_agent(agent)}/revoke-tokens"),
    ],
    ("auth.failed", "failure"): [
        lambda _, agent: agent.token_response(client_secret=agent.client_secret, client_id="another"),
        _dead_token,
        _other_audience,
    ],
    ("access.denied", "failure"): [
        _without_scope,
        _nobody,
        _anothers_token,
        _grant_more,
        lambda client, agent: client.get(f"/api/v1/agents/{client.get('/agent-info').json()['sub']}/credentials", headers=_as(agent)),
        lambda _, agent: agent.token_response("billing:write"),
        lambda client, _: client.post("/api/v1/agents", json=registration(scopes=["admin:orgs"])),
    ],
}
CASES = [pytest.param(key, cause, id=f"{key[0]}-{number}") for key, causes in CAUSES.items() for number, cause in enumerate(causes)]
OF_THE_INSTANCE = {"org.created", "bootstrap.completed", "key.rotated"}
# What only the operator or Stripe can cause is caused where those are tested.
ELSEWHERE = {
    "org.updated": "matrices/test_organizations.py",
    "org.deleted": "matrices/test_organizations.py",
    "org.member_added": "matrices/test_organizations.py",
    "org.member_removed": "matrices/test_organizations.py",
    "tier.upgraded": "billing/*.py",
    "tier.downgraded": "billing/*.py",
    "billing.event_applied": "billing/*.py",
    "billing.event_ignored": "billing/*.py",
    "policy.repository_recorded": "policies/*.py",
    "webhook.created": "webhooks/test_api.py",
    "webhook.updated": "webhooks/test_api.py",
    "webhook.deleted": "webhooks/test_api.py",
    "webhook.secret_rotated": "webhooks/test_api.py",
    "webhook.disabled": "webhooks/*.py",
    "federation.partner_added": "federation/*.py",
    "federation.partner_updated": "federation/*.py",
    "federation.partner_removed": "federation/*.py",
    "federation.verified": "federation/*.py",
}


def _as(agent: TestAgent) -> dict[str, str]:
    return {"Authorization": f"Bearer {agent.token('openid')}"}


@pytest.mark.parametrize(("key", "cause"), CASES)
def test_leaves_its_event(tenant: Tenant, key: tuple[str, str], cause: Cause) -> None:
    agent = tenant.agent("openid")
    with tenant.admin.client() as client:
        before = _ids(client, key)
        cause(client, agent)
        new = [event for event in _events(client, key) if event["eventId"] not in before]
    assert len(new) == 1
    assert new[0]["organizationId"] == tenant.organization_id
    assert new[0]["agentId"] in {tenant.admin.agent_id, agent.agent_id}
    assert new[0]["requestId"]
    assert agent.client_secret not in str(new)


def test_the_instances_own_events(own_server: RunningServer) -> None:
    operator = Caller(own_server.instance.operator_organization_id, is_system=True)
    own_server.write(rotate_keys, operator, own_server.instance.sealer, "ES256", lifetime_seconds=60, at_once=True)
    found = {row.action: row for row in own_server.read(_all_events, operator)}
    assert found.keys() >= OF_THE_INSTANCE
    assert {row.organization_id for row in found.values()} == {operator.organization_id}


def test_every_action_of_the_product_is_in_the_table() -> None:
    """The texts in the source that read like an action, so that a new one must come here with a way to cause it."""
    source = "".join(path.read_text("utf-8") for path in Path(agentidp.__file__).parent.rglob("*.py"))
    kinds = "agent|credential|token|auth|access|org|key|policy|delegation|federation|webhook|tier|billing|bootstrap"
    recorded = set(re.findall(rf'"((?:{kinds})\.[a-z_]+)"', source)) - {
        "billing.allowed_origins",
        "webhook.test",
    }  # a setting, and what is sent and not recorded
    assert recorded == {action for action, _ in CAUSES} | OF_THE_INSTANCE | ELSEWHERE.keys()


@pytest.mark.parametrize(("action", "files"), ELSEWHERE.items(), ids=ELSEWHERE)
def test_what_is_caused_elsewhere_is(action: str, files: str) -> None:
    assert any(action in path.read_text("utf-8") for path in Path(__file__).parents[1].glob(files))


def _events(client: httpx2.Client, key: tuple[str, str]) -> list[dict[str, Any]]:
    return list(client.get("/api/v1/audit", params={"action": key[0], "outcome": key[1], "limit": 200}).json()["data"])


def _ids(client: httpx2.Client, key: tuple[str, str]) -> set[str]:
    return {event["eventId"] for event in _events(client, key)}


def _all_events(tx: Tx) -> list[sa.Row[Any]]:
    return tx.all(sa.select(audit_events).where(audit_events.c.organization_id == tx.caller.organization_id))
