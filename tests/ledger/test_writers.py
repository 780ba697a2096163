"""A batch on both engines, through the database that commits it; and what a unit of work records."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from tests.db.opened import Turned, with_database
from tests.ledger.made import Known, make_known
from tests.ledger.test_entries import DEAD, OVER, RECORDED, STALE

from agentidp.bootstrap import raise_token_floor
from agentidp.core.caller import SYSTEM, Caller, Origin
from agentidp.core.errors import Conflict
from agentidp.core.ids import new_id
from agentidp.db.schema import audit_events, credential_uses, instance, organizations, revoked_tokens, usage_counters
from agentidp.db.unit import Database, Tx
from agentidp.ledger.entries import DAY_MS, Entry, Event, Verdict

ORIGIN = Origin("192.0.2.1", "a \"client\"\nwith 'quotes' ✓", "request-1")


def entry(known: Known, now: int, **values: Any) -> Entry:
    event = Event(new_id(now), known.agent_id, "token.issued", "token", new_id(now), '{"scope":"a b","n":null}', ORIGIN)
    return Entry(known.snapshot, **{"meter": "tokensIssued", "event": event} | values)


async def write_together(database: Database, batch: list[Entry]) -> list[Verdict]:
    await asyncio.gather(*[database.append(one) for one in batch])
    return [one.verdict for one in batch]


def rows(tx: Tx, table: sa.Table, known: Known) -> list[dict[str, Any]]:
    return [dict(row._mapping) for row in tx.all(sa.select(table).where(table.c.organization_id == known.organization_id))]


def counted(tx: Tx, known: Known) -> dict[tuple[int, str], int]:
    return {(row["day"], row["meter"]): row["count"] for row in rows(tx, usage_counters, known)}


@pytest.mark.parametrize("size", [1, 2, 7, 300])
def test_a_batch_is_recorded_whole(database_url: str, size: int) -> None:
    clock = Turned()

    async def work(database: Database) -> None:
        known = await make_known(database)
        batch = [entry(known, clock.now, used=number == 0) for number in range(size)]
        batch += [entry(known, clock.now, meter="apiCalls", event=None), entry(known, clock.now, meter=None)]
        assert set(await write_together(database, batch)) == {RECORDED}
        written = [row for row in await database.read(rows, known.caller, audit_events, known) if row["action"] == "token.issued"]
        assert {row["target_id"] for row in written} == {one.event.target_id for one in batch if one.event}
        assert len(written) == size + 1
        first = next(row for row in written if batch[0].event is not None and row["event_id"] == batch[0].event.event_id)
        assert first["metadata"] == {"scope": "a b", "n": None}
        assert (first["agent_id"], first["outcome"], first["target_type"], first["timestamp"]) == (known.agent_id, "success", "token", clock.now)
        assert (first["ip_address"], first["user_agent"], first["request_id"]) == (ORIGIN.ip_address, ORIGIN.user_agent, ORIGIN.request_id)
        assert first["seq"] is None
        day, totals = clock.now // DAY_MS, await database.read(counted, known.caller, known)
        assert (totals[day, "tokensIssued"], totals[day, "apiCalls"]) == (size, 1)
        uses = await database.read(rows, known.caller, credential_uses, known)
        assert [(row["credential_id"], row["last_used_at"]) for row in uses] == [(known.credential_id, clock.now)]

    with_database(database_url, work, clock=clock)


def _revoke_token(tx: Tx, known: Known, token_id: str) -> None:
    values = {"organization_id": known.organization_id, "token_id": token_id, "agent_id": known.agent_id, "revoked_at": 1, "expires_at": tx.now + DAY_MS}
    tx.run(sa.insert(revoked_tokens).values(values))


def test_what_is_refused_leaves_nothing_and_the_rest_stands(database_url: str) -> None:
    clock = Turned()

    async def work(database: Database) -> None:
        known, other = await make_known(database), await make_known(database)
        token_id = new_id(clock.now)
        await database.write(_revoke_token, known.caller, known, token_id)
        stale = replace(known.snapshot, revisions=(9, 9, 9))
        batch = [
            entry(known, clock.now),
            Entry(stale, "tokensIssued", entry(known, clock.now).event),
            entry(known, clock.now, token_id=token_id),
            entry(other, clock.now, token_id=new_id(clock.now)),
        ]
        assert await write_together(database, batch) == [RECORDED, STALE, DEAD, RECORDED]
        for one in (known, other):
            issued = [row for row in await database.read(rows, one.caller, audit_events, one) if row["action"] == "token.issued"]
            assert len(issued) == 1
            assert (await database.read(counted, one.caller, one))[clock.now // DAY_MS, "tokensIssued"] == 1

    with_database(database_url, work, clock=clock)


def test_a_raised_floor_is_seen_by_the_next_batch_and_never_lowered(database_url: str) -> None:
    clock = Turned()

    def be_set_up(tx: Tx) -> None:
        tx.insert_new(instance, singleton=1, operator_organization_id=tx.caller.organization_id, created_at=tx.now)

    async def work(database: Database) -> None:
        known = await make_known(database)
        owner = replace(SYSTEM, organization_id=known.organization_id)

        async def verdicts(*issued_at: int) -> list[Verdict]:
            batch = [entry(known, clock.now, meter="apiCalls", token_id=new_id(clock.now), token_issued_at=instant) for instant in issued_at]
            return await write_together(database, batch)

        assert await verdicts(0) == [RECORDED]
        await database.write(be_set_up, owner)
        assert await verdicts(0) == [RECORDED]
        for floor in (5000, 3000):
            await database.write(lambda tx, floor=floor: raise_token_floor(tx, floor, newest_event_at=None), owner)
            assert await verdicts(4999, 5000) == [DEAD, RECORDED]
        issuing = entry(known, clock.now)
        assert await write_together(database, [issuing, entry(known, clock.now, token_id=new_id(clock.now))]) == [RECORDED, DEAD]

    with_database(database_url, work, clock=clock)


def test_the_limit_of_a_day_holds_across_batches_and_ends_with_the_day(database_url: str) -> None:
    clock = Turned(20_000 * DAY_MS + DAY_MS // 2)

    async def work(database: Database) -> None:
        known = await make_known(database)
        limit = sa.update(organizations).where(organizations.c.organization_id == known.organization_id).values(max_tokens_per_day=5)
        await database.write(lambda tx: tx.run(limit) and None, known.caller)
        known.snapshot = replace(known.snapshot, tokens_per_day_max=5)
        assert await write_together(database, [entry(known, clock.now) for _ in range(3)]) == [RECORDED] * 3
        assert await write_together(database, [entry(known, clock.now) for _ in range(4)]) == [RECORDED] * 2 + [OVER] * 2
        assert await write_together(database, [entry(known, clock.now)]) == [OVER]
        clock.forward(seconds=DAY_MS // 1000)
        assert await write_together(database, [entry(known, clock.now)]) == [RECORDED]
        totals = await database.read(counted, known.caller, known)
        assert (totals[20_000, "tokensIssued"], totals[20_001, "tokensIssued"]) == (5, 1)
        issued = [row for row in await database.read(rows, known.caller, audit_events, known) if row["action"] == "token.issued"]
        assert len(issued) == 6

    with_database(database_url, work, clock=clock)


@pytest.mark.parametrize("fails", [False, True])
def test_a_unit_of_work_records_and_counts_with_its_rows_or_not_at_all(database_url: str, fails: bool) -> None:  # noqa: FBT001 - both ends of it
    clock = Turned()

    def act(tx: Tx, done: Callable[[], None]) -> None:
        tx.record("agent.created", "agent", "a", name="x")
        tx.record("access.denied", outcome="failure", organization_id=tx.caller.organization_id, agent_id=new_id(tx.now))
        for meter in ("agentsRegistered", "apiCalls", "apiCalls"):
            tx.count(meter)
        done()

    async def work(database: Database) -> None:
        known = await make_known(database)
        caller = Caller(known.organization_id, known.agent_id, origin=ORIGIN)
        earlier, before = await database.read(rows, caller, audit_events, known), await database.read(counted, caller, known)

        def done() -> None:
            if fails:
                raise Conflict

        try:
            await database.write(act, caller, done)
        except Conflict:
            assert fails
        written = [row for row in await database.read(rows, caller, audit_events, known) if row not in earlier]
        after, day = await database.read(counted, caller, known), clock.now // DAY_MS
        if fails:
            assert (written, after) == ([], before)
            return
        assert sorted((row["action"], row["outcome"]) for row in written) == [("access.denied", "failure"), ("agent.created", "success")]
        assert {row["user_agent"] for row in written} == {ORIGIN.user_agent}
        assert (after[day, "agentsRegistered"], after[day, "apiCalls"]) == (before.get((day, "agentsRegistered"), 0) + 1, 2)

    with_database(database_url, work, clock=clock)
