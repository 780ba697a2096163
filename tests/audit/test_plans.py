"""How the engines answer what is asked of a long history: by an index, in its order, whatever the filter. EXPLAIN says so."""

import asyncio
import contextlib
import functools
import re
import sqlite3
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import sqlalchemy as sa
from tests.audit.tampering import Hands
from tests.db.opened import opened

from agentidp.audit.intact import follow_intact
from agentidp.audit.queries import find_range, get_chain_state, get_event, list_events, list_links
from agentidp.audit.rules import AuditFilter, Dates
from agentidp.core.caller import Caller
from agentidp.core.ids import first_id
from agentidp.db.migrate import in_transaction
from agentidp.db.paging import PageRequest
from agentidp.db.partitions import list_months, prepare
from agentidp.db.unit import Database, Tx
from agentidp.ledger import sealing

ORGANIZATION = "0198c5a2-7d1e-7c3a-9f00-5b1d2e3f4a5b"
OTHERS = [f"0198c5a2-7d1e-7c3a-9f00-{number:012d}" for number in range(7)]
CALLER = Caller(ORGANIZATION)
ROWS = 8_000  # of each organization; together enough for PostgreSQL's planner to think of more than reading it all
DAY = 24 * 3600 * 1000
BEGUN = 1_790_000_000_000
STEP = 72 * 60_000  # over fourteen months, which on PostgreSQL are partitions
MIDDLE = BEGUN + ROWS // 2 * STEP
AN_ID = first_id(BEGUN + 77 * STEP)

FILTERS = {
    "nothing": AuditFilter(),
    "agent": AuditFilter(agent_id=AN_ID),
    "action": AuditFilter(action="agent.created"),
    "failure": AuditFilter(outcome="failure"),
    "success": AuditFilter(outcome="success"),
    "target": AuditFilter(target_id=AN_ID),
    "request": AuditFilter(request_id="request-77"),
    "from": AuditFilter(from_date=MIDDLE),
    "to": AuditFilter(to_date=MIDDLE),
    "dates": AuditFilter(from_date=MIDDLE, to_date=MIDDLE + DAY),
    "agent and dates": AuditFilter(agent_id=AN_ID, from_date=MIDDLE, to_date=MIDDLE + DAY),
    "action and dates": AuditFilter(action="agent.created", from_date=MIDDLE, to_date=MIDDLE + DAY),
    "failure and dates": AuditFilter(outcome="failure", from_date=MIDDLE, to_date=MIDDLE + DAY),
}
QUERIES: dict[str, Callable[[Tx], Any]] = {
    **{f"by cursor: {name}": lambda tx, wanted=wanted: list_events(tx, wanted, PageRequest(50, after=first_id(MIDDLE))) for name, wanted in FILTERS.items()},
    **{f"by page: {name}": lambda tx, wanted=wanted: list_events(tx, wanted, PageRequest(50, page=1)) for name, wanted in FILTERS.items()},
    "links": lambda tx: list_links(tx, ROWS // 3, ROWS),
    "range": lambda tx: find_range(tx, Dates(MIDDLE, MIDDLE + DAY)),
    "open range": lambda tx: find_range(tx, Dates(None, None)),
    "chain": get_chain_state,
}
SQLITE_QUERIES: dict[str, Callable[[Tx], Any]] = {"intact": lambda tx: follow_intact(tx, ROWS // 3, "x", ROWS)}


def made(engine: str, organization: str, rows: int = ROWS) -> str:
    """An organization's events, one every 72 minutes; a fiftieth of them are failures, a hundredth are `agent.created`, by a hundred agents."""
    if engine == "sqlite":
        numbers = f"(WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {rows}) SELECT i FROM n)"
        id_of, cast, json = "printf('%08x-%04x-7000-8000-000000000000', ({0}) >> 16, ({0}) & 65535)", "", ""
    else:
        numbers = f"(SELECT generate_series(0, {rows - 1}) AS i)"
        id_of, cast = "(lpad(to_hex(({0}) >> 16), 8, '0') || '-' || lpad(to_hex(({0}) & 65535), 4, '0') || '-7000-8000-000000000000')", "::uuid"
        json = "::jsonb"
    at, agent = f"{BEGUN}::bigint + i * {STEP}::bigint" if cast else f"{BEGUN} + i * {STEP}", f"{BEGUN} + i % 100 * {STEP}"
    agent = agent.replace(str(BEGUN), f"{BEGUN}::bigint") if cast else agent
    event_id, agent_id = id_of.format(at) + cast, id_of.format(agent) + cast
    return f"""
        INSERT INTO audit_events (organization_id, event_id, seq, agent_id, action, outcome, target_id, request_id, metadata, timestamp, previous_hash, hash)
        SELECT '{organization}'{cast}, {event_id}, i + 1, {agent_id}, CASE WHEN i % 100 = 0 THEN 'agent.created' ELSE 'token.issued' END,
               CASE WHEN i % 50 = 0 THEN 'failure' ELSE 'success' END, {id_of.format(at)}, 'request-' || i, '{{}}'{json}, {at}, 'x', 'x' FROM {numbers} AS n"""


def test_everything_that_is_asked_of_a_history_has_an_index(engine: str, database_url: str) -> None:
    asyncio.run(_explain_all(engine, database_url))


@contextlib.asynccontextmanager
async def full(engine: str, url: str) -> AsyncIterator[tuple[Database, Hands]]:
    """A database with all of the events, sealed; on PostgreSQL in fourteen months."""
    async with opened(url, lambda: BEGUN) as database, Hands(url) as hands:
        if engine == "postgresql":
            for month in range(12):
                await in_transaction(sa.make_url(url), functools.partial(prepare, now=BEGUN + month * 30 * DAY))
        await hands.run(*((made(engine, organization), ()) for organization in (ORGANIZATION, *OTHERS)))
        await hands.run(("INSERT INTO audit_heads VALUES (?, 0, ?, 'x', 0, NULL, 0, 0, 0)", (ORGANIZATION, ROWS)), ("ANALYZE", ()))
        yield database, hands


async def _explain_all(engine: str, url: str) -> None:
    async with full(engine, url) as (database, hands):
        for name, query in (QUERIES | (SQLITE_QUERIES if engine == "sqlite" else {})).items():
            statements = await database.read(_statements, CALLER, query)
            assert statements
            for statement, values in statements:
                plan = await _plan(hands, statement, values)
                assert "audit_events" not in _without_index(plan), f"{name}\n{statement}\n{plan}"
                assert not _sorts(plan), f"{name}\n{statement}\n{plan}"


def _statements(tx: Tx, query: Callable[[Tx], Any]) -> list[tuple[str, Any]]:
    """What the query sends to the driver."""
    sent: list[tuple[str, Any]] = []

    def remember(_connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        sent.append((statement, values))

    sa.event.listen(tx.connection, "before_cursor_execute", remember)
    query(tx)
    return [(statement, values) for statement, values in sent if "audit_" in statement]


async def _plan(hands: Hands, statement: str, values: Any) -> str:
    if hands.is_sqlite:
        rows = hands._connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)
        return "\n".join(row[3] for row in rows)
    # what pays for so few rows, reading a small table and sorting less than a page, would hide which index there is
    await hands._connection.execute("SET enable_bitmapscan = off; SET enable_seqscan = off")
    rows = await hands._connection.fetch(f"EXPLAIN {statement}", *values)
    return "\n".join(row[0] for row in rows)


def _without_index(plan: str) -> str:
    """The lines of a plan that read a whole table, or all of an index."""
    return "\n".join(line for line in plan.splitlines() if line.strip().startswith("SCAN ") or "Seq Scan" in line)


def _sorts(plan: str) -> bool:
    return "TEMP B-TREE" in plan or "Sort  (" in plan


@pytest.mark.parametrize("engine", ["postgresql"])
def test_what_has_a_date_or_a_cursor_touches_its_months_only(engine: str, database_url: str) -> None:
    """Of fourteen months and the rest. The middle is in the eighth month."""

    async def touched(database: Database, hands: Hands, query: Callable[[Tx], Any]) -> int:
        (statement, values), *_ = await database.read(_statements, CALLER, query)
        return len(set(re.findall(r" on (audit_events_\w+)", await _plan(hands, statement, values))))

    async def work() -> None:
        async with full(engine, database_url) as (database, hands):
            assert len(await in_transaction(sa.make_url(database_url), list_months)) == 14
            for name, wanted in FILTERS.items():
                by_page = 1 if "dates" in name else {"from": 8, "to": 8}.get(name, 15)  # from the middle: seven months and the rest
                assert await touched(database, hands, lambda tx, w=wanted: list_events(tx, w, PageRequest(50, page=1))) == by_page, name
                by_cursor = 0 if name == "from" or "dates" in name else 1
                early = PageRequest(50, after=first_id(BEGUN + DAY))
                assert await touched(database, hands, lambda tx, w=wanted, e=early: list_events(tx, w, e)) == by_cursor, name
            assert await touched(database, hands, lambda tx: get_event(tx, first_id(MIDDLE))) == 1
            assert await touched(database, hands, lambda tx: list_links(tx, ROWS // 3, ROWS)) == 15, "a number says nothing of the month"
            one = [ORGANIZATION], [first_id(MIDDLE)], [1], ["x"], ["x"], first_id(MIDDLE), first_id(MIDDLE)
            assert set(re.findall(r" on (audit_events_\w+)", await _plan(hands, sealing._SEAL["postgresql"], one))) == {"audit_events_2027_04"}

    asyncio.run(work())


def test_the_check_sees_a_sort_and_a_scan(database_url: str, engine: str) -> None:
    async def work() -> None:
        async with opened(database_url), Hands(database_url) as hands:
            plan = await _plan(hands, "SELECT user_agent FROM audit_events ORDER BY user_agent", ())
            assert "audit_events" in _without_index(plan)
            assert _sorts(plan)

    asyncio.run(work())


@pytest.mark.slow
def test_what_is_read_does_not_grow_with_the_history(tmp_path: Any) -> None:
    """Steps of SQLite's machine for a page in the middle, among a thousand and among thirty thousand events."""

    async def steps(rows: int) -> dict[str, int]:
        url = f"sqlite:///{tmp_path / f'{rows}.db'}"
        async with opened(url) as database, Hands(url) as hands:
            await hands.run((made("sqlite", ORGANIZATION, rows), ()), ("ANALYZE", ()))
            found = {}
            for name in ("nothing", "agent", "action", "failure", "target", "request"):
                wanted = FILTERS[name]
                middle = PageRequest(50, after=first_id(BEGUN + rows // 2 * STEP))
                (statement, values), *_ = await database.read(_statements, CALLER, lambda tx, w=wanted, m=middle: list_events(tx, w, m))
                found[name] = _count_steps(hands._connection, statement, values)
            return found

    few, many = asyncio.run(steps(1_000)), asyncio.run(steps(30_000))
    print(f"steps among 1,000 events: {few}, among 30,000: {many}")
    assert {name: count for name, count in many.items() if count > 3 * few[name] + 1_000} == {}


def _count_steps(connection: sqlite3.Connection, statement: str, values: Any) -> int:
    count = 0

    def step() -> int:
        nonlocal count
        count += 1
        return 0

    connection.set_progress_handler(step, 1)
    try:
        connection.execute(statement, values).fetchall()
    finally:
        connection.set_progress_handler(None, 1)
    return count
