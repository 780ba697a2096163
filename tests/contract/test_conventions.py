"""What api.md promises of every operation alike: request ids, errors, methods, challenges, caching, pages and times."""

import re
import time
import uuid
from typing import Any

import httpx2
import pytest
from fastapi.routing import APIRoute
from tests.samples import sample_body
from tests.serving import RunningServer
from tests.tenants import Tenant, registration

from agentidp.app import ROUTES, methods_of
from agentidp.auth.guard import OAuthRoute
from agentidp.core import limits
from agentidp.core.clock import to_rfc3339

PATHS = sorted({route.path for route in ROUTES})
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY"]
LISTS = ["/api/v1/agents", "/api/v1/audit", "/api/v1/agents/{agentId}/credentials"]
CACHEABLE = [route.path for route in ROUTES if route.path.startswith("/.well-known/")]
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)
UNKNOWN_ID = "01890000-0000-7000-8000-000000000000"


def operations(*, secured: bool) -> list[Any]:
    """The operations that do, or do not, need a bearer token, as test parameters."""
    wanted = [route for route in ROUTES if (route.openapi_extra or {}).get("security", []) == ([{"bearer": []}] if secured else [])]
    return [pytest.param(route, id=route.operation_id) for route in wanted if route.include_in_schema]


def needed_scope(route: APIRoute) -> str | None:
    """What a token must hold; where any will do, what it must hold for another agent's. None where neither is asked for."""
    extra = route.openapi_extra or {}
    found = extra["x-scope"] if extra["x-scope"] != "any token" else extra.get("x-scope-otherwise")
    return str(found) if found else None


def send(client: httpx2.Client, route: APIRoute, **options: Any) -> httpx2.Response:
    """A well-formed request to the route, with unknown ids in its path and an empty object for a body."""
    method = methods_of(route)[0]
    if method in {"POST", "PATCH"} and not isinstance(route, OAuthRoute) and route.body_field:
        options.setdefault("json", {})
    return client.request(method, re.sub(r"\{[^}]+\}", UNKNOWN_ID, route.path), **options)


def is_api_error(response: httpx2.Response, code: str) -> bool:
    """`{code, message, details?}` and nothing else."""
    body = response.json()
    return body["code"] == code and isinstance(body["message"], str) and body["message"] != "" and body.keys() <= {"code", "message", "details"}


@pytest.mark.parametrize("given", ["a", "trace:0af7651916cd43dd.8448eb211c80319c_b7", "x" * limits.REQUEST_ID_CHARACTERS_MAX])
def test_a_harmless_request_id_comes_back(server: RunningServer, given: str) -> None:
    with server.client(headers={"X-Request-Id": given}) as client:
        for path in ("/health", "/nothing", "/api/v1/agents"):
            assert client.get(path).headers["x-request-id"] == given
        assert client.post("/api/v1/token").headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "a b", "a\tb", "<script>", "x" * (limits.REQUEST_ID_CHARACTERS_MAX + 1), "caf\u00e9", "a,b", "%0d"])
def test_any_other_request_id_is_replaced(server: RunningServer, given: str) -> None:
    with server.client() as client:
        seen = [client.get("/health", headers={b"X-Request-Id": given.encode()}).headers["x-request-id"] for _ in range(2)]
    assert [uuid.UUID(value).version for value in seen] == [7, 7]
    assert len(set(seen)) == 2


@pytest.mark.parametrize("route", [*operations(secured=True), *operations(secured=False)])
def test_every_answer_has_a_request_id_and_the_security_headers(server: RunningServer, route: APIRoute) -> None:
    with server.client() as client:
        response = send(client, route)
    assert uuid.UUID(response.headers["x-request-id"]).version == 7
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["x-frame-options"] == "DENY"
    assert "server" not in response.headers


@pytest.mark.parametrize("route", operations(secured=True))
def test_no_token_and_a_bad_one_are_challenged(server: RunningServer, route: APIRoute) -> None:
    """RFC 6750 section 3.1: `error` only when a token was presented; RFC 9728 section 5.1: where to get one."""
    with server.client() as client:
        missing, bad = send(client, route), send(client, route, headers={"Authorization": "Bearer e30.e30.e30"})
    metadata = f'resource_metadata="{server.url}/.well-known/oauth-protected-resource"'
    assert missing.status_code == bad.status_code == 401
    assert is_api_error(missing, "UNAUTHORIZED")
    assert is_api_error(bad, "UNAUTHORIZED")
    assert missing.headers["www-authenticate"] == f"Bearer {metadata}"
    assert bad.headers["www-authenticate"].startswith('Bearer error="invalid_token"')
    assert bad.headers["www-authenticate"].endswith(metadata)
    assert missing.headers["cache-control"] == bad.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("route", [route for route in operations(secured=True) if needed_scope(route.values[0])])
def test_a_missing_scope_is_named(server: RunningServer, tenant: Tenant, route: APIRoute) -> None:
    """RFC 6750 section 3.1: insufficient_scope, with the scope that would do. For `any token`, the scope that another agent's needs."""
    needed = needed_scope(route) or ""
    held = "tokens:read" if needed != "tokens:read" else "openid"
    with tenant.agent(held).client(held) as client:
        path = route.path.replace("{agentId}", tenant.admin.agent_id).replace("{orgId}", tenant.organization_id)
        method = methods_of(route)[0]
        body = {"json": sample_body(server.check.document, method, route.path)} if route.body_field else {}
        response = client.request(method, re.sub(r"\{[^}]+\}", UNKNOWN_ID, path), **body)
    assert response.status_code == 403
    assert is_api_error(response, "FORBIDDEN")
    assert response.headers["www-authenticate"].startswith(f'Bearer error="insufficient_scope", scope="{needed}"')


@pytest.mark.parametrize("path", PATHS)
def test_other_methods_are_refused_with_those_allowed(server: RunningServer, tenant: Tenant, path: str) -> None:
    """RFC 9110 section 15.5.6, with and without a token."""
    real_path = re.sub(r"\{[^}]+\}", UNKNOWN_ID, path)
    known = sorted({method for route in ROUTES if route.path == path for method in methods_of(route)})
    served = {method for route in ROUTES if route.path_regex.match(real_path) for method in methods_of(route)}  # `explain` might be an id
    with server.client() as stranger, tenant.admin.client() as member:
        for client in (stranger, member):
            for method in sorted(set(METHODS) - served):
                response = client.request(method, real_path)
                assert response.status_code == 405, method
                assert response.headers["allow"] == ", ".join(known)
                name = "error" if path.startswith(("/api/v1/token", "/api/v1/oidc/token")) else "code"
                assert response.json()[name] == ("invalid_request" if name == "error" else "METHOD_NOT_ALLOWED")


@pytest.mark.parametrize(
    "path", ["/", "/api", "/api/v1", "/api/v1/", "/api/v1/agents/", "/api/v2/agents", "/api/v1/nothing", "//health", "/HEALTH", "/.env", "/docs/"]
)
def test_an_unknown_path_is_not_found(server: RunningServer, path: str) -> None:
    """Nothing is redirected: a trailing slash is another path."""
    with server.client(follow_redirects=False) as client:
        for method in METHODS:
            response = client.request(method, f"{server.url}{path}")
            assert response.status_code == 404
            assert is_api_error(response, "NOT_FOUND")


def test_unknown_and_foreign_ids_are_answered_alike(tenant: Tenant, other_tenant: Tenant) -> None:
    with tenant.admin.client() as client:
        for path in ("/api/v1/agents/{}", "/api/v1/agents/{}/credentials"):
            answers = [client.get(path.format(agent_id)) for agent_id in (other_tenant.admin.agent_id, UNKNOWN_ID, "nonsense")]
            assert {answer.status_code for answer in answers} == {404}
            assert len({answer.content for answer in answers}) == 1
            assert is_api_error(answers[0], "AGENT_NOT_FOUND")


def test_all_wrong_fields_are_named_at_once(tenant: Tenant) -> None:
    with tenant.admin.client() as client:
        response = client.post("/api/v1/agents", json=registration(email="x", version="one", owner="", isPublic="yes", status="active"))
        query = client.get("/api/v1/agents", params={"limit": "0", "page": "-1", "nonsense": "1", "status": "asleep"})
    assert is_api_error(response, "VALIDATION_ERROR")
    assert {row["field"] for row in response.json()["details"]["fields"]} == {"email", "version", "owner", "isPublic", "status"}
    assert is_api_error(query, "VALIDATION_ERROR")
    assert all(row.keys() == {"field", "message"} for row in query.json()["details"]["fields"])


@pytest.mark.parametrize("route", [*operations(secured=True), *operations(secured=False)])
def test_errors_are_never_stored(server: RunningServer, tenant: Tenant, route: APIRoute) -> None:
    with tenant.admin.client() as client:
        response = send(client, route, params={"nonsense": "1"})
    assert response.status_code < 400 or response.headers["cache-control"] == "no-store"


def test_secrets_and_tokens_are_never_stored(tenant: Tenant) -> None:
    agent = tenant.agent()
    token = agent.token_response()
    form = {"token": token.json()["access_token"]}
    with tenant.admin.client() as client:
        credentials = f"/api/v1/agents/{agent.agent_id}/credentials"
        created = client.post(credentials)
        rotated = client.post(f"{credentials}/{created.json()['credentialId']}/rotate")
        answers = [token, created, rotated, client.post("/api/v1/token/introspect", data=form), client.post("/api/v1/token/revoke", data=form)]
    assert [answer.status_code for answer in answers] == [200, 201, 200, 200, 200]
    assert {answer.headers["cache-control"] for answer in answers} == {"no-store"}
    assert {answer.headers["pragma"] for answer in answers} == {"no-cache"}


@pytest.mark.parametrize("path", CACHEABLE)
def test_documents_are_cacheable_and_revalidated(server: RunningServer, path: str) -> None:
    """RFC 9110 section 13.1.2: weak comparison, lists and the star."""
    with server.client() as client:
        fresh = client.get(path)
        tag = fresh.headers["etag"]
        assert re.fullmatch(r"public, max-age=[1-9][0-9]*", fresh.headers["cache-control"])
        assert re.fullmatch(r'"[0-9A-Za-z_-]+"', tag)
        for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            again = client.get(path, headers={"If-None-Match": known})
            assert again.status_code == 304
            assert again.content == b""
            assert again.headers["etag"] == tag
            assert again.headers["cache-control"] == fresh.headers["cache-control"]
        for other in ('"other"', tag.strip('"'), ""):
            assert client.get(path, headers={"If-None-Match": other}).content == fresh.content


def rows_of(tenant: Tenant, path: str, wanted: int) -> str:
    """Fill the list up to at least that many rows; returns its path."""
    if path == "/api/v1/audit":
        for _ in range(wanted):
            tenant.admin.token()
    elif path == "/api/v1/agents":
        for _ in range(wanted - 1):
            tenant.agent()
    else:
        agent = tenant.agent()
        path = path.replace("{agentId}", agent.agent_id)
        with tenant.admin.client() as client:
            for _ in range(wanted - 1):  # at most ten are active at a time
                created = client.post(path).json()
                client.delete(f"{path}/{created['credentialId']}")
    return path


@pytest.mark.parametrize("template", LISTS)
def test_pages_and_cursors_walk_the_same_rows_once(tenant: Tenant, template: str) -> None:
    """25 rows, by page and by cursor: newest first, no gap, no duplicate."""
    path = rows_of(tenant, template, 25)
    with tenant.admin.client() as client:
        for _ in range(200):  # events are sealed meanwhile, which shows in them
            whole = client.get(path, params={"limit": 100}).json()
            if all(row.get("seq", 1) for row in whole["data"]):
                break
            time.sleep(0.05)
        rows, total = whole["data"], whole["total"]
        assert total == len(rows) >= 25
        assert whole["nextCursor"] is None
        by_page: list[Any] = []
        for number in range(1, total // 10 + 2):
            page = client.get(path, params={"limit": 10, "page": number}).json()
            assert (page["page"], page["limit"], page["total"]) == (number, 10, total)
            by_page += page["data"]
        by_cursor: list[Any] = []
        parameters: dict[str, Any] = {"limit": 7}
        while True:
            page = client.get(path, params=parameters).json()
            assert ("cursor" in parameters) == (page["page"] is None) == (page["total"] is None)
            by_cursor += page["data"]
            if page["nextCursor"] is None:
                break
            assert len(page["data"]) == 7
            parameters["cursor"] = page["nextCursor"]
        beyond = client.get(path, params={"limit": 10, "page": 50}).json()
    assert by_page == by_cursor == rows
    assert beyond["data"] == []
    assert beyond["nextCursor"] is None
    key = {"agents": "agentId", "audit": "eventId", "credentials": "credentialId"}[template.rpartition("/")[2]]
    ids = [row[key] for row in rows]
    assert ids == sorted(set(ids), reverse=True)


@pytest.mark.parametrize("template", LISTS)
def test_pages_have_bounds(tenant: Tenant, template: str) -> None:
    """limit 1..100 (audit 1..200), page × limit at most 10,000, page or cursor but not both."""
    most, default = (200, 50) if template == "/api/v1/audit" else (100, 20)
    path, last = template.replace("{agentId}", tenant.admin.agent_id), 10_000 // most
    cursor = "A" * 22
    with tenant.admin.client() as client:
        assert client.get(path).json()["limit"] == default
        for accepted in ({"limit": 1}, {"limit": most}, {"page": 1}, {"limit": most, "page": last}, {"limit": 1, "page": last}, {"cursor": cursor}):
            assert client.get(path, params=accepted).status_code == 200, accepted
        refused: list[dict[str, Any]] = [{"limit": 0}, {"limit": most + 1}, {"limit": "1.0"}, {"limit": "+1"}, {"limit": "\u0661"}, {"limit": ""}]
        refused += [{"page": 0}, {"page": last + 1, "limit": most}, {"page": 2**64}, {"page": "null"}]
        refused += [{"cursor": cursor[1:]}, {"cursor": "!" * 22}, {"cursor": cursor, "page": 1}, {"limit": ["1", "2"]}]
        for parameters in refused:
            response = client.get(path, params=parameters)
            assert response.status_code == 400, parameters
            assert is_api_error(response, "VALIDATION_ERROR")
            assert response.json()["details"]["fields"][0]["field"] in parameters


def instants(value: Any) -> list[Any]:
    """Every instant in a JSON value: names in `…At`, and an event's `timestamp`."""
    if isinstance(value, dict):
        own = [item for name, item in value.items() if (name.endswith("At") or name == "timestamp") and item is not None]
        return own + [found for item in value.values() for found in instants(item)]
    return [found for item in value for found in instants(item)] if isinstance(value, list) else []


def test_times_are_rfc_3339_in_utc_with_milliseconds(tenant: Tenant) -> None:
    """Whatever zone and precision they were given in."""
    with tenant.admin.client() as client:
        for given, shown in (
            ("2999-01-31T12:00:00Z", "2999-01-31T12:00:00.000Z"),
            ("2999-01-31t12:00:00.1234567z", "2999-01-31T12:00:00.123Z"),
            ("2999-01-31T12:00:00.5+02:30", "2999-01-31T09:30:00.500Z"),
            ("9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"),
        ):
            created = client.post("/api/v1/agents", json=registration(expiresAt=given)).json()
            assert created["expiresAt"] == shown
        wrong = ["2999-01-31", "2999-01-31T12:00:00", "2999-01-31 12:00:00Z", "2999-02-30T12:00:00Z", "2999-01-31T24:00:00Z", 32503680000, ""]
        for value in wrong:
            refused = client.post("/api/v1/agents", json=registration(expiresAt=value))
            assert [row["field"] for row in refused.json()["details"]["fields"]] == ["expiresAt"], value
        agent_id = created["agentId"]
        client.post(f"/api/v1/agents/{agent_id}/credentials")
        bodies = [client.get(path).json() for path in (*LISTS[:2], f"/api/v1/agents/{agent_id}/credentials")]
    found = instants(bodies)
    assert len(found) > 10
    assert [instant for instant in found if not TIMESTAMP.fullmatch(instant)] == []


def test_instants_in_the_past_are_refused(tenant: Tenant) -> None:
    past = to_rfc3339(tenant.server.clock() - 1000)
    path = f"/api/v1/agents/{tenant.agent().agent_id}"
    with tenant.admin.client() as client:
        credential = client.post(f"{path}/credentials").json()["credentialId"]
        answers = [
            client.post("/api/v1/agents", json=registration(expiresAt=past)),
            client.patch(path, json={"expiresAt": past}),
            client.post(f"{path}/credentials", json={"expiresAt": past}),
            client.post(f"{path}/credentials/{credential}/rotate", json={"expiresAt": past}),
        ]
    for answer in answers:
        assert answer.status_code == 400
        assert answer.json()["details"]["fields"] == [{"field": "expiresAt", "message": "must be in the future"}]
