"""Power loss under SQLite: the product's own writes on a disk that forgets what was not synced. kill -9 cannot show this: the page cache survives it."""

import asyncio
import contextlib
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw
import pytest
from tests.db.opened import opened
from tests.faults import oracle
from tests.faults.power import Disk, Driver
from tests.ledger.made import NOBODY, Known, make_known

from agentidp.core.clock import system_clock
from agentidp.db.sqlite import connect
from agentidp.ledger.sqlite import write_batch
from agentidp.tokens.actions import issue_token

OPERATIONS_MAX = 600


@dataclass
class Told:
    """The tokens of each batch, by what their clients were told."""

    acknowledged: list[list[str]] = field(default_factory=list)
    refused: list[list[str]] = field(default_factory=list)  # the commit failed: nobody got a token


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Known]:
    """A database with one credential, closed."""
    path = tmp_path_factory.mktemp("template") / "known.db"

    async def make() -> Known:
        async with opened(f"sqlite:///{path}") as database:
            return await make_known(database)

    return path, asyncio.run(make())


@pytest.fixture(scope="module")
def pragmas(template: tuple[Path, Known]) -> dict[str, Any]:
    """What the product's writer sets on its connection."""
    engine = connect(template[0])
    try:
        with engine.connect() as connection:
            names = ("journal_mode", "synchronous", "foreign_keys")
            return {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names}
    finally:
        engine.dispose()


def test_the_writer_syncs_every_commit(pragmas: dict[str, Any]) -> None:
    full = 2
    assert (pragmas["journal_mode"], pragmas["synchronous"]) == ("wal", full)


@pytest.mark.slow
@pytest.mark.parametrize("sync_failures", [0.0, 0.1], ids=["power", "power-and-sync"])
def test_what_was_acknowledged_survives_and_nothing_is_half(
    template: tuple[Path, Known],
    pragmas: dict[str, Any],
    tmp_path: Path,
    amount: Callable[[int, int], int],
    dice: random.Random,
    seed: int,
    table: Any,
    sync_failures: float,
) -> None:
    counted: Counter[str] = Counter(runs=0, acknowledged=0, lost=0, half=0)
    for number in range(amount(40, 1000)):
        folder = tmp_path / str(number)
        disk = Disk(dice, operations_left=dice.randrange(OPERATIONS_MAX), sync_failures=sync_failures)
        told = _write_until_the_power_goes(disk, folder / "live", template, pragmas)
        disk.write_remains(folder / "remains")
        counted.update(_check(folder / "remains" / "known.db", told))
        counted.update(runs=1, syncs=disk.syncs, failed_syncs=disk.failed_syncs)
        shutil.rmtree(folder)
    table(**counted, seed=seed)


def test_the_simulation_finds_a_database_that_does_not_sync(template: tuple[Path, Known], pragmas: dict[str, Any], tmp_path: Path, dice: random.Random) -> None:
    lost = 0
    for number in range(30):
        disk = Disk(dice, operations_left=dice.randrange(100, OPERATIONS_MAX))
        told = _write_until_the_power_goes(disk, tmp_path / f"{number}-live", template, pragmas | {"synchronous": 0})
        disk.write_remains(tmp_path / f"{number}-remains")
        try:
            _check(tmp_path / f"{number}-remains" / "known.db", told)
        except (AssertionError, sqlite3.DatabaseError):
            lost += 1
    assert lost


def _write_until_the_power_goes(disk: Disk, folder: Path, template: tuple[Path, Known], pragmas: dict[str, Any]) -> Told:
    folder.mkdir(parents=True)
    path, known = folder / template[0].name, template[1]
    shutil.copy(template[0], path)
    disk.add(path)
    told, dice = Told(), disk.dice
    driver = Driver(apsw.Connection(str(path), vfs=disk.name))
    try:
        for name, value in pragmas.items():
            driver.execute(f"PRAGMA {name}={value}")
        driver.execute("PRAGMA wal_autocheckpoint=0")  # SQLite ignores a failed one; apsw would report it as the commit's
    except apsw.IOError:
        pass
    while disk.has_power:
        now = system_clock()
        made = [issue_token(known.snapshot, now, NOBODY.origin, scope=None, audience=("x",), lifetime_seconds=60) for _ in range(dice.randint(1, 12))]
        tokens = [token.token_id for _, token in made]
        try:
            driver.execute("BEGIN IMMEDIATE")
            write_batch(driver, now, [entry for entry, _ in made])  # type: ignore[arg-type]  # speaks its language
            driver.execute("COMMIT")
            told.acknowledged.append(tokens)
        except apsw.Error:
            told.refused.append(tokens)
            if disk.has_power and driver.connection.in_transaction:
                driver.execute("ROLLBACK")
            continue
        if dice.random() < 0.3:
            with contextlib.suppress(apsw.Error):
                driver.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    with contextlib.suppress(apsw.Error):
        driver.connection.close()
    return told


def _check(path: Path, told: Told) -> dict[str, int]:
    """Raises AssertionError unless all batches that were acknowledged are there, and every other is there whole or not at all."""
    record = oracle.read(f"sqlite:///{path}")
    issued = record.targets("token.issued")
    there = [sum(token in issued for token in batch) for batch in told.acknowledged]
    assert there == [len(batch) for batch in told.acknowledged], "an acknowledged batch is lost"
    others = [sum(token in issued for token in batch) for batch in told.refused]
    assert all(found in {0, len(batch)} for found, batch in zip(others, told.refused, strict=True)), "half a batch is there"
    assert len(issued) == sum(there) + sum(others) == record.count("tokensIssued")
    assert not record.miscounted()
    return {"acknowledged": sum(there), "batches": len(there), "refused": len(others), "refused_yet_there": sum(map(bool, others))}
