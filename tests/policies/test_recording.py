"""Which repository a name stands for: recorded once for all of the organization's policies that name it, by a token that is not refused."""

from typing import Any

import pytest
from tests.fakes.fake_issuers import FakeGitHub
from tests.policies.conftest import Issuers, Trust
from tests.tenants import TestAgent

from agentidp.agents.actions import update_agent

PRODUCTION = {"environment": {"equals": "production"}}
ELSEWHERE = {"repository_id": "1000", "repository_owner_id": "2000", "job_workflow_ref": ...}


@pytest.fixture
def github(issuers: Issuers) -> FakeGitHub:
    return issuers.github


@pytest.fixture
def agent(trust: Trust) -> TestAgent:
    return trust.tenant.agent("agents:read")


def recorded(trust: Trust, policy: dict[str, Any]) -> str | None:
    with trust.tenant.admin.client() as client:
        found: str | None = client.get(f"/api/v1/oidc/trust-policies/{policy['policyId']}").json()["repositoryId"]
    return found


@pytest.mark.parametrize("second", ["the same", "narrower", "of another agent", "that registers"])
def test_no_other_policy_takes_a_repository_that_was_made_anew(trust: Trust, github: FakeGitHub, agent: TestAgent, second: str) -> None:
    """The one that was not chosen knows the numbers, too."""
    first = trust.policy(agentId=agent.agent_id, branch="main")
    bodies: dict[str, dict[str, Any]] = {
        "the same": {"agentId": agent.agent_id, "branch": "main"},
        "narrower": {"agentId": agent.agent_id, "conditions": PRODUCTION},
        "of another agent": {"agentId": trust.tenant.agent().agent_id, "conditions": PRODUCTION},
        "that registers": {"agentId": None, "conditions": PRODUCTION},
    }
    policies = [first, trust.policy(**bodies[second])]
    assert trust.exchange(github.token(trust.audience), agentId=agent.agent_id).status_code == 200
    assert [recorded(trust, policy) for policy in policies] == ["74", "74"]
    squatter = github.token(trust.audience, ref="refs/heads/x", **ELSEWHERE)
    assert trust.exchange(squatter).json()["code"] == "OIDC_POLICY_NO_MATCH"
    later = trust.policy(agentId=None, branch="dev")
    assert recorded(trust, later) == "74", "from the beginning"
    assert trust.exchange(github.token(trust.audience, ref="refs/heads/dev", **ELSEWHERE)).json()["code"] == "OIDC_POLICY_NO_MATCH"
    assert len(trust.events("policy.repository_recorded")) == 1


def test_another_tenants_policies_and_other_repositories_are_left_alone(trust: Trust, github: FakeGitHub, agent: TestAgent) -> None:
    mine, other = trust.policy(agentId=agent.agent_id), trust.policy(agentId=agent.agent_id, repository="acme/other")
    assert trust.exchange(github.token(trust.audience)).status_code == 200
    assert [recorded(trust, policy) for policy in (mine, other)] == ["74", None]


@pytest.mark.parametrize("why", ["scope", "used", "suspended", "no scope in common"])
def test_what_is_refused_decides_nothing(trust: Trust, github: FakeGitHub, agent: TestAgent, why: str) -> None:
    token = github.token(trust.audience, **ELSEWHERE)
    if why == "used":
        before = trust.policy(agentId=agent.agent_id)
        assert trust.exchange(token).status_code == 200
        trust.delete(before["policyId"])
    scopes = ["openid"] if why == "no scope in common" else None
    policy = trust.policy(agentId=agent.agent_id, scopes=scopes)
    if why == "suspended":
        trust.tenant.server.write(update_agent, agent.caller, agent.agent_id, {"status": "suspended"})
    answer = trust.exchange(token, **({"scope": "audit:read"} if why == "scope" else {}))
    expected = {"scope": "invalid_scope", "used": "invalid_grant", "suspended": "unauthorized_client", "no scope in common": "invalid_scope"}
    assert answer.json()["error"] == expected[why], answer.text
    assert recorded(trust, policy) is None
    assert (
        trust.explain(token)["reason"]
        == {
            "scope": None,
            "used": "it has been used before; each is good for one exchange",
            "suspended": "the policy's agent is not active",
            "no scope in common": "the policy and its agent have no scope in common",
        }[why]
    )


@pytest.mark.parametrize("why", ["scope", "used"])
def test_what_is_refused_at_a_policy_that_registers_decides_nothing(trust: Trust, github: FakeGitHub, why: str) -> None:
    token = github.token(trust.audience, **ELSEWHERE)
    if why == "used":
        before = trust.policy(agentId=None)
        assert trust.exchange(token).status_code == 200
        trust.delete(before["policyId"])
    policy = trust.policy(agentId=None)
    assert trust.exchange(token, **({"scope": "audit:read"} if why == "scope" else {})).status_code in {400, 401}
    assert recorded(trust, policy) is None
    reasons = {event["metadata"]["reason"] for event in trust.events("auth.failed")}
    assert reasons == {"scope": {"invalid_scope"}, "used": {"token used before"}}[why], "in the tenant's own history"


def test_the_first_token_of_a_policy_has_numbers(trust: Trust, github: FakeGitHub, agent: TestAgent) -> None:
    trust.policy(agentId=agent.agent_id)
    for number in ("74x", "-1", " 74", "\u0667", "9" * 21, "", ..., 74):
        answer = trust.exchange(github.token(trust.audience, repository_id=number))
        assert answer.json()["code"] == "OIDC_POLICY_NO_MATCH", number
    assert trust.exchange(github.token(trust.audience)).status_code == 200
