"""Tokens that are bound to a key (RFC 9449), at the token endpoint and on our own API, over real HTTP on both engines."""

from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from tests.auth.forgery import forge, parts
from tests.proofs import TOKEN, Algorithm, OwnKey, asserted, bound_token, nonce_of, register, with_proof
from tests.serving import RunningServer
from tests.tenants import Tenant, TestAgent

from agentidp.core import limits

INTROSPECT, REVOKE, INFO = "/api/v1/token/introspect", "/api/v1/token/revoke", "/agent-info"
KEY, OTHER_KEY = OwnKey(), OwnKey()
LEEWAY = limits.ISSUED_AT_LEEWAY_SECONDS


def ask(agent: TestAgent, *proofs: str, **form: Any) -> httpx2.Response:
    data = {"grant_type": "client_credentials", "client_id": agent.agent_id, "client_secret": agent.client_secret}
    with agent.server.client() as client:
        return client.post(TOKEN, data=data | form, headers=[("DPoP", proof) for proof in proofs])


def call(server: RunningServer, token: str, *proofs: str, scheme: str = "DPoP", path: str = INFO) -> httpx2.Response:
    with server.client() as client:
        return client.get(path, headers=[("Authorization", f"{scheme} {token}"), *(("DPoP", proof) for proof in proofs)])


def refused(response: httpx2.Response, error: str) -> bool:
    """401 with a challenge of this scheme."""
    challenge = response.headers["www-authenticate"]
    return response.status_code == 401 and challenge.startswith("DPoP ") and f'error="{error}"' in challenge and 'algs="ES256 RS256 Ed25519"' in challenge


@pytest.mark.parametrize("algorithm", ["ES256", "RS256", "Ed25519"])
def test_from_a_nonce_to_a_call(tenant: Tenant, server: RunningServer, algorithm: Algorithm) -> None:
    agent, key = tenant.agent(), OwnKey(algorithm)
    first = ask(agent, key.proof(server, "POST", TOKEN, None))
    assert (first.status_code, first.json()["error"]) == (400, "use_dpop_nonce")
    answer = ask(agent, key.proof(server, "POST", TOKEN, first.headers["dpop-nonce"]))
    assert (answer.status_code, answer.json()["token_type"]) == (200, "DPoP")
    token, nonce = answer.json()["access_token"], answer.headers["dpop-nonce"]
    assert parts(token)[1]["cnf"] == {"jkt": key.thumbprint}
    called = call(server, token, key.proof(server, "GET", INFO, nonce, token))
    assert (called.status_code, called.json()["sub"]) == (200, agent.agent_id)
    assert called.headers["dpop-nonce"]


def test_a_bound_token_is_introspected_with_its_key(tenant: Tenant) -> None:
    agent = tenant.agent()
    bound, free = bound_token(agent, KEY), agent.token()
    with tenant.admin.client("tokens:read") as client:
        shown = [client.post(INTROSPECT, data={"token": token}).json() for token in (bound, free)]
    assert [(one["active"], one["token_type"], one.get("cnf")) for one in shown] == [(True, "DPoP", {"jkt": KEY.thumbprint}), (True, "Bearer", None)]


def test_a_key_authenticates_and_another_is_bound(tenant: Tenant, server: RunningServer) -> None:
    """private_key_jwt and DPoP in one request: both values are used up, each by itself."""
    agent = tenant.agent()
    register(agent, OTHER_KEY)
    nonce = nonce_of(server)
    proof, assertion = KEY.proof(server, "POST", TOKEN, nonce), OTHER_KEY.assertion(agent)

    def send(proof: str, assertion: str) -> tuple[int, str]:
        with server.client() as client:
            response = client.post(TOKEN, data=asserted(assertion), headers={"DPoP": proof})
        return response.status_code, response.json().get("error", "")

    assert send(KEY.proof(server, "POST", TOKEN, None), assertion) == (400, "use_dpop_nonce")
    assert send(proof, assertion) == (200, "")
    assert send(KEY.proof(server, "POST", TOKEN, nonce), assertion) == (401, "invalid_client")
    assert send(proof, OTHER_KEY.assertion(agent)) == (400, "invalid_dpop_proof")
    assert send(proof, assertion) == (401, "invalid_client")


Good = tuple[RunningServer, str, str, str, str | None]  # server, method, path, nonce, access token


def made(header: dict[str, Any] | None = None, **claims: Any) -> Callable[[Good], str]:
    """A proof with these parts in the place of the right ones; a function is asked with the server and the path."""
    return lambda good: KEY.proof(*good, header, **{name: value(good[0], good[2]) if callable(value) else value for name, value in claims.items()})


def forged(**header: Any) -> Callable[[Good], str]:
    """The same for headers with which no library signs."""

    def forge_one(good: Good) -> str:
        right, claims = parts(KEY.proof(*good))
        return forge(KEY.private, right | header, claims)

    return forge_one


WRONG: dict[str, Callable[[Good], str]] = {
    "not a JWT": lambda _: "x",
    "empty": lambda _: "",
    "two in one": lambda good: f"{KEY.proof(*good)}, {KEY.proof(*good)}",
    "changed": lambda good: KEY.proof(*good)[:-6] + "AAAAAA",
    "another typ": made({"typ": "JWT"}),
    "no typ": made({"typ": None}),
    "typ of another type": forged(typ=["dpop+jwt"]),
    "no key": made({"jwk": None}),
    "a key of another type": forged(jwk="key"),
    "a private key": forged(jwk=KEY.key.as_dict(private=True)),
    "another's key": forged(jwk=OTHER_KEY.jwk),
    "a symmetric key": forged(alg="HS256", jwk={"kty": "oct", "k": "AA"}),
    "alg none": forged(alg="none"),
    "alg of another key": forged(alg="RS256"),
    "a key elsewhere": forged(jku="http://127.0.0.1:9/"),
    "critical headers": forged(crit=["jwk"]),
    "no htm": made(htm=None),
    "another method": made(htm="DELETE"),
    "htm of another type": made(htm=["GET"]),
    "no htu": made(htu=None),
    "htu of another type": made(htu=lambda server, path: [server.url + path]),
    "another path": made(htu=lambda server, path: f"{server.url}{path}/"),
    "another host": made(htu=lambda _, path: f"https://other.example{path}"),
    "another scheme": made(htu=lambda server, path: server.url.replace("http:", "https:") + path),
    "user information": made(htu=lambda server, path: server.url.replace("//", "//a@") + path),
    "a tab before the address": made(htu=lambda server, path: f"\t{server.url}{path}"),
    "a line end in the address": made(htu=lambda server, path: f"{server.url}{path}\n"),
    "a space behind the address": made(htu=lambda server, path: f"{server.url}{path} "),
    "a letter that is not of ASCII": made(htu=lambda server, path: f"{server.url}{path}?\u00e9"),
    "expired": made(exp=lambda server, _: _now(server) - 1),
    "exp as text": made(exp="1"),
    "not good yet": made(nbf=lambda server, _: _now(server) + LEEWAY + 5),
    "nbf as text": made(nbf="1"),
    "no address": made(htu=lambda _, path: f"http://[::1{path}"),
    "no iat": made(iat=None),
    "iat as text": made(iat="1"),
    "old": made(iat=lambda server, _: _now(server) - limits.DPOP_PROOF_SECONDS_MAX - 1),
    "from the future": made(iat=lambda server, _: _now(server) + LEEWAY + 5),
    "no jti": made(jti=None),
    "jti of another type": made(jti={"a": 1}),
    "a long jti": made(jti="x" * (limits.JTI_CHARACTERS_MAX + 1)),
    "nonce of another type": made(nonce=["x"]),
}


def _now(server: RunningServer) -> int:
    return server.clock() // 1000


@pytest.mark.parametrize("name", WRONG)
def test_every_wrong_proof_is_refused(tenant: Tenant, server: RunningServer, name: str) -> None:
    agent, nonce = tenant.agent(), nonce_of(server)
    response = ask(agent, WRONG[name]((server, "POST", TOKEN, nonce, None)))
    assert (response.status_code, response.json()["error"]) == (400, "invalid_dpop_proof")
    assert response.json()["error_description"].startswith("The DPoP proof is not valid for this request: ")
    assert response.headers["dpop-nonce"]
    token = bound_token(agent, KEY)
    response = call(server, token, WRONG[name]((server, "GET", INFO, nonce, token)))
    assert refused(response, "invalid_dpop_proof")
    assert response.headers["dpop-nonce"]


SAID = {
    "another path": "htu is not the address",
    "expired": "expired",
    "two in one": "not three base64url parts",
    "a private key": "jwk holds a private key: keep that to yourself, send the public half only, and if others may have seen it make another one",
}


@pytest.mark.parametrize("name", SAID)
def test_why_a_proof_is_refused(tenant: Tenant, server: RunningServer, name: str) -> None:
    description = f"The DPoP proof is not valid for this request: {SAID[name]}."
    assert ask(tenant.admin, WRONG[name]((server, "POST", TOKEN, nonce_of(server), None))).json()["error_description"] == description
    token = bound_token(tenant.admin, KEY)
    assert call(server, token, WRONG[name]((server, "GET", INFO, nonce_of(server), token))).json()["message"] == description


RIGHT: dict[str, Callable[[Good], str]] = {
    "its type, written otherwise": made({"typ": "application/DPoP+JWT"}),
    "times that are right": made(exp=lambda server, _: _now(server) + 60, nbf=lambda server, _: _now(server)),
    "a clock that is ahead": made(nbf=lambda server, _: _now(server) + LEEWAY - 5),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_proof_may_say_more(tenant: Tenant, server: RunningServer, name: str) -> None:
    assert ask(tenant.admin, RIGHT[name]((server, "POST", TOKEN, nonce_of(server), None))).status_code == 200


@pytest.mark.parametrize("nonce", ["", "x", "ÿ", "A" * 22])
def test_a_nonce_that_is_none_gets_one(tenant: Tenant, server: RunningServer, nonce: str) -> None:
    agent = tenant.agent()
    response = ask(agent, KEY.proof(server, "POST", TOKEN, nonce))
    assert (response.status_code, response.json()["error"]) == (400, "use_dpop_nonce")
    token = bound_token(agent, KEY)
    response = call(server, token, KEY.proof(server, "GET", INFO, nonce, token))
    assert refused(response, "use_dpop_nonce")
    assert call(server, token, KEY.proof(server, "GET", INFO, response.headers["dpop-nonce"], token)).status_code == 200


@pytest.mark.parametrize(
    ("seconds", "is_good"), [(-limits.DPOP_NONCE_SECONDS, True), (0, True), (limits.DPOP_NONCE_SECONDS, True), (3 * limits.DPOP_NONCE_SECONDS, False)]
)
def test_a_nonce_is_good_for_a_while(tenant: Tenant, server: RunningServer, seconds: int, is_good: bool) -> None:  # noqa: FBT001 - what is expected
    """Also one of a process whose clock is ahead."""
    nonce = nonce_of(server)
    with server.clock.ahead(seconds=seconds):
        assert (ask(tenant.admin, KEY.proof(server, "POST", TOKEN, nonce)).status_code == 200) is is_good


GOOD: dict[str, Callable[[RunningServer, str], str]] = {
    "query and fragment do not count": lambda server, path: server.url + path + "?a=b#c",
    "scheme and host in capitals": lambda server, path: server.url.upper() + path,
}


@pytest.mark.parametrize("name", GOOD)
def test_an_address_spelled_otherwise(tenant: Tenant, server: RunningServer, name: str) -> None:
    token, path = bound_token(tenant.admin, KEY), "/api/v1/agents"
    proof = KEY.proof(server, "GET", path, nonce_of(server), token, htu=GOOD[name](server, path))
    assert call(server, token, proof, path=f"{path}?limit=1").status_code == 200


def test_the_host_header_says_nothing_about_the_address(tenant: Tenant, server: RunningServer) -> None:
    token, host = bound_token(tenant.admin, KEY), "other.example"
    proof = KEY.proof(server, "GET", INFO, nonce_of(server), token, htu=f"http://{host}{INFO}")
    with server.client(headers={"Host": host, "Authorization": f"DPoP {token}", "DPoP": proof}) as client:
        assert refused(client.get(INFO), "invalid_dpop_proof")


def test_a_bound_token_is_worth_nothing_without_its_key(tenant: Tenant, server: RunningServer) -> None:
    agent = tenant.agent()
    token, free, nonce = bound_token(agent, KEY), agent.token(), nonce_of(server)

    def proof(key: OwnKey, of: str = token, **claims: Any) -> str:
        return key.proof(server, "GET", INFO, nonce, of, **claims)

    plain = call(server, token, scheme="Bearer")
    assert refused(plain, "invalid_token")
    assert plain.json()["message"] == "The token is bound to a key: present it with the scheme DPoP and a proof."
    assert refused(call(server, token, proof(KEY), scheme="Bearer"), "invalid_token")
    assert refused(call(server, token), "invalid_dpop_proof")
    assert refused(call(server, token, proof(KEY), proof(KEY)), "invalid_dpop_proof")
    assert refused(call(server, token, proof(OTHER_KEY)), "invalid_token")
    assert refused(call(server, token, proof(KEY, free)), "invalid_dpop_proof")
    assert refused(call(server, token, proof(KEY, ath=None)), "invalid_dpop_proof")
    assert refused(call(server, token, proof(KEY, ath=[1])), "invalid_dpop_proof")
    unbound = call(server, free, proof(KEY, free))
    assert unbound.json()["message"] == "The token is bound to no key: present it with the scheme Bearer."
    assert (unbound.status_code, unbound.headers["www-authenticate"].startswith("Bearer ")) == (401, True)
    assert call(server, free, proof(KEY, free), scheme="Bearer").status_code == 200
    assert call(server, token, proof(KEY), scheme="dpop").status_code == 200


@pytest.mark.parametrize("path", [INTROSPECT, REVOKE])
def test_the_oauth_endpoints_take_bound_tokens_in_the_same_way(tenant: Tenant, server: RunningServer, path: str) -> None:
    token, nonce = bound_token(tenant.admin, KEY), nonce_of(server)
    with server.client() as client:
        proof = KEY.proof(server, "POST", path, nonce, token)
        assert with_proof(client, "POST", path, token, proof, data={"token": "x"}).status_code == 200
        again = with_proof(client, "POST", path, token, proof, data={"token": "x"})
        assert (refused(again, "invalid_dpop_proof"), again.json()["error"]) == (True, "invalid_dpop_proof")
        bearer = client.post(path, data={"token": "x"}, headers={"Authorization": f"Bearer {token}"})
        assert refused(bearer, "invalid_token")
        without = with_proof(client, "POST", path, token, KEY.proof(server, "POST", path, None, token), data={"token": "x"})
        assert (refused(without, "use_dpop_nonce"), without.json()["error"]) == (True, "use_dpop_nonce")
        both = with_proof(client, "POST", path, token, proof, data={"token": "x", "client_secret": "x"})
        assert (both.status_code, both.json()["error"]) == (400, "invalid_request")


def test_a_proof_is_used_once(tenant: Tenant, server: RunningServer) -> None:
    agent = tenant.agent()
    nonce = nonce_of(server)
    proof = KEY.proof(server, "POST", TOKEN, nonce)
    first, second = ask(agent, proof), ask(agent, proof)
    assert (first.status_code, second.status_code, second.json()["error"]) == (200, 400, "invalid_dpop_proof")
    assert second.json()["error_description"] == "The DPoP proof is not valid for this request: used before."
    token = first.json()["access_token"]
    proof = KEY.proof(server, "GET", INFO, nonce, token)
    assert call(server, token, proof).status_code == 200
    assert refused(call(server, token, proof), "invalid_dpop_proof")
    with tenant.admin.client("audit:read") as client:
        rows = client.get("/api/v1/audit", params={"action": "auth.failed"}).json()["data"]
    assert [(row["agentId"], row["metadata"]["reason"]) for row in rows] == [(agent.agent_id, "DPoP proof: used before")] * 2


def test_a_refused_call_leaves_its_proof_unused(tenant: Tenant, server: RunningServer) -> None:
    agent = tenant.agent("openid")
    token, nonce = bound_token(agent, KEY), nonce_of(server)
    proof = KEY.proof(server, "GET", INFO, nonce, token)
    with tenant.admin.client() as client:
        assert client.patch(f"/api/v1/agents/{agent.agent_id}", json={"status": "suspended"}).status_code == 200
        assert refused(call(server, token, proof), "invalid_token")
        assert client.patch(f"/api/v1/agents/{agent.agent_id}", json={"status": "active"}).status_code == 200
    token = bound_token(agent, KEY)
    assert refused(call(server, token, proof), "invalid_dpop_proof"), "of the old token"
    forbidden = call(server, token, KEY.proof(server, "GET", "/api/v1/agents", nonce, token), path="/api/v1/agents")
    assert (forbidden.status_code, forbidden.headers["www-authenticate"].startswith("DPoP ")) == (403, True)


def test_without_a_proof_nothing_speaks_of_nonces(tenant: Tenant, server: RunningServer) -> None:
    with server.client() as client:
        for response in (tenant.admin.token_response(), client.get("/health"), client.get(INFO), client.get("/nowhere")):
            assert "dpop-nonce" not in response.headers
        for path in ("/health", INFO, "/nowhere"):
            assert client.get(path, headers={"DPoP": "x"}).headers["dpop-nonce"]


def test_discovery_says_so(server: RunningServer) -> None:
    with server.client() as client:
        for name in ("oauth-authorization-server", "openid-configuration", "oauth-protected-resource"):
            assert client.get(f"/.well-known/{name}").json()["dpop_signing_alg_values_supported"] == ["ES256", "RS256", "Ed25519"]
