"""Receivers beside each other: those that keep up get their events in order, and those that hang take nobody's place."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest
import sqlalchemy as sa
from tests.fakes.fake_receiver import Behaviour, FakeReceiver, receiving
from tests.ledger.made import make_known
from tests.webhooks.desk import Desk, bodies

from agentidp.core import limits
from agentidp.core.caller import SYSTEM
from agentidp.db.schema import webhook_queues
from agentidp.db.unit import Tx
from agentidp.webhooks.actions import update_webhook
from agentidp.webhooks.dispatch import Dispatcher
from agentidp.webhooks.rules import Pace

Visit = Callable[..., None]
HANGING = limits.WEBHOOK_FAILING_LANES_MAX + 6


@contextlib.asynccontextmanager
async def dispatching(desk: Desk) -> AsyncIterator[None]:
    """The desk's dispatcher works by itself for the length of the block."""
    task = asyncio.create_task(desk.dispatcher.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    """Look until it holds; a loaded machine takes its time. Raises TimeoutError when it never does."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - receivers are in other threads
            await asyncio.sleep(0.01)


def test_receivers_that_keep_up_get_their_events_once_and_in_order(visit: Visit) -> None:
    async def happens(desk: Desk) -> None:
        chance, sent = random.Random(6), 0
        with receiving() as one, receiving() as other:
            for receiver in (one, other):
                await desk.webhook(receiver.url)

            def seen() -> int:
                return min(len(one.received), len(other.received))

            async with dispatching(desk):
                for _ in range(20):
                    count = chance.randint(1, limits.WEBHOOK_BACKLOG - 1)
                    sent += count
                    await desk.act(count)
                    await desk.act(action="agent.created")
                    desk.instance.sealed.tell()
                    await until(lambda wanted=sent: seen() >= wanted)  # type: ignore[misc]  # a default binds it
            for receiver in (one, other):
                numbers = [msgspec.json.decode(body)["data"]["seq"] for body in bodies(receiver)]
                assert len(numbers) == sent
                assert numbers == sorted(set(numbers))

    visit(happens)


def test_receivers_that_hang_take_nobodys_place(visit: Visit) -> None:
    """There are more of them than lanes for those that fail; not one of their requests ends while those that are well get everything."""

    async def happens(desk: Desk) -> None:
        with contextlib.ExitStack() as stack:
            well = [stack.enter_context(receiving()) for _ in range(2)]
            hanging = [stack.enter_context(receiving(Behaviour(lambda _: 0))) for _ in range(3)]  # of one origin there are only so many requests at once
            await _let_hang(desk, hanging)
            healthy = [await make_known(desk.instance.database) for _ in well]
            for known, receiver in zip(healthy, well, strict=True):
                await desk.webhook(receiver.url, known=known)

            def under_way() -> int:
                return sum(len(receiver.received) for receiver in hanging)

            async with dispatching(desk):
                await until(lambda: under_way() == limits.WEBHOOK_FAILING_LANES_MAX)
                for _ in range(5):
                    for known in healthy:
                        await desk.act(50, known=known)
                    desk.instance.sealed.tell()
                await until(lambda: all(len(set(receiver.ids)) == 250 for receiver in well))
                assert under_way() == limits.WEBHOOK_FAILING_LANES_MAX  # each still its first, and no other took a place
                for receiver in hanging:
                    receiver.close_port()

    visit(happens, seconds=120)


async def _let_hang(desk: Desk, receivers: list[FakeReceiver]) -> None:
    """Webhooks of five organizations, as if the last attempt at each had failed."""
    ill = [await make_known(desk.instance.database) for _ in range(5)]
    for number in range(HANGING):
        await desk.webhook(receivers[number % len(receivers)].url, known=ill[number % 5])
    for known in ill:
        await desk.act(known=known)

    def let_fail(tx: Tx) -> None:
        tx.run(sa.update(webhook_queues).values(failures=1, failing_since=tx.now))

    await desk.instance.database.write(let_fail, SYSTEM)


def test_what_waits_goes_to_the_new_address_as_soon_as_there_is_one(visit: Visit) -> None:
    """Also when the process that was sending to the old one is the one that sends to the new one."""

    async def happens(desk: Desk) -> None:
        with receiving(Behaviour(seconds_before=0.2)) as old, receiving() as new:
            made = await desk.webhook(old.url)
            await desk.act(limits.WEBHOOK_BACKLOG - 1)
            await desk.dispatcher.put_down()
            assert await desk.dispatcher.begin_lanes() == 1
            await until(lambda: bool(old.received))
            await desk.write(update_webhook, made.webhook.webhook_id, {"url": new.url})
            assert await desk.dispatcher.begin_lanes() == 1
            await desk.dispatcher.idle()
            assert len(set(old.ids + new.ids)) == limits.WEBHOOK_BACKLOG - 1
            assert len(old.received) < limits.WEBHOOK_BACKLOG - 1, "it was not told that the lease is lost"
            assert {delivery.status for delivery in await desk.deliveries(made.webhook)} == {"delivered"}

    visit(happens)


def test_an_attempt_ends_within_its_lease_however_long_it_waits_for_its_turn() -> None:
    assert 1000 * (limits.OUTGOING_TURN_SECONDS_MAX + limits.OUTGOING_SECONDS_MAX) < limits.WEBHOOK_LEASE_LEFT_MS < limits.WEBHOOK_LEASE_MS


@pytest.mark.parametrize(("seconds", "under_way"), [(60, 10), (0.02, 24)])
def test_few_attempts_are_young_at_once(visit: Visit, receiver: FakeReceiver, monkeypatch: pytest.MonkeyPatch, seconds: float, under_way: int) -> None:
    """All of them may be repeated if the process is killed just then. Whoever takes longer to answer is asked as often at once as is good for it."""

    async def happens(desk: Desk) -> None:
        monkeypatch.setattr(limits, "WEBHOOK_YOUNG_MAX", 10)
        monkeypatch.setattr(limits, "WEBHOOK_YOUNG_SECONDS", seconds)
        receiver.behaviour = Behaviour(lambda _: 0)
        for _ in range(3):  # of one organization the receiver would not get as many
            known = await make_known(desk.instance.database)
            await desk.webhook(receiver.url, known=known)
            await desk.act(limits.WEBHOOK_BACKLOG, known=known)
        desk.dispatcher = Dispatcher(desk.instance)
        async with dispatching(desk):
            await until(lambda: len(receiver.received) >= under_way)
            await asyncio.sleep(0.2)
            assert len(receiver.received) == under_way
            receiver.close_port()

    visit(happens)


def test_a_place_among_the_young_is_given_back(visit: Visit, receiver: FakeReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """However an attempt ends, before its time or after."""

    async def happens(desk: Desk) -> None:
        monkeypatch.setattr(limits, "WEBHOOK_YOUNG_MAX", 2)
        monkeypatch.setattr(limits, "WEBHOOK_YOUNG_SECONDS", 0.005)
        receiver.behaviour = Behaviour(lambda number: (200, 500, -1)[number % 3], seconds_before=0.005)
        made = await desk.webhook(receiver.url)
        desk.dispatcher = Dispatcher(desk.instance, Pace(pauses=(1,) * 9, receiver_pause_max=1))
        await desk.act(3 * limits.WEBHOOK_BACKLOG)
        async with dispatching(desk):
            await until(lambda: len(receiver.answered) == 3 * limits.WEBHOOK_BACKLOG)
        assert desk.dispatcher._places._value == 2
        assert (await desk.state(made.webhook)).active

    visit(happens, seconds=60)
