"""TH18: a policy without agent. Its token registers one agent in its organization, and nothing else, anywhere, ever."""

from pathlib import Path
from typing import Any

import pytest
from tests.auth.forgery import parts
from tests.bad_input.operations import GUARDED, Operation
from tests.policies.conftest import Issuers, Trust, trusting
from tests.policies.test_exchange import BEARER, NO_MATCH, REPLAYED, refusal
from tests.serving import RunningServer, settings_for
from tests.tenants import make_tenant, registration

from agentidp.bootstrap import raise_token_floor
from agentidp.core.caller import SYSTEM


@pytest.fixture
def token(trust: Trust, issuers: Issuers) -> str:
    trust.policy(agentId=None)
    response = trust.exchange(issuers.github.token(trust.audience))
    assert response.status_code == 200, response.text
    assert (response.json()["scope"], response.json().keys() & {"id_token"}) == ("agents:register", set())
    return str(response.json()["access_token"])


def register(trust: Trust, token: str, **values: Any) -> Any:
    with trust.tenant.server.client(headers={"Authorization": f"Bearer {token}"}) as client:
        return client.post("/api/v1/agents", json=registration(**values))


def introspect(trust: Trust, token: str) -> dict[str, Any]:
    with trust.tenant.admin.client("tokens:read") as client:
        return dict(client.post("/api/v1/token/introspect", data={"token": token}).json())


def test_it_registers_one_agent(trust: Trust, token: str) -> None:
    assert introspect(trust, token)["scope"] == "agents:register"
    made = register(trust, token)
    assert made.status_code == 201, made.text
    assert made.json()["organizationId"] == trust.tenant.organization_id
    (event,) = [event for event in trust.events("agent.created") if event["targetId"] == made.json()["agentId"]]
    assert event["metadata"]["policyId"] == parts(token)[1]["sub"]
    again = register(trust, token)
    assert again.status_code == 401
    assert again.headers["www-authenticate"].startswith('Bearer error="invalid_token"')
    assert introspect(trust, token) == {"active": False}


def test_it_lives_five_minutes_at_most(trust: Trust, token: str, issuers: Issuers) -> None:
    _, claims = parts(token)
    assert claims["exp"] - claims["iat"] <= 300
    long = issuers.github.token(trust.audience, exp=claims["iat"] + 3600)
    assert trust.exchange(long).json()["expires_in"] == 300
    with trust.tenant.server.clock.ahead(seconds=301):
        assert register(trust, token).status_code == 401


def test_a_registration_that_fails_does_not_use_it_up(trust: Trust, token: str) -> None:
    email = registration()["email"]
    with trust.tenant.admin.client() as client:
        assert client.post("/api/v1/agents", json=registration(email=email)).status_code == 201
    assert register(trust, token, email=email).status_code == 409
    assert register(trust, token, scopes=["agents:write"]).status_code == 400
    assert register(trust, token).status_code == 201


@pytest.mark.parametrize("operation", [operation for operation in GUARDED if str(operation) != "POST /api/v1/agents"], ids=str)
def test_it_does_nothing_else(trust: Trust, token: str, operation: Operation) -> None:
    content = {"content": operation.sample, "headers": {"Content-Type": operation.body}} if operation.body else {}
    ids = {"agentId": trust.tenant.admin.agent_id, "orgId": trust.tenant.organization_id}
    if operation.template not in trust.tenant.server.check.document["paths"]:
        assert operation.template.startswith(("/api/v1/billing/", "/api/v1/tiers/")), "this server sells nothing, all else is there"
        return
    with trust.tenant.server.client() as client:
        headers = {"Authorization": f"Bearer {token}"} | content.pop("headers", {})
        response = client.request(operation.method, operation.path(ids), headers=headers, **content)
    assert (response.status_code, response.json()["code"]) == (403, "FORBIDDEN")
    assert register(trust, token).status_code == 201, "and it is still good for what it is for"


@pytest.mark.parametrize("path", ["introspect", "revoke"])
def test_it_authenticates_nobody_at_the_token_endpoints(trust: Trust, token: str, path: str) -> None:
    with trust.tenant.server.client(headers={"Authorization": f"Bearer {token}"}) as client:
        assert client.post(f"/api/v1/token/{path}", data={"token": token}).status_code == 403
    kind = "urn:ietf:params:oauth:token-type:access_token"
    assert trust.grant("token-exchange", subject_token=token, subject_token_type=kind).json()["error"] == "invalid_request"
    assert (
        trust.grant("token-exchange", subject_token=trust.tenant.admin.token(), subject_token_type=kind, actor_token=token, actor_token_type=kind).status_code
        == 400
    )


def test_it_can_be_revoked(trust: Trust, token: str) -> None:
    with trust.tenant.admin.client("tokens:write") as client:
        assert client.post("/api/v1/token/revoke", data={"token": token}).status_code == 200
    assert introspect(trust, token) == {"active": False}
    assert register(trust, token).status_code == 401


def test_it_dies_with_its_policy(trust: Trust, token: str) -> None:
    trust.delete(parts(token)[1]["sub"])
    assert register(trust, token).status_code == 401
    assert introspect(trust, token) == {"active": False}


def test_what_it_may_give_the_new_agent_the_policy_says(trust: Trust, issuers: Issuers) -> None:
    policy = trust.policy(agentId=None, scopes=["audit:read"])
    exchange = lambda: trust.exchange(issuers.github.token(trust.audience)).json()["access_token"]  # noqa: E731 - one expression
    token = exchange()
    assert register(trust, token).json()["code"] == "INVALID_SCOPES", "the default is more than that"
    assert register(trust, token, scopes=["audit:read"]).json()["scopes"] == ["audit:read"]
    trust.delete(policy["policyId"])
    narrow = trust.tenant.agent("policies:write", "agents:write")
    with narrow.client() as client:
        body = {"provider": "github", "repository": "acme/screener"}
        assert client.post("/api/v1/oidc/trust-policies", json=body | {"scopes": ["audit:read"]}).json()["code"] == "INVALID_SCOPES"
    with trust.tenant.agent("policies:write", "agents:read", "tokens:read", "openid").client() as client:
        assert client.post("/api/v1/oidc/trust-policies", json=body).json()["code"] == "INVALID_SCOPES", "who may not register agents gives that to nobody"


def test_only_that_scope_and_that_audience_can_be_asked_for(trust: Trust, issuers: Issuers) -> None:
    trust.policy(agentId=None)
    token = issuers.github.token(trust.audience)
    assert refusal(trust.grant(BEARER, assertion=token, scope="agents:read")) == (400, "invalid_scope")
    assert refusal(trust.grant(BEARER, assertion=token, resource="https://api.example.com")) == (400, "invalid_target")
    assert refusal(trust.grant(BEARER, assertion=token, client_id=trust.tenant.admin.agent_id)) == (400, NO_MATCH[1])
    assert trust.grant(BEARER, assertion=token, scope="agents:register").status_code == 200
    assert refusal(trust.exchange(token)) == REPLAYED


def test_the_scope_cannot_be_had_in_another_way(trust: Trust) -> None:
    assert trust.tenant.admin.token_response("agents:register").json()["error"] == "invalid_scope"
    with trust.tenant.admin.client() as client:
        assert client.post("/api/v1/agents", json=registration(scopes=["agents:register"])).status_code == 400


def test_after_a_restore_it_is_dead(database_url: str, tmp_path: Path, issuers: Issuers) -> None:
    """TH42: that it was used may be forgotten with the rest."""
    server = RunningServer(settings_for(tmp_path / "data", database_url, **trusting(issuers)))
    try:
        trust = Trust(make_tenant(server))
        trust.policy(agentId=None)
        token = trust.exchange(issuers.github.token(trust.audience)).json()["access_token"]
        with server.clock.ahead(seconds=5):
            server.write(raise_token_floor, SYSTEM, server.clock() // 1000 * 1000, newest_event_at=None)
        assert register(trust, token).status_code == 401
        assert refusal(trust.exchange(issuers.github.token(trust.audience))) == REPLAYED, "as is what was made before the restore, used or not"
    finally:
        server.stop()
