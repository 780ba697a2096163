"""A server that plays GitHub and AgentIdP in one, and that answers as servers do on a bad day. All is well until a test says something else."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
from tests.auth.forgery import b64

REQUEST, EXCHANGE, AGENTS = "/request", "/api/v1/oidc/token", "/api/v1/agents"
AGENT_ID = "0198c5a2-7d1e-7c3a-9f00-5b1d2e3f4a5b"

Answer = Callable[["Handler"], None]


def says(status: int, body: Any, **headers: str) -> Answer:
    """The body as it is when it is bytes, as JSON otherwise; an underscore stands for a hyphen."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()

    def answer(handler: "Handler") -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(raw)))
        handler.end_headers()
        handler.wfile.write(raw)

    return answer


def passes_on(url: str, *, loses: bool = False) -> Answer:
    """What the server at this address answers, or 503 in its place: it is done, and nobody hears of it."""

    def answer(handler: "Handler") -> None:
        headers = {name: handler.headers[name] for name in ("Authorization", "Content-Type") if name in handler.headers}
        found = httpx2.post(url + handler.path, json=handler.body, headers=headers)
        (says(503, {}, Retry_After="0") if loses else says(found.status_code, found.content))(handler)

    return answer


def drops(handler: "Handler") -> None:
    """The connection ends, with nothing said."""
    handler.close_connection = True


def hangs(_: "Handler") -> None:
    time.sleep(30)


def drips(handler: "Handler") -> None:
    """A byte now and then, for ever: no single one is long in coming."""
    handler.wfile.write(b"HTTP/1.0 200 OK\r\n")
    for _ in range(300):
        handler.wfile.write(b"X")
        time.sleep(0.1)


class AwkwardServer:
    """`answers` by path come first, each once, then always the `usual` one. `asked` is what was asked: path with its query, and body."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Answer]] = {}
        self.asked: list[tuple[str, Any]] = []
        self.claims: dict[str, Any] = {"sub": "repo:acme/screener:ref:refs/heads/main"}
        self.access: dict[str, Any] = {"access_token": "an-access-token", "expires_in": 300, "scope": "agents:register"}
        self.url = ""

    def count(self, path: str) -> int:
        return sum(asked.partition("?")[0] == path for asked, _ in self.asked)

    def answer(self, path: str, body: Any) -> Answer:
        self.asked.append((path, body))
        path = path.partition("?")[0]
        return self.answers[path].pop(0) if self.answers.get(path) else self.usual(path)

    def usual(self, path: str) -> Answer:
        """A token of GitHub's is another each time."""
        token = f"{b64('{}')}.{b64(json.dumps(self.claims | {'jti': str(len(self.asked))}))}.c2ln"
        return says(*{REQUEST: (200, {"value": token}), EXCHANGE: (200, self.access), AGENTS: (201, {"agentId": AGENT_ID})}[path])


class Handler(BaseHTTPRequestHandler):
    awkward: AwkwardServer
    body: Any = None

    def do_GET(self) -> None:
        with contextlib.suppress(OSError):  # a client that has seen enough
            self.awkward.answer(self.path, self.body)(self)

    def do_POST(self) -> None:
        self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Tests read their own output."""


@contextlib.contextmanager
def serving_awkwardly() -> Iterator[AwkwardServer]:
    """On a port of its own of 127.0.0.1, for the length of the block."""
    awkward = AwkwardServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"awkward": awkward}))
    server.daemon_threads, server.block_on_close = True, False  # an answer that hangs is left behind
    awkward.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield awkward
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
