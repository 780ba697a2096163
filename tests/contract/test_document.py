"""The served OpenAPI document: complete, valid, and the same as what is built from the routes. /docs asks no other host for anything."""

import base64
import json
import re
from html.parser import HTMLParser
from typing import Any

import jsonschema_rs
import pytest
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR
from tests.reference import problems
from tests.serving import RunningServer
from tests.tenants import Tenant

from agentidp.app import ROUTES, methods_of
from agentidp.auth.guard import OAuthJsonRoute, OAuthRoute
from agentidp.auth.scopes import SCOPES
from agentidp.documents import build_openapi

DOCUMENT: dict[str, Any] = json.loads(build_openapi(list(ROUTES), "http://127.0.0.1:3000"))
OPERATIONS = {operation["operationId"]: operation for item in DOCUMENT["paths"].values() for operation in item.values()}
ROUTE_OF = {str(route.operation_id): route for route in ROUTES if route.include_in_schema}
# Every other tag is the folder's own name; billing's three are spelled as its specification spells them.
FOLDER_OF_TAG = {
    "OpenID Connect": "oidc",
    "Metrics": "health",
    "Billing Checkout": "billing",
    "Billing Webhook": "billing",
    "Usage": "billing",
    "Trust policies": "policies",
}
SCHEMAS = DOCUMENT["components"]["schemas"]

each_operation = pytest.mark.parametrize("operation", [pytest.param(value, id=key) for key, value in OPERATIONS.items()])


CODES = {problem.code for problem in problems()}
OAUTH_ERRORS = {problem.oauth_error for problem in problems()}


def test_is_valid_openapi_31() -> None:
    """Against the published schema of OpenAPI 3.1, and each schema in it against JSON Schema 2020-12."""
    assert DOCUMENT["openapi"].startswith("3.1.")
    assert [error.message for error in OPENAPI_31_VALIDATOR.iter_errors(DOCUMENT)] == []
    for schema in SCHEMAS.values():
        assert jsonschema_rs.meta.is_valid({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})


def test_references_lead_somewhere_and_every_schema_is_used() -> None:
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(DOCUMENT)))
    assert references == SCHEMAS.keys()


def test_lists_every_route_once() -> None:
    served = sorted((method, route.path, str(route.operation_id)) for route in ROUTE_OF.values() for method in methods_of(route))
    listed = sorted((method.upper(), path, operation["operationId"]) for path, item in DOCUMENT["paths"].items() for method, operation in item.items())
    assert listed == served
    assert len({operation_id for _, _, operation_id in served}) == len(served), "an operationId is used twice"


@each_operation
def test_is_described(operation: dict[str, Any]) -> None:
    assert operation["description"].endswith(".")
    assert operation["description"].startswith(operation["summary"])
    assert len(operation["summary"]) <= 120
    assert len(operation["tags"]) == 1
    for parameter in operation.get("parameters", ()):
        assert parameter["schema"].keys() & {"type", "enum", "$ref"}, parameter["name"]
        assert parameter["in"] != "path" or parameter["description"]


@each_operation
def test_is_in_the_folder_of_its_tag(operation: dict[str, Any]) -> None:
    tag = operation["tags"][0]
    module = ROUTE_OF[operation["operationId"]].endpoint.__module__.split(".")[1]
    assert module == FOLDER_OF_TAG.get(tag, tag.lower())


@each_operation
def test_names_its_scope(operation: dict[str, Any]) -> None:
    """`x-scope` and `security` say the same."""
    scope, security = operation["x-scope"], operation["security"]
    assert scope in {*SCOPES, "any token", "client", "public"}
    if scope == "public":
        assert security in ([], [{}, {"bearer": []}, {"dpop": []}])
    elif scope == "client":
        assert {"basic": []} in security
        assert {} in security
    else:
        assert security == [{"bearer": []}, {"dpop": []}]
        assert {"401", "403"} <= operation["responses"].keys()
    assert {name for entry in security for name in entry} <= DOCUMENT["components"]["securitySchemes"].keys()


@each_operation
def test_offers_dpop(operation: dict[str, Any]) -> None:
    """RFC 9449: a bound token wherever a bearer token will do, a proof where tokens are issued, and the next nonce in the answers of both."""
    is_issuing, takes_bearer = operation["operationId"] in {"issueToken", "exchangeToken"}, {"bearer": []} in operation["security"]
    assert ({"dpop": []} in operation["security"]) == takes_bearer
    assert ("DPoP" in {parameter["name"] for parameter in operation.get("parameters", ())}) == is_issuing
    with_nonce = {status for status, response in operation["responses"].items() if "DPoP-Nonce" in response.get("headers", {})}
    expected = {status for status in operation["responses"] if status.startswith("2") or status in {"400", "401"}}
    assert with_nonce == (expected if is_issuing or takes_bearer else set())


@each_operation
def test_documents_success(operation: dict[str, Any]) -> None:
    """Exactly one 2xx beside a degraded 207, with a schema unless there is no body."""
    [success] = [status for status in operation["responses"] if status.startswith("2") and status != "207"]
    content = operation["responses"][success].get("content", {})
    assert success != "204" or not content
    assert content or success == "204" or operation["operationId"] == "revokeToken"
    for body in content.values():
        assert body["schema"]


@each_operation
def test_every_error_has_an_example_with_a_code_that_exists(operation: dict[str, Any]) -> None:
    errors = {status: response for status, response in operation["responses"].items() if status >= "400"}
    assert {"400", "414", "431", "500", "503"} <= errors.keys()
    assert "422" not in errors
    for response in errors.values():
        assert list(response["content"]) == ["application/json"]
        body = response["content"]["application/json"]
        schema = SCHEMAS[body["schema"]["$ref"].rpartition("/")[2]]
        assert body["examples"]
        for example in body["examples"].values():
            value = example["value"]
            assert jsonschema_rs.Draft202012Validator({"components": DOCUMENT["components"], **schema}).is_valid(value)
            known = OAUTH_ERRORS if "error" in value else CODES
            assert value.get("error") in known or value.get("code") in known or value.get("status") == "degraded"


@each_operation
def test_errors_have_the_shape_of_their_endpoint(operation: dict[str, Any]) -> None:
    """RFC 6749 section 5.2 at the endpoints below /token, which take forms, and at /oidc/token, which takes JSON; `{code, message}` everywhere else."""
    route = ROUTE_OF[operation["operationId"]]
    schema = operation["responses"]["400"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    in_form = isinstance(route, OAuthRoute) and route.path.startswith("/api/v1/token")
    assert schema == ("OAuthErrorResponse" if in_form or isinstance(route, OAuthJsonRoute) else "ErrorResponse")
    assert ("requestBody" in operation and "application/x-www-form-urlencoded" in operation["requestBody"]["content"]) == in_form


def test_what_is_served_is_what_is_built(server: RunningServer) -> None:
    with server.client() as client:
        response = client.get("/openapi.json")
    assert response.content == build_openapi(list(ROUTES), server.url)
    assert response.headers["content-type"] == "application/json"


def test_oauth_endpoints_behave_as_documented(server: RunningServer, tenant: Tenant) -> None:
    """Each way of authenticating that the document offers works; the checking client holds the answers against it."""
    agent, basic = tenant.admin, base64.b64encode(f"{tenant.admin.agent_id}:{tenant.admin.client_secret}".encode()).decode()
    form = {"client_id": agent.agent_id, "client_secret": agent.client_secret}
    bearer = {"Authorization": f"Bearer {agent.token()}"}
    ways: dict[str, list[tuple[dict[str, str], dict[str, str]]]] = {
        "issueToken": [({"Authorization": f"Basic {basic}"}, {}), ({}, form)],
        "introspectToken": [(bearer, {}), ({"Authorization": f"Basic {basic}"}, {}), ({}, form)],
        "revokeToken": [(bearer, {}), ({"Authorization": f"Basic {basic}"}, {}), ({}, form)],
    }
    with server.client() as client:
        for operation_id, offered in ways.items():
            assert len(offered) == len([way for way in OPERATIONS[operation_id]["security"] if way != {"dpop": []}])  # bound tokens are tested with DPoP
            for headers, credentials in offered:
                body = {"grant_type": "client_credentials"} if operation_id == "issueToken" else {"token": agent.token()}
                assert client.post(ROUTE_OF[operation_id].path, headers=headers, data=body | credentials).status_code == 200


class References(HTMLParser):
    """Every address that a page makes the browser load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in {"src", "href", "action", "data", "srcset", "poster"}]
        assert tag not in {"iframe", "object", "embed", "base"}
        assert not [name for name, _ in attrs if name.startswith("on")], "inline handlers would need a wider policy"


def test_docs_load_from_their_own_host_only(server: RunningServer) -> None:
    with server.client() as client:
        page = client.get("/docs")
        policy = dict(part.strip().partition(" ")[::2] for part in page.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert all(source in {"'self'", "'none'", "'unsafe-inline'", "data:"} for sources in policy.values() for source in sources.split())
        assert policy["script-src"] == "'self'"
        references = References(page.text).found
        assert len(references) == 3
        for reference in references:
            assert re.fullmatch(r"/docs/[a-z.-]+", reference)
            asset = client.get(reference)
            assert asset.status_code == 200
            assert asset.content
            assert asset.headers["content-type"].partition(";")[0] in {"text/css", "text/javascript"}
        start = client.get("/docs/start.js").text
        assert re.findall(r'"(/[^"]*)"', start) == ["/openapi.json"]
        assert not re.search(r"https?:", start + page.text)


def test_an_unknown_asset_is_not_found(server: RunningServer) -> None:
    with server.client() as client:
        for name in ("nothing.js", "..%2f__init__.py", "swagger-ui.css/"):
            assert client.get(f"/docs/{name}").json()["code"] == "NOT_FOUND"
