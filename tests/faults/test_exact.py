"""What must be exact whatever happens at once, on SQLite and on two processes of one PostgreSQL: the last token of a day, a revocation, the counts."""

import contextlib
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
from tests.conftest import fresh_postgres_database
from tests.faults import oracle
from tests.processes import ServerProcess
from tests.serving import free_port
from tests.tenants import registration

pytestmark = pytest.mark.slow
THREADS = 8


class Group:
    """Server processes on one database, one issuer and one data folder."""

    def __init__(self, folder: Path, engine: str, url: str) -> None:
        self.url = url
        port = free_port()
        issuer = {"ISSUER": f"http://127.0.0.1:{port}", "DATABASE_URL": url, "LOG_LEVEL": "error"}
        self.servers = [ServerProcess(folder, PORT=str(port), **issuer)]
        if engine == "postgresql":
            self.servers.append(ServerProcess(folder, PORT=str(free_port()), **issuer))
        self.first = self.servers[0].first
        self._clients: list[httpx2.Client] = []

    def clients(self, count: int) -> list[httpx2.Client]:
        """Connected, and spread over the processes."""
        while len(self._clients) < count:
            self._clients.append(self.servers[len(self._clients) % len(self.servers)].client())
        for client in self._clients[:count]:
            client.get("/health")
        return self._clients[:count]

    def stop(self) -> None:
        for client in self._clients:
            client.close()
        for server in self.servers:
            server.stop()

    def form(self, client_id: str = "", client_secret: str = "") -> dict[str, str]:
        found = {"client_id": client_id or self.first["clientId"], "client_secret": client_secret or self.first["clientSecret"]}
        return found | {"grant_type": "client_credentials"}

    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.servers[0].token()['access_token']}"}

    def set_limit(self, tokens_per_day: int | None) -> None:
        """As another program would that changes the plan."""
        limit = "NULL" if tokens_per_day is None else str(tokens_per_day)
        statement = f"UPDATE organizations SET max_tokens_per_day = {limit}, revision = revision + 1 WHERE organization_id = '{self.first['organizationId']}'"
        if self.url.startswith("sqlite"):
            with sqlite3.connect(sa.make_url(self.url).database or "", timeout=10) as connection:
                connection.execute(statement)
            connection.close()
            return
        import asyncio

        import asyncpg

        async def run() -> None:
            connection = await asyncpg.connect(self.url)
            await connection.execute(statement)
            await connection.close()

        asyncio.run(run())


@pytest.fixture(scope="module")
def groups() -> Iterator[tuple[dict[str, Group], contextlib.ExitStack]]:
    """The groups of this file by engine, and what has to be undone at its end."""
    with contextlib.ExitStack() as stack:
        yield {}, stack


@pytest.fixture
def group(engine: str, groups: tuple[dict[str, Group], contextlib.ExitStack], folder: Path, request: pytest.FixtureRequest) -> Group:
    found, stack = groups
    if engine not in found:
        place = folder / f"group-{engine}"
        url = f"sqlite:///{place / 'group.db'}"
        if engine == "postgresql":
            url = stack.enter_context(fresh_postgres_database(request.getfixturevalue("postgres")))
        found[engine] = Group(place, engine, url)
        stack.callback(found[engine].stop)
    return found[engine]


def _at_once(clients: list[httpx2.Client], send: Callable[[httpx2.Client, int], httpx2.Response]) -> list[httpx2.Response]:
    barrier = threading.Barrier(len(clients))

    def one(number: int) -> httpx2.Response:
        barrier.wait(30)
        return send(clients[number], number)

    with ThreadPoolExecutor(len(clients)) as pool:
        return list(pool.map(one, range(len(clients))))


def test_the_last_token_of_the_day_is_given_once(group: Group, amount: Callable[[int, int], int], table: Any) -> None:
    organization_id, form = group.first["organizationId"], group.form()
    clients = group.clients(50)
    statuses: Counter[int] = Counter()
    rounds = amount(1, 20)
    for _ in range(rounds):
        group.set_limit(None)
        for client in clients[: len(group.servers)]:  # every process knows the plan without a limit
            assert client.post("/api/v1/token", data=form).status_code == 200
        group.set_limit(oracle.read(group.url).count("tokensIssued", organization_id) + 1)
        answers = _at_once(clients, lambda client, _: client.post("/api/v1/token", data=form))
        assert Counter(answer.status_code for answer in answers) == {200: 1, 429: 49}
        assert all(answer.headers["retry-after"].isdecimal() for answer in answers if answer.status_code == 429)
        statuses.update(answer.status_code for answer in answers)
    group.set_limit(None)
    assert not oracle.read(group.url).miscounted()
    table(rounds=rounds, at_once=50, issued=statuses[200], refused=statuses[429])


def test_no_process_issues_after_a_revocation(group: Group, amount: Callable[[int, int], int], table: Any) -> None:
    bearer, tries, issued_before = group.bearer(), amount(300, 10_000), 0
    revocations = amount(2, 20)
    clients = group.clients(THREADS)
    for _ in range(revocations):
        agent = clients[0].post("/api/v1/agents", json=registration(), headers=bearer).json()
        path = f"/api/v1/agents/{agent['agentId']}/credentials"
        made = clients[0].post(path, headers=bearer).json()
        form = group.form(agent["agentId"], made["clientSecret"])
        for client in clients:  # in every cache
            assert client.post("/api/v1/token", data=form).status_code == 200
            issued_before += 1
        assert clients[1].delete(f"{path}/{made['credentialId']}", headers=bearer).status_code == 204

        def tell(client: httpx2.Client, _: int, form: dict[str, str] = form) -> httpx2.Response:
            for _ in range(tries // revocations // THREADS):
                answer = client.post("/api/v1/token", data=form)
                assert answer.status_code == 401
            return client.post("/api/v1/token", data=form)

        assert {answer.status_code for answer in _at_once(clients, tell)} == {401}
    table(revocations=revocations, tries_after=revocations * THREADS * (tries // revocations // THREADS + 1), succeeded=0)


def test_counts_are_the_acknowledged_operations(group: Group, amount: Callable[[int, int], int], table: Any) -> None:
    bearer, form, rounds = group.bearer(), group.form(), amount(8, 200)
    done: Counter[str] = Counter()
    before = oracle.read(group.url)

    def work(client: httpx2.Client, _: int) -> httpx2.Response:
        for _ in range(rounds):
            created = client.post("/api/v1/agents", json=registration(), headers=bearer)
            made = client.post(f"/api/v1/agents/{created.json()['agentId']}/credentials", headers=bearer)
            listed = client.get("/api/v1/agents", headers=bearer)
            issued = client.post("/api/v1/token", data=form)
            assert [answer.status_code for answer in (created, made, listed, issued)] == [201, 201, 200, 200]
        return issued

    _at_once(group.clients(THREADS), work)
    operations = rounds * THREADS
    after = oracle.read(group.url)
    for action in ("agent.created", "credential.generated", "token.issued"):
        done[action] = after.targets(action).total() - before.targets(action).total()
    for meter in ("tokensIssued", "apiCalls"):
        done[meter] = after.count(meter) - before.count(meter)
    expected = {"agent.created": operations, "credential.generated": operations, "token.issued": operations, "tokensIssued": operations}
    assert done == expected | {"apiCalls": 3 * operations}
    table(**{name.replace(".", "_"): count for name, count in done.items()}, miscounted=len(after.miscounted()))
