"""Who may be taken for whom: issuers that sign each other's claims, tokens of one id, and what a stranger learns."""

import json

import pytest
from tests.auth.forgery import b64
from tests.fakes.fake_issuers import FakeIssuer, serving_issuer
from tests.policies.conftest import Issuers, Trust

from agentidp.core import limits

SOMEBODY = {"provider": "oidc", "repository": None, "conditions": {"sub": {"equals": "somebody"}}}


def test_an_issuer_that_is_trusted_signs_no_other_issuers_claims(trust: Trust, issuers: Issuers) -> None:
    """Both are trusted, each by a policy of its own."""
    agent, narrow = trust.tenant.agent(), trust.tenant.agent()
    trust.policy(agentId=agent.agent_id)
    trust.policy(**SOMEBODY, issuer=issuers.oidc.url, agentId=narrow.agent_id)
    claims = {name: value for name, value in issuers.github.claims(trust.audience).items() if name not in {"iss", "jti"}}
    forged = issuers.oidc.token(trust.audience, **claims)
    assert trust.exchange(forged).json()["code"] == "OIDC_POLICY_NO_MATCH"
    assert trust.exchange(issuers.oidc.token(trust.audience), agentId=agent.agent_id).json()["code"] == "OIDC_POLICY_NO_MATCH"
    assert trust.exchange(issuers.oidc.token(trust.audience)).status_code == 200


def test_two_issuers_may_use_the_same_token_id(trust: Trust, issuers: Issuers) -> None:
    agent = trust.tenant.agent()
    with serving_issuer(FakeIssuer()) as other:
        for issuer in (issuers.oidc, other):
            trust.policy(**SOMEBODY, issuer=issuer.url, agentId=agent.agent_id)
        statuses = [trust.exchange(issuer.token(trust.audience, jti="1")).status_code for issuer in (issuers.oidc, other, issuers.oidc)]
    assert statuses == [200, 200, 401]


def test_a_stranger_does_not_learn_whom_an_organization_trusts(trust: Trust, issuers: Issuers) -> None:
    """One answer for an issuer that nobody trusts, for a key that a trusted one does not have, and for a signature that is wrong."""
    trust.policy(agentId=trust.tenant.agent().agent_id)
    _, claims, signature = issuers.github.token(trust.audience).split(".")
    known, unknown = (b64(json.dumps({"alg": "RS256", "typ": "JWT", "kid": key_id})) for key_id in (issuers.github.key.key_id, "unknown"))
    forged = [
        issuers.oidc.token(trust.audience),
        f"{unknown}.{claims}.{signature}",
        f"{known}.{claims}.{signature}",
    ]
    answers = [trust.exchange(token) for token in forged]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.text for answer in answers}) == 1, [answer.text for answer in answers]
    assert len({trust.explain(token)["reason"] for token in forged}) == 3, "who may read policies is told"


def test_a_provider_whose_tokens_have_an_id(trust: Trust, issuers: Issuers) -> None:
    trust.policy(provider="gitlab", agentId=trust.tenant.agent().agent_id)
    answer = trust.exchange(issuers.gitlab.token(trust.audience, jti=...))
    assert answer.json()["error_description"] == "The token is not accepted: jti is missing."


@pytest.mark.parametrize("claim", ["iat", "nbf"])
def test_a_token_from_the_future(trust: Trust, issuers: Issuers, claim: str) -> None:
    """Each alone."""
    trust.policy(agentId=trust.tenant.agent().agent_id)
    now = trust.tenant.server.clock() // 1000
    ahead = now + limits.ISSUED_AT_LEEWAY_SECONDS + 30
    token = issuers.github.token(trust.audience, exp=now + 900, **{claim: ahead})
    assert trust.exchange(token).json()["error_description"] == "The token is not accepted: not yet valid."


def test_what_no_text_is_is_shown_as_it_is(trust: Trust, issuers: Issuers) -> None:
    trust.policy(agentId=trust.tenant.agent().agent_id, conditions={"environment": {"equals": "production"}})
    stopped = {
        one["claim"]: one
        for one in trust.explain(issuers.github.token(trust.audience, environment=["production"], event_name="pull_request_target"))["stoppedBy"]
    }
    assert stopped["environment"] == {"claim": "environment", "expected": "production", "received": '["production"]'}
    assert "runs foreign code" in stopped["event_name"]["expected"]
    assert "condition" not in stopped["event_name"]["expected"], "no condition helps"


def test_each_claim_is_named_once(trust: Trust, issuers: Issuers) -> None:
    trust.policy(
        provider="kubernetes", repository=None, issuer=issuers.kubernetes.url, agentId=trust.tenant.agent().agent_id, conditions={"sub": {"equals": "x"}}
    )
    trust.policy(agentId=trust.tenant.agent().agent_id, branch="main")
    for token in (issuers.kubernetes.token(trust.audience, sub="y"), issuers.github.token(trust.audience, ref=..., repository_id=...)):
        named = [one["claim"] for one in trust.explain(token)["stoppedBy"]]
        assert len(named) == len(set(named)) > 0


def test_two_policies_of_one_agent_with_different_scopes(trust: Trust, issuers: Issuers) -> None:
    agent = trust.tenant.agent("agents:read", "openid")
    trust.policy(agentId=agent.agent_id)
    trust.policy(agentId=agent.agent_id, scopes=["agents:read"])
    answer = trust.exchange(issuers.github.token(trust.audience), agentId=agent.agent_id).json()
    assert "different scopes" in answer["error_description"]
    assert "say which agent" not in answer["error_description"]
