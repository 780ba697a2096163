"""/organizations: the tenants, for the instance's operator; each tenant's own administrators see and manage their own."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, Concatenate, Literal, ParamSpec, TypeVar

from fastapi import APIRouter, Path, Query
from pydantic import Field, StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from agentidp.agents.rules import AgentAlreadyDecommissioned, AgentAlreadyExists, AgentNotFound, OrganizationNotActive
from agentidp.auth.guard import ANY_TOKEN, GuardedRoute, caller_of
from agentidp.auth.instance import instance_of
from agentidp.core import limits
from agentidp.core.caller import OPERATOR_SCOPE, SYSTEM
from agentidp.core.errors import OverLimit
from agentidp.core.http import NO_STORE
from agentidp.core.ids import new_id
from agentidp.core.operations import secured
from agentidp.core.plans import PlanTier
from agentidp.core.resources import ABSENT, LINE, Email, InstantOut, Page, PageParameters, RequestBody, Resource, Uuid, WholeNumber
from agentidp.db.paging import page_request
from agentidp.db.unit import Tx
from agentidp.organizations import actions, queries
from agentidp.organizations.rules import (
    AlreadyMember,
    HasActiveAgents,
    LastAdministrator,
    OperatorsOrganization,
    OrganizationDeleted,
    OrganizationNotFound,
    OrganizationStatus,
    Role,
    SlugTaken,
    acting_in,
)

P = ParamSpec("P")
T = TypeVar("T")

router = APIRouter(prefix="/api/v1/organizations", tags=["Organizations"], route_class=GuardedRoute)

Name = Annotated[str, StringConstraints(min_length=2, max_length=100, pattern=LINE), Field(examples=["Acme"])]
Slug = Annotated[
    str,
    StringConstraints(min_length=2, max_length=50, pattern=r"^[a-z0-9](-?[a-z0-9])*$"),
    Field(description="Unique in the instance; a deleted organization keeps its own.", examples=["acme"]),
]
Limit = Annotated[int, Field(ge=0, le=limits.ORGANIZATION_LIMIT_MAX), WholeNumber]
OrganizationPath = Annotated[str, Path(alias="orgId", description="The organization's id.")]
AgentPath = Annotated[str, Path(alias="agentId", description="The agent's id.")]
_OWN: dict[str, Any] = {"otherwise": OPERATOR_SCOPE, "scope_note": "Any token of an administrator of the organization; for another organization admin:orgs."}


class OrganizationResource(Resource):
    """A tenant."""

    organization_id: Uuid
    name: str
    slug: str
    plan_tier: PlanTier
    max_agents: int | None = Field(description="How many agents it may have that are not decommissioned; null: as many as the plan allows.")
    max_tokens_per_day: int | None = Field(description="How many tokens it may be issued in a UTC day; null: as many as the plan allows.")
    status: OrganizationStatus
    created_at: InstantOut
    updated_at: InstantOut


class OrganizationRequest(RequestBody):
    """A new organization. It is empty: register its first administrator next."""

    name: Name
    slug: Slug
    plan_tier: PlanTier = "free"
    max_agents: Limit | None = None
    max_tokens_per_day: Limit | None = None


class OrganizationPatch(RequestBody):
    """A JSON merge patch (RFC 7396); only the limits may be null. Whoever is not the operator may send `name` and `slug` only."""

    name: Name = ABSENT
    slug: Slug = ABSENT
    plan_tier: PlanTier = ABSENT
    max_agents: Limit | None = ABSENT
    max_tokens_per_day: Limit | None = ABSENT
    status: Literal["active", "suspended"] = ABSENT


class OrganizationListParameters(PageParameters):
    """Filters."""

    status: OrganizationStatus | None = None


class MemberResource(Resource):
    """An agent with a role in its own organization."""

    organization_id: Uuid
    agent_id: Uuid
    role: Role
    created_at: InstantOut


class MemberRequest(RequestBody):
    """An agent of the organization, and what it is to be there."""

    agent_id: Uuid = Field(examples=["0198c5a2-7d1e-7c3a-9f00-5b1d2e3f4a5b"])
    role: Role


class AdministratorRequest(RequestBody):
    """A new agent that is to administer the organization."""

    email: Email


class AdministratorWithSecret(Resource):
    """An administrator with its credential: the only time the secret is shown."""

    organization_id: Uuid
    agent_id: Uuid
    client_id: Uuid = Field(description="The agent's id; send it as `client_id`.")
    client_secret: str = Field(description="Store it now; it cannot be shown again.")
    scopes: list[str] = Field(description="What it may ask for: the scopes of your token, but admin:orgs.")


async def _read(request: Request, org_id: str, query: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
    """As `guard.read`, but in the organization that the path names."""
    return await instance_of(request).database.read(query, acting_in(caller_of(request), org_id), *args, **kwargs)


async def _write(request: Request, org_id: str, action: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
    return await instance_of(request).database.write(action, acting_in(caller_of(request), org_id), *args, **kwargs)


@router.post("", status_code=201, operation_id="createOrganization", **secured(OPERATOR_SCOPE, SlugTaken, body=True))
async def create(request: Request, body: OrganizationRequest) -> OrganizationResource:
    """Create an organization. Its history begins with this, in itself."""
    org_id = new_id(instance_of(request).clock())
    return OrganizationResource.model_validate(await _write(request, org_id, actions.create_organization, org_id, **body.model_dump()))


@router.get("", operation_id="listOrganizations", **secured(OPERATOR_SCOPE))
async def list_(request: Request, parameters: Annotated[OrganizationListParameters, Query()]) -> Page[OrganizationResource]:
    """List all organizations of the instance, newest first."""
    wanted = page_request(parameters.limit, parameters.page, parameters.cursor)
    page = await instance_of(request).database.read(queries.list_organizations, SYSTEM, parameters.status, wanted)
    data = [OrganizationResource.model_validate(queries.to_organization(row)) for row in page.rows]
    return Page(data=data, page=page.page, limit=page.limit, total=page.total, next_cursor=page.next_cursor)


@router.get("/{orgId}", operation_id="getOrganization", **secured(ANY_TOKEN, OrganizationNotFound, **_OWN))
async def get(request: Request, org_id: OrganizationPath) -> OrganizationResource:
    """Look up one organization."""
    return OrganizationResource.model_validate(await _read(request, org_id, queries.get_organization))


@router.patch(
    "/{orgId}",
    operation_id="updateOrganization",
    **secured(ANY_TOKEN, OrganizationNotFound, OrganizationDeleted, OperatorsOrganization, SlugTaken, body=True, **_OWN),
)
async def update(request: Request, org_id: OrganizationPath, body: OrganizationPatch) -> OrganizationResource:
    """Change an organization. Suspending it stops the tokens of all its agents at once; those that have not expired by then are good again after
    `{"status": "active"}`.
    """
    return OrganizationResource.model_validate(await _write(request, org_id, actions.update_organization, body.model_dump(exclude_unset=True)))


@router.delete(
    "/{orgId}",
    status_code=204,
    operation_id="deleteOrganization",
    **secured(OPERATOR_SCOPE, OrganizationNotFound, OrganizationDeleted, OperatorsOrganization, HasActiveAgents),
)
async def delete(request: Request, org_id: OrganizationPath) -> Response:
    """Delete an organization without active agents, for good: nothing of it works again; its history stays."""
    await _write(request, org_id, actions.delete_organization)
    return Response(status_code=204)


@router.post(
    "/{orgId}/administrators",
    status_code=201,
    operation_id="registerAdministrator",
    **secured(OPERATOR_SCOPE, OrganizationNotFound, OrganizationDeleted, OrganizationNotActive, AgentAlreadyExists, OverLimit, body=True),
)
async def register_administrator(request: Request, response: Response, org_id: OrganizationPath, body: AdministratorRequest) -> AdministratorWithSecret:
    """Register an agent with a credential that administers the organization. The first one, or one more when all secrets are lost."""
    instance = instance_of(request)
    created = await _write(request, org_id, actions.register_administrator, body.email.lower(), instance.secret_key, plans=instance.plans)
    response.headers.update(NO_STORE)
    return AdministratorWithSecret(**asdict(created), client_id=created.agent_id)


@router.post(
    "/{orgId}/members",
    status_code=201,
    operation_id="addMember",
    **secured(ANY_TOKEN, OrganizationNotFound, AgentNotFound, AlreadyMember, OrganizationDeleted, AgentAlreadyDecommissioned, body=True, **_OWN),
)
async def add_member(request: Request, org_id: OrganizationPath, body: MemberRequest) -> MemberResource:
    """Make an agent of the organization a member or an administrator of it. To change a role, remove the member and add it again."""
    return MemberResource.model_validate(await _write(request, org_id, actions.add_member, body.agent_id, body.role))


@router.get("/{orgId}/members", operation_id="listMembers", **secured(ANY_TOKEN, OrganizationNotFound, **_OWN))
async def list_members(request: Request, org_id: OrganizationPath, parameters: Annotated[PageParameters, Query()]) -> Page[MemberResource]:
    """List the organization's members, the newest agent first; decommissioned agents are none."""
    page = await _read(request, org_id, queries.list_members, page_request(parameters.limit, parameters.page, parameters.cursor))
    data = [MemberResource.model_validate(queries.to_member(row)) for row in page.rows]
    return Page(data=data, page=page.page, limit=page.limit, total=page.total, next_cursor=page.next_cursor)


@router.delete(
    "/{orgId}/members/{agentId}",
    status_code=204,
    operation_id="removeMember",
    **secured(ANY_TOKEN, OrganizationNotFound, AgentNotFound, LastAdministrator, **_OWN),
)
async def remove_member(request: Request, org_id: OrganizationPath, agent_id: AgentPath) -> Response:
    """End an agent's role in the organization, at once. The last administrator can be removed by the operator only."""
    await _write(request, org_id, actions.remove_member, agent_id)
    return Response(status_code=204)
