"""Values that may be used once: claimed in the transaction of what they were used for, or not at all."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from tests.db.opened import Turned, opened, with_database
from tests.ledger.made import Known, make_known
from tests.ledger.test_entries import DEAD, OVER, RECORDED, SNAPSHOT, STALE, facts
from tests.ledger.test_writers import counted, entry, rows, write_together

from agentidp.bootstrap import raise_token_floor
from agentidp.core import limits
from agentidp.core.caller import SYSTEM
from agentidp.core.errors import Conflict
from agentidp.core.ids import new_id
from agentidp.db.schema import audit_events, instance, one_time_values, organizations, revoked_tokens
from agentidp.db.unit import Database, Tx
from agentidp.ledger.entries import DAY_MS, Entry, OneTime, Verdict, claims, judge, refuse_replayed, unused
from agentidp.ledger.one_time import claim_once, sweep_one_time_values

REPLAYED = Verdict.REPLAYED
MARGIN = limits.ONE_TIME_MARGIN_SECONDS


def value(name: str, *, issuer: str = "issuer", kind: str = "test", issued_at: int = 5000, expires_at: int = 10_000) -> OneTime:
    return OneTime.of(kind, issuer, name, issued_at=issued_at, expires_at=expires_at)


async def used(database: Database, known: Known) -> int:
    return len(await database.read(rows, known.caller, one_time_values, known))


def test_a_digest_is_that_of_all_its_parts() -> None:
    names = [("a", "b"), ("ab", ""), ("", "ab"), ("a", "b", ""), ('a","b',), ("b", "a")]
    assert len({OneTime.of("test", *parts, issued_at=0, expires_at=0).digest for parts in names}) == len(names)


def test_values_are_claimed_in_one_order_and_only_for_what_stands() -> None:
    a, b, late = value("a"), value("b"), value("a", expires_at=20_000)
    batch = [
        Entry(SNAPSHOT, once=(b, a)),
        Entry(SNAPSHOT, once=(late,)),
        Entry(SNAPSHOT),
        *(Entry(SNAPSHOT, once=(value("c"),), verdict=one) for one in (STALE, DEAD)),
    ]
    found = claims(batch)
    assert found == sorted([(("o1", "test", a.digest), 20_000), (("o1", "test", b.digest), 10_000)])


def test_of_entries_with_one_value_the_first_stands() -> None:
    batch = [Entry(SNAPSHOT, once=(value(name),)) for name in ("a", "a", "b", "taken")]
    batch += [Entry(SNAPSHOT, once=(value("c"), value("taken"))), Entry(SNAPSHOT, once=(value("c"), value("d")))]
    refuse_replayed(batch, {("o1", "test", value(name).digest) for name in "abcd"})
    assert [one.verdict for one in batch] == [RECORDED, REPLAYED, RECORDED, REPLAYED, REPLAYED, RECORDED]
    assert [one.replayed for one in batch] == ["", "test", "", "test", "test", ""]


def test_only_what_the_limit_refused_gives_its_values_back() -> None:
    batch = [Entry(SNAPSHOT, once=(value(verdict.name),), verdict=verdict) for verdict in Verdict]
    assert unused(batch) == [("o1", "test", value("OVER_LIMIT").digest)]


@pytest.mark.parametrize(("issued_at", "verdict", "kind"), [(4999, REPLAYED, "b"), (5000, RECORDED, "")])
def test_what_may_have_been_used_before_a_restore_is_taken_for_used(issued_at: int, verdict: Verdict, kind: str) -> None:
    one = Entry(SNAPSHOT, once=(value("a", kind="a", issued_at=9000), value("b", kind="b", issued_at=issued_at)))
    judge([one], replace(facts(), tokens_not_before=5000))
    assert (one.verdict, one.replayed) == (verdict, kind)


def test_a_value_is_used_once_in_its_organization(database_url: str) -> None:
    clock = Turned()

    async def work(database: Database) -> None:
        known, other = await make_known(database), await make_known(database)
        a, b = value("a"), value("b")
        batch = [entry(known, clock.now, once=(a,)), entry(known, clock.now, once=(a,)), entry(known, clock.now), entry(other, clock.now, once=(a,))]
        assert await write_together(database, batch) == [RECORDED, REPLAYED, RECORDED, RECORDED]
        batch = [
            entry(known, clock.now, once=(b, a)),
            entry(known, clock.now, once=(value("a", kind="other"),)),
            entry(known, clock.now, once=(value("a", issuer="x"),)),
        ]
        assert await write_together(database, batch) == [REPLAYED, RECORDED, RECORDED]
        issued = [row for row in await database.read(rows, known.caller, audit_events, known) if row["action"] == "token.issued"]
        assert len(issued) == (await database.read(counted, known.caller, known))[clock.now // DAY_MS, "tokensIssued"] == 4

    with_database(database_url, work, clock=clock)


def _revoke_token(tx: Tx, known: Known, token_id: str) -> None:
    values = {"organization_id": known.organization_id, "token_id": token_id, "agent_id": known.agent_id, "revoked_at": 1, "expires_at": tx.now + DAY_MS}
    tx.run(sa.insert(revoked_tokens).values(values))


def test_what_is_refused_for_another_reason_burns_nothing(database_url: str) -> None:
    clock = Turned()

    async def work(database: Database) -> None:
        known = await make_known(database)
        token_id = new_id(clock.now)
        await database.write(_revoke_token, known.caller, known, token_id)
        limit = sa.update(organizations).where(organizations.c.organization_id == known.organization_id).values(max_tokens_per_day=1)
        await database.write(lambda tx: tx.run(limit) and None, known.caller)
        stale = Entry(replace(known.snapshot, revisions=(9, 9, 9)), once=(value("stale"),))
        known.snapshot = replace(known.snapshot, tokens_per_day_max=1)
        batch = [
            stale,
            entry(known, clock.now, token_id=token_id, once=(value("dead"),)),
            entry(known, clock.now, once=(value("good"),)),
            entry(known, clock.now, once=(value("over"), value("too"))),
            entry(known, clock.now),
        ]
        assert await write_together(database, batch) == [STALE, DEAD, RECORDED, OVER, OVER]
        assert await used(database, known) == 1
        again = [entry(known, clock.now, meter=None, once=(value(name),)) for name in ("stale", "dead", "over", "too", "good")]
        assert await write_together(database, again) == [RECORDED] * 4 + [REPLAYED]

    with_database(database_url, work, clock=clock)


def test_a_restart_frees_nothing(database_url: str) -> None:
    clock = Turned()

    async def work() -> list[Verdict]:
        verdicts, known = [], None
        for _ in range(3):
            async with opened(database_url, clock) as database:
                known = known or await make_known(database)
                verdicts += await write_together(database, [entry(known, clock.now, once=(value("a"),))])
        return verdicts

    assert asyncio.run(work()) == [RECORDED, REPLAYED, REPLAYED]


def test_a_unit_of_work_claims_with_its_rows_or_not_at_all(database_url: str) -> None:
    def act(tx: Tx, *, fails: bool = False) -> bool:
        tx.record("agent.created")
        claimed = claim_once(tx, value("a"))
        if fails:
            raise Conflict
        return claimed

    async def work(database: Database) -> None:
        known, other = await make_known(database), await make_known(database)
        with pytest.raises(Conflict):
            await database.write(lambda tx: act(tx, fails=True), known.caller)
        assert [await database.write(act, one.caller) for one in (known, known, other)] == [True, False, True]
        clash = Entry(known.snapshot, once=(value("a"),))
        assert await write_together(database, [clash]) == [REPLAYED]

    with_database(database_url, work)


def test_after_a_restore_only_what_was_made_since_may_be_used(database_url: str) -> None:
    clock = Turned()

    async def work(database: Database) -> None:
        known = await make_known(database)

        def restore(tx: Tx) -> None:
            tx.insert_new(instance, singleton=1, operator_organization_id=known.organization_id, created_at=tx.now)
            raise_token_floor(tx, 5000, newest_event_at=None)

        await database.write(restore, replace(SYSTEM, organization_id=known.organization_id))
        batch = [Entry(known.snapshot, once=(value(f"a{instant}", issued_at=instant),)) for instant in (4999, 5000)]
        assert await write_together(database, batch) == [REPLAYED, RECORDED]
        claimed = [await database.write(claim_once, known.caller, value(f"b{instant}", issued_at=instant)) for instant in (4999, 5000)]
        assert claimed == [False, True]
        assert await used(database, known) == 2

    with_database(database_url, work, clock=clock)


@pytest.mark.parametrize(("seconds_after_expiry", "swept"), [(-1, 0), (0, 0), (MARGIN - 1, 0), (MARGIN, 1)])
def test_a_value_is_forgotten_when_nobody_takes_it_by_any_clock(database_url: str, seconds_after_expiry: int, swept: int) -> None:
    clock = Turned()

    async def work(database: Database) -> Any:
        known = await make_known(database)
        until = clock.now
        for one in (value("a", expires_at=until), value("b", expires_at=until + DAY_MS)):
            assert await database.write(claim_once, known.caller, one)
        clock.forward(seconds=seconds_after_expiry)
        found = await database.write(sweep_one_time_values, SYSTEM)
        assert await used(database, known) == 2 - found
        return found

    assert with_database(database_url, work, clock=clock) == swept
