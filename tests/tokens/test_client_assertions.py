"""private_key_jwt over real HTTP on both engines: every way in which an assertion is right, and the ways in which it is wrong."""

import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
from joserfc.jwk import OctKey
from joserfc.jwt import encode
from tests.auth.forgery import forge, parts
from tests.proofs import TOKEN, Algorithm, OwnKey, asserted, register
from tests.serving import RunningServer, settings_for
from tests.tenants import Tenant, TestAgent, make_tenant, operator_of

from agentidp.bootstrap import raise_token_floor
from agentidp.core import limits
from agentidp.core.caller import Caller
from agentidp.core.clock import to_rfc3339
from agentidp.db.schema import one_time_values
from agentidp.db.unit import Tx
from agentidp.worker import keep_house

INTROSPECT, REVOKE = "/api/v1/token/introspect", "/api/v1/token/revoke"
ENDPOINTS = (TOKEN, INTROSPECT, REVOKE)
REFUSED = (401, {"error": "invalid_client", "error_description": "Client authentication failed."})
KEY, OTHER_KEY = OwnKey(), OwnKey()
LIFE, LEEWAY = limits.CLIENT_ASSERTION_SECONDS_MAX, limits.ISSUED_AT_LEEWAY_SECONDS


def send(server: RunningServer, assertion: str, path: str = TOKEN, **form: Any) -> httpx2.Response:
    with server.client() as client:
        return client.post(path, data=asserted(assertion, **({"token": "x"} if path != TOKEN else {}) | form))


def reason(tenant: Tenant, refused: httpx2.Response) -> str:
    """Why a request was refused: its organization's administrator can read that, or the operator, when nobody knows whose it was."""
    found = []
    for reader in (tenant.admin, operator_of(tenant.server)):
        with reader.client("audit:read") as client:
            found += client.get("/api/v1/audit", params={"requestId": refused.headers["x-request-id"]}).json()["data"]
    (event,) = found
    assert (event["action"], event["outcome"]) == ("auth.failed", "failure")
    return str(event["metadata"]["reason"])


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize("algorithm", ["ES256", "RS256", "Ed25519"])
def test_a_registered_key_authenticates_everywhere(tenant: Tenant, server: RunningServer, algorithm: Algorithm, path: str) -> None:
    agent, key = tenant.agent(), OwnKey(algorithm)
    credential_id = register(agent, key)
    response = send(server, key.assertion(agent), path)
    assert response.status_code == 200, response.text
    if path == TOKEN:
        claims = parts(response.json()["access_token"])[1]
        assert (claims["sub"], claims["credential_id"]) == (agent.agent_id, credential_id)
    with tenant.admin.client() as client:
        listed = client.get(f"/api/v1/agents/{agent.agent_id}/credentials").json()["data"]
    assert next(row for row in listed if row["credentialId"] == credential_id)["lastUsedAt"] is not None


GOOD: dict[str, Callable[[TestAgent, str], tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]] = {
    "client_id beside it": lambda agent, _: ({}, {}, {"client_id": agent.agent_id}),
    "an audience of one in a list": lambda agent, _: ({}, {"aud": [agent.server.url]}, {}),
    "its type": lambda *_: ({"typ": "client-authentication+jwt"}, {}, {}),
    "its type, written otherwise": lambda *_: ({"typ": "application/Client-Authentication+JWT"}, {}, {}),
    "the usual type, written otherwise": lambda *_: ({"typ": "jwt"}, {}, {}),
    "the usual type": lambda *_: ({"typ": "JWT"}, {}, {}),
    "the thumbprint as key id": lambda *_: ({"kid": KEY.thumbprint}, {}, {}),
    "the credential as key id": lambda _, credential_id: ({"kid": credential_id}, {}, {}),
    "no iat": lambda *_: ({}, {"iat": None}, {}),
    "fractions of a second": lambda agent, _: ({}, {"exp": agent.server.clock() / 1000 + 30.5}, {}),
    "a client's clock that is ahead": lambda agent, _: ({}, {name: agent.server.clock() // 1000 + LEEWAY - 5 for name in ("iat", "nbf")}, {}),
    "the longest life": lambda agent, _: ({}, {"exp": agent.server.clock() // 1000 + LIFE}, {}),
    "claims that we do not know": lambda *_: ({}, {"name": "x", "scope": "admin:orgs"}, {}),
    "an empty secret, which counts as absent": lambda *_: ({}, {}, {"client_secret": ""}),
}


@pytest.mark.parametrize("name", GOOD)
def test_every_right_form(tenant: Tenant, server: RunningServer, name: str) -> None:
    agent = tenant.agent()
    header, claims, form = GOOD[name](agent, register(agent, KEY))
    assert send(server, KEY.assertion(agent, header, **claims), **form).status_code == 200


def test_without_key_id_every_active_key_is_tried(tenant: Tenant, server: RunningServer) -> None:
    agent, keys = tenant.agent(), [OwnKey("Ed25519") for _ in range(9)]
    for key in keys:
        register(agent, key)
    assert [send(server, key.assertion(agent)).status_code for key in keys] == [200] * 9


def _now(agent: TestAgent) -> int:
    return agent.server.clock() // 1000


WRONG: dict[str, Callable[[TestAgent, TestAgent], str]] = {
    "not a JWT": lambda *_: "x",
    "two parts": lambda agent, _: KEY.assertion(agent).rpartition(".")[0],
    "no signature": lambda agent, _: KEY.assertion(agent).rpartition(".")[0] + ".",
    "padded": lambda agent, _: KEY.assertion(agent) + "=",
    "too long": lambda agent, _: KEY.assertion(agent, more="x" * limits.TOKEN_CHARACTERS_MAX),
    "alg none": lambda agent, _: forge(KEY.private, {"alg": "none"}, parts(KEY.assertion(agent))[1]),
    "alg of another key": lambda agent, _: forge(KEY.private, {"alg": "RS256"}, parts(KEY.assertion(agent))[1]),
    "HMAC with the public key": lambda agent, _: encode({"alg": "HS256"}, parts(KEY.assertion(agent))[1], OctKey.import_key(str(KEY.jwk))),
    "another key": lambda agent, _: OTHER_KEY.assertion(agent),
    "another key under this one's id": lambda agent, _: OTHER_KEY.assertion(agent, {"kid": KEY.thumbprint}),
    "an unknown key id": lambda agent, _: KEY.assertion(agent, {"kid": "other"}),
    "a key id that is SQL": lambda agent, _: KEY.assertion(agent, {"kid": "' OR 1=1 --"}),
    "its own key in the header": lambda agent, _: forge(OTHER_KEY.private, {"alg": "ES256", "jwk": OTHER_KEY.jwk}, parts(KEY.assertion(agent))[1]),
    "a key elsewhere": lambda agent, _: KEY.assertion(agent, {"jku": "http://127.0.0.1:9/jwks.json"}),
    "critical headers": lambda agent, _: forge(KEY.private, {"alg": "ES256", "crit": ["exp"]}, parts(KEY.assertion(agent))[1]),
    "a claim twice": lambda agent, _: forge(KEY.private, {"alg": "ES256"}, '{"iss":"a",' + claims_text(agent)[1:]),
    "an access token": lambda agent, _: agent.token(),
    "typ of an access token": lambda agent, _: KEY.assertion(agent, {"typ": "at+jwt"}),
    "typ of a proof": lambda agent, _: KEY.assertion(agent, {"typ": "dpop+jwt"}),
    "typ of another type": lambda agent, _: forge(KEY.private, {"alg": "ES256", "typ": ["JWT"]}, parts(KEY.assertion(agent))[1]),
    "no typ of an assertion": lambda agent, _: KEY.assertion(agent, {"typ": "application/application/jwt"}),
    "no iss": lambda agent, _: KEY.assertion(agent, iss=None),
    "another iss": lambda agent, other: KEY.assertion(agent, iss=other.agent_id),
    "no sub": lambda agent, _: KEY.assertion(agent, sub=None),
    "sub no id": lambda agent, _: KEY.assertion(agent, iss="me", sub="me"),
    "another agent": lambda agent, other: KEY.assertion(agent, iss=other.agent_id, sub=other.agent_id),
    "an agent that there is not": lambda agent, _: KEY.assertion(agent, **dict.fromkeys(("iss", "sub"), "0195e2a0-0000-7000-8000-000000000000")),
    "no aud": lambda agent, _: KEY.assertion(agent, aud=None),
    "aud the token endpoint": lambda agent, _: KEY.assertion(agent, aud=agent.server.url + TOKEN),
    "aud with a slash": lambda agent, _: KEY.assertion(agent, aud=agent.server.url + "/"),
    "aud somebody else": lambda agent, _: KEY.assertion(agent, aud="https://other.example"),
    "two audiences": lambda agent, _: KEY.assertion(agent, aud=[agent.server.url, "https://other.example"]),
    "our issuer twice": lambda agent, _: KEY.assertion(agent, aud=[agent.server.url] * 2),
    "no audience in a list": lambda agent, _: KEY.assertion(agent, aud=[]),
    "no exp": lambda agent, _: KEY.assertion(agent, exp=None),
    "expired": lambda agent, _: KEY.assertion(agent, exp=_now(agent) - 1),
    "lives too long": lambda agent, _: KEY.assertion(agent, exp=_now(agent) + LIFE + LEEWAY + 5),
    "exp as text": lambda agent, _: KEY.assertion(agent, exp=str(_now(agent) + 60)),
    "exp true": lambda agent, _: KEY.assertion(agent, exp=True),
    "exp beyond all time": lambda agent, _: KEY.assertion(agent, exp=10**300),
    "exp below all time": lambda agent, _: KEY.assertion(agent, exp=-1e300),
    "iat in the future": lambda agent, _: KEY.assertion(agent, iat=_now(agent) + LEEWAY + 5),
    "iat as text": lambda agent, _: KEY.assertion(agent, iat="now"),
    "nbf in the future": lambda agent, _: KEY.assertion(agent, nbf=_now(agent) + LEEWAY + 5),
    "nbf of another type": lambda agent, _: KEY.assertion(agent, nbf=[0]),
    "no jti": lambda agent, _: KEY.assertion(agent, jti=None),
    "an empty jti": lambda agent, _: KEY.assertion(agent, jti=""),
    "jti of another type": lambda agent, _: KEY.assertion(agent, jti=5),
    "a long jti": lambda agent, _: KEY.assertion(agent, jti="x" * (limits.JTI_CHARACTERS_MAX + 1)),
}


def claims_text(agent: TestAgent) -> str:
    return json.dumps(parts(KEY.assertion(agent))[1])


# What only those could find out who know what is stored: they get one answer, which says nothing.
TELLING = {
    *("alg none", "alg of another key", "HMAC with the public key", "another key", "another key under this one's id"),
    *("an unknown key id", "a key id that is SQL", "another agent", "an agent that there is not"),
}


@pytest.mark.parametrize("name", WRONG)
def test_every_wrong_assertion_is_refused(tenant: Tenant, server: RunningServer, name: str) -> None:
    agent, other = tenant.agent(), tenant.agent()
    register(agent, KEY)
    for path in ENDPOINTS:
        response = send(server, WRONG[name](agent, other), path)
        found = reason(tenant, response)
        said = REFUSED[1] if name in TELLING else REFUSED[1] | {"error_description": f"Client authentication failed: {found}."}
        assert (response.status_code, response.json()) == (REFUSED[0], said), path
        assert response.headers["www-authenticate"].startswith("Basic ")
    assert send(server, KEY.assertion(agent)).status_code == 200


@pytest.mark.parametrize(
    ("form", "status", "error"),
    [
        ({"client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:saml2-bearer"}, 401, "invalid_client"),
        ({"client_assertion_type": None}, 400, "invalid_request"),
        ({"client_assertion": None}, 400, "invalid_request"),
        ({"client_assertion": ""}, 400, "invalid_request"),
        ({"client_id": "somebody"}, 401, "invalid_client"),
        ({"client_secret": "x"}, 400, "invalid_request"),
    ],
)
@pytest.mark.parametrize("path", ENDPOINTS)
def test_one_way_to_authenticate_and_all_of_it(tenant: Tenant, server: RunningServer, path: str, form: dict[str, Any], status: int, error: str) -> None:
    agent = tenant.agent()
    register(agent, KEY)
    assertion = KEY.assertion(agent)
    response = send(server, assertion, path, **form)
    assert (response.status_code, response.json()["error"]) == (status, error)
    assert send(server, assertion).status_code == 200, "nothing was used up"


@pytest.mark.parametrize("path", ENDPOINTS)
def test_an_assertion_stands_alone(tenant: Tenant, server: RunningServer, path: str) -> None:
    agent = tenant.agent()
    register(agent, KEY)
    data = asserted(KEY.assertion(agent), token="x")
    with server.client() as client:
        basic = client.post(path, data=data, auth=(agent.agent_id, agent.client_secret))
        assert (basic.status_code, basic.json()["error"]) == (400, "invalid_request")
        bearer = client.post(path, data=data, headers={"Authorization": f"Bearer {agent.token()}"})
        assert (bearer.status_code, bearer.json()["error"]) == (400, "invalid_request")
        for name in ("client_assertion", "client_assertion_type"):
            response = client.post(path, params={name: "x"}, data=data)
            assert (response.status_code, response.json()["error"]) == (400, "invalid_request")
            response = client.post(path, data=data | {name: [data[name], data[name]]})
            assert (response.status_code, response.json()["error"]) == (400, "invalid_request")


def test_an_assertion_is_used_once_wherever(tenant: Tenant, server: RunningServer) -> None:
    agent, other = tenant.agent(), tenant.agent()
    for one in (agent, other):
        register(one, KEY)
    for first in ENDPOINTS:
        assertion = KEY.assertion(agent, jti="the same")
        assert send(server, KEY.assertion(agent, jti=first), first).status_code == 200
        for path in ENDPOINTS:
            response = send(server, KEY.assertion(agent, jti=first), path)
            assert (response.status_code, response.json()) == REFUSED
            assert reason(tenant, response) == "client assertion: used before"
    assert send(server, assertion).status_code == 200
    assert send(server, KEY.assertion(other, jti="the same")).status_code == 200, "what one client used, another may"
    with server.clock.ahead(seconds=30):
        assert send(server, assertion).status_code == 401


def test_a_restart_frees_no_assertion(database_url: str, tmp_path: Any) -> None:
    running = RunningServer(settings_for(tmp_path / "data", database_url))
    agent = make_tenant(running).admin
    register(agent, KEY)
    assertion = KEY.assertion(agent)
    assert send(running, assertion).status_code == 200
    running.stop()
    again = RunningServer(running.settings)
    try:
        assert send(again, assertion).status_code == 401
        assert send(again, KEY.assertion(agent)).status_code == 200
    finally:
        again.stop()


def test_what_is_refused_for_another_reason_uses_nothing_up(tenant: Tenant, server: RunningServer) -> None:
    agent = tenant.agent("openid")
    register(agent, KEY)
    assertion = KEY.assertion(agent)
    assert send(server, assertion, scope="agents:write").json()["error"] == "invalid_scope"
    assert send(server, assertion, resource="relative").json()["error"] == "invalid_target"
    assert send(server, assertion, grant_type="password").json()["error"] == "unsupported_grant_type"
    with operator_of(server).client("admin:orgs") as operator:
        path = f"/api/v1/organizations/{tenant.organization_id}"
        assert operator.patch(path, json={"maxTokensPerDay": 1}).status_code == 200
        assert send(server, assertion).status_code == 429
        assert operator.patch(path, json={"maxTokensPerDay": 1000}).status_code == 200
    assert send(server, assertion).status_code == 200
    assert send(server, assertion).status_code == 401


def test_what_was_taken_away_no_longer_authenticates(tenant: Tenant, server: RunningServer) -> None:
    agent = tenant.agent("openid")
    soon = to_rfc3339(server.clock() + 60_000)
    expiring, revoked = OwnKey("Ed25519"), OwnKey("Ed25519")
    register(agent, expiring, expiresAt=soon)
    credential_id = register(agent, revoked)
    register(agent, KEY)
    tokens = [send(server, key.assertion(agent)).json()["access_token"] for key in (expiring, revoked, KEY)]
    with tenant.admin.client() as client:
        assert client.delete(f"/api/v1/agents/{agent.agent_id}/credentials/{credential_id}").status_code == 204
        assert (send(server, revoked.assertion(agent)).status_code, send(server, expiring.assertion(agent)).status_code) == (401, 200)
        with server.clock.ahead(seconds=61):
            assert send(server, expiring.assertion(agent)).status_code == 401
            assert send(server, KEY.assertion(agent)).status_code == 200
        alive = [client.post(INTROSPECT, data={"token": token}).json()["active"] for token in tokens]
        assert alive == [True, False, True], "the tokens of a revoked key die with it"
        for status, answer in (("suspended", (400, "unauthorized_client")), ("active", (200, None))):
            assert client.patch(f"/api/v1/agents/{agent.agent_id}", json={"status": status}).status_code == 200
            response = send(server, KEY.assertion(agent))
            assert (response.status_code, response.json().get("error")) == answer
        assert send(server, OTHER_KEY.assertion(agent)).status_code == 401
        assert client.delete(f"/api/v1/agents/{agent.agent_id}").status_code == 204
        assert send(server, KEY.assertion(agent)).status_code == 401


def test_an_expired_key_can_be_registered_again(tenant: Tenant, server: RunningServer) -> None:
    agent, key = tenant.agent(), OwnKey()
    register(agent, key, expiresAt=to_rfc3339(server.clock() + 60_000))
    with server.clock.ahead(seconds=61):
        register(agent, key)
        assert send(server, key.assertion(agent)).status_code == 200
        with agent.client("openid") as client:
            again = client.post(f"/api/v1/agents/{agent.agent_id}/credentials", json={"kind": "public_key", "jwk": key.jwk})
        assert again.status_code == 409, "now it is there"


def test_an_organization_that_is_not_active(tenant: Tenant, server: RunningServer) -> None:
    register(tenant.admin, KEY)
    assert send(server, KEY.assertion(tenant.admin)).status_code == 200
    with operator_of(server).client("admin:orgs") as operator:
        assert operator.patch(f"/api/v1/organizations/{tenant.organization_id}", json={"status": "suspended"}).status_code == 200
    response = send(server, KEY.assertion(tenant.admin))
    assert (response.status_code, response.json()["error"]) == (400, "unauthorized_client")


def test_a_key_registered_a_moment_ago_works_at_once(tenant: Tenant, server: RunningServer) -> None:
    """What a process has in memory of the client's keys is read anew before it refuses."""
    agent = tenant.agent()
    register(agent, KEY)
    assert send(server, KEY.assertion(agent)).status_code == 200
    assert send(server, OTHER_KEY.assertion(agent)).status_code == 401
    register(agent, OTHER_KEY)
    assert send(server, OTHER_KEY.assertion(agent)).status_code == 200


def test_after_a_restore_what_was_signed_before_is_taken_for_used(own_server: RunningServer) -> None:
    """The backup does not know what was used since: see TH42."""
    agent = make_tenant(own_server).admin
    register(agent, KEY)
    used, early = KEY.assertion(agent), KEY.assertion(agent)
    without_iat = KEY.assertion(agent, iat=None)
    assert send(own_server, used).status_code == 200
    floor = (own_server.clock() // 1000 + 1) * 1000
    first = own_server.first
    own_server.write(raise_token_floor, Caller(first.organization_id, is_system=True), floor, newest_event_at=None)
    with own_server.clock.ahead(seconds=2):
        for assertion in (used, early, without_iat):
            assert send(own_server, assertion).status_code == 401
        assert send(own_server, KEY.assertion(agent)).status_code == 200
        assert send(own_server, KEY.assertion(agent, iat=None, exp=_now(agent) + LIFE + LEEWAY)).status_code == 200, "it can only have been made since"


def test_a_used_assertion_is_forgotten_when_nobody_takes_it_any_longer(own_server: RunningServer) -> None:
    agent = make_tenant(own_server).admin
    register(agent, KEY)
    assertion = KEY.assertion(agent)
    assert send(own_server, assertion).status_code == 200

    def kept(tx: Tx) -> int:
        return len(tx.all(sa.select(one_time_values.c.digest).where(one_time_values.c.organization_id == agent.organization_id)))

    for seconds, count in ((61, 1), (61 + limits.ONE_TIME_MARGIN_SECONDS, 0)):
        with own_server.clock.ahead(seconds=seconds):
            own_server.await_(keep_house(own_server.instance))
            assert own_server.read(kept, agent.caller) == count
            assert send(own_server, assertion).status_code == 401
