"""Requests that are wrong before anybody looks at what they ask for: path, method, media type, length, encoding, headers, HTTP itself."""

import asyncio
import contextlib
import gzip
import socket
import threading
from collections.abc import Iterator

import pytest
import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send
from tests.bad_input import wire
from tests.bad_input.conftest import Target
from tests.bad_input.operations import FORM, JSON, METHODS, OPERATIONS, PATHS, SERVED, WITH_BODY, WITH_FORM, WITH_JSON, Operation

from agentidp.core import limits
from agentidp.server import BoundedProtocol

MEBIBYTE = 1024 * 1024
OTHER_TYPES = [
    "",
    "text/plain",
    "text/json",
    "application/jsonp",
    "application/json, application/json",
    "multipart/form-data; boundary=x",
    "*/*",
    "json",
    "/",
    ";",
]


def code_of(body: dict[str, str]) -> str:
    """The code in either shape."""
    return body.get("code") or body["error"]


def test_the_served_document_is_the_one_under_test(target: Target) -> None:
    served = target.server.check.document["paths"]
    assert {path: sorted(method.upper() for method in methods) for path, methods in served.items()} == PATHS


@pytest.mark.parametrize("template", PATHS)
def test_a_method_that_the_path_does_not_know_is_405_with_allow(target: Target, template: str) -> None:
    operation = next(operation for operation in OPERATIONS if operation.template == template)
    for method in METHODS:
        if method not in SERVED[template]:
            response = target.client.request(method, operation.path(), headers=target.bearer)
            assert response.status_code == 405, method
            assert response.headers["allow"].split(", ") == PATHS[template]


@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_paths_that_are_nearly_right_are_404(target: Target, operation: Operation) -> None:
    path = operation.path(target.ids)
    first, _, rest = path[1:].partition("/")
    wrong = [
        f"{path}/no/such/thing",
        f"{path}/",
        f"/{path}",
        f"/{first}//{rest}",
        f"/.{path}",
        f"/{first}/../{first}/{rest}",
        path.swapcase(),
        f"/{first};x/{rest}",
    ]
    for raw in wrong:
        answer = wire.exchange(target.url, wire.head(operation.method, raw, *lines(target, operation)))
        assert answer.status == 404, raw
        assert code_of(answer.json()) in {"NOT_FOUND", "invalid_request"}, raw


@pytest.mark.parametrize("operation", WITH_BODY, ids=str)
def test_another_media_type_is_415(target: Target, operation: Operation) -> None:
    for media_type in [*OTHER_TYPES, FORM if operation.body == JSON else JSON]:
        headers = {"Content-Type": media_type} if media_type else {}
        response = target.call(operation, content=b'{"a":1}', headers=headers)
        assert response.status_code == 415, media_type
        assert code_of(response.json()) in {"UNSUPPORTED_MEDIA_TYPE", "invalid_request"}


@pytest.mark.parametrize("operation", WITH_BODY, ids=str)
def test_two_media_types_are_415(target: Target, operation: Operation) -> None:
    head = wire.head(
        operation.method, target.path(operation), *lines(target, operation), f"Content-Type: {operation.body}", "Content-Type: text/plain", "Content-Length: 2"
    )
    assert wire.exchange(target.url, head + b"{}").status == 415


@pytest.mark.parametrize("operation", WITH_BODY, ids=str)
def test_a_compressed_body_is_415(target: Target, operation: Operation) -> None:
    bomb = gzip.compress(bytes(MEBIBYTE))
    for coding in ("gzip", "GZIP", "br", "deflate", "zstd", "identity, gzip", "x"):
        response = target.call(operation, content=bomb, headers={"Content-Type": operation.body, "Content-Encoding": coding})
        assert response.status_code == 415, coding
    twice = ["Content-Encoding: identity", "Content-Encoding: gzip", f"Content-Type: {operation.body}", "Content-Length: 2"]
    assert wire.exchange(target.url, wire.head(operation.method, target.path(operation), *lines(target, operation), *twice) + b"{}").status == 415


@pytest.mark.parametrize("operation", WITH_BODY, ids=str)
def test_a_body_that_is_too_large_is_413_declared_or_not(target: Target, operation: Operation) -> None:
    body = b"a" * (limits.BODY_BYTES_MAX + 1)
    headers = {"Content-Type": operation.body}

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(body), 8192):
            yield body[start : start + 8192]

    assert target.call(operation, content=body, headers=headers).status_code == 413
    assert target.call(operation, content=chunks(), headers=headers).status_code == 413
    largest = target.call(operation, content=body[1:], headers=headers)
    assert largest.status_code in {400, 401}, "64 KiB are not too large"


@pytest.mark.parametrize("operation", WITH_BODY, ids=str)
def test_a_declared_length_is_refused_before_the_body_comes(target: Target, operation: Operation) -> None:
    head = wire.head(operation.method, target.path(operation), *lines(target, operation), f"Content-Type: {operation.body}", f"Content-Length: {10 * MEBIBYTE}")
    assert wire.exchange(target.url, head).status == 413


@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_heads_that_are_too_large_are_refused_by_every_operation(target: Target, operation: Operation) -> None:
    own = target.headers(operation)
    many = {f"X-{number}": "v" for number in range(limits.HEADER_COUNT_MAX)}
    assert target.client.request(operation.method, target.path(operation), headers=own | many).status_code == 431
    assert target.client.request(operation.method, target.path(operation), headers=own | {"X-Long": "v" * limits.HEADER_BYTES_MAX}).status_code == 431
    assert target.client.request(operation.method, target.path(operation), headers=own, params={"q": "x" * limits.QUERY_BYTES_MAX}).status_code == 414
    assert target.client.request(operation.method, target.path(operation) + "/x" * limits.PATH_BYTES_MAX, headers=own).status_code == 414


def lines(target: Target, operation: Operation) -> list[str]:
    return [f"{name}: {value}" for name, value in target.headers(operation).items()]


MALFORMED = {
    "negative length": wire.head("POST", "/api/v1/token", "Content-Length: -1"),
    "signed length": wire.head("POST", "/api/v1/token", "Content-Length: +5") + b"a=b&c",
    "list of lengths": wire.head("POST", "/api/v1/token", "Content-Length: 5, 5") + b"a=b&c",
    "two lengths": wire.head("POST", "/api/v1/token", "Content-Length: 5", "Content-Length: 6") + b"a=b&c",
    "the same length twice": wire.head("POST", "/api/v1/token", "Content-Length: 5", "Content-Length: 5") + b"a=b&c",
    "length in hexadecimal": wire.head("POST", "/api/v1/token", "Content-Length: 0x5") + b"a=b&c",
    "length in other digits": wire.head("POST", "/api/v1/token", "Content-Length: \xb2") + b"a=b&c",
    "length of 5000 digits": wire.head("POST", "/api/v1/token", f"Content-Length: {'9' * 5000}"),
    "length of 2^64": wire.head("POST", "/api/v1/token", f"Content-Length: {2**64}"),
    "length and chunks": wire.head("POST", "/api/v1/token", "Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "unknown transfer coding": wire.head("POST", "/api/v1/token", "Transfer-Encoding: xchunked") + b"0\r\n\r\n",
    "chunked is not last": wire.head("POST", "/api/v1/token", "Transfer-Encoding: chunked, identity") + b"0\r\n\r\n",
    "chunk size is not a number": wire.head("POST", "/api/v1/token", "Transfer-Encoding: chunked") + b"zz\r\n\r\n",
    "chunk size is negative": wire.head("POST", "/api/v1/token", "Transfer-Encoding: chunked") + b"-1\r\n\r\n",
    "chunk size overflows": wire.head("POST", "/api/v1/token", "Transfer-Encoding: chunked") + b"f" * 40 + b"\r\n\r\n",
    "chunk longer than said": wire.head("POST", "/api/v1/token", "Transfer-Encoding: chunked") + b"1\r\nabc\r\n0\r\n\r\n",
    "no host": b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n",
    "two hosts": wire.head("GET", "/health", "Host: other.example"),
    "folded header": wire.head("GET", "/health", "X-A: b\r\n folded: c"),
    "space before colon": wire.head("GET", "/health", "X-A : b"),
    "header without colon": wire.head("GET", "/health", "X-A"),
    "header without name": wire.head("GET", "/health", ": b"),
    "NUL in a header": wire.head("GET", "/health", "X-A: b\x00c"),
    "CR in a header": wire.head("GET", "/health", "X-A: b\rc: d"),
    "space in a path": wire.head("GET", "/hea lth"),
    "bytes in a path": wire.head("GET", "/health\xff"),
    "NUL in a path": wire.head("GET", "/health\x00"),
    "no path": b"GET HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "asterisk": wire.head("OPTIONS", "*"),
    "unknown method": wire.head("EAT", "/health"),
    "method in lower case": wire.head("get", "/health"),
    "CONNECT": wire.head("CONNECT", "localhost:80"),
    "HTTP/3.0": b"GET /health HTTP/3.0\r\nHost: localhost\r\n\r\n",
    "HTTP/1.1.1": b"GET /health HTTP/1.1.1\r\nHost: localhost\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "not HTTP": bytes(range(256)) * 4,
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_http_is_refused_and_the_connection_closed(target: Target, name: str) -> None:
    with wire.connect(target.url) as connection:
        connection.sendall(MALFORMED[name])
        assert wire.receive(connection).status in {400, 404, 405}
        if name not in {"two hosts", "no host"}:  # those are asked to be closed by the request
            connection.settimeout(wire.SECONDS)
            assert connection.recv(1) == b"", "closed"
    assert wire.exchange(target.url, wire.head("GET", "/health")).status == 200


@pytest.mark.parametrize("operation", [WITH_JSON[0], WITH_FORM[0]], ids=str)
def test_a_body_shorter_than_declared_is_never_acted_on(target: Target, operation: Operation) -> None:
    head = wire.head(operation.method, target.path(operation), *lines(target, operation), f"Content-Type: {operation.body}", "Content-Length: 100")
    answer = wire.exchange(target.url, head + b'{"email":"a@b.example"}', half_close=True)
    assert answer.status in {0, 400}


def test_a_body_longer_than_declared_is_not_read_as_part_of_the_request(target: Target) -> None:
    form = f"grant_type=client_credentials&client_id={target.agent.agent_id}&client_secret={target.agent.client_secret}"
    head = wire.head("POST", "/api/v1/token", f"Content-Type: {FORM}", "Content-Length: 13", close=False)
    assert wire.exchange(target.url, head + form.encode()).status == 400


def test_a_request_that_would_upgrade_is_answered_as_if_it_did_not_ask(target: Target) -> None:
    form = b"grant_type=password"
    for protocol in ("h2c", "websocket"):
        more = ["Connection: Upgrade, HTTP2-Settings", f"Upgrade: {protocol}", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA", f"Content-Type: {FORM}"]
        head = wire.head("POST", "/api/v1/token", *more, f"Content-Length: {len(form)}", close=False)
        answer = wire.exchange(target.url, head + form)
        assert (answer.status, answer.json()["error"]) == (400, "unsupported_grant_type"), protocol


def test_connect_is_refused_once_and_ends_the_connection(target: Target) -> None:
    for place in ("/a", "*", "http://a/b"):
        with wire.connect(target.url) as connection:
            connection.sendall(f"CONNECT {place} HTTP/1.1\r\nHost: localhost\r\n\r\nwhatever".encode())
            assert wire.receive(connection).status in {400, 404, 405}, place
            assert wire.receive(connection).status == 0, place


def test_upgrades_in_one_piece_never_share_bytes(target: Target) -> None:
    """The second is not answered with what the first left over, nor the first with what belongs to the second."""
    upgrade = ["Connection: Upgrade", "Upgrade: websocket", f"Content-Type: {FORM}"]
    first, second = b"grant_type=password", b"grant_type=nothing"
    requests = [wire.head("POST", "/api/v1/token", *upgrade, f"Content-Length: {len(form)}", close=False) + form for form in (first, second)]
    with wire.connect(target.url) as connection:
        connection.sendall(requests[0] + requests[1] + wire.head("GET", "/health"))
        answers = [answer for answer in (wire.receive(connection), wire.receive(connection)) if answer.status]
    assert [answer.status for answer in answers] in ([400], [400, 400])
    assert b"unsupported_grant_type" in answers[0].body or b"Invalid HTTP request" in answers[0].body


def test_whoever_does_not_read_is_cut_off() -> None:
    big = bytes(32 * MEBIBYTE)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(big))]})
        await send({"type": "http.response.body", "body": big})

    async def work() -> None:
        lost = asyncio.Event()

        class Hurried(BoundedProtocol):
            unread_seconds_max = 0.3

            def connection_lost(self, exc: Exception | None) -> None:
                super().connection_lost(exc)
                lost.set()

        config = uvicorn.Config(app, log_config=None, lifespan="off")
        config.load()
        state = uvicorn.server.ServerState()
        listening = await asyncio.get_running_loop().create_server(lambda: Hurried(config, state, {}), "127.0.0.1", 0)
        with contextlib.closing(socket.create_connection(listening.sockets[0].getsockname())) as client:
            client.sendall(wire.head("GET", "/"))
            async with asyncio.timeout(wire.SECONDS):
                await lost.wait()
        listening.close()

    uvloop.run(work())


ENDLESS = {
    "request line": (b"GET /", b"a" * 65536),
    "query": (b"GET /health?", b"a=b&" * 16384),
    "headers": (b"GET /health HTTP/1.1\r\nHost: localhost\r\n", b"X-Header: value\r\n" * 4096),
    "one header": (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Header: ", b"v" * 65536),
    "trailers": (wire.head("POST", "/api/v1/token", f"Content-Type: {FORM}", "Transfer-Encoding: chunked") + b"1\r\na\r\n0\r\n", b"X-Header: value\r\n" * 4096),
    "one trailer": (wire.head("POST", "/api/v1/token", f"Content-Type: {FORM}", "Transfer-Encoding: chunked") + b"1\r\na\r\n0\r\nX: ", b"v" * 65536),
    "chunk extension": (wire.head("POST", "/api/v1/token", f"Content-Type: {FORM}", "Transfer-Encoding: chunked") + b"1;", b"v" * 65536),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_never_ends_is_cut(target: Target, name: str) -> None:
    start, piece = ENDLESS[name]
    was_cut, sent = wire.flood(target.url, start, piece, bytes_max=64 * MEBIBYTE)
    assert was_cut, f"{sent} bytes were taken"


@pytest.fixture(scope="module")
def impatient() -> Iterator[str]:
    """A server of nothing but the protocol, with deadlines of a fraction of a second. It answers 204 without reading the body."""

    class Impatient(BoundedProtocol):
        head_seconds_max = 0.2
        body_seconds_max = 0.2

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})

    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, http=Impatient, ws="none", lifespan="off", log_config=None, timeout_keep_alive=60))
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


@pytest.mark.parametrize("start", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n", b"GE"], ids=["nothing", "half a head", "half a word"])
def test_a_slow_head_is_cut(impatient: str, start: bytes) -> None:
    with wire.connect(impatient) as connection:
        connection.sendall(start)
        assert connection.recv(1) == b""


def test_a_slow_second_head_is_cut_and_a_slow_body_too(impatient: str) -> None:
    for then in (b"GET / HT", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab"):
        with wire.connect(impatient) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert wire.receive(connection).status == 204
            connection.sendall(then)
            rest = b""
            while piece := connection.recv(65536):
                rest += piece
            assert rest.count(b"204 No Content") == (1 if then.startswith(b"POST") else 0)


def test_an_idle_connection_is_not_cut_by_the_deadline_of_its_last_head(impatient: str) -> None:
    with wire.connect(impatient) as connection:
        for _ in range(3):
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert wire.receive(connection).status == 204
            threading.Event().wait(0.3)
