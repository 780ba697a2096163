"""kill -9 at any moment under load: what was acknowledged is there, once, and counted; the next start needs no help."""

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.faults import oracle
from tests.faults.load import TokenLoad
from tests.processes import ServerProcess
from tests.serving import free_port

PROCESSES = {"sqlite": (), "postgresql": ("--workers", "2")}


class Victim:
    """A server that is killed and started again on the same port and database."""

    def __init__(self, folder: Path, engine: str, database_url: str) -> None:
        self.url = database_url
        self._folder, self._arguments = folder, PROCESSES[engine]
        self._settings = {"PORT": str(free_port()), "DATABASE_URL": database_url, "LOG_LEVEL": "error"}
        self.server = ServerProcess(folder, *self._arguments, **self._settings)

    def start_again(self) -> float:
        """Returns the seconds that it took until ready."""
        started = time.monotonic()
        self.server = ServerProcess(self._folder, *self._arguments, **self._settings)
        return time.monotonic() - started


@pytest.fixture
def victim(tmp_path: Path, engine: str, database_url: str) -> Iterator[Victim]:
    found = Victim(tmp_path, engine, database_url)
    yield found
    found.server.kill()


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_by_kill_9(victim: Victim, amount: Callable[[int, int], int], seed: int, dice: random.Random, table: Any) -> None:
    first = victim.server.first
    load = TokenLoad([victim.server.url], first["clientId"], first["clientSecret"], threads=6)
    cycles, starts = 0, []
    with load.running():
        while cycles < amount(3, 200) or load.count() < amount(0, 10_000):
            _wait_for_more(load, load.count())
            time.sleep(dice.random() * 0.5)
            victim.server.kill()
            cycles += 1
            starts.append(victim.start_again())
        _wait_for_more(load, load.count())
    assert victim.server.stop() == 0
    record = oracle.read(victim.url)
    phantom = oracle.require_exact(record, load.acknowledged, load.unanswered)
    assert not load.wrong
    assert len(set(load.acknowledged)) == load.count()
    slowest = f"{max(starts):.1f} s"
    table(cycles=cycles, acknowledged=load.count(), lost=0, doubled=0, unanswered=load.unanswered, phantom=phantom, slowest_start=slowest, seed=seed)


def _wait_for_more(load: TokenLoad, so_far: int) -> None:
    deadline = time.monotonic() + 60
    while load.count() == so_far:
        assert time.monotonic() < deadline, "no token for a minute"
        time.sleep(0.005)
