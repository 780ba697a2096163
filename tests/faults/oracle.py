"""What a database really holds, read without any code of the product."""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

import asyncpg

DAY_MS = 24 * 3600 * 1000
_METERS = {"token.issued": "tokensIssued"}
_EVENTS = "SELECT organization_id, action, target_id, timestamp, event_id FROM audit_events WHERE outcome = 'success'"
_COUNTERS = "SELECT organization_id, day, meter, count FROM usage_counters"


@dataclass
class Record:
    """Every successful event and every counter."""

    events: list[tuple[str, str, str | None, int, str]]  # organization, action, target, timestamp, event id
    counters: dict[tuple[str, int, str], int]

    def targets(self, action: str) -> Counter[str | None]:
        """How often each object met with the action."""
        return Counter(event[2] for event in self.events if event[1] == action)

    def count(self, meter: str, organization_id: str | None = None) -> int:
        return sum(count for (owner, _, name), count in self.counters.items() if name == meter and organization_id in {None, owner})

    def miscounted(self) -> dict[tuple[str, int], tuple[int, int]]:
        """Days on which the tokens counted are not those recorded: organization and day to (counted, recorded)."""
        recorded = Counter((event[0], event[3] // DAY_MS) for event in self.events if event[1] == "token.issued")
        counted = Counter({(owner, day): count for (owner, day, meter), count in self.counters.items() if meter == "tokensIssued"})
        return {key: (counted[key], recorded[key]) for key in recorded.keys() | counted.keys() if counted[key] != recorded[key]}


def read(url: str) -> Record:
    """The record of the database that the URL names. An SQLite file must pass its integrity check."""
    rows = _sqlite(urlsplit(url).path) if url.startswith("sqlite") else asyncio.run(_postgres(url))
    return Record([(str(row[0]), row[1], row[2], row[3], str(row[4])) for row in rows[0]], {(str(row[0]), row[1], row[2]): row[3] for row in rows[1]})


def require_exact(record: Record, acknowledged: Iterable[str], unknown: int) -> int:
    """Nothing acknowledged is lost or doubled, nothing is there that nobody could have been told of, counters are the events.

    Returns how many tokens are there of which no answer arrived; at most `unknown`, the requests without one.
    """
    issued, known = record.targets("token.issued"), set(acknowledged)
    lost, doubled = known - issued.keys(), {token: count for token, count in issued.items() if count > 1}
    assert not lost, f"{len(lost)} acknowledged tokens are lost"
    assert not doubled
    assert not record.miscounted()
    phantom = len(issued) - len(known)
    assert phantom <= unknown, f"{phantom} tokens nobody was told of, but only {unknown} requests without an answer"
    return phantom


def _sqlite(path: str) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return connection.execute(_EVENTS).fetchall(), connection.execute(_COUNTERS).fetchall()
    finally:
        connection.close()


async def _postgres(url: str) -> tuple[list[asyncpg.Record], list[asyncpg.Record]]:
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction(isolation="repeatable_read"):
            return await connection.fetch(_EVENTS), await connection.fetch(_COUNTERS)
    finally:
        await connection.close()
