"""The audit chains under load from sixteen clients, with kill -9 at any moment: no fork, no gap, no number twice, and everything gets sealed."""

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.faults import oracle
from tests.faults.load import TokenLoad
from tests.processes import ServerProcess, wait_until
from tests.serving import free_port

pytestmark = pytest.mark.slow
CLIENTS = 16


class Pair:
    """One server process on SQLite; two, of which each may be killed, on PostgreSQL."""

    def __init__(self, folder: Path, engine: str, database_url: str) -> None:
        self._folder, ports = folder, [free_port() for _ in range(2 if engine == "postgresql" else 1)]
        shared = {"ISSUER": f"http://127.0.0.1:{ports[0]}", "DATABASE_URL": database_url, "LOG_LEVEL": "error"}
        self._settings = [{"PORT": str(port), **shared} for port in ports]
        self.servers = [ServerProcess(folder, **settings) for settings in self._settings]

    def kill(self, number: int) -> None:
        self.servers[number].kill()

    def start_again(self, number: int) -> None:
        self.servers[number] = ServerProcess(self._folder, **self._settings[number])


@pytest.fixture
def pair(tmp_path: Path, engine: str, database_url: str) -> Iterator[Pair]:
    found = Pair(tmp_path, engine, database_url)
    yield found
    for server in found.servers:
        server.kill()


def test_a_chain_survives_kill_9_of_its_sealers(pair: Pair, database_url: str, amount: Callable[[int, int], int], dice: random.Random, table: Any) -> None:
    first = pair.servers[0].first
    load = TokenLoad([server.url for server in pair.servers], first["clientId"], first["clientSecret"], threads=CLIENTS)
    cycles = amount(4, 100)
    with load.running():
        for _ in range(cycles):
            so_far = load.count()
            wait_until(lambda so_far=so_far: load.count() > so_far + CLIENTS)
            time.sleep(dice.random() * 0.4)
            number = dice.randrange(len(pair.servers))
            pair.kill(number)
            pair.start_again(number)
    wait_until(lambda: oracle.unsealed(database_url) == 0)
    sealed = oracle.require_chains(database_url)
    oracle.require_rolled_up(database_url)
    oracle.require_exact(oracle.read(database_url), load.acknowledged, load.unanswered)
    table(cycles=cycles, acknowledged=load.count(), sealed=sealed, unsealed=0, broken=0)
