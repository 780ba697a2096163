"""What a database really holds, read without any code of the product."""

import asyncio
import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import asyncpg

DAY_MS = 24 * 3600 * 1000
_METERS = {"token.issued": "tokensIssued"}
_EVENTS = "SELECT organization_id, action, target_id, timestamp, event_id FROM audit_events WHERE outcome = 'success'"
_COUNTERS = "SELECT organization_id, day, meter, count FROM usage_counters"
_ISSUED = "SELECT organization_id, agent_id, timestamp FROM audit_events WHERE action = 'token.issued'"
_BY_AGENT = "SELECT organization_id, agent_id, day, meter, count FROM agent_activity"
_BY_HOUR = "SELECT organization_id, day, hour, count FROM hourly_tokens"
_CHAIN = """
SELECT e.organization_id, e.event_id, e.agent_id, e.action, e.outcome, e.target_type, e.target_id, e.ip_address, e.user_agent, e.request_id,
       CAST(e.metadata AS text), e.timestamp, e.seq, e.previous_hash, e.hash, h.size, h.head_hash
FROM audit_events AS e LEFT JOIN audit_heads AS h ON h.organization_id = e.organization_id ORDER BY e.organization_id, e.seq
"""
_SHOWN = ("organizationId", "eventId", "agentId", "action", "outcome", "targetType", "targetId", "ipAddress", "userAgent", "requestId")


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
    rows = select(url, _EVENTS, _COUNTERS)
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


def unsealed(url: str) -> int:
    """How many events are not in a chain yet."""
    return sum(row[12] is None for row in select(url, _CHAIN)[0])


def require_chains(url: str) -> int:
    """Every event is in its organization's chain, once, without a gap, with the hash that anybody can recompute. Returns how many there are."""
    rows = select(url, _CHAIN)[0]
    ends: dict[str, tuple[int, str]] = {}
    for row in rows:
        *shown, metadata, timestamp, seq, previous_hash, hash_, _, _ = row
        size, head = ends.get(str(row[0]), (0, "0" * 64))
        assert (seq, previous_hash) == (size + 1, head), f"event {row[1]} does not follow"
        document = dict(zip(_SHOWN, (value if value is None else str(value) for value in shown), strict=True))
        instant = datetime.fromtimestamp(timestamp // 1000, UTC)
        document |= {"metadata": json.loads(metadata), "timestamp": f"{instant:%Y-%m-%dT%H:%M:%S}.{timestamp % 1000:03d}Z"}
        document |= {"seq": seq, "previousHash": previous_hash, "v": "agentidp-audit-1"}
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert hash_ == hashlib.sha256(b"\0" + text.encode()).hexdigest(), f"event {row[1]} was changed"
        ends[str(row[0])] = (seq, hash_)
    heads = {str(row[0]): (row[15], row[16]) for row in rows}
    assert ends == heads
    return len(rows)


def require_rolled_up(url: str) -> None:
    """With everything sealed: tokens by agent and by hour are the events, calls by agent are the organizations' calls."""
    history, by_agent, by_hour, counters = select(url, _ISSUED, _BY_AGENT, _BY_HOUR, _COUNTERS)
    assert {tuple(map(str, row[:3])): row[4] for row in by_agent if row[3] == "tokensIssued"} == Counter(
        (str(row[0]), str(row[1]), str(row[2] // DAY_MS)) for row in history
    )
    hours = Counter((str(row[0]), *divmod(row[2] // (DAY_MS // 24), 24)) for row in history)
    assert {(str(row[0]), row[1], row[2]): row[3] for row in by_hour} == hours
    calls: Counter[tuple[str, int]] = Counter()
    for row in by_agent:
        if row[3] == "apiCalls":
            calls[str(row[0]), row[2]] += row[4]
    assert calls == Counter({(str(row[0]), row[1]): row[3] for row in counters if row[2] == "apiCalls"})


def select(url: str, *queries: str) -> list[list[tuple[Any, ...]]]:
    return _sqlite(urlsplit(url).path, queries) if url.startswith("sqlite") else asyncio.run(_postgres(url, queries))


def _sqlite(path: str, queries: Iterable[str]) -> list[list[tuple[Any, ...]]]:
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [connection.execute(query).fetchall() for query in queries]
    finally:
        connection.close()


async def connect(url: str) -> Any:
    """To a PostgreSQL that may still be at its recovery: tried for half a minute."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await asyncpg.connect(url)
            except (asyncpg.CannotConnectNowError, OSError):
                await asyncio.sleep(0.1)


async def _postgres(url: str, queries: Iterable[str]) -> list[list[tuple[Any, ...]]]:
    connection = await connect(url)
    try:
        async with connection.transaction(isolation="repeatable_read"):
            return [[tuple(row) for row in await connection.fetch(query)] for query in queries]
    finally:
        await connection.close()
