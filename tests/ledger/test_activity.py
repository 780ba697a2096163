"""What the ledger counts for analytics is what is in the history and what was acknowledged: exactly, whoever seals, fails or comes late."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from tests.db.opened import Turned, with_database
from tests.ledger.made import PLANS, Known, make_known
from tests.ledger.test_entries import OVER, RECORDED
from tests.ledger.test_sealer import OTHER, sealer_of
from tests.ledger.test_writers import entry, write_together

from agentidp.core import limits
from agentidp.core.caller import SYSTEM
from agentidp.core.ids import new_id
from agentidp.db.engine import open_database
from agentidp.db.schema import agent_activity, audit_checkpoints, audit_events, hourly_tokens, organizations, usage_counters
from agentidp.db.unit import Database, Tx
from agentidp.ledger.activity import HOUR_MS, Issued, add_tokens, sweep_activity
from agentidp.ledger.entries import DAY_MS, Entry
from agentidp.ledger.heads import AuditKey, sign_heads
from agentidp.ledger.nudge import Nudge
from agentidp.ledger.retention import find_cuts, purge
from agentidp.ledger.sealer import ChainSealer
from agentidp.ledger.sealing import FIRST_ID, find_unsealed, seal
from agentidp.ledger.writers import LedgerWriters

DAY = 20_000
NOON = DAY * DAY_MS + DAY_MS // 2
MIDNIGHT = (DAY + 1) * DAY_MS


def token(known: Known, now: int) -> Entry:
    return entry(known, now)


def call(known: Known) -> Entry:
    return Entry(known.snapshot, "apiCalls")


def activity(tx: Tx) -> dict[tuple[str, str, int, str], tuple[int, int]]:
    """(organization, agent, day, meter) -> (count, last seen)."""
    return {(row[0], row[1], row[2], row[3]): (row[4], row[5]) for row in tx.all(sa.select(agent_activity))}


def hours(tx: Tx) -> dict[tuple[str, int, int], int]:
    return {(row[0], row[1], row[2]): row[3] for row in tx.all(sa.select(hourly_tokens))}


def totals(tx: Tx) -> dict[tuple[str, int, str], int]:
    return {(row[0], row[1], row[2]): row[3] for row in tx.all(sa.select(usage_counters)) if row[2] in {"tokensIssued", "apiCalls"} and row[3]}


def issued(tx: Tx) -> list[Issued]:
    event = audit_events.c
    query = sa.select(event.organization_id, event.agent_id, event.timestamp).where(event.action == "token.issued")
    return [(row[0], row[1], row[2]) for row in tx.all(query)]


async def require_exact(database: Database) -> None:
    """What is counted by agent and by hour is what the history holds, and adds up to the organizations' own counters."""
    history = await database.read(issued, SYSTEM)
    found, hourly, counted = [await database.read(one, SYSTEM) for one in (activity, hours, totals)]
    by_agent = Counter((organization, agent, instant // DAY_MS) for organization, agent, instant in history)
    assert {key[:3]: count for key, (count, _) in found.items() if key[3] == "tokensIssued"} == by_agent
    last = {key: max(at for *who, at in history if (*who, at // DAY_MS) == key) for key in by_agent}
    assert {key[:3]: at for key, (_, at) in found.items() if key[3] == "tokensIssued"} == last
    assert hourly == Counter((organization, *divmod(instant // HOUR_MS, 24)) for organization, _, instant in history)
    added: Counter[tuple[str, int, str]] = Counter()
    for (organization, _, day, meter), (count, _) in found.items():
        added[organization, day, meter] += count
    assert added == counted


def test_2000_parallel_operations_across_midnight_are_counted_exactly(database_url: str, engine: str) -> None:
    """Sealers run all the while; on PostgreSQL from two processes' worth of connections. Calls are compared with what was acknowledged."""
    clock = Turned(MIDNIGHT - 3_000)

    async def work(database: Database) -> None:
        async with contextlib.AsyncExitStack() as stack:
            second = database
            if engine == "postgresql":
                second = open_database(sa.make_url(database_url), clock, LedgerWriters())
                stack.push_async_callback(second.close)
            tenants = [await make_known(database) for _ in range(3)]
            sealing = [asyncio.create_task(ChainSealer(one, clock, Nudge()).run()) for one in (database, second)]
            acknowledged: Counter[str] = Counter()
            for wave in range(20):
                known = [tenants[(wave + number) % 3] for number in range(100)]
                batch = [call(one) if number % 4 == 0 else token(one, clock.now) for number, one in enumerate(known)]
                await asyncio.gather(*[(database, second)[number % 2].append(one) for number, one in enumerate(batch)])
                assert {one.verdict for one in batch} == {RECORDED}
                acknowledged.update(one.snapshot.agent_id for one in batch if one.meter == "apiCalls")
                clock.forward(seconds=0.3)
            for task in sealing:
                task.cancel()
            await asyncio.gather(*sealing, return_exceptions=True)
        await sealer_of(database, clock).seal_all()
        await require_exact(database)
        found = await database.read(activity, SYSTEM)
        assert {day for _, _, day, _ in found} == {DAY, DAY + 1}
        by_agent: Counter[str] = Counter()
        for (_, agent, _, meter), (count, _) in found.items():
            by_agent[agent] += count if meter == "apiCalls" else 0
        assert by_agent == acknowledged
        assert sum((await database.read(hours, SYSTEM)).values()) == 1_500

    with_database(database_url, work, clock=clock)


def test_a_token_counts_in_the_hour_of_its_timestamp_however_late_it_is_sealed(database_url: str) -> None:
    clock = Turned(MIDNIGHT - 1)

    async def work(database: Database) -> None:
        known = await make_known(database)
        await write_together(database, [token(known, clock.now), token(known, clock.now)])
        clock.forward(seconds=0.001)
        await write_together(database, [token(known, clock.now)])
        clock.forward(seconds=3600 - 0.001)
        await write_together(database, [token(known, clock.now)])
        clock.forward(seconds=3 * DAY_MS / 1000)
        assert await database.read(hours, SYSTEM) == {}
        await sealer_of(database, clock).seal_all()
        organization = known.organization_id
        assert await database.read(hours, SYSTEM) == {(organization, DAY, 23): 2, (organization, DAY + 1, 0): 2}
        assert await database.read(activity, SYSTEM) == {
            (organization, known.agent_id, DAY, "tokensIssued"): (2, MIDNIGHT - 1),
            (organization, known.agent_id, DAY + 1, "tokensIssued"): (2, MIDNIGHT + HOUR_MS - 1),
        }
        await require_exact(database)

    with_database(database_url, work, clock=clock)


def test_calls_are_counted_by_agent_with_their_batch(database_url: str) -> None:
    clock = Turned(NOON)

    async def work(database: Database) -> None:
        one, other = await make_known(database), await make_known(database)
        stale = Entry(replace(one.snapshot, revisions=(9, 9, 9)), "apiCalls")
        await write_together(database, [call(one), call(other), call(one), stale, token(one, clock.now), Entry(one.snapshot)])
        clock.forward(seconds=-60)  # a clock that is set back takes nothing back
        await write_together(database, [call(one)])
        assert await database.read(activity, SYSTEM) == {
            (one.organization_id, one.agent_id, DAY, "apiCalls"): (3, NOON),
            (other.organization_id, other.agent_id, DAY, "apiCalls"): (1, NOON),
        }

    with_database(database_url, work, clock=clock)


def test_what_is_over_the_limit_is_not_counted(database_url: str) -> None:
    clock = Turned(NOON)

    async def work(database: Database) -> None:
        known = await make_known(database)
        limit = sa.update(organizations).where(organizations.c.organization_id == known.organization_id).values(max_tokens_per_day=5)
        await database.write(lambda tx: tx.run(limit) and None, known.caller)
        known.snapshot = replace(known.snapshot, tokens_per_day_max=5)
        assert Counter(await write_together(database, [token(known, clock.now) for _ in range(8)])) == {RECORDED: 5, OVER: 3}
        await sealer_of(database, clock).seal_all()
        await require_exact(database)
        assert await database.read(hours, SYSTEM) == {(known.organization_id, DAY, 12): 5}

    with_database(database_url, work, clock=clock)


async def _is_cut_off(database: Database, found: Any) -> None:
    """The sealer's transaction ends after its last statement and before its commit."""

    def sealed_and_gone(tx: Tx) -> None:
        assert seal(tx, OTHER, found.links) > 0
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        await database.write(sealed_and_gone, SYSTEM)


async def _forgets_what_it_read(database: Database, found: Any) -> None:
    """The sealer dies between its two transactions."""


async def _another_was_quicker(database: Database, found: Any) -> None:
    assert await database.write(seal, SYSTEM, OTHER, found.links) > 0
    assert await database.write(seal, SYSTEM, OTHER, found.links) == 0


@pytest.mark.parametrize("happens", [_is_cut_off, _forgets_what_it_read, _another_was_quicker])
def test_a_sealer_that_ends_anywhere_neither_loses_nor_doubles(database_url: str, happens: Callable[[Database, Any], Awaitable[None]]) -> None:
    clock = Turned(NOON)

    async def work(database: Database) -> None:
        known = await make_known(database)
        await write_together(database, [token(known, clock.now) for _ in range(40)])
        await happens(database, await database.read(find_unsealed, SYSTEM, OTHER))
        clock.forward(seconds=1)  # until the lease is over
        await sealer_of(database, clock).seal_all()
        await sealer_of(database, clock).seal_all()
        await require_exact(database)
        assert await database.read(hours, SYSTEM) == {(known.organization_id, DAY, 12): 40}

    with_database(database_url, work, clock=clock)


def test_more_groups_than_one_statement_could_name_one_by_one(database_url: str) -> None:
    """300 agents in 30 hours; and again on top of it."""
    rows = [(new_id(NOON), new_id(NOON), NOON + number % 30 * HOUR_MS) for number in range(300)]

    async def work(database: Database) -> None:
        for _ in range(2):
            await database.write(add_tokens, SYSTEM, rows)
        found = await database.read(activity, SYSTEM)
        assert found == {(organization, agent, at // DAY_MS, "tokensIssued"): (2, at) for organization, agent, at in rows}
        assert await database.read(hours, SYSTEM) == {(organization, *divmod(at // HOUR_MS, 24)): 2 for organization, _, at in rows}

    with_database(database_url, work)


def test_forgetting_history_changes_nothing_of_what_was_counted(database_url: str) -> None:
    clock = Turned(NOON)

    async def work(database: Database) -> None:
        known = await make_known(database)
        free = sa.update(organizations).where(organizations.c.organization_id == known.organization_id).values(plan_tier="free")
        await database.write(lambda tx: tx.run(free) and None, SYSTEM)
        await write_together(database, [token(known, clock.now), call(known)])
        await sealer_of(database, clock).seal_all()
        await database.write(sign_heads, SYSTEM, AuditKey("https://id.example.com", bytes(32)), [known.organization_id])
        before = [await database.read(one, SYSTEM) for one in (activity, hours, totals)]
        clock.forward(seconds=200 * DAY_MS / 1000)
        signed = await database.read(lambda tx: tx.all(sa.select(audit_checkpoints.c.size)), SYSTEM)
        cuts, _ = await database.read(find_cuts, SYSTEM, FIRST_ID, PLANS)
        assert await database.write(purge, SYSTEM, cuts[0]) == signed[0].size
        assert await database.read(issued, SYSTEM) == []
        assert [await database.read(one, SYSTEM) for one in (activity, hours, totals)] == before

    with_database(database_url, work, clock=clock)


def test_what_is_older_than_anybody_can_ask_for_is_forgotten_in_pieces(database_url: str) -> None:
    clock = Turned(NOON)
    kept = NOON - limits.ACTIVITY_DAYS_KEPT * DAY_MS
    organization = new_id(NOON)

    async def work(database: Database) -> None:
        old = [(organization, new_id(NOON), kept - DAY_MS) for _ in range(limits.SWEEP_ROWS_MAX + 5)]
        young = [(organization, new_id(NOON), at) for at in (kept, NOON)]
        await database.write(add_tokens, SYSTEM, old + young)
        assert await database.write(sweep_activity, SYSTEM) == limits.SWEEP_ROWS_MAX
        assert await database.write(sweep_activity, SYSTEM) == 5
        assert await database.write(sweep_activity, SYSTEM) == 0
        assert sorted(day for _, _, day, _ in await database.read(activity, SYSTEM)) == [kept // DAY_MS, DAY]
        assert await database.read(hours, SYSTEM) == {(organization, kept // DAY_MS, 12): 1, (organization, DAY, 12): 1}

    with_database(database_url, work, clock=clock)


def test_a_database_of_before_begins_with_nothing_and_counts_from_then_on(database_url: str) -> None:
    """What was sealed by the release before is in the organization's counters of the day only; what it left unsealed is counted."""
    clock = Turned(NOON)

    async def work(database: Database) -> None:
        known, sealer = await make_known(database), sealer_of(database, clock)
        await write_together(database, [token(known, clock.now) for _ in range(3)])
        await sealer.seal_all()
        for table in (agent_activity, hourly_tokens):
            await database.write(lambda tx, table=table: tx.run(sa.delete(table)) and None, SYSTEM)
        await write_together(database, [token(known, clock.now)])
        await sealer.seal_all()
        assert await database.read(hours, SYSTEM) == {(known.organization_id, DAY, 12): 1}
        assert (await database.read(totals, SYSTEM))[known.organization_id, DAY, "tokensIssued"] == 4

    with_database(database_url, work, clock=clock)
