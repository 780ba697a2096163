"""What both engines promise about a unit of work: all or nothing, with its audit events, bounded, and finished before they close."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from tests.db.opened import NOBODY, insert_organization, opened, slugs, with_database

from agentidp.core import limits
from agentidp.core.caller import Caller
from agentidp.core.clock import system_clock
from agentidp.core.errors import Conflict, Unavailable, WrongSettings
from agentidp.core.ids import new_id
from agentidp.db.engine import open_database
from agentidp.db.schema import audit_events, organizations
from agentidp.db.sqlite import file_system_of
from agentidp.db.unit import Database, Tx
from agentidp.ledger.writers import LedgerWriters

only_postgresql = pytest.mark.parametrize("engine", ["postgresql"])
only_sqlite = pytest.mark.parametrize("engine", ["sqlite"])


def add(tx: Tx, slug: str, *, then: Exception | None = None) -> str:
    """Write an organization and an audit event of it, then fail if so asked."""
    organization_id = new_id(tx.now)
    insert_organization(tx, organization_id, slug)
    tx.record("org.created", "organization", organization_id, organization_id=organization_id, slug=slug)
    if then is not None:
        raise then
    return organization_id


def recorded(tx: Tx) -> list[str]:
    return sorted(row.metadata["slug"] for row in tx.all(sa.select(audit_events.c.metadata)))


async def stored(database: Database) -> tuple[list[str], list[str]]:
    return await database.read(slugs, NOBODY), await database.read(recorded, NOBODY)


def test_a_unit_leaves_its_rows_and_its_audit_events_together(database_url: str) -> None:
    async def work(database: Database) -> Any:
        assert await database.write(add, NOBODY, "one")
        return await stored(database)

    assert with_database(database_url, work) == (["one"], ["one"])


@pytest.mark.parametrize("failure", [Conflict("no"), RuntimeError("a fault"), KeyError("x")], ids=["a problem", "a fault", "a key"])
def test_a_unit_that_raises_leaves_nothing_and_its_caller_gets_what_it_raised(database_url: str, failure: Exception) -> None:
    async def work(database: Database) -> Any:
        with pytest.raises(type(failure)):
            await database.write(add, NOBODY, "one", then=failure)
        return await stored(database)

    assert with_database(database_url, work) == ([], [])


def test_a_unit_whose_audit_event_cannot_be_written_leaves_nothing(database_url: str) -> None:
    """The event has an outcome that does not exist: the action fails with it."""

    def unrecordable(tx: Tx) -> None:
        add(tx, "one")
        tx.record("agent.created", outcome="neither")  # type: ignore[arg-type]  # on purpose

    async def work(database: Database) -> Any:
        with pytest.raises((Unavailable, sa.exc.IntegrityError)):
            await database.write(unrecordable, NOBODY)
        return await stored(database)

    assert with_database(database_url, work) == ([], [])


def test_units_that_fail_do_not_hurt_those_beside_them(database_url: str) -> None:
    """On SQLite they share one transaction and one commit."""
    good = [f"good-{number}" for number in range(40)]

    async def work(database: Database) -> Any:
        units = [database.write(add, NOBODY, slug) for slug in good]
        units += [database.write(add, NOBODY, f"bad-{number}", then=RuntimeError("mine")) for number in range(10)]
        units += [database.write(add, NOBODY, good[0]) for _ in range(3)]  # the slug is taken
        results = await asyncio.gather(*units[::2], *units[1::2], return_exceptions=True)
        kinds = [type(result).__name__ for result in results if isinstance(result, Exception)]
        assert sorted(kinds) == ["IntegrityError"] * 3 + ["RuntimeError"] * 10
        return await stored(database)

    assert with_database(database_url, work) == (sorted(good), sorted(good))


def test_what_was_answered_is_there_for_the_next_reader(database_url: str) -> None:
    async def work(database: Database) -> None:
        for number in range(20):
            organization_id = await database.write(add, NOBODY, f"slug-{number}")
            query = sa.select(organizations.c.slug).where(organizations.c.organization_id == organization_id)
            row = await database.read(lambda tx, query=query: tx.one(query), NOBODY)
            assert row is not None

    with_database(database_url, work)


def test_a_read_cannot_write(database_url: str) -> None:
    async def work(database: Database) -> Any:
        with pytest.raises(Unavailable):
            await database.read(insert_organization, NOBODY, new_id(0), "one")
        await database.write(add, NOBODY, "two")  # the connection is not spoilt for others
        return await database.read(slugs, NOBODY)

    assert with_database(database_url, work) == ["two"]


def test_more_than_the_queue_holds_is_refused_at_once_and_nothing_of_it_is_done(database_url: str, engine: str) -> None:
    beyond = 7
    go = threading.Event()

    def hold(tx: Tx) -> None:
        """Keeps SQLite's writer busy, so that the queue fills; PostgreSQL's units wait for the pool by themselves."""
        assert tx.now
        if engine == "sqlite":
            go.wait(30)

    async def work(database: Database) -> None:
        holding = asyncio.create_task(database.write(hold, NOBODY))
        await asyncio.sleep(0.1)
        count = limits.WRITE_QUEUE_MAX + beyond - (engine == "postgresql")
        tasks = [asyncio.create_task(database.write(lambda tx: tx.now, NOBODY)) for _ in range(count)]
        await asyncio.sleep(0)
        refused = [task for task in tasks if task.done()]
        go.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await holding
        assert {type(task.exception()) for task in refused} == {Unavailable}
        failures = [result for result in results if isinstance(result, BaseException)]
        assert len(failures) >= len(refused) >= beyond - 1
        assert all(isinstance(failure, Unavailable) for failure in failures)
        assert len(results) - len(failures) >= limits.WRITE_QUEUE_MAX - 1
        assert await database.write(add, NOBODY, "afterwards")

    with_database(database_url, work)


def test_closing_finishes_what_was_accepted_and_refuses_the_rest(database_url: str) -> None:
    names = [f"slug-{number}" for number in range(50)]

    async def first() -> None:
        async with opened(database_url) as database:
            tasks = [asyncio.create_task(database.write(add, NOBODY, name)) for name in names]
            await asyncio.sleep(0)
            await database.close()
            await asyncio.sleep(0.05)  # the tasks hear of what is done in the next rounds of the loop
            assert all(task.done() for task in tasks)
            assert all(await asyncio.gather(*tasks))
            with pytest.raises(Unavailable):
                await database.write(add, NOBODY, "late")
            with pytest.raises(Unavailable):
                await database.read(slugs, NOBODY)
            await database.close()  # again does no harm

    asyncio.run(first())
    assert with_database(database_url, stored) == (sorted(names), sorted(names))


def test_every_unit_is_observed_by_kind(database_url: str) -> None:
    seen: list[str] = []

    def observe(kind: str, seconds: float) -> None:
        assert seconds >= 0
        seen.append(kind)

    async def work(database: Database) -> None:
        await database.write(add, NOBODY, "one")
        await database.read(slugs, NOBODY)
        with pytest.raises(RuntimeError):
            await database.write(add, NOBODY, "two", then=RuntimeError("x"))

    with_database(database_url, work, observe=observe)
    assert seen == ["write", "read", "write"]


def test_a_unit_knows_its_caller_and_one_time(database_url: str) -> None:
    async def work(database: Database) -> None:
        caller = Caller(new_id(0), new_id(0))
        assert await database.read(lambda tx: (tx.caller, tx.now), caller) == (caller, 1_000)
        assert await database.write(lambda tx: (tx.caller, tx.now), caller) == (caller, 1_000)

    with_database(database_url, work, clock=lambda: 1_000)


@only_postgresql
def test_a_deadlock_is_tried_again_until_both_are_done(database_url: str) -> None:
    calls: list[str] = []

    def rename(tx: Tx, first: str, second: str) -> None:
        calls.append(first)
        for slug in (first, second):
            tx.run(sa.update(organizations).where(organizations.c.slug == slug).values(revision=organizations.c.revision + 1))
            tx.run(sa.select(sa.func.pg_sleep(0.2)))

    async def work(database: Database) -> list[int]:
        await database.write(add, NOBODY, "a")
        await database.write(add, NOBODY, "b")
        await asyncio.gather(database.write(rename, NOBODY, "a", "b"), database.write(rename, NOBODY, "b", "a"))
        return [row.revision for row in await database.read(lambda tx: tx.all(sa.select(organizations.c.revision)), NOBODY)]

    assert with_database(database_url, work) == [3, 3]
    assert len(calls) >= 3, "there was no conflict to try again after"


@only_postgresql
def test_a_serialization_failure_is_tried_again_until_it_is_done(database_url: str) -> None:
    calls: list[int] = []

    def count_up(tx: Tx) -> None:
        """Reads, thinks and writes what it read plus one: lost updates unless the conflict is found and the unit tried again."""
        tx.run(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        row = tx.one(sa.select(organizations.c.revision))
        assert row is not None
        calls.append(row.revision)
        tx.run(sa.select(sa.func.pg_sleep(0.1)))
        tx.run(sa.update(organizations).values(revision=row.revision + 1))

    async def work(database: Database) -> int:
        await database.write(add, NOBODY, "a")
        await asyncio.gather(*(database.write(count_up, NOBODY) for _ in range(3)))
        return (await database.read(lambda tx: tx.all(sa.select(organizations.c.revision)), NOBODY))[0].revision

    assert with_database(database_url, work) == 4
    assert len(calls) > 3, "there was no conflict to try again after"


@only_postgresql
def test_a_connection_cut_by_the_server_is_replaced(database_url: str) -> None:
    """An administrator or a fail-over ends every connection; the next unit does not notice."""
    administrator = sa.text("SET LOCAL ROLE NONE")  # the tests' login role may do anything
    ended = sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")

    async def work(database: Database) -> Any:
        await asyncio.gather(*(database.read(lambda tx: tx.run(sa.select(sa.func.pg_sleep(0.05))), NOBODY) for _ in range(4)))
        await database.write(lambda tx: (tx.run(administrator), tx.run(ended)), NOBODY)
        await asyncio.gather(*(database.write(add, NOBODY, f"slug-{number}") for number in range(4)))
        return await database.read(slugs, NOBODY)

    assert len(with_database(database_url, work)) == 4


@only_sqlite
def test_one_process_a_file(database_url: str) -> None:
    async def work(_: Database) -> None:
        with pytest.raises(WrongSettings, match=r"in use by process [0-9]+; an SQLite database serves one process"):
            open_database(sa.make_url(database_url), system_clock, LedgerWriters())

    with_database(database_url, work)
    assert with_database(database_url, stored) == ([], [])  # free again


MOUNTS = """\
/dev/sda1 / ext4 rw,relatime 0 0
tmpfs /tmp tmpfs rw 0 0
server:/export /mnt/nfs nfs4 rw 0 0
//server/share /mnt/with\\040space cifs rw 0 0
/dev/sdb1 /mnt/nfs/local ext4 rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/var/lib/agentidp", "ext4"),
        ("/tmp/x", "tmpfs"),
        ("/mnt/nfs", "nfs4"),
        ("/mnt/nfs/deep/below", "nfs4"),
        ("/mnt/nfs/local/data", "ext4"),
        ("/mnt/nfs-but-not-really", "ext4"),
        ("/mnt/with space/data", "cifs"),
        ("/", "ext4"),
    ],
)
def test_finds_the_file_system_of_a_folder(folder: str, kind: str) -> None:
    assert file_system_of(Path(folder), MOUNTS) == kind


def test_an_unknown_mount_table_is_no_reason_to_refuse() -> None:
    assert file_system_of(Path("/var"), "") == ""
