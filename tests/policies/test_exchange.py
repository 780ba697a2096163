"""Tokens of other issuers for ours: who gets one, what it may do, how long it lives, and what ends it."""

from tests.auth.forgery import parts
from tests.policies.conftest import Issuers, Trust

BEARER, EXCHANGE = "jwt-bearer", "token-exchange"
JWT = "urn:ietf:params:oauth:token-type:jwt"


def test_a_workflow_gets_a_token_of_its_agent(trust: Trust, issuers: Issuers) -> None:
    agent = trust.tenant.agent("agents:read", "openid")
    policy = trust.policy(agentId=agent.agent_id)
    presented = issuers.github.token(trust.audience)
    response = trust.exchange(presented)
    assert response.status_code == 200, response.text
    assert response.headers["cache-control"] == "no-store"
    _, claims = parts(response.json()["access_token"])
    assert (claims["sub"], claims["credential_id"], claims["scope"]) == (agent.agent_id, policy["credentialId"], "agents:read openid")
    assert claims["exp"] <= parts(presented)[1]["exp"]
    with trust.tenant.server.client(headers={"Authorization": f"Bearer {response.json()['access_token']}"}) as client:
        assert client.get("/agent-info").json()["sub"] == agent.agent_id
    (event,) = trust.events("token.exchanged")
    assert event["agentId"] == agent.agent_id
    assert event["metadata"]["subject"] == "repo:acme@65/screener@74:ref:refs/heads/main"
    assert (event["metadata"]["issuer"], event["metadata"]["policyId"]) == (issuers.github.url, policy["policyId"])
