"""/organizations over real HTTP on both engines; who may do what is in `tests/matrices/test_organizations.py`."""

import uuid
from typing import Any

import httpx2
import pytest
from tests.serving import RunningServer
from tests.tenants import Tenant, TestAgent, make_administrator, operator_of, registration

from agentidp.auth.scopes import SCOPES

ORGANIZATIONS = "/api/v1/organizations"
EVERYTHING = " ".join(SCOPES)


def slug() -> str:
    return f"s-{uuid.uuid4().hex[:16]}"


def create(client: httpx2.Client, **values: Any) -> dict[str, Any]:
    response = client.post(ORGANIZATIONS, json={"name": "Acme", "slug": slug()} | values)
    assert response.status_code == 201, response.text
    return dict(response.json())


def refusal(response: httpx2.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


def fields_of(response: httpx2.Response) -> set[str]:
    assert refusal(response) == (400, "VALIDATION_ERROR"), response.text
    return {row["field"] for row in response.json()["details"]["fields"]}


@pytest.fixture
def operator(server: RunningServer) -> TestAgent:
    return operator_of(server)


def test_an_organization_from_its_creation_to_its_deletion(operator: TestAgent) -> None:
    with operator.client(EVERYTHING) as client:
        created = create(client, name="Acme", planTier="pro", maxAgents=5)
        path = f"{ORGANIZATIONS}/{created['organizationId']}"
        assert (created["planTier"], created["maxAgents"], created["maxTokensPerDay"], created["status"]) == ("pro", 5, None, "active")
        assert created["createdAt"] == created["updatedAt"]
        assert client.get(path).json() == created
        changed = client.patch(path, json={"name": "Acme 2", "maxAgents": None, "maxTokensPerDay": 7, "status": "suspended"}).json()
        wanted = {"name": "Acme 2", "maxAgents": None, "maxTokensPerDay": 7, "status": "suspended", "updatedAt": changed["updatedAt"]}
        assert changed == created | wanted
        assert client.patch(path, json={}).json() == changed
        assert client.delete(path).status_code == 204
        assert client.get(path).json()["status"] == "deleted"
        for again in (
            client.delete(path),
            client.patch(path, json={"status": "active"}),
            client.patch(path, json={}),
            client.patch(path, json={"name": "Back"}),
        ):
            assert refusal(again) == (409, "CONFLICT")
        assert refusal(client.post(f"{path}/administrators", json={"email": "late@acme.example"})) == (409, "CONFLICT")
        assert refusal(client.post(ORGANIZATIONS, json={"name": "Heir", "slug": created["slug"]})) == (409, "ORG_SLUG_TAKEN")


def test_a_new_one_is_free_and_without_limits(operator: TestAgent) -> None:
    with operator.client(EVERYTHING) as client:
        created = create(client)
        assert (created["planTier"], created["maxAgents"], created["maxTokensPerDay"]) == ("free", None, None)
        assert client.get(f"{ORGANIZATIONS}/{created['organizationId']}/members").json()["data"] == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("name", value) for value in ("", "x", "x" * 101, "a\nb", "   ", None, 1)),
        *(("slug", value) for value in ("", "x", "-ab", "ab-", "a--b", "Ab", "a_b", "a" * 51, "ä-b", None)),
        *(("planTier", value) for value in ("gold", "", None)),
        *((name, value) for name in ("maxAgents", "maxTokensPerDay") for value in (-1, 1.5, "5", 10**10, True)),
    ],
)
def test_refuses_a_wrong_field(operator: TestAgent, name: str, value: Any) -> None:
    with operator.client(EVERYTHING) as client:
        assert fields_of(client.post(ORGANIZATIONS, json={"name": "Acme", "slug": slug()} | {name: value})) == {name}
        path = f"{ORGANIZATIONS}/{create(client)['organizationId']}"
        before = client.get(path).json()
        assert fields_of(client.patch(path, json={name: value})) == {name}
        assert client.get(path).json() == before


@pytest.mark.parametrize("name", ["organizationId", "createdAt", "updatedAt", "revision", "surprise", "plan_tier"])
def test_refuses_read_only_and_unknown_fields(operator: TestAgent, name: str) -> None:
    """TH10."""
    with operator.client(EVERYTHING) as client:
        assert fields_of(client.post(ORGANIZATIONS, json={"name": "Acme", "slug": slug(), name: "x"})) == {name}
        assert fields_of(client.patch(f"{ORGANIZATIONS}/{create(client)['organizationId']}", json={name: "x"})) == {name}


def test_status_is_not_chosen_at_creation_nor_deletion_by_patch(operator: TestAgent) -> None:
    with operator.client(EVERYTHING) as client:
        assert fields_of(client.post(ORGANIZATIONS, json={"name": "Acme", "slug": slug(), "status": "suspended"})) == {"status"}
        assert fields_of(client.patch(f"{ORGANIZATIONS}/{create(client)['organizationId']}", json={"status": "deleted"})) == {"status"}


def test_a_slug_is_given_once(operator: TestAgent) -> None:
    with operator.client(EVERYTHING) as client:
        one, other = create(client), create(client)
        path = f"{ORGANIZATIONS}/{other['organizationId']}"
        assert refusal(client.post(ORGANIZATIONS, json={"name": "Again", "slug": one["slug"]})) == (409, "ORG_SLUG_TAKEN")
        assert refusal(client.patch(path, json={"slug": one["slug"], "name": "Changed"})) == (409, "ORG_SLUG_TAKEN")
        assert client.get(path).json() == other
        assert client.patch(path, json={"slug": other["slug"]}).json() == other


def test_the_list_is_of_all_tenants_by_page_cursor_and_status(own_server: RunningServer) -> None:
    with operator_of(own_server).client(EVERYTHING) as client:
        made = [create(client)["organizationId"] for _ in range(3)]
        client.patch(f"{ORGANIZATIONS}/{made[1]}", json={"status": "suspended"})
        client.delete(f"{ORGANIZATIONS}/{made[2]}")
        page = client.get(ORGANIZATIONS, params={"limit": 2}).json()
        assert [row["organizationId"] for row in page["data"]] == [made[2], made[1]]
        after = client.get(ORGANIZATIONS, params={"limit": 1, "cursor": page["nextCursor"]}).json()
        assert [row["organizationId"] for row in after["data"]] == [made[0]]
        for status, wanted in (("active", made[0]), ("suspended", made[1]), ("deleted", made[2])):
            rows = client.get(ORGANIZATIONS, params={"status": status, "limit": 1}).json()["data"]
            assert [(row["organizationId"], row["status"]) for row in rows] == [(wanted, status)]


def test_an_organization_with_active_agents_is_not_deleted(operator: TestAgent, tenant: Tenant) -> None:
    path = f"{ORGANIZATIONS}/{tenant.organization_id}"
    agent = tenant.agent()
    with operator.client(EVERYTHING) as client, tenant.admin.client() as inside:
        assert refusal(client.delete(path)) == (409, "ORG_HAS_ACTIVE_AGENTS")
        assert inside.delete(f"/api/v1/agents/{agent.agent_id}").status_code == 204
        assert refusal(client.delete(path)) == (409, "ORG_HAS_ACTIVE_AGENTS")
        assert client.get(path).json()["status"] == "active"
        assert inside.patch(f"/api/v1/agents/{tenant.admin.agent_id}", json={"status": "suspended"}).status_code == 200
        assert client.delete(path).status_code == 204


def test_the_operators_own_organization_stays(operator: TestAgent) -> None:
    """Without it nobody could reactivate anything."""
    path = f"{ORGANIZATIONS}/{operator.organization_id}"
    with operator.client(EVERYTHING) as client:
        assert refusal(client.patch(path, json={"status": "suspended"})) == (409, "CONFLICT")
        assert refusal(client.delete(path)) == (409, "CONFLICT")
        assert client.patch(path, json={"status": "active"}).status_code == 200


def test_the_first_administrator_runs_its_organization(operator: TestAgent, server: RunningServer) -> None:
    with operator.client(EVERYTHING) as client:
        created = create(client)
        path = f"{ORGANIZATIONS}/{created['organizationId']}"
        answer = client.post(f"{path}/administrators", json={"email": "Admin@Acme.example"})
        assert answer.headers["cache-control"] == "no-store"
        assert refusal(client.post(f"{path}/administrators", json={"email": "admin@acme.example"})) == (409, "AGENT_ALREADY_EXISTS")
        assert client.post(f"{path}/administrators", json={"email": "second@acme.example"}).status_code == 201
    first = answer.json()
    assert first.keys() == {"organizationId", "agentId", "clientId", "clientSecret", "scopes"}
    assert set(first["scopes"]) == set(SCOPES) - {"admin:orgs"}
    admin = TestAgent(server, first["organizationId"], first["agentId"], first["clientSecret"])
    assert admin.token_response("admin:orgs").json()["error"] == "invalid_scope"
    with admin.client() as inside:
        assert inside.get(path).json() == created
        agent = inside.post("/api/v1/agents", json=registration()).json()
        assert agent["organizationId"] == first["organizationId"]
        assert inside.post(f"{path}/members", json={"agentId": agent["agentId"], "role": "member"}).status_code == 201
        assert len(inside.get(f"{path}/members").json()["data"]) == 3
        emails = {row["email"] for row in inside.get("/api/v1/agents").json()["data"]}
        assert emails == {"admin@acme.example", "second@acme.example", agent["email"]}


def test_an_administrator_gets_no_more_than_the_operators_token_holds(operator: TestAgent, server: RunningServer) -> None:
    with operator.client("admin:orgs agents:read") as client:
        path = f"{ORGANIZATIONS}/{create(client)['organizationId']}"
        first = client.post(f"{path}/administrators", json={"email": "narrow@acme.example"}).json()
    assert first["scopes"] == ["agents:read"]
    assert TestAgent(server, first["organizationId"], first["agentId"], first["clientSecret"]).token_response().json()["scope"] == "agents:read"


def test_history_lies_in_the_organization_acted_upon(operator: TestAgent, server: RunningServer) -> None:
    with operator.client(EVERYTHING) as client:
        since = client.get("/api/v1/audit").json()["data"][0]["eventId"]
        created = create(client)
        path = f"{ORGANIZATIONS}/{created['organizationId']}"
        first = client.post(f"{path}/administrators", json={"email": "admin@acme.example"}).json()
        client.patch(path, json={"status": "suspended", "name": "Acme"})
        client.patch(path, json={"status": "active", "maxAgents": 9, "name": "New"})
        client.patch(path, json={"maxAgents": 9})
        client.delete(f"{path}/members/{first['agentId']}")
        mine = [row for row in client.get("/api/v1/audit", params={"limit": 200}).json()["data"] if row["eventId"] > since]
        assert {row["action"] for row in mine} <= {"token.issued"}
    admin = TestAgent(server, first["organizationId"], first["agentId"], first["clientSecret"])
    with admin.client("audit:read") as inside:
        events = [row for row in inside.get("/api/v1/audit").json()["data"] if row["action"] != "token.issued"]
    assert {(row["agentId"], row["outcome"], row["organizationId"]) for row in events} == {(operator.agent_id, "success", created["organizationId"])}
    assert all(row["requestId"] and row["ipAddress"] for row in events)
    org = created["organizationId"]
    assert [(row["action"], row["targetId"], row["metadata"]) for row in reversed(events) if not row["action"].startswith(("agent.", "credential."))] == [
        ("org.created", org, {"slug": created["slug"], "planTier": "free"}),
        ("org.member_added", first["agentId"], {"role": "admin"}),
        ("org.updated", org, {"fields": ["status"], "oldStatus": "active", "newStatus": "suspended"}),
        ("org.updated", org, {"fields": ["max_agents", "name", "status"], "oldStatus": "suspended", "newStatus": "active"}),
        ("org.member_removed", first["agentId"], {"role": "admin"}),
    ]


def test_members_are_the_organizations_own_agents(operator: TestAgent, tenant: Tenant, other_tenant: Tenant) -> None:
    """TH11. Not even the operator brings an agent into another organization."""
    make_administrator(tenant.admin)
    members = f"{ORGANIZATIONS}/{tenant.organization_id}/members"
    agent = tenant.agent()
    with operator.client(EVERYTHING) as outside, tenant.admin.client("openid") as client:
        for who in (outside, client):
            added = who.post(members, json={"agentId": agent.agent_id, "role": "member"})
            assert added.status_code == 201
            assert added.json() | {"createdAt": ""} == {"organizationId": tenant.organization_id, "agentId": agent.agent_id, "role": "member", "createdAt": ""}
            assert refusal(who.post(members, json={"agentId": agent.agent_id, "role": "admin"})) == (409, "ALREADY_MEMBER")
            answers = [who.post(members, json={"agentId": stray, "role": "admin"}) for stray in (other_tenant.admin.agent_id, str(uuid.uuid4()))]
            assert {refusal(answer) for answer in answers} == {(404, "AGENT_NOT_FOUND")}
            assert len({answer.content for answer in answers}) == 1
            assert [(row["agentId"], row["role"]) for row in who.get(members).json()["data"]] == [(agent.agent_id, "member"), (tenant.admin.agent_id, "admin")]
            assert who.delete(f"{members}/{agent.agent_id}").status_code == 204
            gone = [who.delete(f"{members}/{stray}") for stray in (agent.agent_id, other_tenant.admin.agent_id, str(uuid.uuid4()), "nonsense")]
            assert {refusal(answer) for answer in gone} == {(404, "AGENT_NOT_FOUND")}


@pytest.mark.parametrize(
    "body", [{}, {"role": "admin"}, {"agentId": "x", "role": "member"}, {"agentId": str(uuid.uuid4()), "role": "owner"}, {"agentId": None, "role": "member"}]
)
def test_refuses_a_wrong_member(tenant: Tenant, body: dict[str, Any]) -> None:
    make_administrator(tenant.admin)
    with tenant.admin.client() as client:
        assert fields_of(client.post(f"{ORGANIZATIONS}/{tenant.organization_id}/members", json=body))


def test_a_removed_administrator_has_no_rights_from_then_on(tenant: Tenant) -> None:
    make_administrator(tenant.admin)
    path = f"{ORGANIZATIONS}/{tenant.organization_id}"
    second = tenant.agent()
    with tenant.admin.client() as client, second.client() as theirs:
        assert refusal(theirs.get(path)) == (403, "FORBIDDEN")
        client.post(f"{path}/members", json={"agentId": second.agent_id, "role": "admin"})
        assert theirs.get(path).status_code == 200, "the token from before"
        assert client.delete(f"{path}/members/{second.agent_id}").status_code == 204
        assert refusal(theirs.get(path)) == (403, "FORBIDDEN")
        assert refusal(theirs.post(f"{path}/members", json={"agentId": second.agent_id, "role": "admin"})) == (403, "FORBIDDEN")


def test_the_role_ends_with_the_agent(tenant: Tenant) -> None:
    make_administrator(tenant.admin)
    path = f"{ORGANIZATIONS}/{tenant.organization_id}"
    second = tenant.agent()
    with tenant.admin.client() as client, second.client() as theirs:
        client.post(f"{path}/members", json={"agentId": second.agent_id, "role": "admin"})
        assert client.delete(f"/api/v1/agents/{second.agent_id}").status_code == 204
        assert refusal(theirs.get(path)) == (401, "UNAUTHORIZED")
        assert [row["agentId"] for row in client.get(f"{path}/members").json()["data"]] == [tenant.admin.agent_id]
        assert refusal(client.delete(f"{path}/members/{second.agent_id}")) == (404, "AGENT_NOT_FOUND")
        again = client.post(f"{path}/members", json={"agentId": second.agent_id, "role": "admin"})
        assert refusal(again) == (409, "AGENT_ALREADY_DECOMMISSIONED")


def test_only_the_operator_removes_the_last_administrator(operator: TestAgent, tenant: Tenant) -> None:
    make_administrator(tenant.admin)
    path = f"{ORGANIZATIONS}/{tenant.organization_id}/members/{tenant.admin.agent_id}"
    with operator.client(EVERYTHING) as outside, tenant.admin.client() as client:
        assert refusal(client.delete(path)) == (409, "CONFLICT")
        assert outside.delete(path).status_code == 204
        assert refusal(client.delete(path)) == (403, "FORBIDDEN")


@pytest.mark.parametrize("field", [{"planTier": "enterprise"}, {"maxAgents": None}, {"maxTokensPerDay": 10**9}, {"status": "active"}])
def test_what_is_the_operators_is_refused_not_ignored(tenant: Tenant, field: dict[str, Any]) -> None:
    make_administrator(tenant.admin)
    path = f"{ORGANIZATIONS}/{tenant.organization_id}"
    with tenant.admin.client() as client:
        before = client.get(path).json()
        assert refusal(client.patch(path, json={"name": "Changed"} | field)) == (403, "FORBIDDEN")
        assert client.get(path).json() == before
        changed = client.patch(path, json={"name": "Changed", "slug": slug()}).json()
        assert (changed["name"], changed["planTier"]) == ("Changed", "enterprise")


def test_no_more_agents_than_the_limit(operator: TestAgent, tenant: Tenant) -> None:
    """Suspended agents count, decommissioned ones do not."""
    path = f"{ORGANIZATIONS}/{tenant.organization_id}"
    with operator.client(EVERYTHING) as outside, tenant.admin.client() as client:
        outside.patch(path, json={"maxAgents": 2, "planTier": "pro"})
        second = client.post("/api/v1/agents", json=registration()).json()
        client.patch(f"/api/v1/agents/{second['agentId']}", json={"status": "suspended"})
        over = client.post("/api/v1/agents", json=registration())
        assert refusal(over) == (403, "TIER_LIMIT_EXCEEDED")
        assert over.json()["details"] == {"limit": 2, "used": 2, "tier": "pro"}
        assert "www-authenticate" not in over.headers
        assert refusal(outside.post(f"{path}/administrators", json={"email": "late@acme.example"})) == (403, "TIER_LIMIT_EXCEEDED")
        client.delete(f"/api/v1/agents/{second['agentId']}")
        assert client.post("/api/v1/agents", json=registration()).status_code == 201
        assert client.post("/api/v1/agents", json=registration()).status_code == 403
        outside.patch(path, json={"maxAgents": None})
        assert client.post("/api/v1/agents", json=registration()).status_code == 201
        assert client.get("/api/v1/agents").json()["total"] == 4


def test_a_limit_on_tokens_holds_from_the_change_on(operator: TestAgent, tenant: Tenant) -> None:
    agent = tenant.agent()
    agent.token()
    with operator.client(EVERYTHING) as outside:
        path = f"{ORGANIZATIONS}/{tenant.organization_id}"
        outside.patch(path, json={"maxTokensPerDay": 2})
        answers = [agent.token_response().status_code for _ in range(2)]
        assert answers == [200, 429]
        outside.patch(path, json={"maxTokensPerDay": None})
        assert agent.token_response().status_code == 200
