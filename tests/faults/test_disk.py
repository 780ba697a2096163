"""A disk that is full for a while: refusals that say so, no false acknowledgement, and service again without a restart."""

import resource
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from tests.db.opened import slugs, with_database
from tests.faults import oracle
from tests.faults.load import TokenLoad
from tests.ledger.made import NOBODY, make_known
from tests.processes import serving, wait_until

from agentidp.core.errors import OutcomeUnknown, Unavailable
from agentidp.db.unit import Database
from agentidp.ledger.entries import Entry


@pytest.mark.slow
def test_a_full_disk_is_told_and_got_over(tmp_path: Path, amount: Callable[[int, int], int], table: Any) -> None:
    """A limit on the size of files stands for the full disk: a write beyond it fails, and SQLite learns it in the middle of a commit."""
    recoveries = []
    with serving(tmp_path, LOG_LEVEL="error") as server:
        load = TokenLoad([server.url], server.first["clientId"], server.first["clientSecret"])
        pid, limits = server.process.pid, resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        with load.running():
            for _ in range(amount(2, 30)):
                wait_until(_more(load, 200, 20))
                resource.prlimit(pid, resource.RLIMIT_FSIZE, ((server.data / "agentidp.db-wal").stat().st_size, limits[1]))
                wait_until(_more(load, 503, 20))
                resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
                started = time.monotonic()
                wait_until(_more(load, 200, 1))
                recoveries.append(time.monotonic() - started)
        with server.client() as client:
            wait_until(lambda: client.get("/health").status_code == 200)
    record = oracle.read(f"sqlite:///{server.data / 'agentidp.db'}")
    phantom = oracle.require_exact(record, load.acknowledged, load.unanswered)
    assert not load.wrong
    assert server.process.returncode == 0
    refused, slowest = load.statuses[503], f"{max(recoveries):.2f} s"
    table(times_full=len(recoveries), acknowledged=load.count(), lost=0, refused=refused, phantom=phantom, slowest_recovery=slowest)


@pytest.mark.parametrize(("moment", "told"), [("BEGIN", Unavailable), ("COMMIT", OutcomeUnknown)])
def test_only_a_failed_commit_leaves_the_outcome_open(tmp_path: Path, moment: str, told: type[Unavailable]) -> None:
    async def work(database: Database) -> None:
        known = await make_known(database)

        is_failing = True

        def authorize(action: int, statement: str | None, *_: object) -> int:  # asked by SQLite itself, whoever sends the statement
            return sqlite3.SQLITE_DENY if is_failing and (action, statement) == (sqlite3.SQLITE_TRANSACTION, moment) else sqlite3.SQLITE_OK

        @sa.event.listens_for(database._writer_engine, "checkout")  # type: ignore[attr-defined]
        def _(connection: sqlite3.Connection, *_: object) -> None:
            connection.set_authorizer(authorize)

        for attempt in (database.append(Entry(known.snapshot)), database.write(slugs, NOBODY)):
            with pytest.raises(Unavailable) as caught:
                await attempt
            assert type(caught.value) is told
        is_failing = False
        await database.append(Entry(known.snapshot))
        assert len(await database.write(slugs, NOBODY)) == 1

    with_database(f"sqlite:///{tmp_path / 'failing.db'}", work)


def _more(load: TokenLoad, status: int, count: int) -> Callable[[], bool]:
    so_far = load.statuses[status]
    return lambda: load.statuses[status] >= so_far + count
