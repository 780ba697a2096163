"""Publishing every organization's sealed history to NATS JetStream, as CloudEvents 1.0 in structured JSON (NATS protocol binding). The only file that knows NATS.

The event's id is the message's: what is sent again after a failure, JetStream takes for what it has. A place advances when all up to it is acknowledged.
"""

import asyncio
import contextlib
import importlib.util
import logging
import random
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from agentidp.auth.instance import Instance
from agentidp.core import limits
from agentidp.core.caller import SYSTEM
from agentidp.core.config import Settings
from agentidp.core.errors import Problem, WrongSettings
from agentidp.core.ids import new_id
from agentidp.db.unit import Tx
from agentidp.ledger.following import Place, SealedEvent, advance, document, find_behind, give_up, lead, list_sealed, take_up, wait_for

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.js.client import JetStreamContext

log = logging.getLogger(__name__)
FOLLOWER = "nats"


class NatsIsAway(Exception):
    """Raised and caught here: begin again, with a new connection."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of an organization's history: its events, from one place to another."""

    begin: Place
    end: Place
    events: Sequence[SealedEvent]

    def until(self, count: int) -> "_Piece":
        """The piece up to so many of its events."""
        return self if count == len(self.events) else replace(self, end=replace(self.end, seq=self.events[count - 1].seq if count else self.begin.seq))


class Publisher:
    """One for each process. All keep a connection, one at a time publishes."""

    def __init__(self, instance: Instance, url: str) -> None:
        self._instance, self._url, self._settings = instance, url, instance.settings.nats
        self._database = instance.database
        self._holder = new_id(instance.clock())
        self.status: Literal["healthy", "unreachable"] = "unreachable"
        self.latency_ms, self.version = 0.0, ""

    async def run(self) -> None:
        """Until cancelled. Each failure costs the connection: on one alone, messages arrive in the order in which they were sent."""
        pause = limits.NATS_RETRY_SECONDS
        try:
            while not _is_cancelled():
                try:
                    async with self._connected() as client:
                        pause = limits.NATS_RETRY_SECONDS
                        await self._publish(client)
                except Exception as error:  # noqa: BLE001 - whatever it was, it is tried again
                    self._observe_failure(error)
                await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - no secret
                pause = min(2 * pause, limits.NATS_RETRY_SECONDS_MAX)
        finally:
            with contextlib.suppress(Problem):
                await self._database.write(give_up, SYSTEM, FOLLOWER, self._holder)

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator["Client"]:
        """A connection that does not mend itself: it would lose what it had not sent, and send what comes after."""
        from nats.aio.client import Client  # noqa: PLC0415 - only who configures it pays for it

        options: dict[str, Any] = {"allow_reconnect": False, "connect_timeout": limits.NATS_CONNECT_SECONDS, "name": "agentidp", "error_cb": _ignore}
        client = Client()
        try:
            async with asyncio.timeout(2 * limits.NATS_CONNECT_SECONDS):
                await client.connect(self._url.split(","), **options)
            await self._ensure_stream(client.jetstream())
            await self._measure(client)
            yield client
        finally:
            self._set_status("unreachable")
            with contextlib.suppress(Exception):
                async with asyncio.timeout(limits.NATS_ANSWER_SECONDS):
                    await client.close()

    async def _ensure_stream(self, js: "JetStreamContext") -> None:
        """One that is there is left as it is: whoever runs NATS may have other wishes for its size and copies."""
        from nats.js.api import StreamConfig  # noqa: PLC0415 - as above
        from nats.js.errors import NotFoundError  # noqa: PLC0415

        try:
            await js.stream_info(self._settings.stream)
        except NotFoundError:
            subjects = [f"{self._settings.subject}.>"]
            await js.add_stream(StreamConfig(name=self._settings.stream, subjects=subjects, duplicate_window=limits.NATS_DUPLICATE_SECONDS))

    async def _publish(self, client: "Client") -> None:
        js, leads, look_at = client.jetstream(), False, 0.0
        while not _is_cancelled():
            sealed = self._instance.sealed.next()
            if time.monotonic() >= look_at:
                leads = await self._database.write(_lead, SYSTEM, self._holder)
                await self._measure(client)
                look_at = time.monotonic() + limits.NATS_LOOK_SECONDS
            if not (leads and await self._publish_batch(js)):
                await wait_for(sealed, limits.FOLLOW_POLL_SECONDS)

    async def _publish_batch(self, js: "JetStreamContext") -> bool:
        """Whether there was anything. What is acknowledged from the beginning of each piece on is done with, also when something is not."""
        pieces = await self._next_pieces()
        sent = [[await self._send(js, event) for event in piece.events] for piece in pieces]
        futures = [future for acks in sent for future in acks]
        if futures:
            await asyncio.wait(futures, timeout=limits.NATS_ANSWER_SECONDS)
        failures = [future.exception() if future.done() else NatsIsAway("no acknowledgement in time") for future in futures]
        counts = [next((number for number, ack in enumerate(acks) if not ack.done() or ack.exception()), len(acks)) for acks in sent]
        done = [piece.until(count) for piece, count in zip(pieces, counts, strict=True)]
        if done:
            await self._database.write(_advance, SYSTEM, done)
        self._instance.metrics.nats_published.inc(sum(counts))
        for failure in failures:
            if failure is not None:
                raise failure
        return bool(pieces)

    async def _next_pieces(self) -> list[_Piece]:
        pieces, count = [], 0
        for begin in await self._database.read(find_behind, SYSTEM, FOLLOWER):
            events, end = await self._database.read(list_sealed, SYSTEM, begin)
            pieces.append(_Piece(begin, end, events))
            count += len(events)
            if count + limits.FOLLOWED_EVENTS_MAX > limits.NATS_BATCH_EVENTS_MAX:
                break
        return pieces

    async def _send(self, js: "JetStreamContext", event: SealedEvent) -> "asyncio.Future[Any]":
        headers = {"Nats-Msg-Id": event.event_id, "Content-Type": "application/cloudevents+json"}
        subject = f"{self._settings.subject}.{event.organization_id}.{event.action}"
        return await js.publish_async(subject, cloud_event(event, self._instance.settings.issuer), stream=self._settings.stream, headers=headers)

    async def _measure(self, client: "Client") -> None:
        started = time.monotonic()
        await client.flush(limits.NATS_ANSWER_SECONDS)
        self.latency_ms = round((time.monotonic() - started) * 1000, 3)
        version = client.connected_server_version
        self.version = f"NATS {version.major}.{version.minor}.{version.patch}"
        self._set_status("healthy")

    def _set_status(self, status: Literal["healthy", "unreachable"]) -> None:
        self.status = status
        self._instance.metrics.nats_connected.set(status == "healthy")

    def _observe_failure(self, error: Exception) -> None:
        """Without its text, where the address could stand with its password."""
        self._instance.metrics.nats_failures.inc()
        log.warning("publishing to NATS has to wait", extra={"reason": getattr(error, "description", None) or type(error).__name__})


def open_nats(instance: Instance) -> Publisher | None:
    """None where nothing is published. Raises WrongSettings when the library is missing."""
    settings: Settings = instance.settings
    if settings.nats_url is None:
        return None
    if importlib.util.find_spec("nats") is None:
        raise WrongSettings("nats_url: needs the extra: pip install 'agentidp[nats]'")
    return Publisher(instance, settings.nats_url.get_secret_value())


def cloud_event(event: SealedEvent, issuer: str) -> bytes:
    """The event as a CloudEvent; its `data` is that of `document`."""
    told = document(event)
    attributes = {
        "specversion": "1.0",
        "id": told["id"],
        "source": f"{issuer}/organizations/{event.organization_id}",
        "type": told["type"],
        "time": told["timestamp"],
        "datacontenttype": "application/json",
        "data": told["data"],
    }
    return msgspec.json.encode(attributes | ({"subject": event.target_id} if event.target_id else {}))


def _lead(tx: Tx, holder: str) -> bool:
    leads = lead(tx, FOLLOWER, holder)
    if leads:
        take_up(tx, FOLLOWER)
    return leads


def _advance(tx: Tx, pieces: Sequence[_Piece]) -> None:
    """Where another process has moved on meanwhile, it has sent the same."""
    for piece in sorted(pieces, key=lambda piece: piece.begin.organization_id):
        advance(tx, FOLLOWER, piece.begin, piece.end)


def _is_cancelled() -> bool:
    """The library waits with `asyncio.wait_for`, which in Python 3.11 may lose a cancellation."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _ignore(_: Exception) -> None:
    """What goes wrong is raised where it is waited for."""
