"""Discovery, key set, protected-resource metadata and /agent-info, at the root. They list exactly what is served.

RFC 8414, OpenID Connect Discovery 1.0, RFC 7517, RFC 9728.
"""

import hashlib
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from agentidp.agents.queries import get_agent
from agentidp.auth.guard import GuardedRoute, OAuthRoute, caller_of, read
from agentidp.auth.instance import Instance, instance_of
from agentidp.auth.jws import ALGORITHMS
from agentidp.auth.scopes import SCOPES
from agentidp.core import limits
from agentidp.core.http import JsonResponse
from agentidp.core.operations import public, secured
from agentidp.core.resources import Uuid
from agentidp.tokens.grants import GRANTS

router = APIRouter(tags=["OpenID Connect"], route_class=GuardedRoute)
oauth_router = APIRouter(tags=["OpenID Connect"], route_class=OAuthRoute)

_CLIENT_METHODS = ["client_secret_basic", "client_secret_post", "private_key_jwt"]
_NO_CLIENT = "none"  # the grants that exchange a token authenticate no client
_WITH_A_TOKEN = ["Bearer", "DPoP"]  # by the names in IANA's registry; RFC 8414 section 2 knows them for introspection alone
_CACHEABLE = public(is_limited=False)  # many verifiers may share an address, and without the keys they refuse what is right
_CACHEABLE["responses"] |= {304: {"description": "Unchanged since the answer with the ETag of `If-None-Match`."}}


class Jwk(BaseModel):
    """A public key (RFC 7517)."""

    model_config = ConfigDict(extra="allow")

    kty: str
    kid: str
    use: str
    alg: str


class JwkSet(BaseModel):
    """Every key that signs, will sign next, or signed what is still alive."""

    keys: list[Jwk]


class AuthorizationServerMetadata(BaseModel):
    """RFC 8414 section 2."""

    issuer: str
    token_endpoint: str
    jwks_uri: str
    scopes_supported: list[str]
    response_types_supported: list[str]
    grant_types_supported: list[str]
    token_endpoint_auth_methods_supported: list[str]
    token_endpoint_auth_signing_alg_values_supported: list[str]
    introspection_endpoint: str
    introspection_endpoint_auth_methods_supported: list[str]
    introspection_endpoint_auth_signing_alg_values_supported: list[str]
    revocation_endpoint: str
    revocation_endpoint_auth_methods_supported: list[str]
    revocation_endpoint_auth_signing_alg_values_supported: list[str]
    dpop_signing_alg_values_supported: list[str]
    id_token_signing_alg_values_supported: list[str] = Field(description="Also here: a client that finds nothing expects RS256.")
    service_documentation: str


class ProviderMetadata(AuthorizationServerMetadata):
    """OpenID Connect Discovery section 3, without what only browsers need."""

    userinfo_endpoint: str
    subject_types_supported: list[str]
    claims_supported: list[str]


class ProtectedResourceMetadata(BaseModel):
    """RFC 9728 section 2: how to get a token for this API."""

    resource: str
    resource_name: str
    authorization_servers: list[str]
    jwks_uri: str
    scopes_supported: list[str]
    bearer_methods_supported: list[str]
    dpop_signing_alg_values_supported: list[str]


class AgentInfo(BaseModel):
    """What the token's agent is, in the names of the original API."""

    sub: Uuid
    agent_id: Uuid
    agent_type: str
    organization_id: Uuid
    capabilities: list[str]
    deployment_env: str
    owner: str
    email: str = Field(examples=["screener-001@acme.example"])


@oauth_router.get("/.well-known/jwks.json", operation_id="getJwks", response_model=JwkSet, **_CACHEABLE)
async def jwks(request: Request) -> Response:
    """The public keys with which anyone verifies our tokens, offline."""
    keys = instance_of(request).keys
    return _cacheable(request, keys.jwks, keys.jwks_etag)


@router.get("/.well-known/oauth-authorization-server", operation_id="getAuthorizationServerMetadata", response_model=AuthorizationServerMetadata, **_CACHEABLE)
async def authorization_server(request: Request) -> Response:
    """Where the endpoints are and what they can do."""
    return _document(request, authorization_server_metadata(instance_of(request)))


@router.get("/.well-known/openid-configuration", operation_id="getProviderMetadata", response_model=ProviderMetadata, **_CACHEABLE)
async def provider(request: Request) -> Response:
    """The same for OpenID Connect clients."""
    instance = instance_of(request)
    document = authorization_server_metadata(instance) | {
        "userinfo_endpoint": f"{instance.settings.issuer}/agent-info",
        "subject_types_supported": ["public"],
        "claims_supported": ["iss", "sub", "aud", "iat", "exp", "at_hash", "organization_id"],
    }
    return _document(request, document)


@router.get("/.well-known/oauth-protected-resource", operation_id="getProtectedResourceMetadata", response_model=ProtectedResourceMetadata, **_CACHEABLE)
async def protected_resource(request: Request) -> Response:
    """How a client that was refused with 401 gets a token for this API."""
    issuer = instance_of(request).settings.issuer
    document = {
        "resource": issuer,
        "resource_name": "AgentIdP",
        "authorization_servers": [issuer],
        "jwks_uri": f"{issuer}/.well-known/jwks.json",
        "scopes_supported": list(SCOPES),
        "bearer_methods_supported": ["header"],
        "dpop_signing_alg_values_supported": ALGORITHMS,
    }
    return _document(request, document)


@router.get("/agent-info", operation_id="getAgentInfo", **secured("openid"))
async def agent_info(request: Request) -> AgentInfo:
    """What the presented token's agent is."""
    agent = await read(request, get_agent, caller_of(request).agent_id or "")
    return AgentInfo(
        sub=agent.agent_id,
        agent_id=agent.agent_id,
        agent_type=agent.agent_type,
        organization_id=agent.organization_id,
        capabilities=list(agent.capabilities),
        deployment_env=agent.deployment_env,
        owner=agent.owner,
        email=agent.email,
    )


def authorization_server_metadata(instance: Instance) -> dict[str, Any]:
    issuer = instance.settings.issuer
    api = f"{issuer}/api/v1"
    return {
        "issuer": issuer,
        "token_endpoint": f"{api}/token",
        "jwks_uri": f"{issuer}/.well-known/jwks.json",
        "scopes_supported": list(SCOPES),
        "response_types_supported": [],
        "grant_types_supported": sorted(GRANTS),
        "token_endpoint_auth_methods_supported": [*_CLIENT_METHODS, _NO_CLIENT],
        "token_endpoint_auth_signing_alg_values_supported": ALGORITHMS,
        "introspection_endpoint": f"{api}/token/introspect",
        "introspection_endpoint_auth_methods_supported": [*_CLIENT_METHODS, *_WITH_A_TOKEN],
        "introspection_endpoint_auth_signing_alg_values_supported": ALGORITHMS,
        "revocation_endpoint": f"{api}/token/revoke",
        "revocation_endpoint_auth_methods_supported": _CLIENT_METHODS,
        "revocation_endpoint_auth_signing_alg_values_supported": ALGORITHMS,
        "dpop_signing_alg_values_supported": ALGORITHMS,
        "id_token_signing_alg_values_supported": instance.keys.algorithms(),
        "service_documentation": f"{issuer}/docs",
    }


def _document(request: Request, document: dict[str, Any]) -> Response:
    body = JsonResponse(document).body
    return _cacheable(request, bytes(body), f'"{hashlib.sha256(body).hexdigest()[:32]}"')


def _cacheable(request: Request, body: bytes, etag: str) -> Response:
    """200 with the body, or 304 when the client has it (RFC 9110 section 13.1.2)."""
    headers = {"Cache-Control": f"public, max-age={limits.JWKS_MAX_AGE_SECONDS}", "ETag": etag}
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)
