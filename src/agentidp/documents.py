"""/openapi.json, built from the routes once, and /docs, an interactive reference that loads nothing from another host."""

import importlib.resources
from typing import Any

import msgspec
from fastapi import APIRouter
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from agentidp import __version__
from agentidp.auth.guard import GuardedRoute
from agentidp.core.errors import NotFound
from agentidp.core.operations import public

router = APIRouter(tags=["Documents"], route_class=GuardedRoute)

_CSP = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>AgentIdP reference</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="/docs/swagger-ui.css"></head>
<body><div id="reference"></div><script src="/docs/swagger-ui-bundle.js"></script><script src="/docs/start.js"></script></body></html>
"""
_START = 'SwaggerUIBundle({url: "/openapi.json", dom_id: "#reference", deepLinking: true, validatorUrl: null});\n'
_ISSUING = {"issueToken", "exchangeToken"}  # where a proof binds the token that is asked for, whoever asks
_PROOF = {
    "name": "DPoP",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "A proof that the client holds a private key (RFC 9449 section 5); the token is bound to that key.",
}
_NONCE = {"schema": {"type": "string"}, "description": "The nonce of the next proof (RFC 9449 section 8). On every answer to a request with the header `DPoP`."}
_ASSETS = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}


@router.get("/openapi.json", operation_id="getOpenApi", response_model=dict[str, Any], **public())
async def openapi(request: Request) -> Response:
    """This API as an OpenAPI 3.1 document."""
    return Response(request.scope["agentidp.openapi"], media_type="application/json", headers={"Cache-Control": "public, max-age=60"})


@router.get("/docs", operation_id="getDocs", response_class=HTMLResponse, **public())
async def docs() -> Response:
    """The interactive reference."""
    return Response(_PAGE, media_type="text/html", headers={"Content-Security-Policy": _CSP})


@router.get("/docs/{asset}", include_in_schema=False, openapi_extra={"x-scope": "public"})
async def asset(asset: str) -> Response:
    if asset == "start.js":
        return Response(_START, media_type="text/javascript")
    if asset not in _ASSETS:
        raise NotFound
    raw = (importlib.resources.files("fastapi_offline") / "static" / asset).read_bytes()
    return Response(raw, media_type=_ASSETS[asset], headers={"Cache-Control": "public, max-age=86400"})


def build_openapi(routes: list[APIRoute], issuer: str) -> bytes:
    """The document, with what FastAPI assumes and we do differently put right: 400 instead of 422, our security schemes."""
    document = get_openapi(
        title="AgentIdP",
        version=__version__,
        summary="An identity provider whose principals are AI agents.",
        description="Errors are `{code, message, details?}`; the OAuth endpoints answer `{error, error_description}` (RFC 6749 section 5.2). An answer to a "
        "client that has proven itself carries `X-RateLimit-Limit` (requests a minute), `X-RateLimit-Remaining` and `X-RateLimit-Reset` (seconds since the epoch).",
        routes=routes,
        servers=[{"url": issuer}],
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    document["components"]["securitySchemes"] = {
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "An access token from `POST /api/v1/token`.",
        },
        "dpop": {
            "type": "http",
            "scheme": "DPoP",
            "description": "An access token that is bound to a key, with a proof in the header `DPoP` (RFC 9449 section 7.1): made for this request and this token, and with "
            "the nonce of the last answer's `DPoP-Nonce`.",
        },
        "basic": {"type": "http", "scheme": "basic", "description": "client_id and client_secret."},
    }
    document["components"] |= {"headers": {"DPoP-Nonce": _NONCE}}
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    for operations in document["paths"].values():
        for operation in operations.values():
            _put_right(operation)
            _add_dpop(operation)
    return msgspec.json.encode(document)


def _put_right(operation: dict[str, Any]) -> None:
    operation["summary"] = operation["description"].partition(". ")[0].partition("\n")[0].removesuffix(".")
    operation["responses"].pop("422", None)
    for response in operation["responses"].values():
        content = response.get("content", {})
        if content.keys() == {"application/json", "text/html"}:  # a page's errors are JSON, too
            content["application/json"] |= content.pop("text/html")
    for parameter in operation.get("parameters", ()):
        schema = parameter["schema"]
        if "anyOf" in schema:  # an optional parameter is absent, never null
            parameter["schema"] = next(option for option in schema["anyOf"] if option != {"type": "null"}) | {"title": schema["title"]}


def _add_dpop(operation: dict[str, Any]) -> None:
    """Where a bearer token will do, a bound one will, with a proof; and where tokens are issued, a proof binds them."""
    takes_bearer, is_issuing = {"bearer": []} in operation["security"], operation["operationId"] in _ISSUING
    if takes_bearer:
        operation["security"].append({"dpop": []})
    if is_issuing:
        operation.setdefault("parameters", []).append(_PROOF)
    for status, response in operation["responses"].items():
        if (takes_bearer or is_issuing) and (status.startswith("2") or status in {"400", "401"}):
            response.setdefault("headers", {})["DPoP-Nonce"] = {"$ref": "#/components/headers/DPoP-Nonce"}
