"""Public keys as credentials, over real HTTP on both engines."""

from typing import Any

import pytest
from tests.auth.test_jwk import ALGORITHMS, EC, WRONG_KEYS
from tests.auth.test_jwk import members as new_key
from tests.credentials.test_api import LISTED, path_of, refused
from tests.serving import RunningServer
from tests.tenants import Tenant

from agentidp.auth.jwk import thumbprint
from agentidp.auth.jws import Algorithm
from agentidp.core.clock import to_rfc3339


def key_body(jwk: dict[str, Any] = EC, **more: Any) -> dict[str, Any]:
    return {"kind": "public_key", "jwk": jwk} | more


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_is_registered_and_shows_as_its_thumbprint(tenant: Tenant, server: RunningServer, algorithm: Algorithm) -> None:
    agent, jwk, soon = tenant.agent(), new_key(algorithm), to_rfc3339(server.clock() + 60_000)
    with tenant.admin.client() as client:
        response = client.post(path_of(agent), json=key_body(jwk, expiresAt=soon))
        created = response.json()
        assert (response.status_code, created.keys()) == (201, LISTED)
        assert (created["kind"], created["status"], created["hint"]) == ("public_key", "active", thumbprint(jwk))
        assert (created["clientId"], created["expiresAt"]) == (agent.agent_id, soon)
        listed = client.get(path_of(agent)).json()["data"]
        assert [row["kind"] for row in listed] == ["public_key", "secret"]
        assert listed[0] == created
        events = client.get("/api/v1/audit", params={"action": "credential.generated"}).json()["data"]
    generated = next(event for event in events if event["resourceId"] == created["credentialId"]) if "resourceId" in events[0] else events[0]
    assert thumbprint(jwk) in str(generated)


@pytest.mark.parametrize("name", WRONG_KEYS)
def test_a_wrong_key_is_refused_with_a_sentence(tenant: Tenant, name: str) -> None:
    jwk, sentence = WRONG_KEYS[name]
    with tenant.admin.client() as client:
        response = client.post(path_of(tenant.admin), json=key_body(jwk))
        assert refused(response, 400, "VALIDATION_ERROR")
        (field,) = response.json()["details"]["fields"]
        assert field["field"] == "jwk"
        assert sentence in field["message"]
        assert client.get(path_of(tenant.admin)).json()["total"] == 1


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "public_key"},
        {"jwk": EC},
        {"kind": "secret", "jwk": EC},
        {"kind": "public_key", "jwk": None},
        {"kind": "public_key", "jwk": [EC]},
        {"kind": "public_key", "jwk": EC | {f"more{number}": 1 for number in range(20)}},
        {"kind": "public_key", "jwk": EC, "jwksUri": "https://example.com/jwks.json"},
        {"kind": "key", "jwk": EC},
        {"kind": None, "jwk": EC},
    ],
)
def test_a_body_that_asks_for_neither_or_both_is_refused(tenant: Tenant, body: dict[str, Any]) -> None:
    with tenant.admin.client() as client:
        assert refused(client.post(path_of(tenant.admin), json=body), 400, "VALIDATION_ERROR")


def test_a_kid_is_the_thumbprint_or_left_out(tenant: Tenant) -> None:
    """Assertions could not use another one: it is not kept."""
    with tenant.admin.client() as client:
        for kid in ("my-key", "", 5, None):
            response = client.post(path_of(tenant.admin), json={"kind": "public_key", "jwk": EC | {"kid": kid}})
            assert refused(response, 400, "VALIDATION_ERROR")
            assert f"leave kid out; assertions name the key by its thumbprint, {thumbprint(EC)}, or by the credentialId" in response.json()["message"]
        response = client.post(path_of(tenant.admin), json={"kind": "public_key", "jwk": EC | {"kid": thumbprint(EC)}})
    assert (response.status_code, response.json()["hint"]) == (201, thumbprint(EC))


def test_a_key_is_an_agents_once(tenant: Tenant) -> None:
    """Else revoking the credential of a key would leave it alive in another."""
    agent, other = tenant.agent(), tenant.agent()
    with tenant.admin.client() as client:
        first = client.post(path_of(agent), json=key_body()).json()
        assert refused(client.post(path_of(agent), json=key_body(EC | {"use": "sig"})), 409, "CONFLICT")
        assert client.post(path_of(other), json=key_body()).status_code == 201
        assert client.delete(f"{path_of(agent)}/{first['credentialId']}").status_code == 204
        assert client.get(path_of(agent), params={"status": "revoked"}).json()["data"][0]["kind"] == "public_key"
        assert client.post(path_of(agent), json=key_body()).status_code == 201


def test_a_key_is_not_rotated(tenant: Tenant) -> None:
    with tenant.admin.client() as client:
        created = client.post(path_of(tenant.admin), json=key_body()).json()
        response = client.post(f"{path_of(tenant.admin)}/{created['credentialId']}/rotate")
        assert refused(response, 409, "CONFLICT")
        assert "generate one for the new key" in response.json()["message"]


def test_keys_count_among_the_ten_and_need_the_same_rights(tenant: Tenant) -> None:
    agent, powerful = tenant.agent("agents:write"), tenant.agent("agents:write", "billing:write")
    with tenant.admin.client() as client:
        for _ in range(9):
            assert client.post(path_of(agent), json=key_body(new_key("Ed25519"))).status_code == 201
        assert refused(client.post(path_of(agent), json=key_body()), 409, "CONFLICT")
    with agent.client() as client:
        assert refused(client.post(path_of(powerful), json=key_body()), 403, "FORBIDDEN")
