"""One connection to one address that was checked, and the requests that it carries one after the other (RFC 9112, by h11). Knows no names and no rules.

Loaded by `core.outgoing` with the first request: h11 costs 20 ms.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import h11

from agentidp.core import limits
from agentidp.core.addresses import Address, Target
from agentidp.core.unreachable import Unreachable

if TYPE_CHECKING:
    from agentidp.core.outgoing import Bounds

_OURS = frozenset({"host", "content-length", "transfer-encoding", "connection", "accept-encoding", "expect", "te", "trailer", "upgrade"})


@dataclass(frozen=True, slots=True)
class Request:
    """Checked, and ready for any connection."""

    head: h11.Request
    body: bytes


@dataclass(frozen=True, slots=True)
class Received:
    status: int
    headers: Mapping[str, str]
    body: bytes
    is_cut: bool


class Stale(Exception):
    """The other side closed a kept connection before the request was there, as far as one can know."""


def compose(method: Literal["GET", "POST"], target: Target, headers: Mapping[str, str], body: bytes) -> Request:
    """Raises ValueError for headers that are ours to write, and for signs that would end a header."""
    if _OURS & {name.lower() for name in headers}:
        raise ValueError("a header that the connection writes itself")
    own = [("Host", target.authority), ("Accept-Encoding", "identity"), *headers.items()]
    if body or method == "POST":
        own.append(("Content-Length", str(len(body))))
    try:
        return Request(h11.Request(method=method, target=target.path, headers=own), body)
    except h11.LocalProtocolError as error:
        raise ValueError(str(error)) from None


async def dial(address: Address, target: Target, tls: ssl.SSLContext | None, bounds: "Bounds", on_end: Callable[["Wire"], object]) -> "Wire":
    """A connection to this address and no other; TLS checks the name in the URL. Raises OSError."""
    loop = asyncio.get_running_loop()
    dialled = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
    try:
        dialled.setblocking(False)
        await loop.sock_connect(dialled, (str(address), target.port))
        server_name = target.host if tls else None
        _, wire = await loop.create_connection(lambda: Wire(bounds, on_end), sock=dialled, ssl=tls, server_hostname=server_name)
    except BaseException:
        dialled.close()
        raise
    return wire


class Wire(asyncio.Protocol):
    """Reads only what somebody waits for. Whatever goes wrong ends the connection; `on_end` is told once."""

    def __init__(self, bounds: "Bounds", on_end: Callable[["Wire"], object]) -> None:
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=limits.OUTGOING_HEAD_BYTES_MAX)
        self._bounds, self._on_end = bounds, on_end
        self._received = bytearray()
        self._waiting: asyncio.Future[None] | None = None
        self._is_paused = self._is_ended = self._is_broken = self._is_read_out = self._is_old = False
        self._is_idle, self._is_kept = True, False

    @property
    def is_reusable(self) -> bool:
        return self._is_idle and not self._is_ended

    async def exchange(self, request: Request) -> Received:
        """Send and receive. Raises Unreachable; Stale only where there was an exchange before."""
        self._is_idle = False
        try:
            send = self._h11.send
            self._transport.write(b"".join(send(event) or b"" for event in (request.head, h11.Data(data=request.body), h11.EndOfMessage())))
            received = await self._receive()
        except h11.RemoteProtocolError:
            self.abort()
            if self._is_read_out:
                raise Unreachable("closed", "The connection was closed before the answer was whole.") from None
            raise Unreachable("protocol", "The answer is not HTTP/1.1.") from None
        except BaseException:
            self.abort()
            raise
        self._rest()
        return received

    def _rest(self) -> None:
        """Ready for the next request, or closed: a connection that is too old, or on which more was said than was asked for, carries none."""
        is_whole = self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE
        if is_whole and not self._is_old and not self._received and not self._h11.trailing_data[0]:
            self._h11.start_next_cycle()
            self._is_idle = self._is_kept = True
        else:
            self.abort()

    async def _receive(self) -> Received:
        head: h11.Response | None = None
        body, raw_bytes = bytearray(), 0
        while True:
            event = self._h11.next_event()
            if event is h11.NEED_DATA:
                if raw_bytes > self._bounds.raw_bytes:
                    break
                data = await self._read()
                if not data and self._is_kept and not raw_bytes:
                    raise Stale
                if not data and self._is_broken:
                    raise Unreachable("closed", "The connection broke before the answer was whole.")
                if raw_bytes:
                    await asyncio.sleep(0)  # what the other side sends is parsed piece by piece, so that others have their turn
                raw_bytes += len(data)
                self._h11.receive_data(data)
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > self._bounds.answer_bytes:
                    break
            elif isinstance(event, h11.EndOfMessage):
                break
        if head is None:
            raise Unreachable("protocol", "There is no end to what comes before the answer.")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
        is_cut = not isinstance(event, h11.EndOfMessage)
        return Received(head.status_code, headers, bytes(body[: self._bounds.answer_bytes]), is_cut)

    async def _read(self) -> bytes:
        """What came, at most OUTGOING_READ_BYTES; nothing at the end."""
        while not self._received and not self._is_ended:
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        self._is_read_out = not self._received
        data = bytes(self._received[: limits.OUTGOING_READ_BYTES])
        del self._received[: len(data)]
        if self._is_paused and not self._received and not self._is_ended:
            self._is_paused = False
            self._transport.resume_reading()
        return data

    def abort(self) -> None:
        """Close at once, whatever is under way. Nothing more is read of what the other side goes on to send."""
        self._end()
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are of no class of asyncio
        self._expiry = asyncio.get_running_loop().call_later(self._bounds.kept_seconds, self._expire)

    def data_received(self, data: bytes) -> None:
        if self._is_idle:  # nobody has asked
            self.abort()
            return
        self._received += data
        if len(self._received) >= limits.OUTGOING_READ_BYTES and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_broken = exc is not None
        self._end()

    def _expire(self) -> None:
        self._is_old = True
        if self._is_idle:
            self.abort()

    def _end(self) -> None:
        if self._is_ended:
            return
        self._is_ended = True
        self._expiry.cancel()
        self._wake()
        self._on_end(self)

    def _wake(self) -> None:
        if self._waiting is not None:
            with contextlib.suppress(asyncio.InvalidStateError):  # woken already, or given up
                self._waiting.set_result(None)
