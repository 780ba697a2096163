"""The history by months, on PostgreSQL: which partitions are there when, that nothing is lost between them, and whom they are open to."""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa
from tests.db.logins import as_login, drop_login, make_login
from tests.db.opened import Turned, opened, with_database
from tests.db.test_migrations import drop_everything
from tests.db.test_walls import OURS, THEIRS, on, plausible, refused

from agentidp.core.caller import SYSTEM, Caller
from agentidp.core.errors import Unavailable
from agentidp.core.ids import first_id, new_id
from agentidp.db import walls
from agentidp.db.migrate import run_alembic, upgrade
from agentidp.db.partitions import Month, list_months, prepare, prepare_months
from agentidp.db.schema import audit_events
from agentidp.db.unit import Database

pytestmark = pytest.mark.parametrize("engine", ["postgresql"])


def at(year: int, month: int, day: int = 1) -> int:
    return int(datetime(year, month, day, tzinfo=UTC).timestamp()) * 1000


def names(connection: sa.Connection) -> list[str]:
    return [month.name.removeprefix("audit_events_") for month in list_months(connection)]


def event(event_id: str, seq: int | None = None) -> dict[str, Any]:
    return plausible(audit_events, OURS) | {"event_id": event_id, "seq": seq}


def where_they_are(connection: sa.Connection) -> dict[str, str]:
    rows = connection.execute(sa.text("SELECT event_id::text, tableoid::regclass::text FROM audit_events"))
    return {event_id: table.removeprefix("audit_events_") for event_id, table in rows}


@contextlib.contextmanager
def as_owner(database_url: str) -> Iterator[str]:
    """The database, which is empty again, by a login role that is no superuser and owns it, as in production."""
    login = f"login_{uuid.uuid4().hex[:8]}"
    on(database_url, upgrade)  # makes the roles
    on(database_url, drop_everything)
    on(database_url, lambda connection: make_login(connection, login, sa.make_url(database_url).database))
    try:
        yield as_login(database_url, login)
    finally:
        on(database_url, lambda connection: drop_login(connection, login))


@pytest.fixture
def owner_url(database_url: str) -> Iterator[str]:
    with as_owner(database_url) as url:
        yield url


def test_this_month_and_two_more_are_there_and_what_is_earlier(database_url: str) -> None:
    def work(connection: sa.Connection) -> None:
        upgrade(connection, lambda: at(2026, 11, 22))
        first = ["until_2026_11", "2026_12", "2027_01"]
        assert names(connection) == first
        for now, more in ((at(2026, 11, 30), []), (at(2026, 12), ["2027_02"]), (at(2026, 12, 31), []), (at(2028, 2, 29), ["2028_02", "2028_03", "2028_04"])):
            prepare(connection, now)
            first += more
            assert names(connection) == first
        months = list_months(connection)
        assert months[0].first is None
        assert (months[1].first, months[1].end) == (first_id(at(2026, 12)), first_id(at(2027, 1)))
        assert set(walls.partitions(connection)) == {month.name for month in months} | {"audit_events_rest"}

    on(database_url, work)


def test_every_event_has_its_place(database_url: str) -> None:
    ids = {
        first_id(0): "until_2026_11",
        str(uuid.UUID(int=0)): "until_2026_11",
        first_id(at(2026, 12) - 1): "until_2026_11",
        first_id(at(2026, 12)): "2026_12",
        first_id(at(2027, 2) - 1).replace("-7000-8", "-7fff-b"): "2027_01",
        first_id(at(2027, 2)): "rest",
        str(uuid.UUID(int=2**128 - 1)): "rest",
    }

    def work(connection: sa.Connection) -> None:
        upgrade(connection, lambda: at(2026, 11))
        connection.execute(sa.insert(audit_events), [event(event_id) for event_id in ids])
        assert where_they_are(connection) == ids

    on(database_url, work)


def test_a_month_that_has_begun_in_the_rest_stays_there_and_the_others_are_made(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    early = first_id(at(2027, 3, 5))

    def work(connection: sa.Connection) -> None:
        upgrade(connection, lambda: at(2026, 11))
        connection.execute(sa.insert(audit_events), [event(early)])
        with caplog.at_level(logging.WARNING):
            prepare(connection, at(2027, 2))
        assert names(connection) == ["until_2026_11", "2026_12", "2027_01", "2027_02", "2027_04"]
        assert where_they_are(connection) == {early: "rest"}

    on(database_url, work)
    assert [record.partition for record in caplog.records if "clock" in record.message] == ["audit_events_2027_03"]  # type: ignore[attr-defined]


def test_a_number_is_given_once_in_each(database_url: str) -> None:
    def work(connection: sa.Connection) -> None:
        upgrade(connection, lambda: at(2026, 11))
        for instant in (at(2026, 11, 5), at(2026, 12, 5), at(2035, 1)):
            connection.execute(sa.insert(audit_events), [event(first_id(instant), 7)])
            with pytest.raises(sa.exc.IntegrityError), connection.begin_nested():
                connection.execute(sa.insert(audit_events), [event(first_id(instant + 1), 7)])

    on(database_url, work)


def test_processes_that_prepare_at_once_make_each_month_once(owner_url: str) -> None:
    clock = Turned(at(2026, 11))

    async def work(database: Database) -> None:
        clock.now = at(2027, 6)
        await asyncio.gather(*(database.write(prepare_months, SYSTEM) for _ in range(8)))
        assert await database.read(lambda tx: names(tx.connection), SYSTEM) == ["until_2026_11", "2026_12", "2027_01", "2027_06", "2027_07", "2027_08"]
        assert await database.read(lambda tx: tx.connection.exec_driver_sql("SELECT current_user").scalar(), SYSTEM) == walls.SYSTEM

    with_database(owner_url, work, clock=clock)
    on(owner_url, lambda connection: run_alembic(connection, "check"))
    assert on(owner_url, walls.missing) == []


def test_whoever_reads_for_long_is_not_waited_for(owner_url: str) -> None:
    clock = Turned(at(2026, 11))

    async def work() -> None:
        async with opened(owner_url, clock) as database:
            clock.now = at(2027, 6)
            reader = await asyncpg.connect(owner_url)
            async with reader.transaction():
                await reader.execute("LOCK TABLE audit_events IN ACCESS SHARE MODE")
                with pytest.raises(Unavailable):
                    await database.write(prepare_months, SYSTEM)
            await reader.close()
            await database.write(prepare_months, SYSTEM)
            assert (await database.read(lambda tx: names(tx.connection), SYSTEM))[-1] == "2027_08"

    asyncio.run(work())


# whom a partition is open to


@pytest.mark.parametrize("number", range(4))
def test_a_partition_is_closed_to_whoever_names_it(owner_url: str, number: int) -> None:
    clock = Turned(at(2026, 11))
    rows = {"until_2026_11": first_id(at(2026, 11)), "2026_12": first_id(at(2026, 12)), "2027_01": first_id(at(2027, 1)), "rest": first_id(at(2030, 1))}
    name, event_id = list(rows.items())[number]
    table = f"audit_events_{name}"
    statements = (
        f"SELECT * FROM {table}",
        f"INSERT INTO {table} SELECT * FROM audit_events",
        f"UPDATE {table} SET seq = NULL",
        f"DELETE FROM {table}",
        f"TRUNCATE {table}",
        f"DROP TABLE {table}",
        f"ALTER TABLE audit_events DETACH PARTITION {table}",
    )

    async def work(database: Database) -> None:
        await database.write(lambda tx: tx.run(sa.insert(audit_events).values(event(event_id))) and None, SYSTEM)
        for statement in statements:
            await refused(database.write(lambda tx, s=statement: tx.run(sa.text(s)) and None, Caller(OURS)))
        for statement in statements[1:]:
            await refused(database.write(lambda tx, s=statement: tx.run(sa.text(s)) and None, SYSTEM))
        seen = await database.read(lambda tx: tx.run(sa.text(statements[0])).all(), SYSTEM)
        assert [str(row.event_id) for row in seen] == [event_id], "pg_dump reads partition by partition"
        through = [await database.read(lambda tx: where_they_are(tx.connection), caller) for caller in (SYSTEM, Caller(OURS), Caller(THEIRS))]
        assert through == [{event_id: name}, {event_id: name}, {}]

    with_database(owner_url, work, clock=clock)
    assert on(owner_url, lambda connection: connection.exec_driver_sql(statements[0]).all()) == [], "nor to its owner, without a role"


def test_a_partition_without_its_wall_is_found_and_closed(owner_url: str) -> None:
    def take_down(connection: sa.Connection) -> None:
        upgrade(connection, lambda: at(2026, 11))
        connection.exec_driver_sql("ALTER TABLE audit_events_2026_12 NO FORCE ROW LEVEL SECURITY")
        connection.exec_driver_sql(f"DROP POLICY {walls.SYSTEM} ON audit_events_rest")
        assert walls.missing(connection) == ["audit_events_2026_12", "audit_events_rest"]
        upgrade(connection, lambda: at(2026, 11))
        assert walls.missing(connection) == []

    on(owner_url, take_down)


# an older database


def _one_table(connection: sa.Connection, ids: list[str]) -> None:
    run_alembic(connection, "upgrade", "0009")
    connection.execute(sa.insert(audit_events), [event(event_id, number) for number, event_id in enumerate(ids, 1)])
    walls._protect(connection, "audit_events")
    walls._grant(connection, "audit_events", dict.fromkeys((walls.TENANT, walls.SYSTEM), "SELECT, INSERT"))


def test_an_older_history_becomes_the_first_partition_and_is_not_copied(owner_url: str) -> None:
    old, recent, wrong = first_id(at(2020, 1)), new_id(int(datetime.now(UTC).timestamp() * 1000)), first_id(at(2090, 1))

    def file_of(connection: sa.Connection, name: str) -> int:
        return int(connection.exec_driver_sql(f"SELECT pg_relation_filenode('{name}')").scalar_one())

    def work(connection: sa.Connection) -> None:
        _one_table(connection, [old, recent, wrong])
        file = file_of(connection, "audit_events")
        assert upgrade(connection) == "upgraded"
        first, *more = list_months(connection)
        assert (first.first, len(more), file_of(connection, first.name)) == (None, 2, file)
        assert upgrade(connection) == "current"
        walls.enter(connection, SYSTEM)
        name = first.name.removeprefix("audit_events_")
        assert where_they_are(connection) == {old: name, recent: name, wrong: "rest"}

    on(owner_url, work)
    on(owner_url, lambda connection: run_alembic(connection, "check"))


def test_the_way_back_keeps_every_event(owner_url: str) -> None:
    ids = [first_id(at(2020, 1)), first_id(at(2090, 1))]

    def work(connection: sa.Connection) -> list[str]:
        _one_table(connection, ids)
        upgrade(connection)
        run_alembic(connection, "downgrade", "0009")
        return [str(row.event_id) for row in connection.execute(sa.select(audit_events).order_by(audit_events.c.event_id))]

    assert on(owner_url, work) == ids


def test_a_month_covers_what_lies_within(engine: str) -> None:
    first, second, both = Month("a", "1", "2"), Month("b", "2", "3"), Month("c", None, "3")
    assert [one.covers(other) for one in (first, second, both) for other in (first, second, both)] == [True, False, False, False, True, False, True, True, True]
