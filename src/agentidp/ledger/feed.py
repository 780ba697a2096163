"""Live looks at the histories, for many who each read on from a place of their own and keep it to themselves: streams.

Idle, they cost one small read together; at the same place, they share the read of what comes next.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence

from agentidp.core import limits
from agentidp.core.caller import SYSTEM, Caller
from agentidp.db.unit import Database
from agentidp.ledger.following import Place, Sealed, SealedEvent, list_sealed, list_sizes, wait_for

_Piece = tuple[Sequence[SealedEvent], Place]


class Feed:
    """Belongs to one event loop. Its methods raise Unavailable."""

    def __init__(self, database: Database, sealed: Sealed) -> None:
        self._database, self._sealed = database, sealed
        self._watched: Counter[str] = Counter()  # organizations, by how many watch them
        self._sizes: dict[str, int] = {}
        self._looking = asyncio.Lock()
        self._seen: asyncio.Event | None = None  # what was to be set next when the last look began
        self._look_again_at = 0.0
        self._reads: dict[Place, asyncio.Task[_Piece]] = {}
        self._turns = asyncio.Semaphore(limits.EVENT_STREAM_READS_MAX)
        self.is_closed = False

    def close(self) -> None:
        """Whoever waits need wait no longer: the server is about to end."""
        self.is_closed = True
        self._sealed.tell()

    @contextlib.contextmanager
    def watching(self, organization_id: str) -> Iterator[None]:
        """Only what is watched is looked at."""
        self._watched[organization_id] += 1
        self._seen = None  # the last look may not have been at this one
        try:
            yield
        finally:
            self._watched -= Counter([organization_id])

    async def is_beyond(self, place: Place, seconds: float) -> bool:
        """Whether there is anything behind the place, now or before so many seconds have passed. Its organization must be watched."""
        clock = asyncio.get_running_loop().time
        ends_at = clock() + seconds
        while True:
            told = self._sealed.next()
            await self._look(told)
            if self._sizes.get(place.organization_id, 0) > place.seq:
                return True
            if self.is_closed or (left := ends_at - clock()) <= 0:
                return False
            await wait_for(told, min(left, limits.FOLLOW_POLL_SECONDS))

    async def read(self, place: Place) -> _Piece:
        """The next events behind the place, and the place behind them."""
        reading = self._reads.get(place)
        if reading is None:
            reading = self._reads[place] = asyncio.create_task(self._read(place))
            reading.add_done_callback(lambda _: self._reads.pop(place))
        return await asyncio.shield(reading)

    async def _read(self, place: Place) -> _Piece:
        """In turn: streams that begin far back leave the database to others, too."""
        async with self._turns:
            return await self._database.read(list_sealed, Caller(place.organization_id), place)

    async def _look(self, told: asyncio.Event) -> None:
        """Unless somebody has looked since the last sealing here, and not long ago: other processes seal, too."""
        clock = asyncio.get_running_loop().time
        async with self._looking:
            if told is not self._seen or clock() >= self._look_again_at:
                self._seen, self._look_again_at = self._sealed.next(), clock() + limits.FOLLOW_POLL_SECONDS
                self._sizes = await self._database.read(list_sizes, SYSTEM, list(self._watched))
