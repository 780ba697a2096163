"""A server process among others: it ends what it has begun before it goes, and says so when its database does not answer."""

import contextlib
import json
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlencode

import httpx2
import pytest
from tests.processes import ServerProcess, serving, wait_until
from tests.serving import RunningServer, settings_for
from tests.stalls import PostgresGate, SqliteStall, writes_held
from tests.tenants import make_tenant, registration

pytestmark = pytest.mark.slow


class RequestInFlight:
    """A token request that the server is provably working on: it has asked for the body."""

    def __init__(self, server: ServerProcess) -> None:
        first = server.first
        fields = {"grant_type": "client_credentials", "client_id": first["clientId"], "client_secret": first["clientSecret"]}
        body = urlencode(fields).encode()
        head = (
            f"POST /api/v1/token HTTP/1.1\r\nHost: {server.url.removeprefix('http://')}\r\nContent-Type: application/x-www-form-urlencoded\r\n"
            f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
        )
        self.socket = socket.create_connection(("127.0.0.1", int(server.env["AGENTIDP_PORT"])), timeout=30)
        self.socket.sendall(head.encode())
        assert self.socket.recv(4096).startswith(b"HTTP/1.1 100")
        self.socket.sendall(body)

    def answer(self) -> tuple[int, dict[str, str]]:
        """The status and the JSON of the answer, after which the server closed the connection."""
        raw = b""
        while chunk := self.socket.recv(65536):
            raw += chunk
        self.socket.close()
        head, _, body = raw.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(body)


def refuses_connections(server: ServerProcess) -> bool:
    try:
        socket.create_connection(("127.0.0.1", int(server.env["AGENTIDP_PORT"])), timeout=5).close()
    except OSError:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_lets_what_is_in_flight_finish_and_exits_0(database_url: str, number: signal.Signals, tmp_path: Path) -> None:
    with serving(tmp_path, DATABASE_URL=database_url) as server:
        port = server.env["AGENTIDP_PORT"]
        with writes_held(database_url):
            request = RequestInFlight(server)
            server.process.send_signal(number)
            wait_until(lambda: refuses_connections(server))
            assert server.process.poll() is None, "it left before the request was answered"
        status, answer = request.answer()
        assert status == 200, answer
        assert server.process.wait(30) == 0
        assert "Traceback" not in server.stderr
    with serving(tmp_path, DATABASE_URL=database_url, PORT=port) as server:  # what was acknowledged is still known
        token = answer["access_token"]
        with server.client(headers={"Authorization": f"Bearer {token}"}) as client:
            assert client.post("/api/v1/token/introspect", data={"token": token}).json()["active"] is True


def test_a_signal_with_idle_connections_open_exits_0(tmp_path: Path) -> None:
    with serving(tmp_path) as server, server.client() as client:
        assert client.get("/health").status_code == 200  # the connection stays open
        assert server.stop() == 0


@pytest.fixture
def stall(engine: str, database_url: str) -> Iterator[SqliteStall | PostgresGate]:
    folder = Path(tempfile.mkdtemp(prefix="gate-"))  # short enough for a socket's path
    found = SqliteStall(database_url) if engine == "sqlite" else PostgresGate(database_url, folder)
    yield found
    found.close()
    shutil.rmtree(folder)


@pytest.fixture
def stalling_server(stall: SqliteStall | PostgresGate, tmp_path: Path) -> Iterator[RunningServer]:
    running = RunningServer(settings_for(tmp_path / "data", stall.url))
    yield running
    running.stop()


def timed_health(server: RunningServer, answers: list[tuple[int, float]]) -> int:
    """One look at /health; no longer than the client's patience, which is shorter than the stall."""
    started = time.perf_counter()
    with server.client() as client:
        status = client.get("/health", timeout=5).status_code
    answers.append((status, (time.perf_counter() - started) * 1000))
    return status


def test_health_answers_while_the_database_does_not(stalling_server: RunningServer, stall: SqliteStall | PostgresGate) -> None:
    server, tenant = stalling_server, make_tenant(stalling_server)
    bearer = {"Authorization": f"Bearer {tenant.admin.token()}"}
    lost = registration()
    answers: list[tuple[int, float]] = []

    def post_agent() -> httpx2.Response:
        with server.client(headers=bearer) as client:
            return client.post("/api/v1/agents", json=lost)

    def bad_token() -> httpx2.Response:
        """Refused attempts must be on record; when they cannot be, nobody learns whether they would have been refused."""
        with server.client(headers={"Authorization": "Bearer nonsense"}) as client:
            return client.get("/api/v1/agents")

    assert timed_health(server, answers) == 200
    with ThreadPoolExecutor(3) as pool, stall.stalled():
        pending = [pool.submit(work) for work in (post_agent, tenant.admin.token_response, bad_token)]
        wait_until(lambda: timed_health(server, answers) == 503)
        responses = [one.result() for one in pending]
        for response in responses:
            assert response.status_code == 503, response.text
            assert int(response.headers["Retry-After"]) >= 1
        assert [response.json().get("code") for response in responses] == ["SERVICE_UNAVAILABLE", None, "SERVICE_UNAVAILABLE"]
        assert responses[1].json()["error"] == "temporarily_unavailable"
        assert timed_health(server, answers) == 503  # still stalled
        with server.client() as client:
            assert client.get("/health/detailed").status_code in {207, 503}
            assert client.get("/.well-known/jwks.json").status_code == 200  # needs no database
    wait_until(lambda: timed_health(server, answers) == 200)
    with tenant.admin.client() as client:
        assert client.get("/api/v1/agents", params={"q": lost["email"]}).json()["data"] == []
        assert client.post("/api/v1/agents", json=lost).status_code == 201
    slowest = max(milliseconds for _, milliseconds in answers)
    print(f"/health: {len(answers)} answers, slowest {slowest:.1f} ms (connection included)")


def test_a_stall_shorter_than_patience_is_not_noticed(stalling_server: RunningServer, stall: SqliteStall | PostgresGate) -> None:
    """What waits for the database is answered as soon as it comes back, not refused."""
    tenant = make_tenant(stalling_server)
    with ThreadPoolExecutor(4) as pool, contextlib.ExitStack() as stack:
        stack.enter_context(stall.stalled())
        pending = [pool.submit(tenant.admin.token_response) for _ in range(4)]
        with stalling_server.client() as client:
            assert client.get("/.well-known/jwks.json").status_code == 200
        assert not any(one.done() for one in pending)
        stack.close()
        assert [one.result().status_code for one in pending] == [200] * 4
