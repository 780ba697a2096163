"""What only SQLite's engine has: one writer that shares its commits among what waits, within a bound."""

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from agentidp.core import limits
from agentidp.core.caller import SYSTEM
from agentidp.core.clock import system_clock
from agentidp.core.errors import Unavailable
from agentidp.db.sqlite import SqliteDatabase
from agentidp.db.unit import Tx
from agentidp.ledger.writers import LedgerWriters


class CountingLedger(LedgerWriters):
    """Remembers how many entries shared each commit; every one fails if so asked."""

    def __init__(self, *, fails: bool = False) -> None:
        self.sizes: list[int] = []
        self._fails = fails

    def write_sqlite(self, *arguments: Any) -> None:
        self.sizes.append(len(arguments[-1]))
        if self._fails:
            raise RuntimeError("the disk")


async def append(path: Path, ledger: CountingLedger, count: int) -> list[Any]:
    """So many entries in one turn of the event loop, and what became of them."""
    database = SqliteDatabase(path, system_clock, ledger)
    try:
        return await asyncio.gather(*(database.append(number) for number in range(count)), return_exceptions=True)
    finally:
        await database.close()


def test_no_commit_takes_all_that_the_queue_may_hold(tmp_path: Path) -> None:
    ledger = CountingLedger()
    results = asyncio.run(append(tmp_path / "one.db", ledger, limits.WRITE_QUEUE_MAX))
    assert results == [None] * limits.WRITE_QUEUE_MAX
    assert sum(ledger.sizes) == limits.WRITE_QUEUE_MAX
    assert max(ledger.sizes) < 2 * limits.WRITE_BATCH_MAX


def test_a_failed_commit_is_told_to_everybody_by_a_refusal_of_their_own(tmp_path: Path) -> None:
    failures = asyncio.run(append(tmp_path / "one.db", CountingLedger(fails=True), 20))
    assert {type(failure) for failure in failures} == {Unavailable}
    assert len({id(failure) for failure in failures}) == 20
    assert {str(failure.__cause__) for failure in failures} == {"the disk"}


def test_what_the_driver_itself_says_of_a_read_is_a_refusal(tmp_path: Path) -> None:
    def read_what_is_damaged(_: Tx) -> None:
        raise sqlite3.DatabaseError("database disk image is malformed")

    async def work() -> None:
        database = SqliteDatabase(tmp_path / "one.db", system_clock, CountingLedger())
        try:
            with pytest.raises(Unavailable):
                await database.read(read_what_is_damaged, SYSTEM)
        finally:
            await database.close()

    asyncio.run(work())
