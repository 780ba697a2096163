"""/token, /token/introspect, /token/revoke and /agents/{agentId}/revoke-tokens.

The first three are plain ASGI endpoints served ahead of the framework: they parse their own form and answer in OAuth's shapes.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from agentidp.agents.rules import AgentNotFound
from agentidp.auth import guard
from agentidp.auth.authority import is_alive, require_call
from agentidp.auth.dpop import InvalidProof, NonceNeeded
from agentidp.auth.guard import GuardedRoute, OAuthJsonRoute, OAuthRoute, write
from agentidp.auth.instance import instance_of
from agentidp.auth.jws import InvalidToken
from agentidp.auth.jwt import VerifiedClaims, verify_access_token
from agentidp.auth.outside_keys import IssuerUnreachable
from agentidp.auth.scopes import SCOPES
from agentidp.core import limits
from agentidp.core.caller import AuditEntry, Caller
from agentidp.core.errors import Invalid, InvalidScopes, TooManyCalls
from agentidp.core.http import NO_STORE, JsonResponse
from agentidp.core.operations import oauth, public, secured
from agentidp.core.resources import RequestBody, Uuid
from agentidp.policies.rules import ExchangeRefused, NoPolicyMatches, OutsideTokenInvalid, OutsideTokenReplayed, PresentedTokenRefused
from agentidp.tokens import actions
from agentidp.tokens.assertions import ASSERTION_TYPE
from agentidp.tokens.clients import Form, presented_client, read_form, settle
from agentidp.tokens.grants import GRANTS, outside
from agentidp.tokens.grants.token_exchange import ACCESS_TOKEN
from agentidp.tokens.rules import (
    RESOURCE_PATTERN,
    InvalidClient,
    InvalidTarget,
    NotYourToken,
    TooManyTokens,
    UnauthorizedClient,
    UnsupportedGrantType,
    requested_scope,
)

router = APIRouter(prefix="/api/v1", tags=["Tokens"], route_class=GuardedRoute)
oauth_router = APIRouter(prefix="/api/v1", tags=["Tokens"], route_class=OAuthRoute)
exchange_router = APIRouter(prefix="/api/v1", tags=["Tokens"], route_class=OAuthJsonRoute)


_SCOPE = "|".join(SCOPES)
_OTHERS: dict[str, Any] = {"additionalProperties": {"type": "string"}}  # ignored (RFC 6749 section 3.1), but given once
Resource = Annotated[str, Field(json_schema_extra={"pattern": f"^$|{RESOURCE_PATTERN}", "maxLength": limits.RESOURCE_CHARACTERS_MAX})]

AssertionType = Annotated[str, Field(description=f"Beside an assertion: `{ASSERTION_TYPE}`.")]
Assertion = Annotated[
    str,
    Field(
        description="A JWT signed with a registered key of the agent (RFC 7523): `iss` and `sub` are its id, `aud` is the issuer and nothing else, "
        f"`exp` at most {limits.CLIENT_ASSERTION_SECONDS_MAX} seconds ahead, `jti` used once.",
    ),
]
_CLIENT_PARAMETERS = frozenset({"client_secret", "client_assertion_type", "client_assertion"})


class TokenRequest(BaseModel):
    """The form of a token request. Parameters that are not listed are ignored; an empty one counts as absent."""

    model_config = ConfigDict(json_schema_extra=_OTHERS)

    grant_type: str = Field(examples=["client_credentials"], json_schema_extra={"enum": [*sorted(GRANTS)]})
    client_id: str = Field("", description="The agent's id; not beside HTTP Basic.")
    client_secret: str = Field("", description="The agent's secret; not beside HTTP Basic or an assertion.", json_schema_extra={"format": "password"})
    client_assertion_type: AssertionType = ""
    client_assertion: Assertion = ""
    scope: str = Field(
        "",
        description="Scopes separated by spaces; all allowed ones but admin:orgs when absent.",
        examples=["agents:read"],
        json_schema_extra={"pattern": f"^(({_SCOPE})( ({_SCOPE}))*)?$", "maxLength": limits.SCOPE_CHARACTERS_MAX},
    )
    resource: list[Resource] = Field(
        [], max_length=limits.RESOURCES_MAX, description="Whom the token is for (RFC 8707); may be repeated.", examples=[["https://api.example.com"]]
    )
    assertion: str = Field("", description="Grant jwt-bearer: a token of another issuer that a trust policy accepts (RFC 7523).")
    subject_token: str = Field("", description="Grant token-exchange: the token to exchange (RFC 8693).")
    subject_token_type: str = Field("", description="What kind it is: `access_token` for one of ours, `jwt` for another issuer's.", examples=[ACCESS_TOKEN])
    audience: list[str] = Field([], description="Grant token-exchange: the same as `resource`, also in its form.")
    actor_token: str = Field("", description="An access token of the agent that is to act for the subject's.")
    actor_token_type: str = Field("", examples=[ACCESS_TOKEN])
    requested_token_type: str = Field("", examples=[ACCESS_TOKEN])


class TokenResponse(BaseModel):
    """RFC 6749 section 5.1."""

    access_token: str = Field(description="A JWT in the profile of RFC 9068.")
    token_type: str = Field(description="`DPoP` for a token that is bound to a key.", examples=["Bearer"])
    expires_in: int = Field(description="Seconds.", examples=[3600])
    scope: str
    id_token: str = Field("", description="When `openid` is among the scopes.")
    issued_token_type: str = Field("", description="Of a token exchange (RFC 8693 section 2.2.1).")


class ExchangeRequest(RequestBody):
    """A token of another issuer that a trust policy accepts."""

    token: Annotated[str, StringConstraints(min_length=1, max_length=limits.TOKEN_CHARACTERS_MAX)] = Field(examples=["eyJhbGciOiJSUzI1NiJ9.e30.AA"])
    agent_id: Uuid | None = Field(None, description="Which agent is meant, where policies for more than one accept the token.")
    scope: Annotated[str, StringConstraints(max_length=limits.SCOPE_CHARACTERS_MAX)] | None = Field(
        None, description="Scopes separated by spaces; all that the policy allows when absent.", json_schema_extra={"pattern": f"^({_SCOPE})( ({_SCOPE}))*$"}
    )


class TokenForm(BaseModel):
    """The token to look at, and the client's own credentials unless it uses Basic or a bearer token."""

    model_config = ConfigDict(json_schema_extra=_OTHERS)

    token: str = Field(min_length=1)
    token_type_hint: str = Field("", description="Ignored: there is one kind of token.")
    client_id: str = ""
    client_secret: str = Field("", json_schema_extra={"format": "password"})
    client_assertion_type: AssertionType = ""
    client_assertion: Assertion = ""


class Confirmation(BaseModel):
    """The key that a token is bound to (RFC 7800)."""

    jkt: str = Field(description="Its thumbprint (RFC 7638).")


class Introspection(BaseModel):
    """RFC 7662 section 2.2; exactly `{"active": false}` for whatever is not a live token of your organization."""

    model_config = ConfigDict(extra="forbid")

    active: bool
    scope: str = ""
    client_id: str = ""
    token_type: str = ""
    exp: int = 0
    iat: int = 0
    sub: str = ""
    aud: str | list[str] = ""
    iss: str = ""
    jti: str = ""
    organization_id: str = ""
    credential_id: str = ""
    cnf: Confirmation = Confirmation(jkt="")
    policy_id: str = Field("", description="The trust policy by which a workload acts for the agent.")
    act: dict[str, Any] = Field(default_factory=dict, description="Who acts for the agent (RFC 8693 section 4.1).")


@oauth_router.post(
    "/token",
    operation_id="issueToken",
    response_model=TokenResponse,
    **oauth(
        TokenRequest,
        *(TooManyTokens, UnsupportedGrantType, InvalidScopes, InvalidTarget, UnauthorizedClient, InvalidClient, ExchangeRefused, IssuerUnreachable),
        *(PresentedTokenRefused, InvalidProof, NonceNeeded),
        security=[{"basic": []}, {}],
    ),
)
async def token(request: Request) -> Response:
    """Get an access token. The client authenticates with HTTP Basic, with a secret in the form, or with a signed assertion.

    Unless what it presents is the whole proof: a token to be exchanged. With a proof in the header `DPoP` (RFC 9449) the token is bound to the proof's key.
    Proofs carry a nonce: without a good one the answer is 400 `use_dpop_nonce`, with the nonce in the header `DPoP-Nonce`.
    """
    form = await read_form(request)
    if "grant_type" not in form:
        raise Invalid("The parameter grant_type is missing.")
    grant = GRANTS.get(form["grant_type"][0])
    if grant is None:
        raise UnsupportedGrantType
    return JsonResponse(await grant(request, form), headers=NO_STORE)


@exchange_router.post(
    "/oidc/token",
    operation_id="exchangeToken",
    response_model=TokenResponse,
    **public(
        *(OutsideTokenInvalid, OutsideTokenReplayed, NoPolicyMatches, InvalidScopes, InvalidTarget, UnauthorizedClient, TooManyTokens, IssuerUnreachable),
        *(InvalidProof, NonceNeeded),
        body=True,
        oauth=True,
    ),
)
async def exchange(request: Request, body: ExchangeRequest) -> Response:
    """Exchange another issuer's token for an access token: GitHub Actions', GitLab's, a Kubernetes cluster's.

    Which one is good for what, the trust policies of the organization say that its audience names. Each is good once. It names its issuer's key as `kid`.
    """
    scope = requested_scope({} if body.scope is None else {"scope": [body.scope]})
    return JsonResponse(await outside.exchange(request, body.token, outside.Wanted("oidc", body.agent_id, scope)), headers=NO_STORE)


@oauth_router.post(
    "/token/introspect",
    operation_id="introspectToken",
    response_model=Introspection,
    **oauth(TokenForm, InvalidClient, UnauthorizedClient, NotYourToken, TooManyCalls, security=[{"bearer": []}, {"basic": []}, {}], otherwise="tokens:read"),
)
async def introspect(request: Request) -> Response:
    """Ask whether a token of your organization is active. Authenticate with a bearer token holding `tokens:read`, or as a client."""
    form = await read_form(request)
    presented = _required_token(form)
    await _authenticate(request, form, "tokens:read")
    caller, claims = guard.caller_of(request), await _verified(request, presented)
    own = claims if claims is not None and claims.organization_id == caller.organization_id else None
    instance = instance_of(request)
    if own is None or not await is_alive(instance, own, event=actions.introspection_event(own, caller, instance.clock())):
        await write(request, actions.record_inactive, own.token_id if own is not None else None)
        return JsonResponse({"active": False}, headers=NO_STORE)
    shown = {name: own.claims[name] for name in ("scope", "client_id", "exp", "iat", "sub", "aud", "iss", "jti", "organization_id", "credential_id")}
    policy = {name: own.claims[name] for name in ("policy_id",) if name in own.claims}
    bound = {"token_type": "Bearer"} if own.key_thumbprint is None else {"token_type": "DPoP", "cnf": {"jkt": own.key_thumbprint}}
    return JsonResponse({"active": True, **bound, **shown, **({"act": own.claims["act"]} if own.actors else {}), **policy}, headers=NO_STORE)


@oauth_router.post(
    "/token/revoke",
    operation_id="revokeToken",
    response_class=Response,
    **oauth(
        TokenForm,
        InvalidClient,
        UnauthorizedClient,
        NotYourToken,
        TooManyCalls,
        security=[{"bearer": []}, {"basic": []}, {}],
        otherwise="tokens:write",
        answer="Revoked, or nothing to revoke.",
    ),
)
async def revoke(request: Request) -> Response:
    """Revoke a token: your own, or with `tokens:write` any of your organization's. Unknown and foreign tokens are answered alike."""
    form = await read_form(request)
    presented = _required_token(form)
    await _authenticate(request, form, guard.ANY_TOKEN)
    claims = await _verified(request, presented)
    if claims is not None:
        await write(request, actions.revoke_token, claims)
    return Response(status_code=200, headers=NO_STORE)


@router.post("/agents/{agentId}/revoke-tokens", status_code=204, operation_id="revokeAgentTokens", **secured("agents:write", AgentNotFound))
async def revoke_all(request: Request, agent_id: Annotated[str, Path(alias="agentId", description="The agent's id.")]) -> Response:
    """Kill every token issued to the agent so far. It may ask for new ones."""
    await write(request, actions.revoke_all_tokens, agent_id)
    return Response(status_code=204)


async def _authenticate(request: Request, form: Form, scope: str) -> Caller:
    """A bearer token with the scope, or the client itself.

    Raises Unauthenticated, Forbidden, InvalidClient, UnauthorizedClient, RateLimited, TooManyCalls.
    """
    if request.headers.get("authorization", "").lower().startswith(("bearer", "dpop")):
        if not _CLIENT_PARAMETERS.isdisjoint(form):
            raise Invalid("Authenticate either with an access token or as a client, not both.")
        return await guard.authenticate(request, scope)
    client = presented_client(request, form)
    instance = instance_of(request)
    if client is None:
        entry = AuditEntry("auth.failed", "failure", metadata={"reason": "no authentication"})
        raise InvalidClient("authenticate as a client, or with an access token", audit=[entry])
    source = guard.origin(request)
    settled, caller = await settle(request, client, lambda agent, now: actions.caller_entry(agent, now, source), lambda caller: caller)
    require_call(settled, instance.clock())
    request.scope["agentidp.caller"] = caller
    return caller


def _required_token(form: Form) -> str:
    if "token" not in form:
        raise Invalid("The parameter token is missing.")
    return form["token"][0]


async def _verified(request: Request, presented: str) -> VerifiedClaims | None:
    """The claims of an unexpired access token of ours, whoever it was issued to; None for anything else."""
    instance = instance_of(request)
    try:
        return await verify_access_token(presented, instance.keys, issuer=instance.settings.issuer, now=instance.clock())
    except InvalidToken:
        return None
