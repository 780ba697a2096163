"""What only PostgreSQL's engine has: the ledger's queue beside the pool, and a time limit on statements that migrations are free of."""

import asyncio
from typing import Any

import pytest
import sqlalchemy as sa
from tests.db.opened import NOBODY, opened

from agentidp.core import limits
from agentidp.core.clock import system_clock
from agentidp.core.errors import Unavailable
from agentidp.db.migrate import in_transaction
from agentidp.db.postgres import PostgresDatabase
from agentidp.ledger.writers import LedgerWriters

pytestmark = pytest.mark.parametrize("engine", ["postgresql"])


class SilentLedger(LedgerWriters):
    """Its first batch is never done; `begun` tells when it has begun."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()

    async def write_postgres(self, *_: Any) -> None:
        if not self.begun.is_set():
            self.begun.set()
            await asyncio.Event().wait()


def test_who_queues_behind_a_silent_database_does_not_wait_twice(database_url: str) -> None:
    async def run() -> None:
        ledger = SilentLedger()
        database = PostgresDatabase(database_url, system_clock, ledger)
        try:
            first = database.append("first")
            await ledger.begun.wait()
            behind = [database.append(number) for number in range(2 * limits.WRITE_BATCH_MAX)]
            _turn_forward(asyncio.get_running_loop(), seconds=limits.UNIT_SECONDS_MAX)
            failures = await asyncio.gather(first, *behind, return_exceptions=True)
            assert {type(failure) for failure in failures} == {Unavailable}
            assert len({id(failure) for failure in failures}) == len(failures)
            await database.append("afterwards")
        finally:
            await database.close()

    asyncio.run(run())


def test_a_migration_may_take_its_time(database_url: str) -> None:
    def limit(connection: sa.Connection) -> str:
        return str(connection.exec_driver_sql("SHOW statement_timeout").scalar())

    async def run() -> None:
        assert await in_transaction(sa.make_url(database_url), limit) == "0"
        async with opened(database_url) as database:
            assert await database.read(lambda tx: limit(tx.connection), NOBODY) == f"{limits.POSTGRES_STATEMENT_MS // 1000}s"

    asyncio.run(run())


def _turn_forward(loop: asyncio.AbstractEventLoop, *, seconds: float) -> None:
    """What the loop has been asked to do within that time is due."""
    time = loop.time
    loop.time = lambda: time() + seconds  # type: ignore[method-assign]  # the loop's own clock is the argument that it lacks
