"""Running the application under uvicorn: bounds that its HTTP parser lacks, and a shutdown that ends what is in flight and exits 0."""

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import httptools
import uvicorn
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from agentidp.app import Edge
from agentidp.auth.guard import OAuthRoute
from agentidp.core import limits
from agentidp.core.errors import WrongSettings

log = logging.getLogger(__name__)

_BACKLOG = 1024  # connections that wait to be accepted; the kernel caps it at net.core.somaxconn
_HEAD_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_COLLECTED_BYTES_MAX = limits.PATH_BYTES_MAX + limits.QUERY_BYTES_MAX + limits.HEADER_BYTES_MAX


class _DirectCycle(RequestResponseCycle):
    """As much of a cycle as uvicorn's protocol looks at while `BoundedProtocol` answers a request by itself."""

    def __init__(self, *, keep_alive: bool) -> None:
        self.keep_alive, self.disconnected, self.response_complete = keep_alive, False, False
        self.message_event = _NO_EVENT


_NO_EVENT = asyncio.Event()  # nobody waits for it


class BoundedProtocol(HttpToolsProtocol):
    """httptools with what it lacks: a bound on the bytes that it collects (head, trailers), and a deadline on head and body, read or not.

    An OAuth request that arrives whole, in one piece, is answered by `Edge.answer` directly and in one write; anything else (a body
    that follows, a query, a pipeline) goes through ASGI, to the same endpoint. That detour costs more than half as much as a token.
    """

    head_seconds_max: float = limits.REQUEST_HEAD_SECONDS_MAX
    body_seconds_max: float = limits.REQUEST_BODY_SECONDS_MAX + 1  # the application, where it reads the body, answers first

    unread_seconds_max: float = limits.UNREAD_ANSWER_SECONDS_MAX

    _collected_bytes = 0
    _got_further = False
    _is_fed_again = False
    _data = b""
    _deadline: asyncio.TimerHandle | None = None
    _abortion: asyncio.TimerHandle | None = None
    _in_message = False
    _direct: OAuthRoute | None = None  # where the request goes if all of it is there
    _direct_body = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the parent
        super().connection_made(transport)
        self.access_log = False  # whatever handlers the logger has: uvicorn's lines hold the whole URL
        self._edge = self.app if isinstance(self.app, Edge) else None
        self._cut_after(self.head_seconds_max)

    def connection_lost(self, exc: Exception | None) -> None:
        self._clear_deadline()
        if self._abortion is not None:
            self._abortion.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._got_further, self._is_fed_again, self._data = False, False, data
        super().data_received(data)
        if self._direct is not None:
            self._go_through_asgi()
        self._collected_bytes = 0 if self._got_further else self._collected_bytes + len(data)
        if self._collected_bytes > _COLLECTED_BYTES_MAX and not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete:
                self.transport.write(_HEAD_TOO_LARGE)
            self._cut()
        elif self._in_message and self._deadline is None:
            self._cut_after(self.head_seconds_max)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_message = True

    def on_headers_complete(self) -> None:
        self._got_further = True
        if self._asks_to_upgrade():
            return
        is_free = self.cycle is None or self.cycle.response_complete
        if self._edge is not None and is_free and max(len(self.connections), len(self.tasks)) < limits.CONNECTIONS_MAX:
            route = self._edge.oauth_targets.get((self.parser.get_method(), self.url))
            self._direct = route if self.parser.get_http_version() == "1.1" else None
        if self._direct is None:
            self._cut_after(self.body_seconds_max)
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._got_further = True
        if self._direct is None:
            super().on_body(body)
        else:
            self._direct_body += body

    def on_message_complete(self) -> None:
        self._got_further, self._in_message = True, False
        if self._asks_to_upgrade():
            return
        if self._deadline is not None:
            self._clear_deadline()
        if self._direct is None or self._edge is None:
            super().on_message_complete()
            return
        scope: Any = self.scope
        scope |= {"method": self.parser.get_method().decode(), "path": self._direct.path, "raw_path": self.url, "query_string": b""}
        self.cycle = cycle = _DirectCycle(keep_alive=self.parser.should_keep_alive())
        task = self.loop.create_task(self._answer(self._edge.answer(self._direct, scope, _received(self._direct_body)), cycle))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        self._direct, self._direct_body = None, b""

    def _go_through_asgi(self) -> None:
        """The rest of the body is still to come."""
        body, self._direct, self._direct_body = self._direct_body, None, b""
        self._cut_after(self.body_seconds_max)
        super().on_headers_complete()
        if body:
            super().on_body(body)

    async def _answer(self, answering: Awaitable[Response], cycle: _DirectCycle) -> None:
        try:
            response = await answering
            headers = [*self.server_state.default_headers, *response.raw_headers]
            head = b"".join([STATUS_LINE[response.status_code], *[b"%b: %b\r\n" % header for header in headers]])
            if head.count(b"\n") != len(headers) + 1:
                raise RuntimeError("a header with a line end")
            if self.flow.write_paused:
                await self.flow.drain()
        except Exception:
            log.exception("no answer")
            self._cut()
            return
        if cycle.disconnected:
            return
        self.transport.write(b"".join((head, b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n", response.body)))
        cycle.response_complete = True
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _asks_to_upgrade(self) -> bool:
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def _unsupported_upgrade_warning(self) -> None:
        """The parent's handler of HttpParserUpgrade. The parser has left the body unread: ask it again, without the question (RFC 9110 section 7.8).

        Java's client, for one, asks with every request to an http URL.
        """
        if self.parser.get_method() == b"CONNECT":  # has its answer; what follows would be a tunnel's
            self.cycle.keep_alive = False
            return
        if self._is_fed_again:  # one at a time: nobody pipelines them
            self.send_400_response("Invalid HTTP request received.")
            return
        error = sys.exception()
        assert isinstance(error, httptools.HttpParserUpgrade)
        headers = [name + b": " + value + b"\r\n" for name, value in self.headers if name != b"upgrade"]
        line = b"%s %s HTTP/%s\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        self.parser = httptools.HttpRequestParser(self)
        self._is_fed_again = True
        super().data_received(line + b"".join(headers) + b"\r\n" + self._data[error.args[0] :])

    def _cut_after(self, seconds: float) -> None:
        self._clear_deadline()
        self._deadline = self.loop.call_later(seconds, self._cut)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._abort_later()

    def timeout_keep_alive_handler(self) -> None:
        self._cut()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._abort_later()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._abortion is not None:
            self._abortion.cancel()
            self._abortion = None

    def _cut(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
            self._abort_later()

    def _abort_later(self) -> None:
        """A transport waits with its end until everything is sent: for ever, if the client does not read."""
        if self._abortion is None:
            self._abortion = self.loop.call_later(self.unread_seconds_max, self.transport.abort)


def _received(body: bytes) -> Receive:
    """ASGI's receive for a body that is there."""

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


class Server(uvicorn.Server):
    """uvicorn, leaving signals to `serve`, so that a requested end is not an error."""

    def __init__(self, config: uvicorn.Config, on_listening: Callable[[int], None], on_ending: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_listening, self._on_ending = on_listening, on_ending

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield

    async def startup(self, sockets: Any = None) -> None:
        try:
            await super().startup(sockets)
        except SystemExit:  # the application did not start; it has told `on_failure` why
            self.should_exit = True
        if self.started:
            gc.collect()
            gc.freeze()  # what is there now stays: the collector need not walk through it under load, for tens of milliseconds each time
            self._on_listening(self.servers[0].sockets[0].getsockname()[1])

    async def shutdown(self, sockets: Any = None) -> None:
        self._on_ending()
        await super().shutdown(sockets)


def make_server(app: ASGIApp, host: str, port: int, on_listening: Callable[[int], None] = lambda _: None) -> Server:
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=BoundedProtocol,
        ws="none",
        loop="uvloop",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=limits.KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=limits.SHUTDOWN_SECONDS_MAX,
        limit_concurrency=limits.CONNECTIONS_MAX,
        backlog=_BACKLOG,
    )
    edge = app.app if isinstance(app, CORSMiddleware) else app
    return Server(config, on_listening, edge.end_streams if isinstance(edge, Edge) else lambda: None)


def listen(host: str, port: int) -> socket.socket:
    """The socket to serve on, before anything is set up. Raises WrongSettings when it is not to be had."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=_BACKLOG)
    except OSError as error:
        raise WrongSettings(f"host, port: cannot listen on {host}:{port}: {str(error.strerror).partition(' (')[0]}") from error


async def serve(server: Server, listener: socket.socket) -> bool:
    """Serve until SIGTERM or SIGINT, then finish what is in flight. Returns whether the server ever started."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.handle_exit, number, None)
    await server.serve(sockets=[listener])
    return server.started
