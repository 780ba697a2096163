"""RFC 8693 with tokens of this server: who acts for whom is in the token, everything only shrinks, and what is made of others dies with any of them."""

from typing import Any

import pytest
from tests.auth.forgery import parts
from tests.policies.conftest import Issuers, Trust
from tests.policies.test_exchange import EXCHANGE
from tests.tenants import ALL_SCOPES, Tenant, TestAgent, make_administrator, registration

from agentidp.agents.actions import update_agent
from agentidp.core import limits

ACCESS = "urn:ietf:params:oauth:token-type:access_token"


def exchange(trust: Trust, subject: str, actor: str | None = None, **form: Any) -> Any:
    acting = {} if actor is None else {"actor_token": actor, "actor_token_type": ACCESS}
    return trust.grant(EXCHANGE, subject_token=subject, subject_token_type=ACCESS, **acting, **form)


def exchanged(trust: Trust, subject: str, actor: str | None = None, **form: Any) -> str:
    response = exchange(trust, subject, actor, **form)
    assert response.status_code == 200, response.text
    assert response.json()["issued_token_type"] == ACCESS
    return str(response.json()["access_token"])


def refused(response: Any) -> str:
    assert response.status_code == 400, response.text
    return str(response.json()["error"])


def status(trust: Trust, token: str, path: str = "/api/v1/agents", method: str = "GET", **options: Any) -> int:
    with trust.tenant.server.client(headers={"Authorization": f"Bearer {token}"}) as client:
        return int(client.request(method, path, **options).status_code)


def introspect(trust: Trust, token: str) -> dict[str, Any]:
    with trust.tenant.admin.client("tokens:read") as client:
        return dict(client.post("/api/v1/token/introspect", data={"token": token}).json())


@pytest.fixture
def subject(trust: Trust) -> TestAgent:
    return trust.tenant.agent("agents:read", "agents:write", "audit:read", "openid")


@pytest.fixture
def actor(trust: Trust) -> TestAgent:
    return trust.tenant.agent("agents:read", "agents:write", "billing:read")


def test_the_actor_is_in_the_token(trust: Trust, subject: TestAgent, actor: TestAgent) -> None:
    theirs, own = subject.token(), actor.token()
    response = exchange(trust, theirs, own)
    assert "id_token" not in response.json()
    token = response.json()["access_token"]
    _, claims = parts(token)
    assert (claims["sub"], claims["act"], claims["scope"]) == (subject.agent_id, {"sub": actor.agent_id}, "agents:read agents:write")
    assert claims["exp"] <= min(parts(one)[1]["exp"] for one in (theirs, own))
    assert status(trust, token) == 200
    seen = introspect(trust, token)
    assert (seen["active"], seen["act"]) == (True, {"sub": actor.agent_id})
    (event,) = trust.events("token.exchanged")
    assert (event["agentId"], event["metadata"]["actorId"]) == (subject.agent_id, actor.agent_id)


def test_scope_audience_and_life_only_shrink(trust: Trust, subject: TestAgent, actor: TestAgent) -> None:
    server = trust.tenant.server
    token = subject.token(resource=[server.url, "https://api.example.com"])
    assert parts(exchanged(trust, token, scope="agents:read"))[1]["scope"] == "agents:read"
    assert parts(exchanged(trust, token))[1]["scope"] == "agents:read agents:write audit:read openid"
    assert parts(exchanged(trust, token))[1]["aud"] == [server.url, "https://api.example.com"]
    assert parts(exchanged(trust, token, resource="https://api.example.com"))[1]["aud"] == "https://api.example.com"
    for scope in ("billing:read", "agents:read billing:read", "admin:orgs", "agents:register"):
        assert refused(exchange(trust, token, scope=scope)) == "invalid_scope"
    assert refused(exchange(trust, token, actor.token(), scope="audit:read")) == "invalid_scope", "the actor does not have it"
    assert refused(exchange(trust, token, actor.token(), scope="billing:read")) == "invalid_scope", "the subject does not have it"
    assert refused(exchange(trust, token, trust.tenant.agent("billing:read").token())) == "invalid_scope", "nothing in common"
    assert refused(exchange(trust, token, resource="https://other.example.com")) == "invalid_target"
    with server.clock.ahead(seconds=3000):
        late = exchange(trust, token)
        assert late.json()["expires_in"] <= 600
    with server.clock.ahead(seconds=1000):
        younger = actor.token()
        assert parts(exchanged(trust, token, younger))[1]["exp"] == parts(token)[1]["exp"]


def test_only_a_token_for_this_server_is_exchanged(trust: Trust, subject: TestAgent, actor: TestAgent) -> None:
    """Another server that was given a token must not get one for here by it."""
    elsewhere = subject.token(resource="https://api.example.com")
    assert refused(exchange(trust, elsewhere)) == "invalid_request"
    assert refused(exchange(trust, subject.token(), actor.token(resource="https://api.example.com"))) == "invalid_request"


def test_whose_tokens_they_may_be(trust: Trust, subject: TestAgent, actor: TestAgent, other_tenant: Tenant, issuers: Issuers) -> None:
    token, foreign = subject.token(), other_tenant.admin.token()
    answer = subject.token_response("openid").json()
    for wrong in (
        foreign,
        token,
        answer["id_token"],
        issuers.github.token(trust.audience),
        "x",
        exchanged(trust, actor.token()),
        exchanged(trust, actor.token(), token),
    ):
        assert refused(exchange(trust, token, wrong)) == "invalid_request"
    for wrong in (answer["id_token"], issuers.github.token(trust.audience), "x.y.z"):
        assert refused(exchange(trust, wrong, actor.token())) == "invalid_request"


def test_actors_stand_one_behind_the_other_up_to_a_bound(trust: Trust) -> None:
    agents = [trust.tenant.agent("agents:read") for _ in range(limits.ACTORS_MAX + 2)]
    token = agents[0].token()
    for agent in agents[1 : limits.ACTORS_MAX + 1]:
        token = exchanged(trust, token, agent.token())
    _, claims = parts(token)
    chain, act = [], claims["act"]
    while act:
        chain.append(act["sub"])
        act = act.get("act")
    assert chain == [agent.agent_id for agent in reversed(agents[1 : limits.ACTORS_MAX + 1])], "the newest outermost"
    assert status(trust, token) == 200
    assert refused(exchange(trust, token, agents[-1].token())) == "invalid_request"
    assert refused(exchange(trust, token)) == "invalid_request", "nor does it go on without an actor"


def revoke(trust: Trust, token: str) -> None:
    with trust.tenant.admin.client("tokens:write") as client:
        assert client.post("/api/v1/token/revoke", data={"token": token}).status_code == 200


def revoke_credential(trust: Trust, agent: TestAgent) -> None:
    path = f"/api/v1/agents/{agent.agent_id}/credentials"
    with trust.tenant.admin.client() as client:
        assert client.delete(f"{path}/{client.get(path).json()['data'][0]['credentialId']}").status_code == 204


@pytest.mark.parametrize("whose", ["subject", "actor"])
@pytest.mark.parametrize("stop", ["token", "credential", "suspended", "decommissioned", "all tokens"])
def test_what_ends_either_ends_what_was_made_of_both(trust: Trust, subject: TestAgent, actor: TestAgent, whose: str, stop: str) -> None:
    theirs, own = subject.token(), actor.token()
    token = exchanged(trust, theirs, own)
    further = exchanged(trust, token, trust.tenant.agent("agents:read").token())
    assert [status(trust, one) for one in (token, further)] == [200, 200]
    agent = subject if whose == "subject" else actor
    match stop:
        case "token":
            revoke(trust, theirs if whose == "subject" else own)
        case "credential":
            revoke_credential(trust, agent)
        case "all tokens":
            with trust.tenant.admin.client() as client:
                assert client.post(f"/api/v1/agents/{agent.agent_id}/revoke-tokens").status_code == 204
        case _:
            trust.tenant.server.write(update_agent, agent.caller, agent.agent_id, {"status": stop})
    assert [status(trust, one) for one in (token, further)] == [401, 401]
    assert [introspect(trust, one) for one in (token, further)] == [{"active": False}] * 2
    assert refused(exchange(trust, token)) == "invalid_request"


def test_who_acts_for_an_agent_is_not_that_agent(trust: Trust) -> None:
    """TH7, TH47: what an agent may do with any token of its own, and its role, are not in the token's scopes."""
    subject, actor = trust.tenant.agent(*ALL_SCOPES), trust.tenant.agent("agents:read", "agents:write", "policies:write", "openid")
    make_administrator(subject)
    token, path = exchanged(trust, subject.token(), actor.token()), f"/api/v1/agents/{subject.agent_id}/credentials"
    assert status(trust, token, path, "POST", json={}) == 403
    assert status(trust, token, path) == 200, "with agents:read, as anybody else's"
    assert status(trust, exchanged(trust, token, scope="openid"), path) == 403
    assert status(trust, token, "/api/v1/analytics/tokens") == 403
    assert status(trust, token, f"/api/v1/organizations/{trust.tenant.organization_id}") == 403
    body = {"provider": "github", "repository": "acme/screener", "agentId": subject.agent_id}
    assert status(trust, token, "/api/v1/oidc/trust-policies", "POST", json=body) == 403
    assert status(trust, token, "/api/v1/agents", "POST", json=registration(scopes=["agents:read"])) == 201
    assert status(trust, token, "/api/v1/agents", "POST", json=registration(scopes=["audit:read"])) == 400


def test_a_token_made_to_do_less_does_less(trust: Trust) -> None:
    """TH47: also without an actor, what the agent is beyond its scopes stays with the token that it got by itself."""
    agent = trust.tenant.agent(*ALL_SCOPES)
    make_administrator(agent)
    own, path = agent.token(), f"/api/v1/agents/{agent.agent_id}/credentials"
    less, same = exchanged(trust, own, scope="openid"), exchanged(trust, own)
    further = exchanged(trust, same)
    assert status(trust, own, path, "POST", json={}) == 201
    assert [status(trust, token, path, "POST", json={}) for token in (less, same, further)] == [403] * 3
    assert [status(trust, token, path) for token in (less, same)] == [403, 200], "with agents:read, as anybody else's"
    credential = f"{path}/{parts(own)[1]['credential_id']}"
    assert [status(trust, less, credential, "DELETE"), status(trust, less, f"{credential}/rotate", "POST", json={})] == [403, 403]
    organization = f"/api/v1/organizations/{trust.tenant.organization_id}"
    assert [status(trust, token, organization) for token in (own, less, same)] == [200, 403, 403]
    another = agent.token()
    for token, answer in ((another, 403), (less, 200)):
        assert status(trust, less, "/api/v1/token/revoke", "POST", data={"token": token}) == answer, "its own only"
    assert [status(trust, token, "/agent-info") for token in (less, own)] == [401, 200]


@pytest.mark.parametrize("way", ["as it was issued", "exchanged for another"])
def test_a_workload_is_held_to_its_policys_scopes(trust: Trust, issuers: Issuers, way: str) -> None:
    """It acts for the agent, but is not the agent: or it would make itself a secret that may do everything."""
    agent = trust.tenant.agent(*ALL_SCOPES)
    trust.policy(agentId=agent.agent_id, scopes=["agents:read", "agents:write", "openid"])
    make_administrator(agent)
    token = trust.exchange(issuers.github.token(trust.audience)).json()["access_token"]
    token = exchanged(trust, token) if way == "exchanged for another" else token
    assert status(trust, token, f"/api/v1/agents/{agent.agent_id}/credentials", "POST", json={}) == 403
    assert status(trust, token, f"/api/v1/organizations/{trust.tenant.organization_id}") == 403
    assert status(trust, token, "/agent-info") == 200
    assert status(trust, token, "/api/v1/token/revoke", "POST", data={"token": token}) == 200, "its own"
    assert status(trust, token, "/agent-info") == 401


def test_what_a_workload_does_for_its_agent_ends_with_the_workload(trust: Trust, issuers: Issuers) -> None:
    """With every scope it makes no secret, no key and no policy for the agent that it acts for; what agents:write is good for, it may do to others."""
    agent, other = trust.tenant.agent("agents:read", "agents:write", "policies:write"), trust.tenant.agent("agents:read")
    trust.policy(agentId=agent.agent_id)
    token = trust.exchange(issuers.github.token(trust.audience)).json()["access_token"]
    for body in ({}, {"kind": "public_key", "jwksUri": "https://keys.acme.example/jwks.json"}):
        assert status(trust, token, f"/api/v1/agents/{agent.agent_id}/credentials", "POST", json=body) == 403
    body = {"provider": "github", "repository": "acme/backdoor", "agentId": agent.agent_id}
    assert status(trust, token, "/api/v1/oidc/trust-policies", "POST", json=body) == 403
    assert status(trust, token, f"/api/v1/agents/{agent.agent_id}/credentials") == 200
    assert status(trust, token, f"/api/v1/agents/{other.agent_id}/credentials", "POST", json={}) == 201


def test_a_policys_token_can_be_exchanged_and_dies_with_the_policy(trust: Trust, issuers: Issuers, actor: TestAgent) -> None:
    policy = trust.policy(agentId=trust.tenant.agent("agents:read").agent_id)
    token = exchanged(trust, trust.exchange(issuers.github.token(trust.audience)).json()["access_token"], actor.token())
    assert status(trust, token) == 200
    trust.delete(policy["policyId"])
    assert status(trust, token) == 401
