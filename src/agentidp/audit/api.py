"""/audit: the organization's history. No operation writes or deletes."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BeforeValidator, Field
from starlette.requests import Request

from agentidp.audit import queries
from agentidp.audit.rules import AuditEventNotFound, AuditFilter
from agentidp.auth.guard import GuardedRoute, read
from agentidp.core import limits
from agentidp.core.errors import InvalidDateRange
from agentidp.core.operations import secured
from agentidp.core.resources import Filter, InstantIn, InstantOut, Page, PageParameters, Resource, Uuid, parse_number
from agentidp.db.paging import page_request

router = APIRouter(prefix="/api/v1/audit", tags=["Audit"], route_class=GuardedRoute)


class AuditEventResource(Resource):
    """Something that was done, or refused."""

    event_id: Uuid
    seq: int | None = Field(description="Place in the organization's chain, from 1; null until sealed.")
    organization_id: Uuid
    agent_id: Uuid | None = Field(description="Who did it; null where nobody was proven.")
    action: str = Field(examples=["token.issued"])
    outcome: Literal["success", "failure"]
    target_type: str | None
    target_id: str | None
    ip_address: str | None
    user_agent: str | None
    request_id: str | None
    metadata: dict[str, Any]
    timestamp: InstantOut
    previous_hash: str | None
    hash: str | None


class AuditListParameters(PageParameters):
    """Filters; all that are given must match."""

    limit: Annotated[int, Field(ge=1, le=limits.AUDIT_PAGE_LIMIT_MAX, description="Rows on a page."), BeforeValidator(parse_number)] = (
        limits.AUDIT_PAGE_LIMIT_DEFAULT
    )
    page: Annotated[int, Field(ge=1, le=50, description="Page number; `page` × `limit` at most 10,000."), BeforeValidator(parse_number)] | None = None
    agent_id: Uuid | None = None
    action: Filter | None = Field(None, examples=["auth.failed"])
    outcome: Literal["success", "failure"] | None = None
    target_id: Filter | None = None
    request_id: Filter | None = None
    from_date: InstantIn | None = Field(None, description="Not before this instant.")
    to_date: InstantIn | None = Field(None, description="Not after this instant.")


@router.get("", operation_id="listAuditEvents", **secured("audit:read", InvalidDateRange))
async def list_(request: Request, parameters: Annotated[AuditListParameters, Query()]) -> Page[AuditEventResource]:
    """List what happened in the organization, newest first."""
    if parameters.from_date is not None and parameters.to_date is not None and parameters.from_date > parameters.to_date:
        raise InvalidDateRange
    wanted = AuditFilter(
        parameters.agent_id,
        parameters.action,
        parameters.outcome,
        parameters.target_id,
        parameters.request_id,
        parameters.from_date,
        parameters.to_date,
    )
    page = await read(request, queries.list_events, wanted, page_request(parameters.limit, parameters.page, parameters.cursor))
    data = [AuditEventResource.model_validate(queries.to_event(row)) for row in page.rows]
    return Page(data=data, page=page.page, limit=page.limit, total=page.total, next_cursor=page.next_cursor)


@router.get("/{eventId}", operation_id="getAuditEvent", **secured("audit:read", AuditEventNotFound))
async def get(request: Request, event_id: Annotated[str, Path(alias="eventId", description="The event's id.")]) -> AuditEventResource:
    """Look up one event."""
    return AuditEventResource.model_validate(await read(request, queries.get_event, event_id))
