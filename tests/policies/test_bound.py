"""Exchange and DPoP (RFC 9449): what comes out is bound to the proof's key, and a bound token is exchanged by nobody but the holder of its key."""

from typing import Any

import httpx2
import pytest
from tests.auth.forgery import parts
from tests.policies.conftest import Issuers, Trust
from tests.policies.test_delegation import ACCESS
from tests.policies.test_exchange import BEARER, EXCHANGE, REPLAYED, refusal
from tests.proofs import TOKEN, OwnKey, bound_token, nonce_of, with_proof

KEY, OTHER_KEY = OwnKey(), OwnKey()
JSON_PATH = "/api/v1/oidc/token"


def send(trust: Trust, key: OwnKey | None, path: str = TOKEN, proof: str | None = None, **body: Any) -> httpx2.Response:
    server = trust.tenant.server
    made = proof or (key.proof(server, "POST", path, nonce_of(server)) if key else None)
    data = (
        {"json": body}
        if path == JSON_PATH
        else {"data": {"grant_type": f"urn:ietf:params:oauth:grant-type:{EXCHANGE if 'subject_token' in body else BEARER}"} | body}
    )
    with server.client(headers={"DPoP": made} if made else {}) as client:
        return client.post(path, **data)


@pytest.mark.parametrize("path", [TOKEN, JSON_PATH])
def test_a_workflow_binds_its_token(trust: Trust, issuers: Issuers, path: str) -> None:
    agent, server, name = trust.tenant.agent(), trust.tenant.server, "assertion" if path == TOKEN else "token"
    trust.policy(agentId=agent.agent_id)
    presented = issuers.github.token(trust.audience)
    first = send(trust, None, path, KEY.proof(server, "POST", path, None), **{name: presented})
    assert (first.status_code, first.json()["error"]) == (400, "use_dpop_nonce")
    proof = KEY.proof(server, "POST", path, first.headers["dpop-nonce"])
    answer = send(trust, KEY, path, proof, **{name: presented})
    assert (answer.status_code, answer.json()["token_type"]) == (200, "DPoP"), answer.text
    token = answer.json()["access_token"]
    assert parts(token)[1]["cnf"] == {"jkt": KEY.thumbprint}
    with server.client() as client:
        assert client.get("/agent-info", headers={"Authorization": f"Bearer {token}"}).status_code == 401
        own = KEY.proof(server, "GET", "/agent-info", answer.headers["dpop-nonce"], token)
        assert with_proof(client, "GET", "/agent-info", token, own).json()["sub"] == agent.agent_id
    again = send(trust, KEY, path, proof, **{name: issuers.github.token(trust.audience)})
    assert (again.status_code, again.json()["error"]) == (400, "invalid_dpop_proof")
    assert refusal(send(trust, KEY, path, **{name: presented}))[1] == REPLAYED[1]


def test_a_bound_token_is_exchanged_by_the_holder_of_its_key(trust: Trust) -> None:
    subject, actor = trust.tenant.agent("agents:read"), trust.tenant.agent("agents:read")
    bound, free = bound_token(subject, KEY), subject.token()
    kinds = {"subject_token_type": ACCESS}
    assert send(trust, None, subject_token=bound, **kinds).json()["error"] == "invalid_request"
    assert send(trust, OTHER_KEY, subject_token=bound, **kinds).json()["error"] == "invalid_request"
    assert send(trust, None, subject_token=free, actor_token=bound_token(actor, KEY), actor_token_type=ACCESS, **kinds).json()["error"] == "invalid_request"
    for wanted, options in (
        ("subject", {"subject_token": bound}),
        ("actor", {"subject_token": free, "actor_token": bound_token(actor, KEY), "actor_token_type": ACCESS}),
    ):
        answer = send(trust, KEY, **options, **kinds)
        assert answer.status_code == 200, wanted
        assert parts(answer.json()["access_token"])[1]["cnf"] == {"jkt": KEY.thumbprint}
