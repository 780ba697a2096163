"""/audit: the organization's history, and what proves it. No operation changes or deletes an event."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BeforeValidator, Field
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from agentidp.audit import queries
from agentidp.audit.history import export_history, verify_history
from agentidp.audit.rules import AuditEventNotFound, AuditFilter, Dates
from agentidp.auth.guard import GuardedRoute, caller_of, read, write
from agentidp.auth.instance import Instance, instance_of
from agentidp.core import limits
from agentidp.core.caller import Caller
from agentidp.core.errors import InvalidDateRange
from agentidp.core.http import PacedResponse
from agentidp.core.operations import secured
from agentidp.core.resources import Filter, InstantIn, InstantOut, Page, PageParameters, QueryParameters, Resource, Uuid, parse_number
from agentidp.db.paging import page_request
from agentidp.ledger.chain import Reason
from agentidp.ledger.checkpoint import parse_note, verifier_key
from agentidp.ledger.heads import AuditKey, sign_head

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


class CheckpointResource(Resource):
    """A head of the organization's chain, signed."""

    origin: str = Field(description="Whose chain it is: the instance, and the organization.")
    size: int = Field(description="How many events it covers.")
    hash: str = Field(description="The hash of the last of them; zeros for none.")
    time: InstantOut
    note: str = Field(description="The whole as a C2SP signed note. Keep it where whoever runs the server cannot change it.")
    verifier_key: str = Field(description="The key that verifies the note's signature, in the form of C2SP signed notes.")


class VerificationResource(Resource):
    """How far the sealed history is as it was. Events of the last moments, which are not sealed yet, are no part of it."""

    verified: bool
    checked_count: int = Field(description="How many events were found good.")
    from_seq: int | None
    to_seq: int | None = Field(description="The last event found good.")
    broken_at_event_id: str | None = Field(description="The first event that is wrong; null also where it is one that is missing.")
    broken_at_seq: int | None
    reason: Reason | None = Field(
        description="hash: the event was changed. link: it does not follow the one before. gap: events before it are missing. duplicate, organization: it "
        "does not belong there. head: the chain's end or a checkpoint says otherwise. checkpoint: a stored checkpoint was changed or is missing."
    )
    checkpoint: CheckpointResource | None = Field(description="The newest checkpoint that the history was compared with.")
    from_date: InstantOut | None
    to_date: InstantOut | None


class DateParameters(QueryParameters):
    """Which events: from the first to the last of these dates, and whatever is sealed between them, since a chain has no holes."""

    from_date: InstantIn | None = Field(None, description="Not before this instant.")
    to_date: InstantIn | None = Field(None, description="Not after this instant.")


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
    _require_order(parameters)
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


@router.get("/verify", operation_id="verifyAuditEvents", **secured("audit:read", InvalidDateRange))
async def verify(request: Request, parameters: Annotated[DateParameters, Query()]) -> VerificationResource:
    """Recompute the hashes of the sealed history and compare it with its head and with every checkpoint kept here."""
    _require_order(parameters)
    instance, dates = instance_of(request), Dates(parameters.from_date, parameters.to_date)
    with instance.audit_verifications.take(caller_of(request).organization_id):
        found = await verify_history(instance.database, caller_of(request), instance.audit_key, dates, lambda: _is_connected(request))
    is_empty = found.broken is None and found.to_seq < found.from_seq
    return VerificationResource(
        verified=found.broken is None,
        checked_count=found.to_seq - found.from_seq + 1,
        from_seq=None if is_empty else found.from_seq,
        to_seq=found.to_seq if found.to_seq >= found.from_seq else None,
        broken_at_event_id=found.broken.event_id if found.broken else None,
        broken_at_seq=found.broken.seq if found.broken else None,
        reason=found.broken.reason if found.broken else None,
        checkpoint=_checkpoint(found.note, instance.audit_key) if found.note is not None else None,
        from_date=dates.from_date,
        to_date=dates.to_date,
    )


@router.get("/checkpoint", operation_id="getAuditCheckpoint", **secured("audit:read"))
async def checkpoint(request: Request) -> CheckpointResource:
    """Sign the head of the history as it is now, or return the last checkpoint if nothing was sealed since."""
    key = instance_of(request).audit_key
    return _checkpoint(await write(request, sign_head, key, caller_of(request).organization_id), key)


class _Lines(PacedResponse):
    media_type = "application/x-ndjson"


_EXPORT = secured("audit:read", InvalidDateRange)
_EXPORT["responses"][200] = {"description": "The lines.", "content": {_Lines.media_type: {"schema": {"type": "string"}}}}


@router.get("/export", operation_id="exportAuditEvents", response_class=Response, **_EXPORT)
async def export(request: Request, parameters: Annotated[DateParameters, Query()]) -> StreamingResponse:
    """Stream the sealed history for `agentidp audit verify`, oldest first.

    A line of JSON an event, then a line with the checkpoint that they lead up to: `{"checkpoint": "…"}`. Without that last line the export was cut. Where `toDate` leaves out newer events, the checkpoint has the line `part` and proves no more than this part. The lines are in canonical JSON, RFC 8785, but for `hash` at their end.
    """
    _require_order(parameters)
    instance, dates = instance_of(request), Dates(parameters.from_date, parameters.to_date)
    lines = _export(instance, caller_of(request), dates)
    await anext(lines)  # what can be refused is refused before the answer begins
    return _Lines(lines, headers={"Content-Disposition": 'attachment; filename="audit.ndjson"'})


@router.get("/{eventId}", operation_id="getAuditEvent", **secured("audit:read", AuditEventNotFound))
async def get(request: Request, event_id: Annotated[str, Path(alias="eventId", description="The event's id.")]) -> AuditEventResource:
    """Look up one event."""
    return AuditEventResource.model_validate(await read(request, queries.get_event, event_id))


def _require_order(parameters: DateParameters | AuditListParameters) -> None:
    if parameters.from_date is not None and parameters.to_date is not None and parameters.from_date > parameters.to_date:
        raise InvalidDateRange


async def _is_connected(request: Request) -> bool:
    return not await request.is_disconnected()


async def _export(instance: Instance, caller: Caller, dates: Dates) -> AsyncIterator[bytes]:
    with instance.audit_exports.take(caller.organization_id):
        async for lines in export_history(instance.database, caller, instance.audit_key, dates, now=instance.clock()):
            yield lines


def _checkpoint(note: str, key: AuditKey) -> CheckpointResource:
    found, _ = parse_note(note)
    name = str(verifier_key(key.seed, found.origin))
    return CheckpointResource(origin=found.origin, size=found.size, hash=found.head, time=found.signed_at, note=note, verifier_key=name)
