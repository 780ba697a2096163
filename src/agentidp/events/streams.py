"""An organization's events as they are sealed, written as server-sent events (WHATWG HTML, section 9.2). Where a reader is, only the reader knows."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass

import msgspec

from agentidp.auth.authority import is_alive
from agentidp.auth.instance import Instance
from agentidp.auth.jwt import VerifiedClaims
from agentidp.core import limits
from agentidp.core.errors import Unavailable
from agentidp.ledger.following import Place, SealedEvent, document


@dataclass(frozen=True, slots=True)
class Wanted:
    """`types` None: all. `events_max` None: as many as there are."""

    types: Collection[str] | None
    events_max: int | None
    seconds: float


async def stream(
    instance: Instance,
    token: VerifiedClaims,
    place: Place,
    newest_id: str | None,
    wanted: Wanted,
    beat_seconds: float = limits.EVENT_STREAM_BEAT_SECONDS,
) -> AsyncIterator[bytes]:
    """What is sealed behind the place, until there was enough of it or the token is no longer in force. Begins with nothing, once it has its turn.

    With each sign of life the reader learns how far was looked, whether or not it wanted anything of it: it goes on there.
    Raises TooManyRequests, Unavailable.
    """
    feed, clock = instance.feed, asyncio.get_running_loop().time
    seconds = min(wanted.seconds, token.expires_at - instance.clock() / 1000)
    beat_at, ends_at, left = clock() + beat_seconds, clock() + seconds, wanted.events_max
    with instance.event_streams.take(place.organization_id), feed.watching(place.organization_id), instance.metrics.event_streams.track_inprogress():
        yield b""
        yield b"retry: %d\n%b\n" % (limits.EVENT_STREAM_RETRY_MS, _id(newest_id))
        with contextlib.suppress(Unavailable):  # the reader comes back
            while not feed.is_closed:
                if await feed.is_beyond(place, min(beat_at, ends_at) - clock()):
                    events, place = await feed.read(place)
                    newest_id = events[-1].event_id if events else newest_id
                    wanted_ones = [event for event in events if wanted.types is None or event.action in wanted.types][:left]
                    left = left and left - len(wanted_ones)
                    yield b"".join(map(_message, wanted_ones))
                if left == 0 or clock() >= ends_at:
                    return
                if clock() >= beat_at:
                    if not await _is_in_force(instance, token):
                        return
                    yield b":\n%b\n" % _id(newest_id)
                    beat_at = clock() + beat_seconds


async def _is_in_force(instance: Instance, token: VerifiedClaims) -> bool:
    """The question that every call asks, but it is no call, and not counted as one."""
    return token.expires_at * 1000 > instance.clock() and await is_alive(instance, token)


def _message(event: SealedEvent) -> bytes:
    """JSON on one line: in it, line ends are escaped."""
    return b"%bevent: %b\ndata: %b\n\n" % (_id(event.event_id), event.action.encode(), msgspec.json.encode(document(event)))


def _id(event_id: str | None) -> bytes:
    return b"id: %b\n" % event_id.encode() if event_id else b""
