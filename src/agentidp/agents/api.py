"""/agents: the registry of an organization's agents."""

from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import Field, StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from agentidp.agents import actions, queries
from agentidp.agents.rules import (
    AgentAlreadyDecommissioned,
    AgentAlreadyExists,
    AgentFilter,
    AgentNotFound,
    AgentStatus,
    AgentType,
    DeploymentEnv,
    NewAgent,
    OrganizationNotActive,
)
from agentidp.auth.guard import GuardedRoute, read, write
from agentidp.auth.instance import instance_of
from agentidp.auth.scopes import DEFAULT_SCOPES, REGISTRATION_SCOPE, SCOPES, to_text
from agentidp.core import limits
from agentidp.core.errors import InvalidScopes, OverLimit
from agentidp.core.operations import secured
from agentidp.core.resources import (
    ABSENT,
    UNIQUE_SCHEMA,
    Email,
    Filter,
    InstantIn,
    InstantOut,
    Line128,
    Page,
    PageParameters,
    RequestBody,
    Resource,
    Unique,
    Uuid,
    absent,
)
from agentidp.db.paging import page_request

router = APIRouter(prefix="/api/v1/agents", tags=["Agents"], route_class=GuardedRoute)

_SEMVER = (
    r"^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)"
    r"(-(0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*))*)?"
    r"(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?$"
)
_CAPABILITY = r"^[a-z0-9_.-]+:([a-z0-9_.-]+|\*)$"

Version = Annotated[str, StringConstraints(max_length=64, pattern=_SEMVER), Field(description="Semantic Versioning 2.0", examples=["1.4.0"])]
Capability = Annotated[str, StringConstraints(max_length=128, pattern=_CAPABILITY)]
Capabilities = Annotated[
    list[Capability],
    Field(min_length=1, max_length=limits.CAPABILITIES_PER_AGENT_MAX, examples=[["resume:read", "candidate:*"]], json_schema_extra=UNIQUE_SCHEMA),
    Unique,
]
Scopes = Annotated[
    list[Annotated[str, StringConstraints(max_length=64), Field(json_schema_extra={"enum": list(SCOPES)})]],
    Field(max_length=len(SCOPES), examples=[["agents:read", "tokens:read"]], json_schema_extra=UNIQUE_SCHEMA),
    Unique,
]
Description = Annotated[str, StringConstraints(max_length=1024, pattern=r"^[^\x00-\x1f\x7f]*$")]
AgentPath = Annotated[str, Path(alias="agentId", description="The agent's id.", examples=["0198c5a2-7d1e-7c3a-9f00-5b1d2e3f4a5b"])]


class AgentResource(Resource):
    """An agent: a principal of an organization."""

    agent_id: Uuid
    organization_id: Uuid
    email: str
    name: str
    description: str
    agent_type: AgentType
    version: str
    capabilities: list[str]
    owner: str
    deployment_env: DeploymentEnv
    scopes: list[str]
    is_public: bool
    status: AgentStatus
    did: str | None
    expires_at: InstantOut | None
    created_at: InstantOut
    updated_at: InstantOut


class AgentRegistration(RequestBody):
    """A new agent. `scopes` may hold only scopes of your own token."""

    email: Email
    agent_type: AgentType
    version: Version
    capabilities: Capabilities
    owner: Line128 = Field(examples=["talent-team"])
    deployment_env: DeploymentEnv
    name: Line128 = Field(default_factory=absent, description="Default: the local part of the email.", examples=["Screener 1"])
    description: Description = ""
    scopes: Scopes = Field(default_factory=lambda: sorted(DEFAULT_SCOPES), description=f"Default: {to_text(DEFAULT_SCOPES)}.")
    is_public: bool = False
    expires_at: InstantIn | None = Field(None, description="In the future; the agent counts as suspended from then on.")


class AgentPatch(RequestBody):
    """A JSON merge patch (RFC 7396); only `expiresAt` may be null."""

    name: Line128 = ABSENT
    description: Description = ABSENT
    agent_type: AgentType = ABSENT
    version: Version = ABSENT
    capabilities: Capabilities = ABSENT
    owner: Line128 = ABSENT
    deployment_env: DeploymentEnv = ABSENT
    scopes: Scopes = ABSENT
    is_public: bool = ABSENT
    status: AgentStatus = ABSENT
    expires_at: InstantIn | None = ABSENT


class AgentListParameters(PageParameters):
    """Filters; all that are given must match."""

    owner: Filter | None = None
    agent_type: AgentType | None = None
    status: AgentStatus | None = None
    deployment_env: DeploymentEnv | None = None
    capability: Capability | None = None
    q: Filter | None = Field(None, description="Text to look for in name, email and description.")


@router.post(
    "",
    status_code=201,
    operation_id="registerAgent",
    **secured("agents:write", AgentAlreadyExists, OrganizationNotActive, InvalidScopes, OverLimit, body=True, once=REGISTRATION_SCOPE),
)
async def register(request: Request, body: AgentRegistration) -> AgentResource:
    """Register an agent. It can do nothing until it has a credential."""
    values = body.model_dump()
    values |= {"email": body.email.lower(), "capabilities": tuple(body.capabilities), "scopes": frozenset(body.scopes)}
    instance = instance_of(request)
    agent = await write(request, actions.register_agent, NewAgent(**values), plans=instance.plans)
    instance.metrics.agents_registered.inc()
    return AgentResource.model_validate(agent)


@router.get("", operation_id="listAgents", **secured("agents:read"))
async def list_(request: Request, parameters: Annotated[AgentListParameters, Query()]) -> Page[AgentResource]:
    """List the organization's agents, newest first."""
    wanted = AgentFilter(parameters.owner, parameters.agent_type, parameters.status, parameters.deployment_env, parameters.capability, parameters.q)
    page = await read(request, queries.list_agents, wanted, page_request(parameters.limit, parameters.page, parameters.cursor))
    now = instance_of(request).clock()
    data = [AgentResource.model_validate(queries.to_agent(row, now)) for row in page.rows]
    return Page(data=data, page=page.page, limit=page.limit, total=page.total, next_cursor=page.next_cursor)


@router.get("/{agentId}", operation_id="getAgent", **secured("agents:read", AgentNotFound))
async def get(request: Request, agent_id: AgentPath) -> AgentResource:
    """Look up one agent."""
    return AgentResource.model_validate(await read(request, queries.get_agent, agent_id))


@router.patch("/{agentId}", operation_id="updateAgent", **secured("agents:write", AgentNotFound, AgentAlreadyDecommissioned, InvalidScopes, body=True))
async def update(request: Request, agent_id: AgentPath, body: AgentPatch) -> AgentResource:
    """Change an agent. Suspending or decommissioning it kills every token it holds at once."""
    patch = body.model_dump(exclude_unset=True)
    for name in patch.keys() & {"capabilities", "scopes"}:
        patch[name] = to_text(patch[name])
    return AgentResource.model_validate(await write(request, actions.update_agent, agent_id, patch))


@router.delete("/{agentId}", status_code=204, operation_id="decommissionAgent", **secured("agents:write", AgentNotFound, AgentAlreadyDecommissioned))
async def decommission(request: Request, agent_id: AgentPath) -> Response:
    """Decommission an agent, for good: its credentials and tokens die at once; its history stays."""
    await write(request, actions.decommission_agent, agent_id)
    return Response(status_code=204)
