"""A running instance without its worker: sealing and sending happen when a test says so, and time passes when it says so."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from tests.fakes.fake_receiver import FakeReceiver
from tests.ledger.made import Known, make_known
from tests.serving import FakeClock, settings_for

from agentidp.auth.instance import Instance
from agentidp.core.outgoing import Bounds, Outgoing
from agentidp.db.schema import webhook_deliveries
from agentidp.db.unit import Tx
from agentidp.ledger.sealer import ChainSealer
from agentidp.start import start
from agentidp.webhooks import actions, queries
from agentidp.webhooks.dispatch import Dispatcher
from agentidp.webhooks.rules import Delivery, EventType, Webhook


@dataclass
class Desk:
    """`known` is the organization that acts. A dispatcher of the desk's own sends; tests make others."""

    instance: Instance
    clock: FakeClock
    known: Known
    dispatcher: Dispatcher = field(init=False)

    def __post_init__(self) -> None:
        self.dispatcher = Dispatcher(self.instance, jitter=lambda: 0.5)
        self._sealer = ChainSealer(self.instance.database, self.instance.clock, self.instance.nudge)

    def pass_time(self, *, seconds: float) -> None:
        self.clock.shift_ms += int(seconds * 1000)

    async def webhook(self, url: str, *events: EventType, known: Known | None = None) -> actions.WithSecret:
        wanted = events or ("agent.updated",)
        return await self.write(actions.create_webhook, self.instance.sealer, name="hook", url=url, events=wanted, known=known)

    async def act(self, count: int = 1, action: str = "agent.updated", *, known: Known | None = None, outcome: str = "success") -> None:
        """So many events of the organization, sealed."""

        def record(tx: Tx) -> None:
            for number in range(count):
                tx.record(action, "agent", tx.caller.agent_id, outcome=outcome, number=number)  # type: ignore[arg-type]

        await self.write(record, known=known)
        await self.seal()

    async def seal(self) -> None:
        while await self._sealer.seal_all():
            pass

    async def send(self, dispatcher: Dispatcher | None = None) -> None:
        """Put down what is sealed and send everything that is due, until nothing is."""
        dispatcher = dispatcher or self.dispatcher
        await dispatcher.put_down()
        while await dispatcher.begin_lanes():
            await dispatcher.idle()

    async def write(self, action: Callable[..., Any], *args: Any, known: Known | None = None, **kwargs: Any) -> Any:
        return await self.instance.database.write(action, (known or self.known).caller, *args, **kwargs)

    async def read(self, query: Callable[..., Any], *args: Any, known: Known | None = None) -> Any:
        return await self.instance.database.read(query, (known or self.known).caller, *args)

    async def deliveries(self, webhook: Webhook, *, known: Known | None = None) -> list[Delivery]:
        """All of the webhook's, in the order of the history."""
        return list(await self.read(_deliveries, webhook.webhook_id, known=known))

    async def state(self, webhook: Webhook) -> Webhook:
        found = await self.read(queries.get_webhook, webhook.webhook_id)
        assert isinstance(found, Webhook)
        return found


def _deliveries(tx: Tx, webhook_id: str) -> list[Delivery]:
    of = webhook_deliveries.c
    mine = sa.and_(of.organization_id == tx.caller.organization_id, of.webhook_id == webhook_id)
    return [queries.to_delivery(row) for row in tx.all(sa.select(webhook_deliveries).where(mine).order_by(of.seq, of.delivery_id))]


@contextlib.asynccontextmanager
async def open_desk(folder: Path, database_url: str, *, seconds: float = 10) -> AsyncIterator[Desk]:
    """`seconds` is how long an attempt may take."""
    clock = FakeClock()
    started = await start(settings_for(folder, database_url, webhooks={"allow_loopback": True}), clock)
    instance = started.instance
    instance.outgoing = Outgoing(allow_loopback=True, bounds=Bounds(seconds=seconds))
    desk = Desk(instance, clock, await make_known(instance.database))
    try:
        yield desk
    finally:
        await desk.dispatcher.stop()
        await instance.outgoing.close()
        await instance.database.close()


def at_desk(folder: Path, database_url: str, what: Callable[[Desk], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def inside() -> None:
        async with open_desk(folder, database_url, **options) as desk:
            await what(desk)

    asyncio.run(inside())


def bodies(receiver: FakeReceiver) -> list[bytes]:
    return [one.body for one in receiver.received]
