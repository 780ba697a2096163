"""/federation: an organization's partners, and whether a token is one of theirs."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path
from fastapi import Query as QueryParameter
from pydantic import Field, StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from agentidp.agents.rules import OrganizationNotActive
from agentidp.auth.guard import GuardedRoute, caller_of, read, write
from agentidp.auth.instance import instance_of
from agentidp.core import limits
from agentidp.core.addresses import ForbiddenUrl, check_url
from agentidp.core.errors import InvalidAddress
from agentidp.core.operations import secured
from agentidp.core.resources import ABSENT, LINE, UNIQUE_SCHEMA, InstantIn, InstantOut, Line128, Page, PageParameters, RequestBody, Resource, Unique, Uuid
from agentidp.db.paging import page_request
from agentidp.federation import actions, queries, verifying
from agentidp.federation.rules import (
    FederationUnreachable,
    IssuerTaken,
    NewPartner,
    PartnerNotFound,
    PartnerStatus,
    TooManyPartners,
    require_sound,
)
from agentidp.organizations.queries import get_organization

router = APIRouter(prefix="/api/v1/federation", tags=["Federation"], route_class=GuardedRoute)

Name = Annotated[str, StringConstraints(min_length=2, max_length=100, pattern=LINE), Field(examples=["Partner Ltd"])]
Address = Annotated[str, StringConstraints(min_length=1, max_length=limits.RESOURCE_CHARACTERS_MAX, pattern=r"^https?://[!-~]+$")]
KeysAddress = Annotated[
    Address, Field(description="Where its keys are (RFC 7517): these verify its tokens, and no others.", examples=["https://id.partner.example/jwks.json"])
]
Organizations = Annotated[
    list[Line128],
    Field(
        max_length=limits.PARTNER_ORGANIZATIONS_MAX,
        json_schema_extra=UNIQUE_SCHEMA,
        description="The partner's organizations, as its tokens name them in `organization_id`, else `org_id`, else `org`; empty: any, or none.",
        examples=[["0198c5a2-7d1e-7c3a-9f00-5b1d2e3f4a5b"]],
    ),
    Unique,
]
PartnerPath = Annotated[str, Path(alias="partnerId", description="The partner's id.")]
_ADMINISTRATORS: dict[str, Any] = {"administrators": True, "scope_note": "Only for administrators of the organization, or with admin:orgs."}


class PartnerRequest(RequestBody):
    """Another issuer."""

    name: Name
    issuer: Address = Field(description="Its `iss`, letter by letter. It cannot be changed later.", examples=["https://id.partner.example"])
    jwks_uri: KeysAddress
    allowed_organizations: Organizations = Field(default_factory=list)
    expires_at: InstantIn | None = Field(None, description="In the future: from then on no token of the partner is valid. Without it, that is never so.")


class PartnerPatch(RequestBody):
    """A JSON merge patch (RFC 7396); only `expiresAt` may be null."""

    name: Name = ABSENT
    jwks_uri: KeysAddress = ABSENT
    allowed_organizations: Organizations = ABSENT
    status: Literal["active", "suspended"] = ABSENT
    expires_at: InstantIn | None = ABSENT


class PartnerResource(Resource):
    """A partner."""

    partner_id: Uuid
    name: str
    issuer: str
    jwks_uri: str
    allowed_organizations: list[str]
    status: PartnerStatus = Field(description="`expired` by itself, once `expiresAt` is over.")
    expires_at: InstantOut | None
    created_at: InstantOut
    updated_at: InstantOut


class VerifyRequest(RequestBody):
    """A token that somebody has shown to you."""

    token: Annotated[str, StringConstraints(min_length=1, max_length=limits.TOKEN_CHARACTERS_MAX)] = Field(examples=["eyJhbGciOiJFUzI1NiJ9.e30.AA"])
    expected_issuer: Address | None = Field(None, description="Whose token it has to be; any partner's when absent.")
    expected_audience: Annotated[str, StringConstraints(min_length=1, max_length=limits.RESOURCE_CHARACTERS_MAX)] | None = Field(
        None,
        description="What must be in its `aud`. When absent: this server or `<issuer>/organizations/<organizationId>`, unless the token has no `aud` at all.",
    )


class Verification(Resource):
    """What is known of a token. It is the partner's word: nobody of this server, whatever it claims, and no bearer here."""

    valid: bool
    is_local: Literal[False] = Field(default=False, description="Always false: subject and organization are the partner's, even where they look like yours.")
    partner_id: Uuid | None = Field(description="The partner that has its issuer; null where none has.")
    issuer: str | None = Field(description="This and what follows is null unless the token is valid: nothing is repeated that nobody has proven.")
    subject: str | None
    organization_id: str | None = Field(description="The partner's organization, as the token names it.")
    claims: dict[str, Any] | None
    reason: str | None = Field(description="What is wrong with the token; null when it is valid.")


@router.post(
    "/trust",
    status_code=201,
    operation_id="addPartner",
    **secured("policies:write", OrganizationNotActive, IssuerTaken, TooManyPartners, FederationUnreachable, body=True, **_ADMINISTRATORS),
)
async def trust(request: Request, body: PartnerRequest) -> PartnerResource:
    """Add a partner, whose tokens can be verified from now on. Its keys are fetched, so that a wrong address is noticed now."""
    await read(request, get_organization)
    patch = body.model_dump()
    _require_sound(request, patch)
    await read(request, actions.require_room, body.issuer)  # before anybody is called
    await verifying.require_keys(instance_of(request), caller_of(request), body.issuer, body.jwks_uri)
    return PartnerResource.model_validate(await write(request, actions.add_partner, NewPartner(**patch)))


@router.get("/partners", operation_id="listPartners", **secured("policies:read"))
async def list_(request: Request, parameters: Annotated[PageParameters, QueryParameter()]) -> Page[PartnerResource]:
    """List the organization's partners, newest first."""
    page = await read(request, queries.list_partners, page_request(parameters.limit, parameters.page, parameters.cursor))
    now = instance_of(request).clock()
    data = [PartnerResource.model_validate(queries.to_partner(row, now)) for row in page.rows]
    return Page(data=data, page=page.page, limit=page.limit, total=page.total, next_cursor=page.next_cursor)


@router.get("/partners/{partnerId}", operation_id="getPartner", **secured("policies:read", PartnerNotFound))
async def get(request: Request, partner_id: PartnerPath) -> PartnerResource:
    """Look up one partner."""
    return PartnerResource.model_validate(await read(request, queries.get_partner, partner_id))


@router.patch(
    "/partners/{partnerId}",
    operation_id="updatePartner",
    **secured("policies:write", PartnerNotFound, FederationUnreachable, body=True, **_ADMINISTRATORS),
)
async def update(request: Request, partner_id: PartnerPath, body: PartnerPatch) -> PartnerResource:
    """Change a partner. While it is suspended, none of its tokens is valid."""
    stored, patch = await read(request, queries.get_partner_as_administrator, partner_id), body.model_dump(exclude_unset=True)
    _require_sound(request, patch)
    if "jwks_uri" in patch:
        await verifying.require_keys(instance_of(request), caller_of(request), stored.issuer, patch["jwks_uri"])
    return PartnerResource.model_validate(await write(request, actions.update_partner, partner_id, patch))


@router.delete("/partners/{partnerId}", status_code=204, operation_id="removePartner", **secured("policies:write", PartnerNotFound, **_ADMINISTRATORS))
async def remove(request: Request, partner_id: PartnerPath) -> Response:
    """Remove a partner: none of its tokens is valid any longer."""
    await write(request, actions.remove_partner, partner_id)
    return Response(status_code=204)


@router.post("/verify", operation_id="verifyPartnerToken", **secured("policies:read", body=True))
async def verify(request: Request, body: VerifyRequest) -> Verification:
    """Say whether a token is a partner's, and good now. A bad one is an answer, not an error; only when the partner's keys cannot be had is it 503.

    It names the partner's key as `kid`.
    """
    expected = verifying.Expected(body.expected_issuer, body.expected_audience)
    return Verification.model_validate(await verifying.verify(instance_of(request), caller_of(request), body.token, expected))


def _require_sound(request: Request, patch: dict[str, Any]) -> None:
    """Raises InvalidFields, InvalidAddress."""
    instance = instance_of(request)
    for field, url in {"issuer": patch.get("issuer"), "jwksUri": patch.get("jwks_uri")}.items():
        try:
            if url is not None:
                check_url(url, allow_loopback=instance.settings.webhooks.allow_loopback)
        except ForbiddenUrl as error:
            raise InvalidAddress(field, str(error), error.reason) from error
    require_sound(patch, own_issuer=instance.settings.issuer, own_organization_id=caller_of(request).organization_id, now=instance.clock())
