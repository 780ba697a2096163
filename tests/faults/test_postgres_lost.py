"""PostgreSQL dies or the line to it is cut, also right after COMMIT: refusals that say so, nothing lost, nothing counted twice, service again by itself."""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import fresh_postgres_database
from tests.faults import oracle
from tests.faults.commit_proxy import CommitProxy
from tests.faults.load import TokenLoad
from tests.faults.own_postgres import OwnPostgres
from tests.processes import ServerProcess, serving, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[OwnPostgres]:
    """One that may be killed."""
    server = OwnPostgres()
    yield server
    server.close()


@pytest.fixture
def url(own_postgres: OwnPostgres) -> Iterator[str]:
    with fresh_postgres_database(own_postgres.url) as found:
        yield found


def _stop_at_once(own_postgres: OwnPostgres, url: str, dice: random.Random) -> None:
    own_postgres.stop_at_once()
    time.sleep(dice.random() * 0.5)
    own_postgres.start()


def _kill_a_session(own_postgres: OwnPostgres, url: str, dice: random.Random) -> None:
    async def sessions() -> list[int]:
        connection = await oracle.connect(own_postgres.url)
        try:
            rows = await connection.fetch("SELECT pid FROM pg_stat_activity WHERE application_name = 'agentidp'")
            return [row[0] for row in rows]
        finally:
            await connection.close()

    own_postgres.kill_sessions([dice.choice(asyncio.run(sessions()))])


@pytest.mark.parametrize("fault", [_stop_at_once, _kill_a_session], ids=["stopped-at-once", "session-killed"])
def test_service_returns_by_itself_and_nothing_is_lost(
    fault: Callable[[OwnPostgres, str, random.Random], None],
    own_postgres: OwnPostgres,
    url: str,
    tmp_path: Path,
    amount: Callable[[int, int], int],
    dice: random.Random,
    seed: int,
    table: Any,
) -> None:
    recoveries = []
    with serving(tmp_path, DATABASE_URL=url, LOG_LEVEL="error") as server, _load(server) as load:
        for _ in range(amount(2, 30)):
            wait_until(_more(load, 50))
            time.sleep(dice.random() * 0.2)
            fault(own_postgres, url, dice)
            started = time.monotonic()
            wait_until(_more(load, 1))
            recoveries.append(time.monotonic() - started)
    assert server.process.returncode == 0
    record = oracle.read(url)
    phantom = oracle.require_exact(record, load.acknowledged, load.unanswered)
    assert not load.wrong
    refused, slowest = load.statuses[503], f"{max(recoveries):.2f} s"
    table(
        faults=len(recoveries),
        acknowledged=load.count(),
        lost=0,
        refused=refused,
        unknown=load.unanswered,
        phantom=phantom,
        slowest_recovery=slowest,
        seed=seed,
    )


def test_a_commit_whose_answer_is_lost_is_neither_doubled_nor_called_undone(
    postgres: str, folder: Path, tmp_path: Path, amount: Callable[[int, int], int], table: Any
) -> None:
    """What the server did, and could not say so, is done once; its clients are told that nobody knows."""
    with fresh_postgres_database(postgres) as url, _proxy(url, folder / "proxy") as proxy:
        with serving(tmp_path, DATABASE_URL=proxy.url, LOG_LEVEL="error") as server, _load(server) as load:
            for _ in range(amount(10, 300)):
                cut = proxy.cut
                proxy.cut_next(1)
                wait_until(lambda cut=cut: proxy.cut > cut)  # type: ignore[misc]
                wait_until(_more(load, 3))
        record = oracle.read(url)
        phantom = oracle.require_exact(record, load.acknowledged, load.unanswered)
        assert not load.wrong
        assert phantom == load.unanswered > 0  # every one of them was committed
        table(cuts=proxy.cut, acknowledged=load.count(), lost=0, doubled=0, told_unknown=load.unanswered, committed_of_these=phantom)


@contextlib.contextmanager
def _proxy(url: str, folder: Path) -> Iterator[CommitProxy]:
    folder.mkdir()
    proxy = CommitProxy(url, folder)
    try:
        yield proxy
    finally:
        proxy.close()
        (folder / ".s.PGSQL.5432").unlink()
        folder.rmdir()


@contextlib.contextmanager
def _load(server: ServerProcess) -> Iterator[TokenLoad]:
    load = TokenLoad([server.url], server.first["clientId"], server.first["clientSecret"])
    with load.running():
        yield load


def _more(load: TokenLoad, count: int) -> Callable[[], bool]:
    so_far = load.count()
    return lambda: load.count() >= so_far + count
