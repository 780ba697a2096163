"""/agents over real HTTP on both engines."""

from typing import Any

import httpx2
import pytest
from tests.serving import RunningServer
from tests.tenants import Tenant, registration

from agentidp.core.clock import to_rfc3339

AGENTS = "/api/v1/agents"
FIELDS = {
    "agentId",
    "organizationId",
    "email",
    "name",
    "description",
    "agentType",
    "version",
    "capabilities",
    "owner",
    "deploymentEnv",
    "scopes",
    "isPublic",
    "status",
    "did",
    "expiresAt",
    "createdAt",
    "updatedAt",
}


def fields_of(response: httpx2.Response) -> set[str]:
    """The names that a 400 complains about."""
    assert (response.status_code, response.json()["code"]) == (400, "VALIDATION_ERROR"), response.text
    return {row["field"] for row in response.json()["details"]["fields"]}


def register(client: httpx2.Client, **values: Any) -> dict[str, Any]:
    response = client.post(AGENTS, json=registration(**values))
    assert response.status_code == 201, response.text
    return dict(response.json())


def test_registers_reads_changes_and_decommissions(tenant: Tenant) -> None:
    with tenant.admin.client() as client:
        created = client.post(AGENTS, json=registration(email="Screener@Acme.example"))
        assert created.status_code == 201
        agent = created.json()
        assert agent["email"] == "screener@acme.example"
        assert agent["name"] == "screener"
        assert agent["status"] == "active"
        path = f"/api/v1/agents/{agent['agentId']}"
        assert client.get(path).json() == agent
        changed = client.patch(path, json={"owner": "somebody else", "capabilities": ["b:c", "a:*"]}).json()
        assert (changed["owner"], changed["capabilities"]) == ("somebody else", ["a:*", "b:c"])
        assert client.delete(path).status_code == 204
        assert client.get(path).json()["status"] == "decommissioned"
        assert client.patch(path, json={"owner": "x"}).json()["code"] == "AGENT_ALREADY_DECOMMISSIONED"
        assert client.delete(path).status_code == 409


def test_registration_has_defaults_and_every_field(tenant: Tenant) -> None:
    with tenant.admin.client() as client:
        agent = register(client)
    assert agent.keys() == FIELDS
    assert agent["organizationId"] == tenant.organization_id
    assert (agent["scopes"], agent["isPublic"], agent["description"], agent["expiresAt"]) == (["agents:read", "openid", "tokens:read"], False, "", None)
    assert agent["createdAt"] == agent["updatedAt"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("email", "no-at.example"),
        ("email", "a@b"),
        ("email", "a" * 250 + "@b.example"),
        ("agentType", "Screener"),
        ("version", "1.0"),
        ("version", "01.0.0"),
        ("version", "1.0.0-" + "a" * 60),
        ("capabilities", []),
        ("capabilities", ["a:b", "a:b"]),
        ("capabilities", [f"a:b{number}" for number in range(65)]),
        ("capabilities", "a:b"),
        ("capabilities.0", ["A:b"]),
        ("capabilities.0", ["*:b"]),
        ("owner", ""),
        ("owner", " "),
        ("owner", "x" * 129),
        ("deploymentEnv", "prod"),
        ("name", "line\nbreak"),
        ("name", None),
        ("isPublic", "true"),
        ("expiresAt", "2030-01-01"),
        ("expiresAt", "2001-01-01T00:00:00Z"),
        ("scopes", ["openid", "openid"]),
    ],
)
def test_refuses_a_wrong_field(tenant: Tenant, name: str, value: Any) -> None:
    with tenant.admin.client() as client:
        assert fields_of(client.post(AGENTS, json=registration(**{name.partition(".")[0]: value}))) == {name}
        assert client.get(AGENTS).json()["total"] == 1


@pytest.mark.parametrize("name", ["agentId", "organizationId", "status", "createdAt", "updatedAt", "did", "planTier", "role", "agent_type", "tokenEpoch"])
def test_refuses_read_only_and_unknown_fields_of_a_registration(tenant: Tenant, name: str) -> None:
    with tenant.admin.client() as client:
        assert fields_of(client.post(AGENTS, json=registration(**{name: "x"}))) == {name}


def test_names_every_wrong_field_at_once(tenant: Tenant) -> None:
    with tenant.admin.client() as client:
        assert fields_of(client.post(AGENTS, json={"email": 1, "version": "x", "surprise": 2})) == {
            *("email", "version", "surprise"),
            *("agentType", "capabilities", "owner", "deploymentEnv"),
        }


@pytest.mark.parametrize("name", ["agentId", "organizationId", "email", "createdAt", "updatedAt", "did", "surprise"])
def test_patch_refuses_read_only_and_unknown_fields(tenant: Tenant, name: str) -> None:
    with tenant.admin.client() as client:
        agent = register(client)
        path = f"{AGENTS}/{agent['agentId']}"
        assert fields_of(client.patch(path, json={"owner": "x", name: agent.get(name, "x")})) == {name}
        assert client.get(path).json() == agent


@pytest.mark.parametrize("name", ["name", "description", "agentType", "version", "capabilities", "owner", "deploymentEnv", "scopes", "isPublic", "status"])
def test_patch_with_null_removes_only_the_expiry(tenant: Tenant, server: RunningServer, name: str) -> None:
    with tenant.admin.client() as client:
        agent = register(client, expiresAt=to_rfc3339(server.clock() + 60_000))
        path = f"{AGENTS}/{agent['agentId']}"
        assert fields_of(client.patch(path, json={name: None})) == {name}
        assert client.patch(path, json={"expiresAt": None}).json()["expiresAt"] is None


def test_patch_is_a_merge_patch(tenant: Tenant) -> None:
    with tenant.admin.client() as client:
        agent = register(client, description="before")
        path = f"{AGENTS}/{agent['agentId']}"
        unchanged = client.patch(path, json={})
        assert (unchanged.status_code, unchanged.json()) == (200, agent)
        same = client.patch(path, json={"description": "before", "version": agent["version"]}).json()
        assert same == agent
        values = {
            "name": "New",
            "description": "",
            "agentType": "router",
            "version": "2.0.0-rc.1+b7",
            "owner": "others",
            "deploymentEnv": "staging",
            "scopes": ["openid"],
            "isPublic": True,
        }
        changed = client.patch(path, json=values, headers={"Content-Type": "application/merge-patch+json"}).json()
        assert changed == agent | values | {"updatedAt": changed["updatedAt"]}
        assert client.get(path).json() == changed


def test_email_is_unique_in_its_tenant_only(tenant: Tenant, other_tenant: Tenant) -> None:
    body = registration(email="One@Acme.Example")
    with tenant.admin.client() as client, other_tenant.admin.client() as elsewhere:
        assert client.post(AGENTS, json=body).status_code == 201
        for email in ("one@acme.example", "ONE@ACME.EXAMPLE"):
            refused = client.post(AGENTS, json=body | {"email": email})
            assert (refused.status_code, refused.json()["code"]) == (409, "AGENT_ALREADY_EXISTS")
        assert elsewhere.post(AGENTS, json=body).status_code == 201
        assert client.get(AGENTS, params={"q": "one@acme"}).json()["total"] == 1


def test_grants_only_scopes_that_the_caller_holds(tenant: Tenant) -> None:
    with tenant.admin.client("agents:write agents:read audit:read") as client:
        for scopes, details in ((["tokens:write", "openid"], {"missing": ["openid", "tokens:write"]}), (["no:such"], {"unknown": ["no:such"]})):
            refused = client.post(AGENTS, json=registration(scopes=scopes))
            assert (refused.status_code, refused.json()["code"], refused.json()["details"]) == (400, "INVALID_SCOPES", details)
        assert client.post(AGENTS, json=registration()).json()["code"] == "INVALID_SCOPES"  # the default holds more than the caller
        agent = register(client, scopes=["agents:read"])
        path = f"{AGENTS}/{agent['agentId']}"
        for scopes in (["agents:read", "tokens:write"], ["admin:orgs"]):
            refused = client.patch(path, json={"scopes": scopes})
            assert (refused.status_code, refused.json()["code"]) == (400, "INVALID_SCOPES")
        assert client.get(path).json()["scopes"] == ["agents:read"]
        assert client.patch(path, json={"scopes": ["agents:read", "audit:read"]}).json()["scopes"] == ["agents:read", "audit:read"]
        assert client.patch(path, json={"scopes": []}).json()["scopes"] == []


def test_scopes_that_an_agent_has_may_stay_whoever_patches(tenant: Tenant) -> None:
    agent = tenant.agent("billing:write", "openid")
    with tenant.admin.client("agents:write") as client:
        kept = client.patch(f"{AGENTS}/{agent.agent_id}", json={"scopes": ["billing:write"], "owner": "x"})
        assert (kept.status_code, kept.json()["scopes"]) == (200, ["billing:write"])
        assert client.patch(f"{AGENTS}/{agent.agent_id}", json={"scopes": ["billing:write", "openid"]}).status_code == 400


def test_nobody_raises_his_own_scopes(tenant: Tenant) -> None:
    agent = tenant.agent("agents:write")
    with agent.client() as client:
        assert client.patch(f"{AGENTS}/{agent.agent_id}", json={"scopes": ["agents:write", "tokens:write"]}).json()["code"] == "INVALID_SCOPES"


def test_status_moves_between_active_and_suspended_until_the_end(tenant: Tenant) -> None:
    with tenant.admin.client() as client:
        path = f"{AGENTS}/{register(client)['agentId']}"
        for status in ("suspended", "suspended", "active", "active", "suspended", "decommissioned"):
            changed = client.patch(path, json={"status": status})
            assert (changed.status_code, changed.json()["status"]) == (200, status)
        for status in ("active", "suspended", "decommissioned"):
            refused = client.patch(path, json={"status": status})
            assert (refused.status_code, refused.json()["code"]) == (409, "AGENT_ALREADY_DECOMMISSIONED")


def test_an_agent_past_its_expiry_counts_as_suspended(tenant: Tenant, server: RunningServer) -> None:
    with tenant.admin.client() as client:
        agent = register(client, expiresAt=to_rfc3339(server.clock() + 60_000))
        path = f"{AGENTS}/{agent['agentId']}"

        def found(status: str) -> bool:
            return agent["agentId"] in [row["agentId"] for row in client.get(AGENTS, params={"status": status}).json()["data"]]

        assert (found("active"), found("suspended")) == (True, False)
        with server.clock.ahead(seconds=61):
            assert client.get(path).json()["status"] == "suspended"
            assert (found("active"), found("suspended"), found("decommissioned")) == (False, True, False)
            assert client.patch(path, json={"owner": "still", "expiresAt": agent["expiresAt"]}).status_code == 200  # what it has may stay
            assert client.patch(path, json={"expiresAt": None}).json()["status"] == "active"
        assert client.delete(path).status_code == 204
        assert (found("active"), found("suspended"), found("decommissioned")) == (False, False, True)


@pytest.mark.parametrize(
    ("parameters", "names"),
    [
        ({}, ["c", "b", "a"]),
        ({"owner": "red"}, ["b", "a"]),
        ({"owner": "re"}, []),
        ({"agentType": "router"}, ["c", "b"]),
        ({"deploymentEnv": "staging"}, ["a"]),
        ({"capability": "mail:send"}, ["c", "a"]),
        ({"capability": "mail:*"}, ["b"]),
        ({"capability": "mail:sen"}, []),
        ({"capability": "il:send"}, []),
        ({"q": "ALPHA"}, ["a"]),
        ({"q": "beta@"}, ["b"]),
        ({"q": "100%"}, ["c"]),
        ({"q": "%"}, ["c"]),
        ({"q": "_"}, []),
        ({"q": "a_pha"}, []),
        ({"owner": "red", "agentType": "router"}, ["b"]),
        ({"status": "active"}, ["c", "b", "a"]),
        ({"status": "suspended"}, []),
    ],
    ids=str,
)
def test_filters(tenant: Tenant, parameters: dict[str, str], names: list[str]) -> None:
    with tenant.admin.client() as client:
        register(client, name="a", email="alpha@x.example", owner="red", deploymentEnv="staging", capabilities=["mail:send", "zeta:x"])
        register(client, name="b", email="beta@x.example", owner="red", agentType="router", capabilities=["mail:*"])
        register(client, name="c", email="gamma@x.example", owner="blue", agentType="router", description="100% sure", capabilities=["a:b", "mail:send"])
        page = client.get(AGENTS, params=parameters).json()
    found = [row["name"] for row in page["data"] if row["agentId"] != tenant.admin.agent_id]
    assert found == names
    assert page["total"] == len(page["data"])


@pytest.mark.parametrize(
    "parameters", [{"capability": "Mail:send"}, {"capability": "a:b c:d"}, {"status": "expired"}, {"agentType": "x"}, {"q": ""}, {"limit": "101"}]
)
def test_refuses_a_filter_that_can_match_nothing(tenant: Tenant, parameters: dict[str, str]) -> None:
    with tenant.admin.client("agents:read") as client:
        assert fields_of(client.get(AGENTS, params=parameters)) == set(parameters)


def test_pages_by_number_and_by_cursor(tenant: Tenant) -> None:
    with tenant.admin.client() as client:
        newest_first = [*[register(client)["agentId"] for _ in range(4)][::-1], tenant.admin.agent_id]
        pages = [client.get(AGENTS, params={"limit": 2, "page": number}).json() for number in (1, 2, 3, 4)]
        assert [[row["agentId"] for row in page["data"]] for page in pages] == [newest_first[:2], newest_first[2:4], newest_first[4:], []]
        assert {page["total"] for page in pages} == {5}
        seen, cursor = [row["agentId"] for row in pages[0]["data"]], pages[0]["nextCursor"]
        while cursor:
            page = client.get(AGENTS, params={"limit": 2, "cursor": cursor}).json()
            seen += [row["agentId"] for row in page["data"]]
            cursor = page["nextCursor"]
        assert seen == newest_first
        assert fields_of(client.get(AGENTS, params={"page": 1, "cursor": pages[0]["nextCursor"]})) == {"cursor"}
        assert fields_of(client.get(AGENTS, params={"page": 100, "limit": 101})) == {"limit"}


def test_an_id_has_one_spelling(tenant: Tenant) -> None:
    with tenant.admin.client() as client:
        for spelling in (tenant.admin.agent_id.upper(), tenant.admin.agent_id.replace("-", ""), f"{tenant.admin.agent_id}0", "1"):
            refused = client.get(f"{AGENTS}/{spelling}")
            assert (refused.status_code, refused.json()["code"]) == (404, "AGENT_NOT_FOUND")
