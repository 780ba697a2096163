"""/token, /token/introspect, /token/revoke and revoke-tokens over real HTTP on both engines, read with a foreign JWT library."""

import base64
import hashlib
from typing import Any

import httpx2
import jwt
import pytest
from tests.serving import RunningServer
from tests.tenants import ALL_SCOPES, Tenant

from agentidp.auth.scopes import SCOPES
from agentidp.core.clock import to_rfc3339
from agentidp.core.ids import is_id

TOKEN, INTROSPECT, REVOKE = "/api/v1/token", "/api/v1/token/introspect", "/api/v1/token/revoke"
INACTIVE = {"active": False}
RESOURCE = "https://api.example.com"


def verified(server: RunningServer, token: str, audience: str | None = None) -> dict[str, Any]:
    """The claims, as a resource server would check them: with the published keys and nothing else."""
    with server.client() as client:
        keys = jwt.PyJWKSet.from_dict(client.get("/.well-known/jwks.json").json())
    key = keys[jwt.get_unverified_header(token)["kid"]]
    return dict(jwt.decode(token, key, algorithms=["ES256"], audience=audience or server.url, issuer=server.url, leeway=5))


def oauth_error(response: httpx2.Response) -> tuple[int, str]:
    assert response.json().keys() == {"error", "error_description"}
    return response.status_code, response.json()["error"]


def introspected(tenant: Tenant, token: str) -> dict[str, Any]:
    with tenant.admin.client("tokens:read") as client:
        response = client.post(INTROSPECT, data={"token": token})
    assert response.status_code == 200
    return dict(response.json())


def test_profile_of_the_access_token(tenant: Tenant, server: RunningServer) -> None:
    before = server.clock() // 1000
    response = tenant.admin.token_response("agents:read tokens:read")
    answer = response.json()
    assert response.headers["cache-control"] == "no-store"
    assert (answer.keys(), answer["token_type"]) == ({"access_token", "token_type", "expires_in", "scope"}, "Bearer")
    assert (answer["expires_in"], answer["scope"]) == (3600, "agents:read tokens:read")
    header = jwt.get_unverified_header(answer["access_token"])
    assert (header.keys(), header["typ"], header["alg"]) == ({"alg", "kid", "typ"}, "at+jwt", "ES256")
    claims = verified(server, answer["access_token"])
    assert claims.keys() == {*["iss", "sub", "aud", "client_id", "scope", "iat", "exp", "jti", "organization_id", "credential_id", "epoch"]}
    assert (claims["sub"], claims["client_id"], claims["organization_id"]) == (tenant.admin.agent_id, tenant.admin.agent_id, tenant.organization_id)
    assert (claims["iss"], claims["aud"], claims["exp"] - claims["iat"]) == (server.url, server.url, 3600)
    assert before <= claims["iat"] <= server.clock() // 1000
    assert is_id(claims["jti"])
    assert is_id(claims["credential_id"])


def test_every_token_has_an_id_of_its_own(tenant: Tenant, server: RunningServer) -> None:
    assert len({verified(server, tenant.admin.token())["jti"] for _ in range(5)}) == 5


def test_without_scope_everything_but_the_operators(tenant: Tenant) -> None:
    operator = tenant.agent(*SCOPES)
    assert set(operator.token_response().json()["scope"].split()) == ALL_SCOPES
    assert operator.token_response("admin:orgs").json()["scope"] == "admin:orgs"
    assert operator.token_response("openid admin:orgs openid").json()["scope"] == "admin:orgs openid"


@pytest.mark.parametrize(
    "scope", ["agents:write", "agents:read agents:write", "admin:orgs", "no:such", "agents:read  openid", " openid", "Openid", "a" * 1025, '"']
)
def test_never_another_scope_than_asked_for(tenant: Tenant, scope: str) -> None:
    agent = tenant.agent("agents:read", "openid")
    assert oauth_error(agent.token_response(scope)) == (400, "invalid_scope")


def test_a_changed_set_of_scopes_counts_for_new_tokens(tenant: Tenant) -> None:
    agent = tenant.agent("agents:read", "openid")
    with tenant.admin.client() as client:
        client.patch(f"/api/v1/agents/{agent.agent_id}", json={"scopes": ["openid"]})
    assert agent.token_response().json()["scope"] == "openid"
    assert oauth_error(agent.token_response("agents:read")) == (400, "invalid_scope")


@pytest.mark.parametrize(
    ("resource", "audience"),
    [
        (["HTTPS://API.example.com/"], RESOURCE),
        ([RESOURCE, "urn:other", RESOURCE], [RESOURCE, "urn:other"]),
        ([f"{RESOURCE}/v1"], f"{RESOURCE}/v1"),
    ],
)
def test_resource_becomes_the_audience(tenant: Tenant, server: RunningServer, resource: list[str], audience: Any) -> None:
    token = tenant.admin.token(resource=resource)
    assert verified(server, token, audience if isinstance(audience, str) else audience[1])["aud"] == audience
    with server.client(headers={"Authorization": f"Bearer {token}"}) as client:
        assert client.get("/api/v1/agents").status_code == 401  # it is meant for somebody else
    assert introspected(tenant, token)["aud"] == audience


def test_our_own_api_as_one_of_several_resources(tenant: Tenant, server: RunningServer) -> None:
    token = tenant.admin.token(resource=[f"{server.url}/", RESOURCE])
    with server.client(headers={"Authorization": f"Bearer {token}"}) as client:
        assert client.get("/api/v1/agents").status_code == 200


@pytest.mark.parametrize("resource", [["relative"], ["https://a.example#x"], [RESOURCE, "no"], ["https://"], [f"urn:{n}:x" for n in range(11)]])
def test_invalid_target(tenant: Tenant, resource: list[str]) -> None:
    assert oauth_error(tenant.admin.token_response(resource=resource)) == (400, "invalid_target")


def test_id_token(tenant: Tenant, server: RunningServer) -> None:
    agent = tenant.agent("openid", "agents:read")
    answer = agent.token_response("openid").json()
    assert jwt.get_unverified_header(answer["id_token"])["typ"] == "JWT"
    claims = verified(server, answer["id_token"], agent.agent_id)
    half = hashlib.sha256(answer["access_token"].encode()).digest()[:16]
    assert claims["at_hash"] == base64.urlsafe_b64encode(half).rstrip(b"=").decode()
    assert claims["sub"] == agent.agent_id
    assert "id_token" not in agent.token_response("agents:read").json()
    with server.client(headers={"Authorization": f"Bearer {answer['id_token']}"}) as client:
        assert client.get("/agent-info").status_code == 401
    assert introspected(tenant, answer["id_token"]) == INACTIVE


def test_a_token_dies_with_its_agent_and_its_credential(tenant: Tenant, server: RunningServer) -> None:
    agent, now = tenant.agent(), server.clock()
    path = f"/api/v1/agents/{agent.agent_id}"
    with tenant.admin.client() as client:
        client.patch(path, json={"expiresAt": to_rfc3339(now + 1_800_000)})
        assert 1795 <= agent.token_response().json()["expires_in"] <= 1800
        secret = client.post(f"{path}/credentials", json={"expiresAt": to_rfc3339(now + 600_000)}).json()["clientSecret"]
        answer = agent.token_response(client_secret=secret).json()
        assert 595 <= answer["expires_in"] <= 600
        assert verified(server, answer["access_token"])["exp"] <= now // 1000 + 600
        client.patch(path, json={"expiresAt": to_rfc3339(now + 300_000)})
        assert 295 <= agent.token_response(client_secret=secret).json()["expires_in"] <= 300


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({"grant_type": ""}, (400, "invalid_request")),
        ({"grant_type": "password"}, (400, "unsupported_grant_type")),
        ({"grant_type": "Client_Credentials"}, (400, "unsupported_grant_type")),
        ({"scope": ["openid", "openid"]}, (400, "invalid_request")),
        ({"client_id": ["a", "a"]}, (400, "invalid_request")),
        ({"client_secret": ""}, (401, "invalid_client")),
    ],
    ids=str,
)
def test_refused_requests(tenant: Tenant, form: dict[str, Any], error: tuple[int, str]) -> None:
    assert oauth_error(tenant.admin.token_response(**form)) == error


def test_one_way_to_authenticate(tenant: Tenant, server: RunningServer) -> None:
    agent, grant = tenant.admin, {"grant_type": "client_credentials"}
    basic = base64.b64encode(f"{agent.agent_id}:{agent.client_secret}".encode()).decode()
    with server.client(headers={"Authorization": f"Basic {basic}"}) as client:
        assert client.post(TOKEN, data=grant).status_code == 200
        assert client.post(TOKEN, data=grant | {"client_id": agent.agent_id}).status_code == 200
        assert oauth_error(client.post(TOKEN, data=grant | {"client_secret": agent.client_secret})) == (400, "invalid_request")
        assert oauth_error(client.post(TOKEN, data=grant | {"client_id": "another"})) == (400, "invalid_request")
    with agent.client("tokens:read") as client:
        both = {"token": "x", "client_id": agent.agent_id, "client_secret": agent.client_secret}
        assert oauth_error(client.post(INTROSPECT, data=both)) == (400, "invalid_request")


def test_introspection_shapes(tenant: Tenant, other_tenant: Tenant, server: RunningServer) -> None:
    agent = tenant.agent("openid")
    token = agent.token()
    claims = verified(server, token)
    assert introspected(tenant, token) == {"active": True, "token_type": "Bearer", **{name: value for name, value in claims.items() if name != "epoch"}}
    assert introspected(other_tenant, token) == INACTIVE
    for wrong in ("x", "a.b.c", token[:-6] + "AAAAAA", token.rpartition(".")[0] + "."):
        assert introspected(tenant, wrong) == INACTIVE
    with server.client() as client:
        as_client = client.post(INTROSPECT, data={"token": token, "client_id": agent.agent_id, "client_secret": agent.client_secret})
        assert as_client.json()["active"] is True
        for path in (INTROSPECT, REVOKE):
            nobody = client.post(path, data={"token": token})
            assert oauth_error(nobody) == (401, "invalid_client")
            assert nobody.headers["www-authenticate"].startswith("Basic ")
    with agent.client() as client:
        assert oauth_error(client.post(INTROSPECT, data={"token": token})) == (403, "insufficient_scope")
    with tenant.admin.client("tokens:read") as client:
        assert oauth_error(client.post(INTROSPECT, data={"token_type_hint": "access_token"})) == (400, "invalid_request")


def test_revocation_of_ones_own_token(tenant: Tenant, server: RunningServer) -> None:
    agent = tenant.agent("openid")
    by_client, by_bearer, itself, untouched = (agent.token() for _ in range(4))
    with server.client() as client:
        form = {"token": by_client, "client_id": agent.agent_id, "client_secret": agent.client_secret}
        answers = [client.post(REVOKE, data=form), client.post(REVOKE, data=form)]
        answers.append(client.post(REVOKE, data={"token": by_bearer}, headers={"Authorization": f"Bearer {itself}"}))
        answers.append(client.post(REVOKE, data={"token": itself}, headers={"Authorization": f"Bearer {itself}"}))
        assert [(answer.status_code, answer.content) for answer in answers] == [(200, b"")] * 4
        assert client.post(REVOKE, data={"token": itself}, headers={"Authorization": f"Bearer {itself}"}).status_code == 401
    assert [introspected(tenant, token)["active"] for token in (by_client, by_bearer, itself, untouched)] == [False, False, False, True]


def test_revocation_of_anothers_token(tenant: Tenant, other_tenant: Tenant, server: RunningServer) -> None:
    agent, sibling = tenant.agent("openid"), tenant.agent("openid", "tokens:read")
    token = agent.token()
    with sibling.client() as client:
        refused = client.post(REVOKE, data={"token": token})
        assert oauth_error(refused) == (403, "insufficient_scope")
        assert 'scope="tokens:write"' in refused.headers["www-authenticate"]
    with other_tenant.admin.client() as client:
        assert [client.post(REVOKE, data={"token": one}).status_code for one in (token, "unknown")] == [200, 200]
    assert introspected(tenant, token)["active"] is True
    with tenant.admin.client("tokens:write") as client:
        assert client.post(REVOKE, data={"token": token}).status_code == 200
    assert introspected(tenant, token) == INACTIVE
    with server.client(headers={"Authorization": f"Bearer {token}"}) as client:
        assert client.get("/agent-info").status_code == 401


def test_revoke_tokens_kills_what_was_issued_before(tenant: Tenant) -> None:
    agent, sibling = tenant.agent(), tenant.agent()
    before, other = [agent.token() for _ in range(3)], sibling.token()
    with tenant.admin.client("agents:write") as client:
        assert client.post(f"/api/v1/agents/{agent.agent_id}/revoke-tokens").status_code == 204
    after = agent.token()
    assert [introspected(tenant, token)["active"] for token in before] == [False] * 3
    assert [introspected(tenant, token)["active"] for token in (after, other)] == [True, True]
