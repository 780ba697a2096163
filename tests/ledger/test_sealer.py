"""Sealing on both engines: everything once and in order, whoever else is at it; then checkpoints."""

import asyncio
import contextlib
import random
import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from tests.db.opened import Turned, opened, with_database
from tests.ledger.made import Known, make_known
from tests.ledger.test_writers import entry, write_together

from agentidp.core import limits
from agentidp.core.caller import SYSTEM, Caller
from agentidp.core.clock import system_clock
from agentidp.core.errors import OutcomeUnknown
from agentidp.core.ids import new_id
from agentidp.db.engine import open_database
from agentidp.db.schema import audit_checkpoints, audit_events, audit_heads
from agentidp.db.unit import Database, Tx
from agentidp.ledger.chain import ROW, Verified, from_row, verify
from agentidp.ledger.checkpoint import open_note, origin, verifier_key
from agentidp.ledger.heads import AuditKey, organizations_to_sign, sign_head, sign_heads
from agentidp.ledger.nudge import Nudge
from agentidp.ledger.sealer import ChainSealer
from agentidp.ledger.sealing import Overtaken, find_unsealed, release, seal
from agentidp.ledger.writers import LedgerWriters

ONE, OTHER = "01900000-0000-7000-8000-00000000000a", "01900000-0000-7000-8000-00000000000b"
KEY = AuditKey("https://id.example.com", bytes(range(32)))


def sealer_of(database: Database, clock: Callable[[], int] = system_clock) -> ChainSealer:
    return ChainSealer(database, clock, Nudge())


def events(tx: Tx, known: Known) -> list[Any]:
    columns = {column.name: column for column in audit_events.c} | {"metadata": sa.cast(audit_events.c.metadata, sa.Text)}
    query = sa.select(*(columns[name].label(name) for name in ROW)).where(audit_events.c.organization_id == known.organization_id)
    return tx.all(query.order_by(audit_events.c.seq, audit_events.c.event_id))


def head(tx: Tx, known: Known) -> Any:
    return tx.one(sa.select(audit_heads).where(audit_heads.c.organization_id == known.organization_id))


def checkpoints(tx: Tx, known: Known) -> list[tuple[int, str]]:
    kept = audit_checkpoints.c
    rows = tx.all(sa.select(kept.size, kept.head_hash).where(kept.organization_id == known.organization_id).order_by(kept.size))
    return [(row.size, row.head_hash) for row in rows]


async def followed(database: Database, known: Known, **options: Any) -> Verified:
    """The chain as it is in the database, all of it sealed."""
    rows = await database.read(events, SYSTEM, known)
    assert all(row.seq is not None for row in rows)
    found = verify(known.organization_id, [from_row(tuple(row)) for row in rows], **options)
    row = await database.read(head, SYSTEM, known)
    assert (found.size, found.head) == (row.size, row.head_hash)
    return found


async def issue(database: Database, known: Known, count: int, clock: Callable[[], int] = system_clock) -> None:
    await write_together(database, [entry(known, clock()) for _ in range(count)])


def test_everything_is_sealed_in_the_order_of_ids(database_url: str) -> None:
    async def work(database: Database) -> None:
        tenants = [await make_known(database) for _ in range(3)]
        for known, count in zip(tenants, (1, 40, limits.SEAL_ROWS_MAX + 50), strict=True):
            await issue(database, known, count)
        sealer = sealer_of(database)
        total = sum([len(await database.read(events, SYSTEM, known)) for known in tenants])
        assert await sealer.seal_all() == total
        assert await sealer.seal_all() == 0
        for known in tenants:
            assert (await followed(database, known)).broken is None
            rows = await database.read(events, SYSTEM, known)
            assert [row.event_id for row in rows] == sorted(row.event_id for row in rows)
            assert [row.seq for row in rows] == list(range(1, len(rows) + 1))

    with_database(database_url, work)


def test_an_event_that_commits_late_gets_a_later_number(database_url: str) -> None:
    async def work(database: Database) -> None:
        known = await make_known(database)
        late = entry(known, system_clock() - 5000)
        await issue(database, known, 3)
        sealer = sealer_of(database)
        await sealer.seal_all()
        await write_together(database, [late])
        assert await sealer.seal_all() == 1
        rows = await database.read(events, SYSTEM, known)
        assert late.event is not None
        assert rows[-1].event_id == late.event.event_id < rows[-2].event_id
        assert (await followed(database, known)).broken is None

    with_database(database_url, work)


def test_a_busy_organization_does_not_hold_up_the_others(database_url: str) -> None:
    async def work(database: Database) -> None:
        busy, quiet = sorted([await make_known(database), await make_known(database)], key=lambda known: known.organization_id)
        await issue(database, busy, 30)
        first = await database.read(find_unsealed, SYSTEM, ONE, rows_max=10)
        assert [links.organization_id for links in first.links] == [busy.organization_id]
        second = await database.read(find_unsealed, SYSTEM, ONE, first.after, rows_max=10)
        assert [links.organization_id for links in second.links] == [quiet.organization_id]
        assert second.after is None

    with_database(database_url, work)


def test_the_holder_of_a_lease_is_left_alone_until_it_ends(database_url: str) -> None:
    clock = Turned()

    async def work(database: Database) -> None:
        known = await make_known(database)
        found = await database.read(find_unsealed, SYSTEM, ONE)
        assert await database.write(seal, SYSTEM, ONE, found.links) == len(found.links[0].events)
        await issue(database, known, 2, clock)
        assert not (await database.read(find_unsealed, SYSTEM, OTHER)).links
        assert len((await database.read(find_unsealed, SYSTEM, ONE)).links) == 1
        clock.forward(seconds=limits.SEAL_LEASE_MS / 1000)
        assert len((await database.read(find_unsealed, SYSTEM, OTHER)).links) == 1
        clock.forward(seconds=-3600)  # the lease was taken by a clock that was wrong
        assert len((await database.read(find_unsealed, SYSTEM, OTHER)).links) == 1
        clock.forward(seconds=3600 - limits.SEAL_LEASE_MS / 1000)
        await database.write(release, SYSTEM, ONE)
        assert len((await database.read(find_unsealed, SYSTEM, OTHER)).links) == 1

    with_database(database_url, work, clock=clock)


def test_a_sealer_that_lost_its_lease_on_the_way_changes_nothing(database_url: str) -> None:
    clock = Turned()

    async def work(database: Database) -> None:
        known = await make_known(database)
        await database.write(seal, SYSTEM, ONE, (await database.read(find_unsealed, SYSTEM, ONE)).links)
        await issue(database, known, 3, clock)
        hashed = await database.read(find_unsealed, SYSTEM, ONE)
        clock.forward(seconds=1)
        taken = await database.read(find_unsealed, SYSTEM, OTHER, rows_max=1)  # fewer events: what is left looks as it did
        assert await database.write(seal, SYSTEM, OTHER, taken.links) == 1
        before = await database.read(events, SYSTEM, known), await database.read(head, SYSTEM, known)
        clock.forward(seconds=1)
        assert await database.write(seal, SYSTEM, ONE, hashed.links) == 0
        assert (await database.read(events, SYSTEM, known), await database.read(head, SYSTEM, known)) == before
        assert before[1].fence == 2
        await sealer_of(database, clock).seal_all()
        assert (await followed(database, known)).broken is None

    with_database(database_url, work, clock=clock)


def test_the_fence_decides_where_the_size_would_not(database_url: str) -> None:
    async def work(database: Database) -> None:
        await make_known(database)
        found = await database.read(find_unsealed, SYSTEM, ONE)
        assert await database.write(seal, SYSTEM, ONE, []) == 0
        wrong = [replace(links, fence=1) for links in found.links]
        assert await database.write(seal, SYSTEM, ONE, wrong) == 0
        assert await database.write(seal, SYSTEM, ONE, found.links) > 0

    with_database(database_url, work)


def test_nothing_is_written_when_an_event_was_sealed_meanwhile(database_url: str) -> None:
    async def work(database: Database) -> None:
        known = await make_known(database)
        found = await database.read(find_unsealed, SYSTEM, ONE)
        stolen = found.links[0].events[0]
        theft = sa.update(audit_events).where(audit_events.c.organization_id == known.organization_id, audit_events.c.event_id == stolen.event_id)
        await database.write(lambda tx: tx.run(theft.values(seq=77)) and None, SYSTEM)
        with pytest.raises(Overtaken):
            await database.write(seal, SYSTEM, ONE, found.links)
        assert await database.read(head, SYSTEM, known) is None
        assert sum(row.seq is not None for row in await database.read(events, SYSTEM, known)) == 1

    with_database(database_url, work)


@pytest.mark.parametrize(
    "planted",
    [
        pytest.param({"seq": "size + 1"}, id="the next number is taken"),
        pytest.param({"timestamp": "9000000000000000"}, id="what cannot be read"),
    ],
)
def test_what_cannot_be_sealed_in_one_organization_stops_no_other(database_url: str, planted: dict[str, str]) -> None:
    """Not those before it in a round, nor those behind it, of which there are more than one look holds."""
    wrong: list[str] = []

    async def work(database: Database) -> None:
        first, attacked, last = sorted([await make_known(database) for _ in range(3)], key=lambda known: known.organization_id)
        sealer = ChainSealer(database, system_clock, Nudge(), observe_wrong=lambda: wrong.append(attacked.organization_id))
        await sealer.seal_all()
        for known in (first, attacked, last):
            await issue(database, known, 20)
        await issue(database, last, limits.SEAL_ROWS_MAX)
        await database.write(_plant, SYSTEM, attacked, planted)
        for _ in range(2):
            with pytest.raises((sa.exc.IntegrityError, ValueError, OverflowError)):
                await sealer.seal_all()
        assert wrong == [attacked.organization_id] * 2
        for known in (first, last):
            assert (await followed(database, known)).broken is None
        assert sum(row.seq is None for row in await database.read(events, SYSTEM, attacked)) >= 20

    with_database(database_url, work)


def _plant(tx: Tx, known: Known, planted: dict[str, str]) -> None:
    """A copy of the organization's last sealed event, by hand."""
    new = {"event_id": f"'{new_id(system_clock())}'", "seq": "NULL", "previous_hash": "NULL", "hash": "NULL"} | planted
    cast = "" if tx.connection.dialect.name == "sqlite" else "::uuid"
    new["event_id"] += cast
    columns = [column.name for column in audit_events.c]
    values = ", ".join(new.get(name, f"e.{name}") for name in columns)
    tx.connection.exec_driver_sql(
        f"INSERT INTO audit_events ({', '.join(columns)}) SELECT {values} FROM audit_events AS e "
        f"JOIN audit_heads AS h ON h.organization_id = e.organization_id AND h.size = e.seq WHERE h.organization_id = '{known.organization_id}'{cast}"
    )


def test_a_number_is_given_once(database_url: str) -> None:
    async def work(database: Database) -> None:
        known = await make_known(database)
        with pytest.raises(sa.exc.IntegrityError):
            await database.write(lambda tx: tx.run(sa.update(audit_events).values(seq=1)) and None, Caller(known.organization_id, is_system=True))

    with_database(database_url, work)


def test_sealers_that_compete_fork_nothing(database_url: str, engine: str) -> None:
    """Four sealers on two databases objects' worth of connections, while sixteen writers write for three organizations."""

    async def work(database: Database) -> None:
        async with contextlib.AsyncExitStack() as stack:
            second = database
            if engine == "postgresql":
                second = open_database(sa.make_url(database_url), system_clock, LedgerWriters())
                stack.push_async_callback(second.close)
            tenants = [await make_known(database) for _ in range(3)]
            writing = asyncio.gather(*[_write(one, tenants) for one in (database, second) for _ in range(8)])
            sealing = [asyncio.create_task(_seal_over_and_over(one, number)) for number, one in enumerate((database, second, database, second))]
            await writing
            for task in sealing:
                task.cancel()
            results = await asyncio.gather(*sealing, return_exceptions=True)
            # cancelled while a commit was under way, PostgreSQL has not told how that ended
            assert [result for result in results if not isinstance(result, asyncio.CancelledError | OutcomeUnknown)] == []
        await asyncio.sleep(limits.SEAL_LEASE_MS / 1000)
        await sealer_of(database).seal_all()
        for known in tenants:
            found = await followed(database, known)
            assert (found.broken, found.size >= 16 * 20 // 3) == (None, True)

    with_database(database_url, work)


async def _write(database: Database, tenants: Sequence[Known]) -> None:
    for number in range(20):
        await issue(database, tenants[number % len(tenants)], 3)


async def _seal_over_and_over(database: Database, number: int) -> None:
    """A sealer that dawdles between reading and writing, so that others come between."""
    dice, sealer_id = random.Random(number), new_id(system_clock())
    while True:
        found = await database.read(find_unsealed, SYSTEM, sealer_id, rows_max=20)
        await asyncio.sleep(dice.random() * limits.SEAL_LEASE_MS / 500)
        with contextlib.suppress(Overtaken):
            await database.write(seal, SYSTEM, sealer_id, found.links)


def test_a_nudge_is_enough(database_url: str) -> None:
    """The lag is printed, not asserted: from an event's timestamp to the first look that finds it sealed."""

    async def run() -> None:
        async with opened(database_url):
            pass
        nudge = Nudge()
        database = open_database(sa.make_url(database_url), system_clock, LedgerWriters(nudge))
        sealing = asyncio.create_task(ChainSealer(database, system_clock, nudge).run())
        try:
            known, lags = await make_known(database), []
            for _ in range(20):
                written = system_clock()
                await issue(database, known, 5)
                await _until(lambda: _is_all_sealed(database, known))
                lags.append(system_clock() - written)
            print(f"sealed after {statistics.median(lags)} ms in the middle, {max(lags)} ms at most")
            assert (await followed(database, known)).broken is None
        finally:
            sealing.cancel()
            await asyncio.gather(sealing, return_exceptions=True)
            row = await database.read(head, SYSTEM, known)
            await database.close()
        assert row.lease_owner is None

    asyncio.run(run())


async def _is_all_sealed(database: Database, known: Known) -> bool:
    return all(row.seq is not None for row in await database.read(events, SYSTEM, known))


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await condition():  # noqa: ASYNC110 - what is waited for happens in the database
            await asyncio.sleep(0.002)


def test_a_grown_chain_is_signed_once_and_the_last_event_looked_at(database_url: str) -> None:
    clock = Turned()
    signers = verifier_key(KEY.seed, "")

    async def work(database: Database) -> None:
        known = await make_known(database)
        await sealer_of(database, clock).seal_all()
        assert await database.read(organizations_to_sign, SYSTEM) == [known.organization_id]
        assert await database.write(sign_heads, SYSTEM, KEY, [known.organization_id]) == []
        assert await database.read(organizations_to_sign, SYSTEM) == []
        note = await database.write(sign_head, SYSTEM, KEY, known.organization_id)
        clock.forward(seconds=60)
        assert await database.write(sign_head, SYSTEM, KEY, known.organization_id) == note
        row = await database.read(head, SYSTEM, known)
        name = origin(KEY.issuer, known.organization_id)
        checkpoint = open_note(note, type(signers)(name, signers.public_key))
        assert (checkpoint.size, checkpoint.head, checkpoint.signed_at) == (row.size, row.head_hash, row.checkpoint_at)
        await issue(database, known, 2, clock)
        await sealer_of(database, clock).seal_all()
        last = sa.update(audit_events).where(audit_events.c.organization_id == known.organization_id, audit_events.c.seq == row.size + 2)
        await database.write(lambda tx: tx.run(last.values(previous_hash="0" * 64)) and None, SYSTEM)
        assert await database.write(sign_heads, SYSTEM, KEY, [known.organization_id]) == [known.organization_id]
        assert await database.read(checkpoints, SYSTEM, known) == [
            (row.size, row.head_hash),
            (row.size + 2, (await database.read(head, SYSTEM, known)).head_hash),
        ]

    with_database(database_url, work, clock=clock)


def test_an_empty_chain_has_a_checkpoint_that_is_not_kept(database_url: str) -> None:
    async def work(database: Database) -> None:
        known = await make_known(database)
        note = await database.write(sign_head, SYSTEM, KEY, known.organization_id)
        assert note.splitlines()[1] == "0"
        assert await database.read(checkpoints, SYSTEM, known) == []

    with_database(database_url, work)


@pytest.mark.parametrize("value", [0.5, 2**53, {"ü": 1}])
def test_what_cannot_be_sealed_does_not_happen(database_url: str, value: object) -> None:
    async def work(database: Database) -> None:
        known = await make_known(database)
        before = await database.read(events, SYSTEM, known)
        with pytest.raises(ValueError, match="an audit event holds"):
            await database.write(lambda tx: tx.record("agent.created", "agent", "a", value=value), known.caller)
        assert await database.read(events, SYSTEM, known) == before

    with_database(database_url, work)
