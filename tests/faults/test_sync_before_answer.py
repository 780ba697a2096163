"""No success leaves before its commit: while commits are held none arrives, and when one arrives, another program sees what it stands for.

Others see a commit only after its sync: `synchronous=FULL` on SQLite (tests/faults/test_power_loss.py), `synchronous_commit=on` on PostgreSQL.
"""

import asyncio
import contextlib
import sqlite3
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
from tests.faults import oracle
from tests.faults.commit_proxy import CommitProxy
from tests.serving import RunningServer, settings_for
from tests.tenants import make_tenant, registration

from agentidp.core.caller import Caller
from agentidp.db.unit import Tx

AT_ONCE = 12
GRACE_SECONDS = 0.2  # for an answer that should not come; a busy machine makes the test weaker, not wrong


@dataclass
class Held:
    """A server whose commits can be held; `held()` says how many have met the gate."""

    server: RunningServer
    url: str
    commits_held: Callable[[], AbstractContextManager[None]]
    held: Callable[[], int]


@pytest.fixture
def gated(engine: str, database_url: str, folder: Path, tmp_path: Path) -> Iterator[Held]:
    if engine == "sqlite":
        with _running(tmp_path, database_url) as server:
            yield _sqlite_gate(server, database_url)
        return
    place = folder / uuid.uuid4().hex[:6]
    place.mkdir()
    proxy = CommitProxy(database_url, place)
    try:
        with _running(tmp_path, proxy.url) as server:
            yield Held(server, database_url, proxy.commits_held, lambda: proxy.held)
    finally:
        proxy.close()


@contextlib.contextmanager
def _running(folder: Path, url: str) -> Iterator[RunningServer]:
    server = RunningServer(settings_for(folder / "data", url))
    try:
        yield server
    finally:
        server.stop()


def _sqlite_gate(server: RunningServer, url: str) -> Held:
    is_open, met = threading.Event(), []
    is_open.set()

    def trace(statement: str) -> None:  # in whatever thread, as SQLite begins with the statement
        if statement.startswith("COMMIT"):
            if not is_open.is_set():
                met.append(1)
            is_open.wait()

    @sa.event.listens_for(server.instance.database._writer_engine, "checkout")  # type: ignore[attr-defined]
    def _(connection: sqlite3.Connection, *_: object) -> None:
        connection.set_trace_callback(trace)

    @contextlib.contextmanager
    def held() -> Iterator[None]:
        is_open.clear()
        try:
            yield
        finally:
            is_open.set()

    return Held(server, url, held, lambda: len(met))


@pytest.mark.slow
def test_no_answer_leaves_before_its_commit(gated: Held, amount: Callable[[int, int], int], table: Any) -> None:
    tenant = make_tenant(gated.server)
    agent, token = tenant.agent(), tenant.admin.token()
    tokens = [agent.token() for _ in range(4)]
    form = {"client_id": agent.agent_id, "client_secret": agent.client_secret}
    bearer = {"Authorization": f"Bearer {token}"}
    operations: dict[str, Callable[[httpx2.Client, dict[str, str]], httpx2.Response]] = {
        "token.issued": lambda client, head: client.post("/api/v1/token", data=form | {"grant_type": "client_credentials"}, headers=head),
        "agent.created": lambda client, head: client.post("/api/v1/agents", json=registration(), headers=head | bearer),
        "token.revoked": lambda client, head: client.post("/api/v1/token/revoke", data=form | {"token": agent_token()}, headers=head),
        "token.introspected": lambda client, head: client.post("/api/v1/token/introspect", data=form | {"token": tokens[0]}, headers=head),
        "auth.failed": lambda client, head: client.post("/api/v1/token", data=form | {"grant_type": "client_credentials", "client_id": "x"}, headers=head),
    }
    fresh: list[str] = []
    agent_token = fresh.pop
    answered: Counter[str] = Counter()
    unseen: list[str] = []

    def one(action: str, client: httpx2.Client) -> bool:
        request_id = uuid.uuid4().hex
        response = operations[action](client, {"X-Request-Id": request_id})
        if not _is_recorded(gated.url, request_id, action):
            unseen.append(action)
        answered[action] += 1
        return response.status_code == (401 if action == "auth.failed" else 201 if action == "agent.created" else 200)

    actions = [list(operations)[number % len(operations)] for number in range(AT_ONCE)]
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(AT_ONCE) as pool:
        clients = [stack.enter_context(gated.server.client()) for _ in actions]
        for _ in range(amount(2, 1000 // AT_ONCE + 1)):
            fresh += [agent.token() for _ in range(actions.count("token.revoked"))]
            so_far, held = answered.total(), gated.held()
            with gated.commits_held():
                waiting = [pool.submit(one, action, client) for action, client in zip(actions, clients, strict=True)]
                while gated.held() == held:
                    time.sleep(0.01)
                time.sleep(GRACE_SECONDS)
                early = answered.total() - so_far
            assert all(future.result(60) for future in waiting)
            assert not early
    assert not unseen
    table(responses=answered.total(), before_their_commit=0, of_which=dict(answered))


@pytest.mark.slow
def test_a_guarded_read_waits_for_its_count(gated: Held) -> None:
    tenant = make_tenant(gated.server)
    with tenant.admin.client() as client, ThreadPoolExecutor(1) as pool:
        counted, held = oracle.read(gated.url).count("apiCalls", tenant.organization_id), gated.held()
        with gated.commits_held():
            answer = pool.submit(client.get, "/api/v1/agents")
            while gated.held() == held:
                time.sleep(0.01)
            time.sleep(GRACE_SECONDS)
            assert not answer.done()
        assert answer.result(60).status_code == 200
        assert oracle.read(gated.url).count("apiCalls", tenant.organization_id) == counted + 1


@pytest.mark.parametrize("engine", ["postgresql"])
def test_postgres_commits_are_synced(own_server: RunningServer, engine: str) -> None:
    def settings(tx: Tx) -> list[str]:
        return [tx.connection.scalar(sa.text(f"SHOW {name}")) or "" for name in ("synchronous_commit", "fsync", "full_page_writes")]

    assert own_server.read(settings, Caller("")) == ["on", "on", "on"]


def _is_recorded(url: str, request_id: str, action: str) -> bool:
    query = f"SELECT count(*) FROM audit_events WHERE request_id = '{request_id}' AND action = '{action}'"
    if url.startswith("sqlite"):
        import sqlite3

        with contextlib.closing(sqlite3.connect(sa.make_url(url).database or "")) as connection:
            return bool(connection.execute(query).fetchone()[0])

    async def count() -> bool:
        import asyncpg

        connection = await asyncpg.connect(url)
        try:
            return bool(await connection.fetchval(query))
        finally:
            await connection.close()

    return asyncio.run(count())
