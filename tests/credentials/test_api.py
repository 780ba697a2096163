"""/agents/{agentId}/credentials over real HTTP on both engines."""

from dataclasses import replace
from typing import Any

import httpx2
import pytest
from tests.serving import RunningServer
from tests.tenants import Tenant, TestAgent

from agentidp.auth.scopes import SCOPES
from agentidp.core.clock import from_rfc3339, to_rfc3339
from agentidp.credentials.rules import new_client_secret, parse_client_secret
from agentidp.organizations.actions import add_member

LISTED = {"credentialId", "clientId", "kind", "status", "hint", "createdAt", "expiresAt", "revokedAt", "lastUsedAt"}


def path_of(agent: TestAgent) -> str:
    return f"/api/v1/agents/{agent.agent_id}/credentials"


def generate(client: httpx2.Client, agent: TestAgent, **body: Any) -> dict[str, Any]:
    response = client.post(path_of(agent), json=body)
    assert response.status_code == 201, response.text
    return dict(response.json())


def works(agent: TestAgent, secret: str) -> bool:
    response = agent.token_response(client_secret=secret)
    assert response.status_code == 200 or (response.status_code, response.json()["error"]) == (401, "invalid_client"), response.text
    return response.status_code == 200


def refused(response: httpx2.Response, status: int, code: str) -> bool:
    return (response.status_code, response.json()["code"]) == (status, code)


def test_a_secret_is_shown_once_and_never_again(tenant: Tenant) -> None:
    agent = tenant.agent()
    with tenant.admin.client() as client:
        response = client.post(path_of(agent))
        created = response.json()
        assert created.keys() == LISTED | {"clientSecret"}
        assert "no-store" in response.headers["cache-control"]
        parsed = parse_client_secret(created["clientSecret"])
        assert parsed
        assert (created["hint"], created["clientId"], created["kind"], created["status"]) == (parsed.hint, agent.agent_id, "secret", "active")
        listed = client.get(path_of(agent))
        assert listed.json()["data"][0].keys() == LISTED
        for part in (created["clientSecret"], created["clientSecret"].split("_")[3]):
            assert part not in listed.text
            assert part not in client.get("/api/v1/audit").text
    assert works(agent, created["clientSecret"])


def test_an_agent_manages_its_own_with_any_token(tenant: Tenant) -> None:
    agent = tenant.agent("openid")
    with agent.client("openid") as client:
        created = generate(client, agent)
        assert client.get(path_of(agent)).json()["total"] == 2
        one = f"{path_of(agent)}/{created['credentialId']}"
        renewed = client.post(f"{one}/rotate").json()["clientSecret"]
        assert works(agent, renewed)
        assert client.delete(one).status_code == 204
        assert not works(agent, renewed)
        assert refused(client.get(path_of(tenant.admin)), 403, "FORBIDDEN")


def test_no_credential_for_an_agent_that_may_do_more(tenant: Tenant) -> None:
    """Whoever may write agents could otherwise become a more powerful one (TH47)."""
    powerful, clerk = tenant.agent("agents:write", "billing:write"), tenant.agent("agents:write", "agents:read")
    with clerk.client() as client:
        (credential,) = [row["credentialId"] for row in client.get(path_of(powerful)).json()["data"]]
        attempts = [client.post(path_of(powerful)), client.post(f"{path_of(powerful)}/{credential}/rotate"), client.delete(f"{path_of(powerful)}/{credential}")]
        for attempt in attempts:
            assert refused(attempt, 403, "FORBIDDEN")
            assert 'scope="agents:write billing:write"' in attempt.headers["www-authenticate"]
    assert works(powerful, powerful.client_secret)
    with tenant.admin.client("agents:write billing:write") as client:
        assert client.post(path_of(powerful)).status_code == 201


def test_an_administrators_credentials_are_not_for_others(tenant: Tenant, server: RunningServer) -> None:
    """Whoever may write agents could else take away its scopes, make a secret for it, and act with its role."""
    writer, chief, other = tenant.agent("agents:write", "agents:read"), tenant.agent("openid"), tenant.agent("agents:write", "openid")
    for one in (chief, other):
        server.write(add_member, replace(tenant.admin.caller, scopes=frozenset(SCOPES)), one.agent_id, "admin")
    with writer.client() as client:
        assert client.patch(f"/api/v1/agents/{chief.agent_id}", json={"scopes": ["openid"]}).status_code == 200
        with chief.client("openid") as own:
            credential = own.get(path_of(chief)).json()["data"][0]["credentialId"]
        attempts = [client.post(path_of(chief)), client.post(f"{path_of(chief)}/{credential}/rotate"), client.delete(f"{path_of(chief)}/{credential}")]
        assert [refused(attempt, 403, "FORBIDDEN") for attempt in attempts] == [True] * 3
        assert client.post(path_of(tenant.agent("agents:read"))).status_code == 201
    with other.client("agents:write openid") as client:
        assert client.post(path_of(chief)).status_code == 201
    with chief.client("openid") as client:
        assert client.post(path_of(chief)).status_code == 201


def test_at_most_ten_active(tenant: Tenant, server: RunningServer) -> None:
    agent = tenant.agent()
    with tenant.admin.client() as client:
        generated = [generate(client, agent, **({"expiresAt": to_rfc3339(server.clock() + 60_000)} if number == 0 else {})) for number in range(9)]
        assert refused(client.post(path_of(agent)), 409, "CONFLICT")
        assert client.post(f"{path_of(agent)}/{generated[1]['credentialId']}/rotate").status_code == 200  # replaces, adds none
        assert client.delete(f"{path_of(agent)}/{generated[2]['credentialId']}").status_code == 204
        generate(client, agent)
        assert refused(client.post(path_of(agent)), 409, "CONFLICT")
        with server.clock.ahead(seconds=61):
            generate(client, agent)
            expired = f"{path_of(agent)}/{generated[0]['credentialId']}/rotate"
            assert refused(client.post(expired), 400, "VALIDATION_ERROR")
            assert refused(client.post(expired, json={"expiresAt": None}), 409, "CONFLICT")  # an eleventh by the back door


def test_rotation_without_overlap(tenant: Tenant) -> None:
    agent = tenant.agent()
    with tenant.admin.client() as client:
        created = generate(client, agent)
        response = client.post(f"{path_of(agent)}/{created['credentialId']}/rotate")
        renewed = response.json()
    assert "no-store" in response.headers["cache-control"]
    assert renewed["credentialId"] == created["credentialId"]
    assert renewed["hint"] != created["hint"]
    assert (works(agent, created["clientSecret"]), works(agent, renewed["clientSecret"])) == (False, True)


def test_rotation_with_overlap(tenant: Tenant, server: RunningServer) -> None:
    agent = tenant.agent()
    with tenant.admin.client() as client:
        first = generate(client, agent)
        path = f"{path_of(agent)}/{first['credentialId']}/rotate"
        second = client.post(path, json={"overlapSeconds": 100}).json()
        third = client.post(path, json={"overlapSeconds": 1000}).json()
    secrets = [one["clientSecret"] for one in (first, second, third)]
    assert [works(agent, secret) for secret in secrets] == [True, True, True]
    with server.clock.ahead(seconds=101):
        assert [works(agent, secret) for secret in secrets] == [False, True, True]  # a later rotation does not lengthen an earlier overlap
    with server.clock.ahead(seconds=1001):
        assert [works(agent, secret) for secret in secrets] == [False, False, True]


def test_rotation_and_expiry(tenant: Tenant, server: RunningServer) -> None:
    agent, soon = tenant.agent(), to_rfc3339(server.clock() + 60_000)
    with tenant.admin.client() as client:
        created = generate(client, agent, expiresAt=soon)
        assert created["expiresAt"] == soon
        path = f"{path_of(agent)}/{created['credentialId']}/rotate"
        assert client.post(path).json()["expiresAt"] == soon  # absent: unchanged
        assert client.post(path, json={"expiresAt": None}).json()["expiresAt"] is None
        assert client.post(path, json={"expiresAt": soon}).json()["expiresAt"] == soon
        with server.clock.ahead(seconds=61):
            assert client.get(path_of(agent), params={"status": "expired"}).json()["data"][0]["credentialId"] == created["credentialId"]
            revived = client.post(path, json={"expiresAt": None}).json()
            assert (revived["status"], works(agent, revived["clientSecret"])) == ("active", True)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"expiresAt": "2001-01-01T00:00:00Z"}, "expiresAt"),
        ({"expiresAt": 4102444800}, "expiresAt"),
        ({"overlapSeconds": -1}, "overlapSeconds"),
        ({"overlapSeconds": 604_801}, "overlapSeconds"),
        ({"overlapSeconds": "1"}, "overlapSeconds"),
        ({"overlapSeconds": None}, "overlapSeconds"),
        ({"status": "active"}, "status"),
        ({"clientSecret": "x"}, "clientSecret"),
    ],
    ids=str,
)
def test_refuses_a_wrong_field(tenant: Tenant, body: dict[str, Any], field: str) -> None:
    agent = tenant.agent()
    with tenant.admin.client() as client:
        created = generate(client, agent)
        for path in (path_of(agent), f"{path_of(agent)}/{created['credentialId']}/rotate"):
            response = client.post(path, json=body)
            assert refused(response, 400, "VALIDATION_ERROR")
            assert [row["field"] for row in response.json()["details"]["fields"]] == [field]
        assert client.get(path_of(agent)).json()["total"] == 2
    assert works(agent, created["clientSecret"])


def test_revocation_is_final(tenant: Tenant) -> None:
    agent = tenant.agent()
    with tenant.admin.client() as client:
        created = generate(client, agent)
        token = agent.token("agents:read", client_secret=created["clientSecret"])
        one = f"{path_of(agent)}/{created['credentialId']}"
        assert client.delete(one).status_code == 204
        assert refused(client.get(path_of(agent), headers={"Authorization": f"Bearer {token}"}), 401, "UNAUTHORIZED")
        assert refused(client.delete(one), 409, "CREDENTIAL_ALREADY_REVOKED")
        assert refused(client.post(f"{one}/rotate"), 409, "CREDENTIAL_ALREADY_REVOKED")
        row = client.get(path_of(agent), params={"status": "revoked"}).json()["data"][0]
        assert row["credentialId"] == created["credentialId"]
        assert row["revokedAt"]
    assert works(agent, agent.client_secret)  # the agent's other credential


def test_of_an_agent_that_is_not_active(tenant: Tenant) -> None:
    agent = tenant.agent()
    with tenant.admin.client() as client:
        one = f"{path_of(agent)}/{client.get(path_of(agent)).json()['data'][0]['credentialId']}"
        client.patch(f"/api/v1/agents/{agent.agent_id}", json={"status": "suspended"})
        assert refused(client.post(path_of(agent)), 409, "AGENT_NOT_ACTIVE")
        assert refused(client.post(f"{one}/rotate"), 409, "AGENT_NOT_ACTIVE")
        assert client.delete(one).status_code == 204  # taking away is always possible
        client.delete(f"/api/v1/agents/{agent.agent_id}")
        assert refused(client.post(path_of(agent)), 409, "AGENT_NOT_ACTIVE")
        assert refused(client.post(f"{one}/rotate"), 409, "CREDENTIAL_ALREADY_REVOKED")
        assert refused(client.delete(one), 409, "CREDENTIAL_ALREADY_REVOKED")
        counts = {status: client.get(path_of(agent), params={"status": status}).json()["total"] for status in ("active", "revoked", "expired")}
        assert counts == {"active": 0, "revoked": 1, "expired": 0}


def test_last_used_to_the_minute(tenant: Tenant, server: RunningServer) -> None:
    agent = tenant.agent()
    with tenant.admin.client() as client:

        def last_used() -> str | None:
            return client.get(path_of(agent)).json()["data"][0]["lastUsedAt"]

        assert last_used() is None
        before = server.clock()
        agent.token()
        first = last_used()
        assert first
        assert before <= from_rfc3339(first) <= server.clock()
        with server.clock.ahead(seconds=30):
            agent.token()
            assert last_used() == first
        with server.clock.ahead(seconds=90):
            agent.token()
            second = last_used()
        assert second
        assert from_rfc3339(second) - from_rfc3339(first) >= 60_000
        assert not works(agent, new_client_secret().text)
        assert last_used() == second  # a failure is no use


@pytest.mark.parametrize("path", ["introspect", "revoke"])
def test_authenticating_as_a_client_is_a_use_whatever_for(tenant: Tenant, server: RunningServer, path: str) -> None:
    agent = tenant.agent()
    with server.client() as client:
        assert client.post(f"/api/v1/token/{path}", data={"token": "x"}, auth=(agent.agent_id, agent.client_secret)).status_code == 200
    with tenant.admin.client() as client:
        assert client.get(path_of(agent)).json()["data"][0]["lastUsedAt"]


def test_every_failed_authentication_gets_the_same_answer(tenant: Tenant, other_tenant: Tenant, server: RunningServer) -> None:
    """Unknown client, unknown, malformed, wrong, revoked, expired, rotated and foreign secrets: nothing tells them apart (TH5)."""
    agent, sibling = tenant.agent(), tenant.agent()
    with tenant.admin.client() as client:
        made = {name: generate(client, agent) for name in ("revoked", "rotated", "expired")}
        one = {name: f"{path_of(agent)}/{value['credentialId']}" for name, value in made.items()}
        client.delete(one["revoked"])
        client.post(f"{one['rotated']}/rotate")
        client.post(f"{one['expired']}/rotate", json={"expiresAt": to_rfc3339(server.clock() + 60_000), "overlapSeconds": 1000})
    right = agent.client_secret
    key, _, _ = right.removeprefix("aidp_sk_").partition("_")
    other = new_client_secret().text.split("_")
    wrong = "_".join((*other[:2], key, *other[3:]))
    pairs = {
        "unknown client": {"client_id": "0198c5a2-7d1e-7c3a-9f00-5b1d2e3f4a5b"},
        "not an id": {"client_id": "x' OR 1=1"},
        "no client": {"client_id": ""},
        "client in upper case": {"client_id": agent.agent_id.upper()},
        "sibling": {"client_id": sibling.agent_id},
        "other tenant's client": {"client_id": other_tenant.admin.agent_id},
        "unknown secret": {"client_secret": new_client_secret().text},
        "typo": {"client_secret": right[:-1]},
        "no secret of ours": {"client_secret": "sk_live_x"},
        "wrong secret, right key": {"client_secret": wrong},
        "other tenant's secret": {"client_secret": other_tenant.admin.client_secret},
        **{name: {"client_secret": value["clientSecret"]} for name, value in made.items()},
    }
    with server.clock.ahead(seconds=61):
        answers = {name: agent.token_response(**pair) for name, pair in pairs.items()}
        assert agent.token_response().status_code == 200
    varying = {"x-request-id", "date"}
    seen = {(one.status_code, one.content, tuple(sorted((k, v) for k, v in one.headers.items() if k not in varying))) for one in answers.values()}
    assert len(seen) == 1, {name: answer.text for name, answer in answers.items()}
    assert next(iter(answers.values())).json()["error"] == "invalid_client"
