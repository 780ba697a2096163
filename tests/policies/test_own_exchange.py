"""An exchange of tokens of this server: what it asks of a request, and what its result keeps."""

import base64
from typing import Any

import pytest
from tests.auth.forgery import forge, parts
from tests.policies.conftest import Issuers, Trust
from tests.policies.test_bound import KEY, send
from tests.policies.test_delegation import ACCESS, exchange, exchanged, introspect, status
from tests.policies.test_exchange import EXCHANGE, JWT
from tests.proofs import TOKEN, nonce_of
from tests.tenants import TestAgent

GRANT = f"urn:ietf:params:oauth:grant-type:{EXCHANGE}"


@pytest.fixture
def subject(trust: Trust) -> TestAgent:
    return trust.tenant.agent("agents:read", "openid")


def said(response: Any) -> str:
    """What a request that is wrong is told."""
    assert (response.status_code, response.json()["error"]) == (400, "invalid_request"), response.text
    return str(response.json()["error_description"])


def test_one_proof_is_good_for_one_exchange(trust: Trust, subject: TestAgent) -> None:
    server, token = trust.tenant.server, subject.token()
    proof = KEY.proof(server, "POST", TOKEN, nonce_of(server))
    first, second = (send(trust, KEY, proof=proof, subject_token=token, subject_token_type=ACCESS) for _ in range(2))
    assert (first.status_code, second.status_code, second.json()["error"]) == (200, 400, "invalid_dpop_proof")


def test_the_result_ends_with_the_actors_token(trust: Trust, subject: TestAgent) -> None:
    own = trust.tenant.agent("agents:read").token()
    with trust.tenant.server.clock.ahead(seconds=1000):
        assert parts(exchanged(trust, subject.token(), own))[1]["exp"] == parts(own)[1]["exp"]


def test_types_that_are_not_to_be_had(trust: Trust, subject: TestAgent) -> None:
    token, own = subject.token(), trust.tenant.agent("agents:read").token()
    for wanted in (JWT, "urn:ietf:params:oauth:token-type:refresh_token", "x"):
        assert said(exchange(trust, token, requested_token_type=wanted)) == f"requested_token_type can only be {ACCESS}."
    assert exchange(trust, token, requested_token_type=ACCESS).status_code == 200
    assert said(exchange(trust, token, actor_token=own, actor_token_type=JWT)) == f"actor_token_type must be {ACCESS}."
    response = trust.grant(EXCHANGE, subject_token=token, subject_token_type="urn:ietf:params:oauth:token-type:saml2")
    assert said(response) == f"subject_token_type must be {ACCESS}, or for a token of another issuer {JWT}."


def test_a_token_that_registers_an_agent_is_neither(trust: Trust, issuers: Issuers, subject: TestAgent) -> None:
    trust.policy(agentId=None)
    registers = trust.exchange(issuers.github.token(trust.audience)).json()["access_token"]
    assert said(exchange(trust, registers)) == "subject_token is no longer good, or good for something else."
    assert said(exchange(trust, subject.token(), registers)) == "actor_token is no longer good, or good for something else."


def test_a_workloads_token_stays_one_with_an_actor(trust: Trust, issuers: Issuers, subject: TestAgent) -> None:
    policy = trust.policy(agentId=subject.agent_id)
    theirs = trust.exchange(issuers.github.token(trust.audience)).json()["access_token"]
    actor = trust.tenant.agent("agents:read")
    token = exchanged(trust, theirs, actor.token())
    assert (parts(token)[1]["policy_id"], parts(token)[1]["act"]) == (policy["policyId"], {"sub": actor.agent_id})
    assert introspect(trust, token)["policy_id"] == policy["policyId"]


@pytest.mark.parametrize("name", ["assertion", "subject_token", "subject_token_type", "actor_token", "actor_token_type", "requested_token_type"])
def test_nothing_of_it_belongs_in_the_url(trust: Trust, subject: TestAgent, name: str) -> None:
    """There it would end up in logs."""
    form = {"grant_type": GRANT, "subject_token": subject.token(), "subject_token_type": ACCESS}
    with trust.tenant.server.client() as client:
        for value in ("x", ""):
            assert said(client.post(TOKEN, params={name: value}, data=form)).startswith("Parameters belong in the body")
        assert client.post(TOKEN, params={"other": "x"}, data=form).status_code == 200


@pytest.mark.parametrize("kind", [ACCESS, JWT])
def test_no_authorization_stands_beside_it(trust: Trust, issuers: Issuers, subject: TestAgent, kind: str) -> None:
    """It would only seem to be looked at."""
    trust.policy(agentId=subject.agent_id)
    presented = subject.token() if kind == ACCESS else issuers.github.token(trust.audience)
    form = {"grant_type": GRANT, "subject_token": presented, "subject_token_type": kind}
    basic = base64.b64encode(f"{subject.agent_id}:{subject.client_secret}".encode()).decode()
    with trust.tenant.server.client() as client:
        for header in (f"Basic {basic}", f"Bearer {subject.token()}"):
            refused = client.post(TOKEN, data=form, headers={"Authorization": header})
            assert said(refused).startswith("This grant needs no client authentication")
        assert client.post(TOKEN, data=form).status_code == 200, "nothing was used up"


@pytest.mark.parametrize("bound_to", [{"x5t#S256": "A" * 43}, {}, {"jkt": 5}, "x", None], ids=str)
def test_a_token_that_is_bound_otherwise_is_not_taken_for_unbound(trust: Trust, subject: TestAgent, bound_to: Any) -> None:
    """RFC 8705, say: signed with our key, and good in everything else."""
    server, (header, claims) = trust.tenant.server, parts(subject.token())
    key: Any = server.instance.keys.current.private_key
    same, token = forge(key, header, claims), forge(key, header, claims | {"cnf": bound_to})
    assert (status(trust, same, "/agent-info"), introspect(trust, same)["active"], exchange(trust, same).status_code) == (200, True, 200)
    assert status(trust, token, "/agent-info") == 401
    with server.client() as client:
        proof = KEY.proof(server, "GET", "/agent-info", nonce_of(server), token)
        assert client.get("/agent-info", headers={"Authorization": f"DPoP {token}", "DPoP": proof}).status_code == 401
    assert introspect(trust, token) == {"active": False}
    assert said(exchange(trust, token)) == "subject_token is not a good access token of this server."
    actor = trust.tenant.agent("agents:read")
    assert said(exchange(trust, actor.token(), token)) == "actor_token is not a good access token of this server."
