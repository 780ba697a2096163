"""Forgetting whole months, on PostgreSQL: when nobody keeps anything of them, and only then. By a login role that is no superuser."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
import sqlalchemy as sa
from tests.db.opened import Turned
from tests.db.test_partitions import as_owner, at, event, names
from tests.ledger.made import Known, make_known
from tests.ledger.test_sealer import events, followed, head, issue, sealer_of
from tests.serving import settings_for

from agentidp import worker
from agentidp.auth.instance import Instance
from agentidp.core.caller import SYSTEM
from agentidp.core.ids import first_id
from agentidp.db.partitions import Month
from agentidp.db.schema import audit_events, organizations
from agentidp.db.unit import Tx
from agentidp.ledger.retention import drop, find_forgotten
from agentidp.start import start

pytestmark = pytest.mark.parametrize("engine", ["postgresql"])
NOVEMBER, DECEMBER, FEBRUARY = at(2026, 11, 10), at(2026, 12, 10), at(2027, 2, 20)  # free plans keep ninety days: in February, December


@pytest.fixture
def owner_url(database_url: str) -> Iterator[str]:
    with as_owner(database_url) as url:
        yield url


@contextlib.asynccontextmanager
async def lived(folder: Path, url: str) -> AsyncIterator[tuple[Instance, Known, Known]]:
    """An instance in February 2027 whose two organizations, and its own, were active in November and December, on free plans."""
    clock = Turned(NOVEMBER)
    instance = (await start(settings_for(folder, url), clock)).instance
    try:
        one, other = await make_known(instance.database), await make_known(instance.database)
        await instance.database.write(lambda tx: tx.run(sa.update(organizations).values(plan_tier="free")) and None, SYSTEM)
        for clock.now in (NOVEMBER, DECEMBER):
            for known in (one, other):
                await issue(instance.database, known, 4, clock)
            await sealer_of(instance.database, clock).seal_all()
            await worker.sign_chains(instance)
        clock.now = FEBRUARY
        await worker.prepare_months(instance)
        yield instance, one, other
    finally:
        await instance.database.close()


def months(tx: Tx) -> list[str]:
    return names(tx.connection)


def forgotten(tx: Tx) -> list[str]:
    return [month.name for month in find_forgotten(tx)]


ALL = ["until_2026_11", "2026_12", "2027_01", "2027_02", "2027_03", "2027_04"]


def test_a_month_that_nobody_keeps_is_dropped_and_the_chains_begin_behind_it(tmp_path: Path, owner_url: str) -> None:
    async def work() -> None:
        async with lived(tmp_path, owner_url) as (instance, one, other):
            database = instance.database
            assert await database.read(months, SYSTEM) == ALL
            whole = {known.organization_id: await database.read(events, SYSTEM, known) for known in (one, other)}
            assert await database.read(forgotten, SYSTEM) == ["audit_events_2027_01"], "in which nothing happened"
            await worker.forget_history(instance)
            assert await database.read(months, SYSTEM) == ["2026_12", "2027_02", "2027_03", "2027_04"]
            for known in (one, other):
                left = await database.read(events, SYSTEM, known)
                assert left == whole[known.organization_id][-4:]
                row = await database.read(head, SYSTEM, known)
                assert row.start_size == left[0].seq - 1
                assert (await followed(database, known, size=row.start_size, head=left[0].previous_hash)).broken is None

    asyncio.run(work())


def test_a_month_of_which_one_keeps_something_stays_and_the_others_rows_go(tmp_path: Path, owner_url: str) -> None:
    async def work() -> None:
        async with lived(tmp_path, owner_url) as (instance, one, other):
            database = instance.database
            kept = sa.update(organizations).where(organizations.c.organization_id == other.organization_id).values(plan_tier="enterprise")
            await database.write(lambda tx: tx.run(kept) and None, SYSTEM)
            whole = await database.read(events, SYSTEM, other)
            await worker.forget_history(instance)
            assert "until_2026_11" in await database.read(months, SYSTEM)
            assert await database.read(events, SYSTEM, other) == whole
            assert len(await database.read(events, SYSTEM, one)) == 4
            assert (await followed(database, other)).broken is None

    asyncio.run(work())


@pytest.mark.parametrize("seq", [None, 1_000])
def test_what_was_written_since_a_month_was_found_saves_it(tmp_path: Path, owner_url: str, seq: int | None) -> None:
    """By a clock that was wrong: in no chain yet, or above the cut."""
    late = Month("audit_events_2027_01", first_id(at(2027, 1)), first_id(at(2027, 2)))

    async def work() -> None:
        async with lived(tmp_path, owner_url) as (instance, one, _):
            database = instance.database
            assert await database.read(find_forgotten, SYSTEM) == [late]
            written = event(first_id(at(2027, 1, 3)), seq) | {"organization_id": one.organization_id}
            await database.write(lambda tx: tx.run(sa.insert(audit_events).values(written)) and None, SYSTEM)
            assert await database.write(drop, SYSTEM, late) is False
            assert await database.read(find_forgotten, SYSTEM) == []
            assert await database.read(months, SYSTEM) == ALL

    asyncio.run(work())


def test_while_somebody_reads_for_long_the_rows_are_forgotten_one_by_one(tmp_path: Path, owner_url: str) -> None:
    async def work() -> None:
        reader = await asyncpg.connect(owner_url)
        async with lived(tmp_path, owner_url) as (instance, one, _):
            async with reader.transaction():
                await reader.execute("SELECT count(*) FROM audit_events")
                await worker.forget_history(instance)
                assert await instance.database.read(months, SYSTEM) == ALL
                assert len(await instance.database.read(events, SYSTEM, one)) == 4
            await reader.close()
            await worker.forget_history(instance)
            assert (await instance.database.read(months, SYSTEM))[0] == "2026_12"

    asyncio.run(work())
