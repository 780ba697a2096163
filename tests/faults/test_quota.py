"""Quotas between server processes, on SQLite one and on PostgreSQL two: the last of a day is given once, and what is counted is what was acknowledged,
in parallel, across midnight and after kill -9.
"""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from tests.conftest import fresh_postgres_database
from tests.faults import oracle
from tests.faults.plant import Plant, statuses
from tests.serving import RunningServer, settings_for
from tests.tenants import registration

from agentidp.core.caller import Caller
from agentidp.core.clock import system_clock
from agentidp.organizations.actions import update_organization

pytestmark = pytest.mark.slow
AGENTS, CALLS, TOKENS = 5, 200, 100
PLANS = {"PLANS__PRO__MAX_AGENTS": str(AGENTS), "PLANS__PRO__MAX_CALLS_PER_DAY": str(CALLS), "PLANS__PRO__MAX_TOKENS_PER_DAY": str(TOKENS)}
THREADS = 8


@pytest.fixture(scope="module")
def plants() -> Iterator[tuple[dict[str, Plant], contextlib.ExitStack]]:
    """The plants of this file by engine, and what has to be undone at its end."""
    with contextlib.ExitStack() as stack:
        yield {}, stack


@pytest.fixture
def plant(engine: str, plants: tuple[dict[str, Plant], contextlib.ExitStack], folder: Path, request: pytest.FixtureRequest) -> Plant:
    found, stack = plants
    if engine not in found:
        place = folder / f"plant-{engine}"
        url = f"sqlite:///{place / 'plant.db'}"
        if engine == "postgresql":
            url = stack.enter_context(fresh_postgres_database(request.getfixturevalue("postgres")))
        found[engine] = Plant(place, engine, url, **PLANS)
        stack.callback(found[engine].kill)
    return found[engine]


def test_the_last_of_each_limit_is_given_once(plant: Plant, amount: Callable[[int, int], int], table: Any) -> None:
    rounds = amount(1, 10)
    for _ in range(rounds):
        _use_up(plant, *plant.organization("pro"))
    table(rounds=rounds, processes=len(plant.servers), places=rounds, calls=rounds, tokens=rounds)


def _use_up(plant: Plant, organization_id: str, form: dict[str, str]) -> None:
    bearer, bodies = plant.bearer(form), [registration() for _ in range(100)]
    with plant.servers[-1].client() as client:
        for _ in range(AGENTS - 2):
            assert client.post("/api/v1/agents", json=registration(), headers=bearer).status_code == 201
        assert statuses(plant.at_once(100, lambda client, number: client.post("/api/v1/agents", json=bodies[number], headers=bearer))) == {201: 1, 403: 99}
        for _ in range(CALLS - 100 - (AGENTS - 2) - 1):
            assert client.get("/api/v1/agents", headers=bearer).status_code == 200
        assert statuses(plant.at_once(50, lambda client, _: client.get("/api/v1/agents", headers=bearer))) == {200: 1, 429: 49}
        for _ in range(TOKENS - 2):
            assert client.post("/api/v1/token", data=form).status_code == 200
        assert statuses(plant.at_once(50, lambda client, _: client.post("/api/v1/token", data=form))) == {200: 1, 429: 49}
    record = oracle.read(plant.url)
    assert (record.count("apiCalls", organization_id), record.count("tokensIssued", organization_id)) == (CALLS, TOKENS)


def test_counts_equal_the_acknowledged_operations(plant: Plant, amount: Callable[[int, int], int], table: Any) -> None:
    """Half of them tokens; of the calls a third is refused for another reason than the plan's, and counted none the less."""
    operations = amount(2_000, 10_000)
    organization_id, form = plant.organization("enterprise")
    bearer, begun = plant.bearer(form), oracle.read(plant.url)
    expected = [("/api/v1/token", 200), ("/api/v1/agents", 200), ("/api/v1/token", 200), ("/api/v1/agents/unknown", 404)]
    body = urlencode(form)

    def work(number: int) -> Counter[str]:
        told: Counter[str] = Counter()
        address = urlsplit(plant.servers[number % len(plant.servers)].url)
        connection = HTTPConnection(address.hostname or "", address.port or 0, timeout=30)
        for turn in range(operations // THREADS):
            path, status = expected[turn % len(expected)]
            if path == "/api/v1/token":
                connection.request("POST", path, body, {"Content-Type": "application/x-www-form-urlencoded"})
            else:
                connection.request("GET", path, headers=bearer)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == status
            told["tokensIssued" if path == "/api/v1/token" else "apiCalls"] += 1
        connection.close()
        return told

    with ThreadPoolExecutor(THREADS) as pool:
        told = sum(pool.map(work, range(THREADS)), Counter[str]())
    record = oracle.read(plant.url)
    counted = {meter: record.count(meter, organization_id) - begun.count(meter, organization_id) for meter in ("tokensIssued", "apiCalls")}
    assert counted == told
    assert told.total() == operations
    assert not record.miscounted()
    table(operations=operations, processes=len(plant.servers), **counted)


def test_calls_acknowledged_before_kill_9_are_counted(plant: Plant, amount: Callable[[int, int], int], table: Any) -> None:
    organization_id, form = plant.organization("enterprise")
    bearer, done = plant.bearer(form), threading.Event()
    told: Counter[str] = Counter()
    lock, kills = threading.Lock(), amount(2, 40)
    addresses = [urlsplit(server.url) for server in plant.servers]

    def ask(number: int) -> None:
        address = addresses[number % len(addresses)]
        while not done.is_set():
            connection, sent = HTTPConnection(address.hostname or "", address.port or 0, timeout=30), False
            try:
                connection.connect()
                while not done.is_set():
                    sent = True
                    connection.request("GET", "/api/v1/agents?limit=1", headers=bearer)
                    answer = connection.getresponse()
                    answer.read()
                    with lock:
                        told["acknowledged" if answer.status == 200 else "unknown"] += 1
                    sent = False
            except (OSError, HTTPException):
                with lock:
                    told["unknown"] += sent
                time.sleep(0.01)
            finally:
                connection.close()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for _ in range(kills):
        so_far, deadline = told["acknowledged"], time.monotonic() + 60
        while told["acknowledged"] < so_far + 50:
            assert time.monotonic() < deadline, "no answer for a minute"
            time.sleep(0.005)
        plant.kill()
        plant.start()
    done.set()
    for thread in threads:
        thread.join(60)
    counted = oracle.read(plant.url).count("apiCalls", organization_id)
    assert told["acknowledged"] <= counted <= told.total()
    table(kills=kills, acknowledged=told["acknowledged"], without_answer=told["unknown"], counted=counted)


@pytest.fixture
def unhurried(tmp_path: Path, database_url: str) -> Iterator[RunningServer]:
    """A server in this process, whose clock can be turned, without a limit on the rate."""
    running = RunningServer(settings_for(tmp_path, database_url, rate_limit={"per_minute": 0}))
    yield running
    running.stop()


def test_a_quota_across_midnight(unhurried: RunningServer, database_url: str, amount: Callable[[int, int], int], table: Any) -> None:
    """The clock goes over midnight and back while all ask for more than there is: every day gives exactly what it has, once. TH28."""
    first, clock, limit = unhurried.first, unhurried.clock, amount(150, 1_000)
    _limit(unhurried, limit)
    to_midnight = oracle.DAY_MS - system_clock() % oracle.DAY_MS
    body = urlencode({"grant_type": "client_credentials", "client_id": first.agent_id, "client_secret": first.client_secret})
    issued, refused, done = Counter[str](), Counter[str](), threading.Event()
    lock = threading.Lock()

    def ask(_: int) -> None:
        address = urlsplit(unhurried.url)
        connection = HTTPConnection(address.hostname or "", address.port or 0, timeout=30)
        while not done.is_set():
            connection.request("POST", "/api/v1/token", body, {"Content-Type": "application/x-www-form-urlencoded"})
            answer = connection.getresponse()
            answer.read()
            with lock:
                (issued if answer.status == 200 else refused)[str(answer.status)] += 1
        connection.close()

    hour = 3_600_000
    with ThreadPoolExecutor(THREADS) as pool:
        asking = [pool.submit(ask, number) for number in range(THREADS)]
        # an hour before midnight, after it, back, a day on, and back to both again: three days, each visited more than once
        for shift in (-hour, hour, -hour, hour + oracle.DAY_MS, -hour, hour, hour + oracle.DAY_MS, hour, -hour, hour + oracle.DAY_MS):
            clock.shift_ms = to_midnight + shift
            time.sleep(0.3)
        deadline = time.monotonic() + 60
        for shift in (-hour, hour, hour + oracle.DAY_MS):  # until each day is used up
            clock.shift_ms = to_midnight + shift
            so_far = refused["429"]
            while refused["429"] < so_far + 2 * THREADS:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        done.set()
        for one in asking:
            one.result()
    clock.shift_ms = 0
    record = oracle.read(database_url)
    days = {day: count for (_, day, meter), count in record.counters.items() if meter == "tokensIssued"}
    assert list(days.values()) == [limit] * 3
    assert issued == {"200": 3 * limit}
    assert set(refused) == {"429"}
    assert not record.miscounted()
    table(days=len(days), issued=issued["200"], refused=refused["429"])


def _limit(server: RunningServer, tokens_per_day: int) -> None:
    caller = Caller(server.first.organization_id, scopes=frozenset({"admin:orgs"}))
    server.write(update_organization, caller, {"max_tokens_per_day": tokens_per_day})
