"""The only way out to an address that a tenant gave: HTTP/1.1 with the rules of `core.addresses` and the bounds of `core.limits`.

Resolves a name once, checks every address, and dials a checked one. Follows no redirect, asks no proxy, unpacks nothing. When to try again is
the caller's decision.
"""

import asyncio
import contextlib
import functools
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Literal

from agentidp.core import limits
from agentidp.core.addresses import PORTS, Address, ForbiddenUrl, Target, check_url, is_loopback_address, is_public
from agentidp.core.lookup import Lookup
from agentidp.core.shared_turns import SharedTurns
from agentidp.core.unreachable import Unreachable

if TYPE_CHECKING:
    from agentidp.core.wire import Received, Request, Wire

__all__ = ["Answer", "Blocked", "Bounds", "Outgoing", "Unreachable"]

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


class Blocked(Exception):
    """Not sent, and nobody was connected to: it may not be. `reason` is one of `core.addresses`, or `header`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Answer:
    """Any answer there was, a redirect or an error included. Header names are in lower case; of one that is repeated, the last is here."""

    status: int
    headers: Mapping[str, str]
    body: bytes  # as it was sent, compressed or not
    is_cut: bool  # there was more of the body, or of its framing, than is ever read
    milliseconds: int  # connecting included, waiting for a turn not


@dataclass(frozen=True, slots=True)
class Bounds:
    """Those of `core.limits`; tests have smaller ones."""

    turn_seconds: float = limits.OUTGOING_TURN_SECONDS_MAX
    connect_seconds: float = limits.OUTGOING_CONNECT_SECONDS_MAX
    seconds: float = limits.OUTGOING_SECONDS_MAX
    answer_bytes: int = limits.OUTGOING_ANSWER_BYTES_MAX
    raw_bytes: int = limits.OUTGOING_RAW_BYTES_MAX
    requests: int = limits.OUTGOING_REQUESTS_MAX
    requests_each: int = limits.OUTGOING_REQUESTS_EACH_MAX
    requests_of_one: int = limits.OUTGOING_REQUESTS_OF_ONE_MAX
    kept: int = limits.OUTGOING_KEPT_MAX
    kept_seconds: float = limits.OUTGOING_KEPT_SECONDS_MAX


@dataclass(slots=True)
class _Origin:
    """A scheme, host and port that is in use. Many tenants may have their receivers there.

    What is connected to anywhere is an origin of its own: its connections are nobody else's.
    """

    key: tuple[str, str, int, bool]
    turns: SharedTurns
    kept: list["Wire"] = field(default_factory=list)


class Outgoing:
    """Belongs to one event loop. `resolve` gives a name's addresses as text. `is_allowed` is for tests, which have no public addresses."""

    def __init__(
        self,
        *,
        allow_loopback: bool = False,
        ports: Collection[int] = PORTS,
        resolve: Resolve | None = None,
        is_allowed: Callable[[Address], bool] = is_public,
        ssl_context: ssl.SSLContext | None = None,
        bounds: Bounds | None = None,
        on_blocked: Callable[[], object] = lambda: None,
    ) -> None:
        self._check = functools.partial(check_url, allow_loopback=allow_loopback, ports=ports)
        self._resolve, self._is_allowed, self._on_blocked = resolve or Lookup(), is_allowed, on_blocked
        self._ssl_context, self._bounds = ssl_context, bounds or Bounds()
        self._turns = asyncio.Semaphore(self._bounds.requests)
        self._origins: dict[tuple[str, str, int, bool], _Origin] = {}
        self._kept: dict[Wire, None] = {}  # all origins' together, the longest kept first
        self._is_closed = False

    async def request(
        self,
        method: Literal["GET", "POST"],
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        tenant: str = "",
        anywhere: bool = False,
    ) -> Answer:
        """One request, one answer, on behalf of a tenant, or of the server itself. Raises Blocked, Unreachable, and nothing else.

        If any one of the host's addresses is not allowed, none is dialled; `anywhere`: the operator has named whoever is asked, and all are. The answer is there within 5 s for a turn and 20 s from then on. Host, Content-Length and
        what else belongs to the connection is written here. A request on a kept connection which ends without a byte of answer is sent once more
        on a new one, so the other side may see it twice.
        """
        from agentidp.core import wire  # noqa: PLC0415 - h11 costs 20 ms, and most servers call nobody

        try:
            target = self._check(url, anywhere=anywhere)
        except ForbiddenUrl as error:
            raise self._blocked(error.reason, str(error)) from None
        try:
            request = wire.compose(method, target, headers or {}, body)
        except ValueError:
            raise self._blocked("header", "One of the headers may not be sent.") from None
        async with self._turn(target, tenant) as origin:
            started = time.perf_counter()
            try:
                async with asyncio.timeout(self._bounds.seconds):
                    received = await self._exchange(origin, target, request)
            except TimeoutError:
                raise Unreachable("timeout", f"There was no whole answer within {self._bounds.seconds:g} seconds.") from None
            return Answer(received.status, received.headers, received.body, received.is_cut, round((time.perf_counter() - started) * 1000))

    async def close(self) -> None:
        """Close what is kept. What is under way goes on to its end, and is not kept."""
        self._is_closed = True
        for kept in list(self._kept):
            kept.abort()

    @contextlib.asynccontextmanager
    async def _turn(self, target: Target, tenant: str) -> AsyncIterator[_Origin]:
        """Raises Unreachable when there are too many requests at once, of this tenant to this origin, to the origin, or in all."""
        key = (target.scheme, target.host, target.port, target.is_anywhere)
        origin = self._origins.setdefault(key, _Origin(key, SharedTurns(self._bounds.requests_each, self._bounds.requests_of_one)))
        try:
            async with contextlib.AsyncExitStack() as taken:
                try:
                    async with asyncio.timeout(self._bounds.turn_seconds):
                        await taken.enter_async_context(origin.turns.turn(tenant))
                        await taken.enter_async_context(self._turns)
                except TimeoutError:
                    raise Unreachable("busy", "Too many requests are under way.") from None
                yield origin
        finally:
            self._tidy(origin)

    async def _exchange(self, origin: _Origin, target: Target, request: "Request") -> "Received":
        from agentidp.core import wire  # noqa: PLC0415 - as above

        while origin.kept:
            kept = origin.kept[-1]
            self._forget(origin, kept)
            if not kept.is_reusable:
                continue
            try:
                received = await kept.exchange(request)
            except wire.Stale:
                break
            self._keep(origin, kept)
            return received
        fresh = await self._connect(origin, target)
        received = await fresh.exchange(request)
        self._keep(origin, fresh)
        return received

    async def _connect(self, origin: _Origin, target: Target) -> "Wire":
        """A connection to the first of the addresses that takes one. The time is shared by those that are tried."""
        from agentidp.core.wire import dial  # noqa: PLC0415 - as above

        addresses = (await self._addresses(target))[: limits.OUTGOING_ADDRESSES_DIALLED_MAX]
        tls = self._tls() if target.scheme == "https" else None
        failure = Unreachable("connect", "There is nothing to connect to.")
        for address in addresses:
            try:
                async with asyncio.timeout(self._bounds.connect_seconds / len(addresses)):
                    return await dial(address, target, tls, self._bounds, functools.partial(self._forget, origin))
            except TimeoutError:
                failure = Unreachable("timeout", f"There was no connection within {self._bounds.connect_seconds:g} seconds.")
            except ssl.SSLError as error:
                said = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else error.reason
                failure = Unreachable("tls", f"TLS failed: {said or 'no reason given'}")
            except OSError as error:
                failure = Unreachable("connect", f"No connection: {error.strerror or 'it was closed at once'}")
        raise failure

    async def _addresses(self, target: Target) -> list[Address]:
        """All of them allowed. Raises Blocked, Unreachable."""
        is_allowed = is_loopback_address if target.is_loopback else self._is_allowed
        if target.address is not None:
            return [target.address]  # which `check_url` has checked
        try:
            async with asyncio.timeout(self._bounds.connect_seconds):
                found = [ip_address(text) for text in dict.fromkeys(await self._resolve(target.host, target.port))]
        except TimeoutError:
            raise Unreachable("dns", f"The name was not resolved within {self._bounds.connect_seconds:g} seconds.") from None
        except (OSError, ValueError):
            raise Unreachable("dns", "The name cannot be resolved.") from None
        if not found:
            raise Unreachable("dns", "The name has no address.")
        if not (target.is_anywhere or all(map(is_allowed, found))):
            raise self._blocked("forbidden_address", "The name leads to an address that is not a public one.")
        return found

    def _blocked(self, reason: str, message: str) -> Blocked:
        self._on_blocked()
        return Blocked(reason, message)

    def _tls(self) -> ssl.SSLContext:
        if self._ssl_context is None:
            self._ssl_context = ssl.create_default_context()  # the system's authorities
            self._ssl_context.set_alpn_protocols(["http/1.1"])
        return self._ssl_context

    def _keep(self, origin: _Origin, wire: "Wire") -> None:
        """For the next request, if there may be one."""
        if not wire.is_reusable:
            return
        if self._is_closed:
            wire.abort()
            return
        origin.kept.append(wire)
        self._kept[wire] = None
        if len(self._kept) > self._bounds.kept:
            next(iter(self._kept)).abort()

    def _forget(self, origin: _Origin, wire: "Wire") -> None:
        if wire in self._kept:
            del self._kept[wire]
            origin.kept.remove(wire)
        self._tidy(origin)

    def _tidy(self, origin: _Origin) -> None:
        if origin.turns.is_unused and not origin.kept and self._origins.get(origin.key) is origin:
            del self._origins[origin.key]
