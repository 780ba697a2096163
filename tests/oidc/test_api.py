"""Discovery, key set and /agent-info over real HTTP on both engines: everything that is announced works, and all that works is announced."""

import base64
from typing import Any
from urllib.parse import urlsplit

import httpx2
import jwt
import pytest
from tests.proofs import OwnKey, asserted, bound_token, nonce_of, register
from tests.serving import RunningServer
from tests.tenants import Tenant

from agentidp.app import ROUTES
from agentidp.auth.keys import rotate_keys
from agentidp.auth.scopes import SCOPES
from agentidp.core.caller import Caller
from agentidp.tokens.grants import GRANTS

DOCUMENTS = ("openid-configuration", "oauth-authorization-server", "oauth-protected-resource", "jwks.json")


def document(server: RunningServer, name: str) -> dict[str, Any]:
    with server.client() as client:
        response = client.get(f"/.well-known/{name}")
    assert response.status_code == 200
    return dict(response.json())


@pytest.mark.parametrize("name", ["openid-configuration", "oauth-authorization-server"])
def test_every_announced_address_is_served_by_this_issuer(server: RunningServer, name: str) -> None:
    found = document(server, name)
    served = {route.path for route in ROUTES}
    addresses = {key: value for key, value in found.items() if key.endswith(("_endpoint", "_uri", "_documentation"))}
    assert addresses.keys() >= {"token_endpoint", "jwks_uri", "introspection_endpoint", "revocation_endpoint"}
    for address in addresses.values():
        assert address.startswith(f"{server.url}/")
        assert urlsplit(address).path in served
    assert found["issuer"] == server.url
    assert found["scopes_supported"] == list(SCOPES)
    assert found["grant_types_supported"] == sorted(GRANTS)
    assert found["response_types_supported"] == []


def test_provider_metadata_adds_to_the_servers(server: RunningServer) -> None:
    server_metadata, provider = document(server, "oauth-authorization-server"), document(server, "openid-configuration")
    assert provider == provider | server_metadata
    assert provider.keys() - server_metadata.keys() == {"userinfo_endpoint", "subject_types_supported", "claims_supported"}


def test_every_announced_grant_scope_and_method_works(server: RunningServer, tenant: Tenant) -> None:
    found = document(server, "openid-configuration")
    agent = tenant.agent(*SCOPES)
    ours = {"subject_token": agent.token(), "subject_token_type": "urn:ietf:params:oauth:token-type:access_token"}
    proofs: dict[str, dict[str, str]] = {
        "client_credentials": {"client_id": agent.agent_id, "client_secret": agent.client_secret},
        "urn:ietf:params:oauth:grant-type:token-exchange": ours,
        "urn:ietf:params:oauth:grant-type:jwt-bearer": {"assertion": "x.y.z"},
    }
    with server.client() as client:
        answers = {grant: client.post("/api/v1/token", data={"grant_type": grant} | proofs[grant]) for grant in found["grant_types_supported"]}
    nobody_trusted = answers.pop("urn:ietf:params:oauth:grant-type:jwt-bearer")  # tests/policies have issuers that somebody trusts
    assert (nobody_trusted.status_code, nobody_trusted.json()["error"]) == (400, "invalid_grant")
    assert {grant: answer.status_code for grant, answer in answers.items()} == dict.fromkeys(answers, 200)
    assert {scope: agent.token_response(scope).status_code for scope in found["scopes_supported"]} == dict.fromkeys(SCOPES, 200)
    basic = base64.b64encode(f"{agent.agent_id}:{agent.client_secret}".encode()).decode()
    key = OwnKey()
    register(agent, key)
    bound, introspect = bound_token(agent, key, "tokens:read"), "/api/v1/token/introspect"
    authentication: dict[str, tuple[dict[str, str], dict[str, str]]] = {
        "client_secret_basic": ({"Authorization": f"Basic {basic}"}, {}),
        "client_secret_post": ({}, {"client_id": agent.agent_id, "client_secret": agent.client_secret}),
        "Bearer": ({"Authorization": f"Bearer {agent.token('tokens:read')}"}, {}),
        "DPoP": ({"Authorization": f"DPoP {bound}", "DPoP": key.proof(server, "POST", introspect, nonce_of(server), bound)}, {}),
        "none": ({}, {"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange"} | ours),
    }
    requests = {"token": {"grant_type": "client_credentials"}, "introspection": {"token": "x"}, "revocation": {"token": "x"}}
    for endpoint, form in requests.items():
        for method in found[f"{endpoint}_endpoint_auth_methods_supported"]:
            headers, proof = authentication.get(method) or ({}, asserted(key.assertion(agent)))
            assert (method == "private_key_jwt") == (method not in authentication)
            with server.client(headers=headers) as client:
                assert client.post(urlsplit(found[f"{endpoint}_endpoint"]).path, data=form | proof).status_code == 200, (endpoint, method)


def test_every_announced_algorithm_authenticates_a_client(server: RunningServer, tenant: Tenant) -> None:
    found = document(server, "openid-configuration")
    lists = {name: found[name] for name in found if name.endswith("_auth_signing_alg_values_supported")}
    assert {name.partition("_endpoint")[0] for name in lists} == {"token", "introspection", "revocation"}
    for name, algorithms in lists.items():
        for algorithm in algorithms:
            register(tenant.admin, key := OwnKey(algorithm))
            with server.client() as client:
                form = asserted(key.assertion(tenant.admin), token="x")
                assert client.post(urlsplit(found[name.replace("_auth_signing_alg_values_supported", "")]).path, data=form).status_code == 200


def test_every_announced_claim_is_in_an_id_token(server: RunningServer, tenant: Tenant) -> None:
    found = document(server, "openid-configuration")
    answer = tenant.admin.token_response("openid").json()
    assert set(found["claims_supported"]) == jwt.decode(answer["id_token"], options={"verify_signature": False}).keys()
    assert jwt.get_unverified_header(answer["id_token"])["alg"] in found["id_token_signing_alg_values_supported"]


def test_protected_resource_metadata_leads_from_a_401_to_a_token(server: RunningServer, tenant: Tenant) -> None:
    with server.client() as client:
        refused = client.get("/api/v1/agents")
        challenge = refused.headers["www-authenticate"]
        assert challenge == f'Bearer resource_metadata="{server.url}/.well-known/oauth-protected-resource"'
        resource = client.get(urlsplit(challenge.split('"')[1]).path).json()
        (issuer,) = resource["authorization_servers"]
        assert client.get("/.well-known/oauth-authorization-server").json()["issuer"] == issuer == server.url
    token = tenant.admin.token("agents:read", resource=resource["resource"])
    with server.client(headers={"Authorization": f"Bearer {token}"}) as client:
        assert client.get("/api/v1/agents").status_code == 200


def test_key_set_holds_public_halves_only(server: RunningServer, tenant: Tenant) -> None:
    keys = document(server, "jwks.json")["keys"]
    assert len(keys) >= 2  # the current and the next one
    for key in keys:
        assert key.keys() == {"kty", "crv", "x", "y", "kid", "use", "alg"}
        assert (key["kty"], key["use"], key["alg"]) == ("EC", "sig", "ES256")
    assert len({key["kid"] for key in keys}) == len(keys)
    assert jwt.get_unverified_header(tenant.admin.token())["kid"] in {key["kid"] for key in keys}


def test_a_rotation_is_seen_in_the_key_set(own_server: RunningServer) -> None:
    first = [key["kid"] for key in document(own_server, "jwks.json")["keys"]]
    operator = Caller(own_server.instance.operator_organization_id, is_system=True)
    current = own_server.write(rotate_keys, operator, own_server.instance.sealer, "ES256", lifetime_seconds=3600, at_once=True)
    own_server.await_(own_server.instance.keys.reload())
    second = [key["kid"] for key in document(own_server, "jwks.json")["keys"]]
    assert second[: len(first)] == first
    assert len(second) == len(first) + 1
    assert current in first
    with own_server.clock.ahead(seconds=3600 + 300 + 1):
        own_server.await_(own_server.instance.keys.reload())
        assert len(document(own_server, "jwks.json")["keys"]) == len(first)  # what the retired key signed has expired


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_are_cacheable(server: RunningServer, name: str) -> None:
    with server.client() as client:
        response = client.get(f"/.well-known/{name}")
        assert response.headers["cache-control"] == "public, max-age=300"
        etag = response.headers["etag"]
        for tags in (etag, f'"other", W/{etag}', "*"):
            again = client.get(f"/.well-known/{name}", headers={"If-None-Match": tags})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        assert client.get(f"/.well-known/{name}", headers={"If-None-Match": '"other"'}).status_code == 200


def test_documents_do_not_believe_the_host_header(server: RunningServer) -> None:
    with server.client(headers={"Host": "evil.example", "X-Forwarded-Host": "evil.example"}) as client:
        for name in DOCUMENTS:
            assert "evil.example" not in client.get(f"/.well-known/{name}").text


def test_agent_info(tenant: Tenant) -> None:
    agent = tenant.agent("openid", "agents:read", email="info@acme.example", capabilities=("a:b", "c:*"), agent_type="router", owner="us")
    with agent.client("openid") as client:
        response = client.get("/agent-info")
    assert response.json() == {
        "sub": agent.agent_id,
        "agent_id": agent.agent_id,
        "agent_type": "router",
        "organization_id": tenant.organization_id,
        "capabilities": ["a:b", "c:*"],
        "deployment_env": "development",
        "owner": "us",
        "email": "info@acme.example",
    }


def test_agent_info_needs_openid(tenant: Tenant) -> None:
    with tenant.admin.client("agents:read") as client:
        refused: httpx2.Response = client.get("/agent-info")
    assert (refused.status_code, refused.json()["code"]) == (403, "FORBIDDEN")
    assert 'error="insufficient_scope", scope="openid"' in refused.headers["www-authenticate"]
