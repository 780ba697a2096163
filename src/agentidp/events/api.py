"""/events: what happens in the organization, as it happens."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from pydantic import BeforeValidator, Field, StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from agentidp.audit.rules import AuditEventNotFound
from agentidp.auth.guard import GuardedRoute, read
from agentidp.auth.instance import instance_of
from agentidp.core import limits
from agentidp.core.http import PacedResponse
from agentidp.core.operations import secured
from agentidp.core.resources import Filter, QueryParameters, parse_number
from agentidp.events.queries import get_beginning
from agentidp.events.streams import Wanted, stream

router = APIRouter(prefix="/api/v1/events", tags=["Events"], route_class=GuardedRoute)

_TYPE = r"[a-z_]+(\.[a-z_]+)*"
_TYPES = StringConstraints(max_length=limits.EVENT_TYPES_CHARACTERS_MAX, pattern=rf"^{_TYPE}(,{_TYPE})*$")


class EventParameters(QueryParameters):
    """Which events, and how many."""

    types: Annotated[str, _TYPES] | None = Field(None, description="Only events of these types, separated by commas.", examples=["token.issued,auth.failed"])
    last_event_id: Filter | None = Field(None, description="As the header `Last-Event-ID`, which wins: for clients that cannot set it.")
    limit: Annotated[int, Field(ge=1, le=limits.EVENT_STREAM_EVENTS_MAX), BeforeValidator(parse_number)] | None = Field(
        None, description="End after so many events."
    )
    seconds: Annotated[
        int,
        Field(ge=0, le=limits.EVENT_STREAM_SECONDS_MAX, description="End after so many seconds; 0: with what is there already."),
        BeforeValidator(parse_number),
    ] = limits.EVENT_STREAM_SECONDS_MAX


class _Stream(PacedResponse):
    media_type = "text/event-stream"


_EVENTS: dict[str, Any] = secured("audit:read", AuditEventNotFound)
_EVENTS["responses"][200] = {"description": "The events, as they come.", "content": {_Stream.media_type: {"schema": {"type": "string"}}}}


@router.get("", operation_id="streamEvents", response_class=Response, **_EVENTS)
async def stream_events(
    request: Request,
    parameters: Annotated[EventParameters, Query()],
    last_event_id: Annotated[str, Header(alias="Last-Event-ID", description="Go on behind this event; without it, begin with what happens now.")] = "",
) -> Response:
    """Stream what happens in the organization, as it happens: server-sent events, in the order of the sealed history.

    `id` is the event's id, `event` its type, `data` a line of JSON: `{"id", "type", "timestamp", "organizationId", "data": {"seq", "agentId", "outcome", "targetType", "targetId", "requestId", "metadata"}}`. A stream ends after a quarter of an hour, and when its token is no longer in force; whoever asks again with the last `id` has missed nothing: there are no gaps. Every 15 seconds there is a sign of life.
    """
    place, newest_id = await read(request, get_beginning, last_event_id or parameters.last_event_id or None)
    wanted = Wanted(frozenset(parameters.types.split(",")) if parameters.types else None, parameters.limit, parameters.seconds)
    lines = stream(instance_of(request), request.scope["agentidp.token"], place, newest_id, wanted)
    await anext(lines)  # what can be refused is refused before the answer begins
    return _Stream(lines, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})  # the last tells a proxy to pass on what there is
