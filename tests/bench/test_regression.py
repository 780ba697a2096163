"""What makes the token path slow is caught here without a clock: counts of Python calls and of SQL statements, the same on every machine."""

import asyncio
import base64
import sqlite3
import statistics
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from bench.ceiling import without_store
from tests.audit.chains import ORGANIZATION
from tests.audit.sealed_rows import put
from tests.audit.tampering import KEY, Hands
from tests.db.opened import opened
from tests.serving import settings_for

from agentidp.app import create_app
from agentidp.audit.history import verify_history
from agentidp.audit.rules import Dates
from agentidp.core import limits
from agentidp.core.caller import SYSTEM, Caller, Origin
from agentidp.core.clock import system_clock
from agentidp.db.schema import credential_secrets
from agentidp.ledger import postgres, sqlite
from agentidp.ledger.entries import Entry, SecretSnapshot, Verdict
from agentidp.ledger.snapshots import read_secret_snapshot
from agentidp.start import Started, start
from agentidp.tokens.actions import issue_token

CALLS_PER_TOKEN = 140  # Python function calls of one request as recorded; lower it when the path gets shorter. 14 of them are the rate limits
CALLS_PER_TOKEN_MAX = CALLS_PER_TOKEN * 1.1
STATEMENTS_PER_BATCH_MAX = 6  # of 100 entries
CALLS_PER_VERIFIED_EVENT_MAX = 1.5  # on SQLite: one to hash it, and what a thousand share. Event by event there are nearly nine


def test_a_token_request_makes_no_more_calls_than_recorded(tmp_path: Path) -> None:
    calls = asyncio.run(_calls_per_request(tmp_path))
    print(f"{calls} Python calls per token request")
    assert calls <= CALLS_PER_TOKEN_MAX


def test_statements_do_not_grow_with_the_batch(engine: str, database_url: str, tmp_path: Path) -> None:
    counts = asyncio.run(_statements_by_size(engine, database_url, tmp_path, _entries))
    print(f"statements by entries in the batch: {counts}")
    assert counts[1] == counts[128]
    assert counts[100] <= STATEMENTS_PER_BATCH_MAX
    assert counts[127] - counts[1] < (127).bit_length()  # on SQLite rows go in by powers of two


def test_a_batch_of_calls_has_three_statements_whatever_its_size(engine: str, database_url: str, tmp_path: Path) -> None:
    """Its snapshots, the organization's counter, and the agents' activity."""
    assert asyncio.run(_statements_by_size(engine, database_url, tmp_path, _api_calls)) == dict.fromkeys((1, 100, 127, 128), 3)


@pytest.mark.parametrize("engine", ["sqlite"])
def test_an_event_is_verified_with_hardly_any_calls(database_url: str) -> None:
    calls = asyncio.run(_calls_per_event(database_url, 2 * limits.AUDIT_STRETCH_MAX))
    print(f"{calls:.2f} Python calls per verified event")
    assert calls <= CALLS_PER_VERIFIED_EVENT_MAX


async def _calls_per_event(url: str, length: int) -> float:
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    async def goes_on() -> bool:
        return True

    async with opened(url) as database, Hands(url) as hands:
        await put(hands, length)
        before = sys.getprofile(), threading.getprofile()
        sys.setprofile(count)
        threading.setprofile(count)  # in the threads that begin now: the database has not read yet
        try:
            found = await verify_history(database, Caller(ORGANIZATION), KEY, Dates(), goes_on)
        finally:
            sys.setprofile(before[0])
            threading.setprofile(before[1])  # type: ignore[arg-type]  # None is what it was
    assert (found.broken, found.to_seq) == (None, length)
    return calls / length


async def _calls_per_request(folder: Path) -> float:
    found: list[Started] = []

    def on_start(started: Started) -> None:
        without_store(started)
        found.append(started)

    settings = settings_for(folder, None)
    app = create_app(settings, on_start=on_start)
    asked: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    told: asyncio.Queue[Any] = asyncio.Queue()
    lifespan = asyncio.create_task(app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, asked.get, told.put))
    await asked.put({"type": "lifespan.startup"})
    assert (await told.get())["type"] == "lifespan.startup.complete"
    try:
        first = found[0].first
        assert first is not None
        request = _token_request(app, first.agent_id, first.client_secret)
        for _ in range(5):  # what is cached is cached
            assert await request() == 200
        return statistics.median([await _count_calls(request) for _ in range(25)])
    finally:
        await asked.put({"type": "lifespan.shutdown"})
        await lifespan


def _token_request(app: Any, client_id: str, secret: str) -> Callable[[], Awaitable[int]]:
    body = b"grant_type=client_credentials&scope=agents%3Aread"
    basic = base64.b64encode(f"{client_id}:{secret}".encode())
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/api/v1/token",
        "raw_path": b"/api/v1/token",
        "query_string": b"",
        "root_path": "",
        "headers": [
            (b"host", b"127.0.0.1"),
            (b"content-type", b"application/x-www-form-urlencoded"),
            (b"authorization", b"Basic " + basic),
            (b"content-length", b"%d" % len(body)),
        ],
        "client": ("127.0.0.1", 1234),
        "server": ("127.0.0.1", 80),
    }

    async def request() -> int:
        statuses: list[int] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            statuses.append(message.get("status", 0))

        await app(dict(scope), receive, send)
        return statuses[0]

    return request


async def _count_calls(request: Callable[[], Awaitable[int]]) -> int:
    """Python functions entered, and coroutines resumed, by one request. The profiler counts; the clock plays no part."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        status = await request()
    finally:
        sys.setprofile(before)
    assert status == 200
    return calls


async def _statements_by_size(engine: str, url: str, folder: Path, made: Callable[[SecretSnapshot, int], list[Entry]]) -> dict[int, int]:
    """Statements of a batch of entries, by its size, each batch committed on the real engine."""
    started = await start(settings_for(folder / "data", url))
    assert started.first is not None
    try:
        key = await started.instance.database.read(
            lambda tx: tx.connection.scalar(credential_secrets.select().with_only_columns(credential_secrets.c.credential_key)), SYSTEM
        )
        snapshot = await started.instance.database.read(read_secret_snapshot, SYSTEM, key, started.instance.plans)
    finally:
        await started.instance.database.close()
    assert snapshot is not None
    write = _write_sqlite if engine == "sqlite" else _write_postgres
    return {size: await write(url, made(snapshot, size)) for size in (1, 100, 127, 128)}


def _entries(snapshot: SecretSnapshot, size: int) -> list[Entry]:
    now, origin = system_clock(), Origin(None, None, "bench")
    made = []
    for _ in range(size):
        snapshot.credential.last_used_at = None  # so that the last use is written, too
        made.append(issue_token(snapshot.credential, now, origin, scope=None, audience=("https://api.example",), lifetime_seconds=3600)[0])
    return made


def _api_calls(snapshot: SecretSnapshot, size: int) -> list[Entry]:
    return [Entry(snapshot.credential, "apiCalls") for _ in range(size)]


class _Counting:
    """A driver connection whose statements are counted; one `executemany` is one, as the driver prepares it once."""

    def __init__(self, connection: Any) -> None:
        self._connection, self.statements = connection, 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("execute", "fetch")):
            self.statements += 1
        return getattr(self._connection, name)


async def _write_sqlite(url: str, entries: list[Entry]) -> int:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    try:
        counting = _Counting(connection)
        sqlite.write_batch(counting, system_clock(), entries)  # type: ignore[arg-type]
        connection.commit()
    finally:
        connection.close()
    return _all_recorded(entries, counting)


async def _write_postgres(url: str, entries: list[Entry]) -> int:
    asyncpg = pytest.importorskip("asyncpg")
    connection = await asyncpg.connect(url)
    try:
        counting = _Counting(connection)
        async with connection.transaction():
            await postgres.write_batch(counting, system_clock(), entries)
    finally:
        await connection.close()
    return _all_recorded(entries, counting)


def _all_recorded(entries: list[Entry], counting: _Counting) -> int:
    assert all(entry.verdict is Verdict.RECORDED for entry in entries)
    return counting.statements
