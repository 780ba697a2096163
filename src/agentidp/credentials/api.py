"""/agents/{agentId}/credentials: generate, list, rotate, revoke. Secrets are shown once and never listed."""

from dataclasses import asdict
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from agentidp.agents.queries import get_agent
from agentidp.agents.rules import AgentNotActive, AgentNotFound
from agentidp.auth.guard import ANY_TOKEN, GuardedRoute, read, write
from agentidp.auth.instance import instance_of
from agentidp.core import limits
from agentidp.core.http import NO_STORE
from agentidp.core.operations import secured
from agentidp.core.resources import InstantIn, InstantOut, Page, PageParameters, RequestBody, Resource, Uuid, WholeNumber
from agentidp.credentials import actions, queries
from agentidp.credentials.rules import CredentialAlreadyRevoked, CredentialNotFound, NoSecret, TooManyCredentials
from agentidp.db.paging import page_request

router = APIRouter(prefix="/api/v1/agents/{agentId}/credentials", tags=["Credentials"], route_class=GuardedRoute)

CredentialStatus = Literal["active", "revoked", "expired"]
AgentPath = Annotated[str, Path(alias="agentId", description="The agent's id.")]
CredentialPath = Annotated[str, Path(alias="credentialId", description="The credential's id.")]
_NOTE = "Any token of the agent itself; for another agent {scope}."
_WRITE, _READ = _NOTE.format(scope="agents:write, and every scope which that agent has"), _NOTE.format(scope="agents:read")


class CredentialResource(Resource):
    """A credential, without its secret."""

    credential_id: Uuid
    client_id: Uuid = Field(description="The agent's id; send it as `client_id`.")
    kind: Literal["secret", "policy"] = Field(description="`policy`: it stands for a trust policy, and has no secret.")
    status: CredentialStatus
    hint: str = Field(description="The public beginning of the secret, or the id of the policy.")
    created_at: InstantOut
    expires_at: InstantOut | None
    revoked_at: InstantOut | None
    last_used_at: InstantOut | None = Field(description="To the minute.")


class CredentialWithSecret(CredentialResource):
    """A credential with its secret: the only time it is shown."""

    client_secret: str = Field(description="Store it now; it cannot be shown again.")


class CredentialRequest(RequestBody):
    """What a new credential is to be."""

    expires_at: InstantIn | None = Field(None, description="In the future; no expiry when absent.")


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
    **secured(ANY_TOKEN, AgentNotFound, AgentNotActive, TooManyCredentials, body=True, otherwise="agents:write", scope_note=_WRITE),
)
async def generate(request: Request, response: Response, agent_id: AgentPath, body: CredentialRequest | None = None) -> CredentialWithSecret:
    """Generate a credential. At most 10 active ones an agent."""
    expires_at = body.expires_at if body else None
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
        NoSecret,
        AgentNotActive,
        TooManyCredentials,
        body=True,
        otherwise="agents:write",
        scope_note=_WRITE,
    ),
)
async def rotate(
    request: Request, response: Response, agent_id: AgentPath, credential_id: CredentialPath, body: RotationRequest | None = None
) -> CredentialWithSecret:
    """Replace the secret. With `overlapSeconds` both work for a while, so that nothing has to stop."""
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
