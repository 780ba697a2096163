"""/agents/{agentId}/credentials: generate a secret or register a public key, list, rotate, revoke. Secrets are shown once and never listed."""

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from pydantic import ConfigDict, Field, StringConstraints, WithJsonSchema
from starlette.requests import Request
from starlette.responses import Response

from agentidp.agents.queries import get_agent
from agentidp.agents.rules import AgentNotActive, AgentNotFound
from agentidp.auth.guard import ANY_TOKEN, GuardedRoute, read, write
from agentidp.auth.instance import instance_of
from agentidp.auth.jwk import ForeignKey, InvalidKey, parse_public
from agentidp.core import limits
from agentidp.core.addresses import ForbiddenUrl, check_url
from agentidp.core.errors import Invalid, InvalidFields
from agentidp.core.http import NO_STORE
from agentidp.core.operations import secured
from agentidp.core.resources import InstantIn, InstantOut, Page, PageParameters, RequestBody, Resource, Uuid, WholeNumber, absent
from agentidp.credentials import actions, queries
from agentidp.credentials.rules import (
    CredentialAlreadyRevoked,
    CredentialNotFound,
    KeyAlreadyRegistered,
    KeyNotRotated,
    KeysPublishedElsewhere,
    TooManyCredentials,
)
from agentidp.db.paging import page_request

router = APIRouter(prefix="/api/v1/agents/{agentId}/credentials", tags=["Credentials"], route_class=GuardedRoute)

CredentialStatus = Literal["active", "revoked", "expired"]
CredentialKind = Literal["secret", "public_key"]  # that can be asked for here
AgentPath = Annotated[str, Path(alias="agentId", description="The agent's id.")]
CredentialPath = Annotated[str, Path(alias="credentialId", description="The credential's id.")]
_NOTE = "Any token that the agent got by itself; for another agent {scope}."
_WRITE, _READ = _NOTE.format(scope="agents:write, and every scope which that agent has"), _NOTE.format(scope="agents:read")


class CredentialResource(Resource):
    """A credential, without its secret."""

    credential_id: Uuid
    client_id: Uuid = Field(description="The agent's id; send it as `client_id`.")
    kind: Literal["secret", "public_key", "policy"] = Field(description="`policy`: it stands for a trust policy.")
    status: CredentialStatus
    hint: str = Field(description="The public beginning of the secret, the key's thumbprint (RFC 7638), the host that publishes keys, or the policy's id.")
    created_at: InstantOut
    expires_at: InstantOut | None
    revoked_at: InstantOut | None
    last_used_at: InstantOut | None = Field(description="To the minute.")


class CredentialWithSecret(CredentialResource):
    """A credential with its secret: the only time it is shown."""

    client_secret: str = Field(description="Store it now; it cannot be shown again.")


def _kind_of_key(kty: str, alg: str, required: dict[str, Any]) -> dict[str, Any]:
    return {"properties": {"kty": {"const": kty}, "alg": {"const": alg}, **required}, "required": ["kty", *required]}


_32_BYTES = {"type": "string", "pattern": "^[A-Za-z0-9_-]{43}$"}
_JWK_SCHEMA = {
    "type": "object",
    "maxProperties": limits.FOREIGN_KEY_MEMBERS_MAX,
    "properties": {
        "use": {"const": "sig"},
        "key_ops": {"const": ["verify"]},
        "kid": _32_BYTES,
        **dict.fromkeys(("d", "p", "q", "dp", "dq", "qi", "oth", "k"), False),
    },
    "oneOf": [
        _kind_of_key("EC", "ES256", {"crv": {"const": "P-256"}, "x": _32_BYTES, "y": _32_BYTES}),
        _kind_of_key("RSA", "RS256", {"n": {"type": "string", "pattern": "^[A-Za-z0-9_-]{342,683}$"}, "e": {"const": "AQAB"}}),
        _kind_of_key("OKP", "Ed25519", {"crv": {"const": "Ed25519"}, "x": _32_BYTES}),
    ],
    "examples": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}],
}
_KIND_AND_KEY: dict[str, Any] = {
    "oneOf": [
        {"properties": {"kind": {"const": "secret"}, "jwk": False, "jwksUri": False}},
        {"properties": {"kind": {"const": "public_key"}, "jwksUri": False}, "required": ["kind", "jwk"]},
        {"properties": {"kind": {"const": "public_key"}, "jwk": False}, "required": ["kind", "jwksUri"]},
    ]
}
_URI = StringConstraints(min_length=1, max_length=limits.URL_CHARACTERS_MAX, pattern=r"^https?://[!-~]+$")


class CredentialRequest(RequestBody):
    """What a new credential is to be: a secret that we make, or a public key whose private half never leaves the agent."""

    model_config = ConfigDict(json_schema_extra=_KIND_AND_KEY)

    kind: CredentialKind = "secret"
    jwk: Annotated[dict[str, Any], Field(max_length=limits.FOREIGN_KEY_MEMBERS_MAX), WithJsonSchema(_JWK_SCHEMA)] = Field(
        default_factory=absent,
        description="With kind `public_key`: the key (RFC 7517), for ES256, RS256 (2048 to 4096 bits) or Ed25519. Never a private one. "
        "Without `kid`, or with its thumbprint (RFC 7638) as one; assertions name it by that or by the `credentialId`.",
    )
    jwks_uri: Annotated[str, _URI] = Field(
        default_factory=absent,
        description="Instead of `jwk`: where the agent publishes its keys (RFC 7517 section 5), at a public https address. Its assertions name one as `kid`.",
        examples=["https://agent.example.com/jwks.json"],
    )
    expires_at: InstantIn | None = Field(None, description="In the future; no expiry when absent.")

    def key(self, *, allow_loopback: bool) -> ForeignKey | str | None:
        """The key, or where it is published; None for a secret. Raises Invalid."""
        given = self.model_fields_set & {"jwk", "jwks_uri"}
        if len(given) != (self.kind == "public_key"):
            raise InvalidFields([("jwk", "either this or jwksUri is needed for a public key" if self.kind == "public_key" else "goes with kind public_key")])
        try:
            if "jwks_uri" in given:
                check_url(self.jwks_uri, allow_loopback=allow_loopback)
                return self.jwks_uri
            return _registrable(self.jwk) if given else None
        except InvalidKey as error:
            raise InvalidFields([("jwk", str(error))]) from error
        except ForbiddenUrl as error:
            fields = [{"field": "jwksUri", "message": str(error)}]
            raise Invalid(f"jwksUri: {error}", details={"fields": fields, "reason": error.reason}) from error


def _registrable(jwk: dict[str, Any]) -> ForeignKey:
    """The key. Raises InvalidKey, also for one under a name that no assertion could use."""
    key = parse_public(jwk)
    if jwk.get("kid", key.thumbprint) != key.thumbprint:
        raise InvalidKey(f"has a kid of its own: leave kid out; assertions name the key by its thumbprint, {key.thumbprint}, or by the credentialId")
    return key


class RotationRequest(RequestBody):
    """How to replace the secret."""

    expires_at: InstantIn | None = Field(default_factory=lambda: None, description="A new expiry, or null for none; unchanged when absent.")
    overlap_seconds: Annotated[int, Field(ge=0, le=limits.ROTATION_OVERLAP_SECONDS_MAX, description="How long the old secret keeps working."), WholeNumber] = 0


class CredentialListParameters(PageParameters):
    """Filters."""

    status: CredentialStatus | None = None


def _shown_once(response: Response, created: actions.NewCredential) -> CredentialWithSecret:
    response.headers.update(NO_STORE)
    return CredentialWithSecret(**asdict(created.credential), client_secret=created.secret.text)


@router.post(
    "",
    status_code=201,
    operation_id="generateCredential",
    **secured(
        ANY_TOKEN,
        AgentNotFound,
        AgentNotActive,
        TooManyCredentials,
        KeyAlreadyRegistered,
        KeysPublishedElsewhere,
        body=True,
        otherwise="agents:write",
        scope_note=_WRITE,
    ),
)
async def generate(
    request: Request, response: Response, agent_id: AgentPath, body: CredentialRequest | None = None
) -> CredentialWithSecret | CredentialResource:
    """Generate a secret, or register a public key, of which nothing secret is answered. At most 10 active credentials an agent."""
    asked, allow_loopback = body or CredentialRequest(), instance_of(request).settings.webhooks.allow_loopback
    expires_at, key = asked.expires_at, asked.key(allow_loopback=allow_loopback)
    if isinstance(key, str):
        return CredentialResource.model_validate(await write(request, actions.register_key_set, agent_id, key, expires_at))
    if key is not None:
        return CredentialResource.model_validate(await write(request, actions.register_key, agent_id, key, expires_at))
    return _shown_once(response, await write(request, actions.generate_credential, agent_id, instance_of(request).secret_key, expires_at))


@router.get("", operation_id="listCredentials", **secured(ANY_TOKEN, AgentNotFound, otherwise="agents:read", scope_note=_READ))
async def list_(request: Request, agent_id: AgentPath, parameters: Annotated[CredentialListParameters, Query()]) -> Page[CredentialResource]:
    """List the agent's credentials, newest first; never a secret."""
    wanted = page_request(parameters.limit, parameters.page, parameters.cursor)
    page = await read(request, queries.list_credentials, agent_id, parameters.status, wanted)
    agent = await read(request, get_agent, agent_id)
    now = instance_of(request).clock()
    data = [CredentialResource.model_validate(queries.to_credential(row, agent.status, now)) for row in page.rows]
    return Page(data=data, page=page.page, limit=page.limit, total=page.total, next_cursor=page.next_cursor)


@router.post(
    "/{credentialId}/rotate",
    operation_id="rotateCredential",
    **secured(
        ANY_TOKEN,
        AgentNotFound,
        CredentialNotFound,
        CredentialAlreadyRevoked,
        AgentNotActive,
        TooManyCredentials,
        KeyNotRotated,
        body=True,
        otherwise="agents:write",
        scope_note=_WRITE,
    ),
)
async def rotate(
    request: Request, response: Response, agent_id: AgentPath, credential_id: CredentialPath, body: RotationRequest | None = None
) -> CredentialWithSecret:
    """Replace the secret; a key is replaced by another credential. With `overlapSeconds` both work for a while, so that nothing has to stop."""
    asked = body.model_dump(exclude_unset=True) if body else {}
    created = await write(request, actions.rotate_credential, agent_id, credential_id, instance_of(request).secret_key, **asked)
    return _shown_once(response, created)


@router.delete(
    "/{credentialId}",
    status_code=204,
    operation_id="revokeCredential",
    **secured(ANY_TOKEN, AgentNotFound, CredentialNotFound, CredentialAlreadyRevoked, otherwise="agents:write", scope_note=_WRITE),
)
async def revoke(request: Request, agent_id: AgentPath, credential_id: CredentialPath) -> Response:
    """Revoke a credential, for good: the tokens issued with it die at once."""
    await write(request, actions.revoke_credential, agent_id, credential_id)
    return Response(status_code=204)
