"""Tokens of other issuers for ours: who gets one, what it may do, how long it lives, and what ends it."""

from typing import Any

import pytest
from tests.auth.forgery import parts
from tests.policies.conftest import Issuers, Trust
from tests.processes import wait_until
from tests.tenants import Tenant, operator_of

from agentidp.agents.actions import update_agent
from agentidp.auth.scopes import SCOPES
from agentidp.core.caller import Caller
from agentidp.organizations.actions import update_organization

BEARER, EXCHANGE = "jwt-bearer", "token-exchange"
JWT = "urn:ietf:params:oauth:token-type:jwt"


def bearer(response: Any) -> dict[str, str]:
    assert response.status_code == 200, response.text
    return {"Authorization": f"Bearer {response.json()['access_token']}"}


def refusal(response: Any) -> tuple[int, str]:
    return response.status_code, response.json().get("code") or response.json()["error"]


NO_MATCH, REPLAYED, INVALID = (403, "OIDC_POLICY_NO_MATCH"), (401, "OIDC_TOKEN_REPLAYED"), (401, "OIDC_TOKEN_INVALID")


def test_a_workflow_gets_a_token_of_its_agent(trust: Trust, issuers: Issuers) -> None:
    agent = trust.tenant.agent("agents:read", "openid")
    policy = trust.policy(agentId=agent.agent_id)
    presented = issuers.github.token(trust.audience)
    response = trust.exchange(presented)
    assert response.headers["cache-control"] == "no-store"
    with trust.tenant.server.client(headers=bearer(response)) as client:
        assert client.get("/agent-info").json()["sub"] == agent.agent_id
    _, claims = parts(response.json()["access_token"])
    assert (claims["sub"], claims["credential_id"], claims["scope"]) == (agent.agent_id, policy["credentialId"], "agents:read openid")
    assert claims["exp"] <= parts(presented)[1]["exp"]
    (event,) = trust.events("token.exchanged")
    assert event["agentId"] == agent.agent_id
    assert event["metadata"]["subject"] == "repo:acme@65/screener@74:ref:refs/heads/main"
    assert (event["metadata"]["issuer"], event["metadata"]["policyId"]) == (issuers.github.url, policy["policyId"])


def test_the_standard_grants_give_the_same(trust: Trust, issuers: Issuers) -> None:
    agent = trust.tenant.agent("agents:read")
    trust.policy(agentId=agent.agent_id)
    answers = [
        trust.exchange(issuers.github.token(trust.audience), scope="agents:read"),
        trust.grant(BEARER, assertion=issuers.github.token(trust.audience), scope="agents:read"),
        trust.grant(BEARER, assertion=issuers.github.token(trust.audience), client_id=agent.agent_id, resource="https://api.example.com"),
        trust.grant(EXCHANGE, subject_token=issuers.github.token(trust.audience), subject_token_type=JWT, audience="https://api.example.com"),
    ]
    claims = [parts(answer.json()["access_token"])[1] for answer in answers if bearer(answer)]
    assert {one["sub"] for one in claims} == {agent.agent_id}
    assert [one["aud"] for one in claims] == [trust.tenant.server.url] * 2 + ["https://api.example.com"] * 2
    assert [answer.json().get("issued_token_type") for answer in answers] == [None, None, None, "urn:ietf:params:oauth:token-type:access_token"]


def test_the_life_ends_with_the_token_that_was_presented(trust: Trust, issuers: Issuers) -> None:
    trust.policy(agentId=trust.tenant.agent().agent_id)
    claims = issuers.github.claims(trust.audience)
    response = trust.exchange(issuers.github.token(trust.audience, exp=claims["iat"] + 20))
    assert bearer(response)
    assert 0 < response.json()["expires_in"] <= 20
    long = trust.exchange(issuers.github.token(trust.audience, exp=claims["iat"] + 80_000))
    assert long.json()["expires_in"] == trust.tenant.server.settings.tokens.lifetime_seconds


@pytest.mark.parametrize("again", ["oidc", BEARER, EXCHANGE])
def test_each_token_is_good_for_one_exchange(trust: Trust, issuers: Issuers, again: str) -> None:
    trust.policy(agentId=trust.tenant.agent().agent_id)
    token = issuers.github.token(trust.audience)
    assert bearer(trust.exchange(token))
    if again == "oidc":
        assert refusal(trust.exchange(token)) == REPLAYED
    else:
        response = trust.grant(again, assertion=token) if again == BEARER else trust.grant(again, subject_token=token, subject_token_type=JWT)
        assert refusal(response) == (400, "OIDC_TOKEN_REPLAYED")
    same_id = issuers.github.token(trust.audience, jti=parts(token)[1]["jti"], run_attempt="2")
    assert refusal(trust.exchange(same_id)) == REPLAYED
    (event,) = [event for event in trust.events("auth.failed") if event["metadata"]["reason"] == "token used before"][:1]
    assert event["outcome"] == "failure"


def test_without_an_id_the_token_itself_is_used_up(trust: Trust, issuers: Issuers) -> None:
    sub = {"sub": {"equals": "system:serviceaccount:agents:screener"}}
    trust.policy(provider="kubernetes", issuer=issuers.kubernetes.url, repository=None, conditions=sub, agentId=trust.tenant.agent().agent_id)
    token = issuers.kubernetes.token(trust.audience, jti=...)
    assert bearer(trust.exchange(token))
    assert refusal(trust.exchange(token)) == REPLAYED
    assert bearer(trust.exchange(issuers.kubernetes.token(trust.audience, jti=..., nbf=parts(token)[1]["nbf"] - 1)))


def test_a_refused_token_is_not_used_up(trust: Trust, issuers: Issuers) -> None:
    token = issuers.github.token(trust.audience)
    other = trust.policy(agentId=trust.tenant.agent().agent_id, branch="release")
    assert refusal(trust.exchange(token)) == NO_MATCH
    trust.explain(token)
    trust.policy(agentId=trust.tenant.agent().agent_id, branch="main")
    trust.delete(other["policyId"])
    assert bearer(trust.exchange(token))


def test_scopes_only_shrink(trust: Trust, issuers: Issuers) -> None:
    """TH7: the agent's, the policy's and those asked for."""
    agent = trust.tenant.agent("agents:read", "audit:read", "openid")
    policy = trust.policy(agentId=agent.agent_id, scopes=["agents:read", "audit:read", "billing:read"])
    exchange = lambda **body: trust.exchange(issuers.github.token(trust.audience), **body)  # noqa: E731 - one expression
    assert exchange().json()["scope"] == "agents:read audit:read"
    assert exchange(scope="audit:read").json()["scope"] == "audit:read"
    for scope in ("openid", "billing:read", "agents:read billing:read", "admin:orgs", "nonsense"):
        assert refusal(exchange(scope=scope)) in {(400, "invalid_scope"), (400, "invalid_request")}
    trust.delete(policy["policyId"])
    trust.policy(agentId=agent.agent_id)
    response = exchange()
    assert response.json()["scope"] == "agents:read audit:read openid"
    assert "id_token" not in response.json(), "who acts for the agent is not the agent"


def test_nobody_gets_the_operators_scope_unless_a_policy_names_it(trust: Trust, issuers: Issuers) -> None:
    operator = operator_of(trust.tenant.server)
    audience = f"{trust.tenant.server.url}/organizations/{operator.organization_id}"
    for number, scopes in enumerate((None, ["admin:orgs", "openid"])):
        body = {
            "provider": "oidc",
            "issuer": issuers.oidc.url,
            "conditions": {"sub": {"equals": f"operator {number}"}},
            "agentId": operator.agent_id,
            "scopes": scopes,
        }
        with operator.client(" ".join(SCOPES)) as client:
            assert client.post("/api/v1/oidc/trust-policies", json=body).status_code == 201
        response = trust.exchange(issuers.oidc.token(audience, sub=f"operator {number}"), scope="admin:orgs")
        assert response.status_code == (200 if scopes else 400)


def test_policies_that_disagree_are_no_policy(trust: Trust, issuers: Issuers) -> None:
    """TH17: ambiguous is refused, unless the agent is named."""
    one, other = trust.tenant.agent(), trust.tenant.agent()
    exchange = lambda **body: trust.exchange(issuers.github.token(trust.audience), **body)  # noqa: E731 - one expression
    trust.policy(agentId=one.agent_id)
    assert bearer(exchange())
    policy = trust.policy(agentId=other.agent_id, branch="main")
    assert refusal(exchange()) == NO_MATCH
    assert "different agents" in exchange().json()["error_description"]
    for agent in (one, other):
        assert parts(exchange(agentId=agent.agent_id).json()["access_token"])[1]["sub"] == agent.agent_id
    assert refusal(exchange(agentId=trust.tenant.agent().agent_id)) == NO_MATCH
    trust.delete(policy["policyId"])
    assert bearer(exchange())
    trust.policy(agentId=one.agent_id, scopes=["agents:read"])
    assert refusal(exchange()) == NO_MATCH
    trust.policy(agentId=None)
    assert refusal(exchange(agentId=one.agent_id)) == NO_MATCH


def test_another_tenants_policy_for_the_same_repository_is_harmless(trust: Trust, other_tenant: Tenant, issuers: Issuers) -> None:
    """TH17: whose token it is, its audience says, and that is never two tenants'."""
    thief, agent = Trust(other_tenant), trust.tenant.agent()
    thief.policy(agentId=other_tenant.agent().agent_id)
    assert thief.create(agentId=other_tenant.agent().agent_id, audience=trust.audience).status_code == 400
    token = issuers.github.token(trust.audience)
    assert refusal(thief.exchange(token)) == INVALID, "the victim trusts nobody yet"
    trust.policy(agentId=agent.agent_id)
    assert parts(thief.exchange(token).json()["access_token"])[1]["organization_id"] == trust.tenant.organization_id
    assert not thief.explain(issuers.github.token(trust.audience))["accepted"]


def test_numbers_are_recorded_at_first_use(trust: Trust, issuers: Issuers) -> None:
    policy = trust.policy(agentId=trust.tenant.agent().agent_id)
    assert (policy["repositoryId"], policy["repositoryOwnerId"]) == (None, None)
    squatter = {"repository_id": "1000", "repository_owner_id": "2000"}
    assert bearer(trust.exchange(issuers.github.token(trust.audience)))
    with trust.tenant.admin.client("policies:read") as client:
        stored = client.get(f"/api/v1/oidc/trust-policies/{policy['policyId']}").json()
    assert (stored["repositoryId"], stored["repositoryOwnerId"]) == ("74", "65")
    assert refusal(trust.exchange(issuers.github.token(trust.audience, **squatter))) == NO_MATCH
    assert [event["metadata"] for event in trust.events("policy.repository_recorded")] == [{"repositoryId": "74", "repositoryOwnerId": "65"}]


def test_a_deleted_policy_ends_its_tokens(trust: Trust, issuers: Issuers) -> None:
    agent = trust.tenant.agent()
    policy = trust.policy(agentId=agent.agent_id)
    headers, own = bearer(trust.exchange(issuers.github.token(trust.audience))), {"Authorization": f"Bearer {agent.token()}"}
    trust.delete(policy["policyId"])
    with trust.tenant.server.client() as client:
        assert client.get("/agent-info", headers=headers).status_code == 401
        assert client.get("/agent-info", headers=own).status_code == 200, "the agent's own secret is another credential"
    assert refusal(trust.exchange(issuers.github.token(trust.audience))) == INVALID


def test_a_policys_credential_can_be_revoked_like_any_other(trust: Trust, issuers: Issuers) -> None:
    agent = trust.tenant.agent()
    policy = trust.policy(agentId=agent.agent_id)
    headers = bearer(trust.exchange(issuers.github.token(trust.audience)))
    path = f"/api/v1/agents/{agent.agent_id}/credentials/{policy['credentialId']}"
    with trust.tenant.admin.client() as client:
        (listed,) = [one for one in client.get(path.rpartition("/")[0]).json()["data"] if one["kind"] == "policy"]
        assert (listed["credentialId"], listed["hint"]) == (policy["credentialId"], policy["policyId"])
        assert client.post(f"{path}/rotate").status_code == 409
        assert client.delete(path).status_code == 204
    with trust.tenant.server.client() as client:
        assert client.get("/agent-info", headers=headers).status_code == 401
    token = issuers.github.token(trust.audience)
    assert refusal(trust.exchange(token)) == NO_MATCH
    assert trust.explain(token)["stoppedBy"] == [{"claim": "policy", "expected": "in force", "received": "its credential is revoked"}]


@pytest.mark.parametrize("stopped", ["suspended", "decommissioned", "organization"])
def test_whoever_is_stopped_gets_nothing(trust: Trust, issuers: Issuers, stopped: str) -> None:
    """TH3, and again when it goes on."""
    agent = trust.tenant.agent()
    trust.policy(agentId=agent.agent_id)
    headers = bearer(trust.exchange(issuers.github.token(trust.audience)))
    operator = Caller(trust.tenant.organization_id, scopes=frozenset(SCOPES))

    def let(status: str) -> None:
        if stopped == "organization":
            trust.tenant.server.write(update_organization, operator, {"status": status})
        else:
            trust.tenant.server.write(update_agent, agent.caller, agent.agent_id, {"status": status})

    let("suspended" if stopped == "organization" else stopped)
    token = issuers.github.token(trust.audience)
    assert refusal(trust.exchange(token)) == (400, "unauthorized_client")
    with trust.tenant.server.client() as client:
        assert client.get("/agent-info", headers=headers).status_code == 401
    if stopped != "decommissioned":
        let("active")
        assert bearer(trust.exchange(token))


def test_analytics_count_an_exchange_as_a_token_of_the_agent(trust: Trust, issuers: Issuers) -> None:
    agent = trust.tenant.agent("agents:read")
    trust.policy(agentId=agent.agent_id)
    for _ in range(3):
        assert bearer(trust.exchange(issuers.github.token(trust.audience)))

    def counted() -> int:
        with trust.tenant.admin.client("analytics:read") as client:
            rows = client.get("/api/v1/analytics/agents").json()["data"]
        return sum(row["tokensIssued"] for row in rows if row["agentId"] == agent.agent_id)

    wait_until(lambda: counted() == 3)  # when the events are sealed


def test_the_days_tokens_are_counted_and_limited(trust: Trust, issuers: Issuers) -> None:
    agent = trust.tenant.agent()
    trust.policy(agentId=agent.agent_id)
    operator = Caller(trust.tenant.organization_id, scopes=frozenset(SCOPES))
    assert bearer(trust.exchange(issuers.github.token(trust.audience)))
    trust.tenant.server.write(update_organization, operator, {"max_tokens_per_day": 1})
    token = issuers.github.token(trust.audience)
    assert trust.exchange(token).status_code == 429
    trust.tenant.server.write(update_organization, operator, {"max_tokens_per_day": None})
    assert bearer(trust.exchange(token)), "what the limit refused is not used up"


def test_client_authentication_is_refused_where_it_would_not_be_looked_at(trust: Trust, issuers: Issuers) -> None:
    agent = trust.tenant.agent()
    trust.policy(agentId=agent.agent_id)
    token = issuers.github.token(trust.audience)
    assert trust.grant(BEARER, assertion=token, client_id=agent.agent_id, client_secret="x").json()["error"] == "invalid_request"
    assert trust.grant(BEARER, client_id=agent.agent_id).json()["error"] == "invalid_request"
    assert trust.grant(EXCHANGE, subject_token=token).json()["error"] == "invalid_request"
    assert trust.grant(EXCHANGE, subject_token=token, subject_token_type="urn:ietf:params:oauth:token-type:saml2").json()["error"] == "invalid_request"
    assert trust.grant(EXCHANGE, subject_token=token, subject_token_type=JWT, requested_token_type=JWT).json()["error"] == "invalid_request"
    assert (
        trust.grant(EXCHANGE, subject_token=token, subject_token_type=JWT, actor_token=agent.token(), actor_token_type=JWT).json()["error"] == "invalid_request"
    )
    assert trust.grant(BEARER, assertion=token, client_assertion_type="x").json()["error"] == "invalid_request"
    assert bearer(trust.grant(BEARER, assertion=token, client_id=agent.agent_id, nonsense="y"))
