"""What one organization, one receiver or one moment must not do to another."""

import asyncio
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from tests.fakes.fake_receiver import Behaviour, FakeReceiver, receiving
from tests.ledger.made import make_known
from tests.webhooks.desk import Desk

from agentidp.core import limits
from agentidp.core.caller import SYSTEM, Caller
from agentidp.db.schema import organizations
from agentidp.db.unit import Tx
from agentidp.ledger.following import Place, advance
from agentidp.webhooks import actions, queues
from agentidp.webhooks.rules import FOLLOWER

Visit = Callable[..., None]


async def arrived(receiver: FakeReceiver, count: int = 1) -> None:
    async with asyncio.timeout(30):
        while len(receiver.received) < count:  # noqa: ASYNC110 - it is in another thread
            await asyncio.sleep(0.01)


def test_an_organization_has_a_few_lanes_and_the_others_theirs(visit: Visit, receiver: FakeReceiver) -> None:
    receiver.behaviour = Behaviour(seconds_before=0.3)

    async def happens(desk: Desk) -> None:
        other = await make_known(desk.instance.database)
        for _ in range(limits.WEBHOOK_LANES_EACH_MAX + 4):
            await desk.webhook(receiver.url)
        await desk.webhook(receiver.url, known=other)
        await desk.act()
        await desk.act(known=other)
        await desk.dispatcher.put_down()
        assert await desk.dispatcher.begin_lanes() == limits.WEBHOOK_LANES_EACH_MAX + 1
        assert await desk.dispatcher.begin_lanes() == 0
        await desk.dispatcher.idle()
        await desk.send()
        assert len(receiver.received) == limits.WEBHOOK_LANES_EACH_MAX + 5

    visit(happens)


def test_a_lane_ends_after_a_while_behind_those_that_wait(visit: Visit, receiver: FakeReceiver) -> None:
    async def happens(desk: Desk) -> None:
        made = await desk.webhook(receiver.url)
        receiver.behaviour = Behaviour(seconds_before=0.2)
        await desk.act(3)
        await desk.dispatcher.put_down()
        await desk.dispatcher.begin_lanes()
        await arrived(receiver)
        desk.pass_time(seconds=limits.WEBHOOK_TENURE_MS / 1000)
        await desk.dispatcher.idle()
        assert [delivery.status for delivery in await desk.deliveries(made.webhook)] == ["delivered", "pending", "pending"]
        assert await desk.instance.database.read(queues.oldest_due, SYSTEM) >= desk.clock() - 5_000, "not since it was put down"
        await desk.send()
        assert len(receiver.received) == 3

    visit(happens)


def test_a_receiver_that_is_no_longer_the_webhooks_cannot_end_it(visit: Visit, receiver: FakeReceiver) -> None:
    """Its answer comes after the owner has given the webhook another url."""
    receiver.behaviour = Behaviour(status=lambda _: 410, seconds_before=0.3)

    async def happens(desk: Desk) -> None:
        with receiving() as mended:
            made = await desk.webhook(receiver.url)
            await desk.act(2)
            await desk.dispatcher.put_down()
            await desk.dispatcher.begin_lanes()
            await arrived(receiver)
            await desk.write(actions.update_webhook, made.webhook.webhook_id, {"url": mended.url})
            await desk.dispatcher.idle()
            assert (await desk.state(made.webhook)).active
            await desk.send()
            assert len(mended.received) == 1

    visit(happens)


def test_what_is_suspended_under_way_is_told_no_more(visit: Visit, receiver: FakeReceiver) -> None:
    def suspend(tx: Tx) -> None:
        tx.run(sa.update(organizations).where(organizations.c.organization_id == tx.caller.organization_id).values(status="suspended"))

    async def happens(desk: Desk) -> None:
        receiver.behaviour = Behaviour(seconds_before=0.05)
        made = await desk.webhook(receiver.url)
        await desk.act(3 * limits.WEBHOOK_READ_MAX)
        await desk.dispatcher.put_down()
        await desk.dispatcher.begin_lanes()
        await arrived(receiver)
        await desk.instance.database.write(suspend, Caller(desk.known.organization_id, is_system=True))
        await desk.dispatcher.idle()
        await desk.send()
        assert len(receiver.received) <= 2 * limits.WEBHOOK_READ_MAX, "at most what was read already"
        assert {delivery.status for delivery in await desk.deliveries(made.webhook)} == {"delivered", "pending"}, "nothing is given up"

    visit(happens)


def test_a_test_is_sent_at_once_to_a_receiver_that_is_left_alone(visit: Visit, receiver: FakeReceiver) -> None:
    receiver.behaviour = Behaviour(status=lambda _: 500)

    async def happens(desk: Desk) -> None:
        made = await desk.webhook(receiver.url)
        await desk.act(20)
        await desk.send()
        before = len(receiver.received)
        await desk.write(actions.send_test, made.webhook.webhook_id)
        await desk.send()
        assert len(receiver.received) > before

    visit(happens)


def test_a_rotation_is_felt_by_what_is_already_read(visit: Visit, receiver: FakeReceiver) -> None:
    receiver.behaviour = Behaviour(seconds_before=0.2)

    async def happens(desk: Desk) -> None:
        made = await desk.webhook(receiver.url)
        await desk.act(4)
        await desk.dispatcher.put_down()
        await desk.dispatcher.begin_lanes()
        await arrived(receiver)
        await desk.write(actions.rotate_secret, made.webhook.webhook_id, desk.instance.sealer)
        await desk.dispatcher.idle()
        await desk.send()
        counts = [len(one.headers["webhook-signature"].split(" ")) for one in receiver.received]
        assert counts[2:] == [2, 2], "one may be under way before the first is on record"

    visit(happens)


@pytest.mark.parametrize(("ahead_ms", "kept"), [(30_000, True), (7_200_000, False)])
def test_a_clock_that_was_wrong_is_not_believed_for_ever(visit: Visit, receiver: FakeReceiver, ahead_ms: int, *, kept: bool) -> None:
    async def happens(desk: Desk) -> None:
        database = desk.instance.database
        await desk.webhook(receiver.url)
        await desk.act()
        (place,) = [one.begin for one in (await database.read(queues.collect, SYSTEM))[0]]
        desk.clock.shift_ms += ahead_ms
        await database.write(advance, SYSTEM, FOLLOWER, place, Place(place.organization_id, place.seq + 1))
        desk.clock.shift_ms -= ahead_ms
        await desk.act()
        moved_at = await database.write(advance, SYSTEM, FOLLOWER, Place(place.organization_id, place.seq + 1), Place(place.organization_id, place.seq + 2))
        assert (moved_at > desk.clock()) == kept

    visit(happens)
