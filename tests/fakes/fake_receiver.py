"""FakeReceiver: somebody's endpoint for webhooks, a real HTTP server on loopback in a thread of its own, which can be everything that receivers are."""

import asyncio
import contextlib
import gzip
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httptools

ZEROS = gzip.compress(b"\0" * 10_000_000)


@dataclass(frozen=True)
class Received:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def message_id(self) -> str:
        return self.headers["webhook-id"]


@dataclass
class Behaviour:
    """What the receiver does with a request, counted from 1. `status` 0: it never answers; -1: it hangs up; -2: it answers no HTTP."""

    status: Callable[[int], int] = lambda _: 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"thanks"
    endless: bool = False
    seconds_before: float = 0.0


class FakeReceiver:
    """`received` has every request whose body came whole, `answered` the ids that were answered with a 2xx, `connections` how many were accepted."""

    def __init__(self) -> None:
        self.behaviour = Behaviour()
        self.received: list[Received] = []
        self.answered: Counter[str] = Counter()
        self.connections = 0
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def ids(self) -> list[str]:
        return [one.message_id for one in self.received]

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def close_port(self) -> None:
        """Refuse connections from now on; `open_port` takes them again."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)

    def open_port(self) -> None:
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._open())
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._close())
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                self._loop.run_until_complete(task)
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _open(self) -> None:
        self._transports: set[Any] = set()
        self._server = await self._loop.create_server(lambda: _Connection(self), "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._server.close()
        for _ in range(3):  # what was just accepted becomes a connection in the next turns of the loop
            await asyncio.sleep(0)
            for transport in list(self._transports):
                transport.abort()
        await asyncio.sleep(0)


class _Connection(asyncio.Protocol):
    def __init__(self, receiver: FakeReceiver) -> None:
        self._receiver, self._parser = receiver, httptools.HttpRequestParser(self)
        self._path, self._headers, self._body = b"", {}, b""
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._receiver.connections += 1
        self._receiver._transports.add(transport)

    def connection_lost(self, _: Exception | None) -> None:
        self._receiver._transports.discard(self._transport)
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._path, self._headers, self._body = b"", {}, b""

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode().lower()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        receiver = self._receiver
        receiver.received.append(Received(self._path.decode(), self._headers, self._body))
        behaviour, status = receiver.behaviour, receiver.behaviour.status(len(receiver.received))
        if behaviour.seconds_before or behaviour.endless:
            self._task = receiver._loop.create_task(self._answer_slowly(behaviour, status))
        else:
            self._answer(behaviour, status)

    def _answer(self, behaviour: Behaviour, status: int) -> None:
        if status == -1:
            self._transport.abort()
        elif status == -2:
            self._transport.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        elif status:
            length = 10**10 if behaviour.endless else len(behaviour.body)
            head = [f"HTTP/1.1 {status} X", f"content-length: {length}", *(f"{name}: {value}" for name, value in behaviour.headers.items())]
            if 200 <= status < 300:
                self._receiver.answered[self._headers.get("webhook-id", "")] += 1
            self._transport.write("\r\n".join([*head, "", ""]).encode() + behaviour.body)

    async def _answer_slowly(self, behaviour: Behaviour, status: int) -> None:
        await asyncio.sleep(behaviour.seconds_before)
        self._answer(behaviour, status)
        while behaviour.endless and not self._transport.is_closing():
            self._transport.write(b"\0" * 65_536)
            await asyncio.sleep(0.001)


@contextlib.contextmanager
def receiving(behaviour: Behaviour | None = None) -> Iterator[FakeReceiver]:
    """A running receiver until the block ends."""
    receiver = FakeReceiver()
    receiver.behaviour = behaviour or Behaviour()
    receiver.start()
    try:
        yield receiver
    finally:
        receiver.stop()
