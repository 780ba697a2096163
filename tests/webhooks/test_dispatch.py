"""From the history to the receiver, on both engines: what is sent, in which order, and by whom."""

import asyncio
import hashlib
import hmac
import json
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from standardwebhooks import Webhook as Verifier
from tests.fakes.fake_receiver import Behaviour, FakeReceiver
from tests.ledger.made import make_known
from tests.webhooks.desk import Desk

from agentidp.core import limits
from agentidp.core.caller import SYSTEM, Caller
from agentidp.db.schema import organizations, webhook_deliveries, webhook_queues, webhook_secrets, webhooks
from agentidp.db.unit import Tx
from agentidp.webhooks import actions, queries, queues
from agentidp.webhooks.dispatch import Dispatcher
from agentidp.webhooks.rules import Pace

Visit = Callable[..., None]
DAY = 24 * 3600


def test_an_event_arrives_signed_and_whole(visit: Visit, receiver: FakeReceiver) -> None:
    async def happens(desk: Desk) -> None:
        made = await desk.webhook(receiver.url)
        await desk.act()
        await desk.send()
        (one,), (delivery,) = receiver.received, await desk.deliveries(made.webhook)
        told = Verifier(made.signing_secret).verify(one.body, one.headers)
        assert told == json.loads(delivery.body)
        assert (told["id"], told["type"], told["organizationId"]) == (one.headers["webhook-id"], "agent.updated", desk.known.organization_id)
        assert told["data"] | {"seq": 0} == {
            "seq": 0,
            "agentId": desk.known.agent_id,
            "outcome": "success",
            "targetType": "agent",
            "targetId": desk.known.agent_id,
            "requestId": None,
            "metadata": {"number": 0},
        }
        keyed = hmac.new(made.signing_secret.encode(), one.body, hashlib.sha256).hexdigest()
        assert one.headers["x-sentryagent-signature"] == f"sha256={keyed}"
        assert (delivery.status, delivery.attempts, delivery.response_body, delivery.next_attempt_at) == ("delivered", 1, "thanks", None)
        assert [(entry["statusCode"], entry["error"]) for entry in delivery.history] == [(200, None)]
        assert (await desk.state(made.webhook)).last_delivery_at == delivery.completed_at

    visit(happens)


def test_only_what_was_asked_for_is_sent(visit: Visit, receiver: FakeReceiver) -> None:
    """Other types, failures, what was before the webhook, and what belongs to another organization are none of its business."""

    async def happens(desk: Desk) -> None:
        other = await make_known(desk.instance.database)
        await desk.act()
        await desk.webhook(receiver.url, "agent.created", known=other)
        desk.pass_time(seconds=1)
        await desk.webhook(receiver.url)
        await desk.act(action="agent.created")
        await desk.act(outcome="failure")
        await desk.act(known=other)
        await desk.send()
        assert receiver.received == []
        await desk.act()
        await desk.send()
        assert len(receiver.received) == 1

    visit(happens)


def test_a_receiver_that_keeps_up_is_told_in_order(visit: Visit, receiver: FakeReceiver) -> None:
    async def happens(desk: Desk) -> None:
        await desk.webhook(receiver.url)
        for _ in range(6):
            await desk.act(limits.WEBHOOK_BACKLOG - 1)
            await desk.send()
        numbers = [json.loads(one.body)["data"]["seq"] for one in receiver.received]
        assert len(numbers) == 6 * (limits.WEBHOOK_BACKLOG - 1)
        assert numbers == sorted(numbers)

    visit(happens)


def test_more_than_one_read_takes_in(visit: Visit, receiver: FakeReceiver) -> None:
    """Each event once, whatever the size of reads, of transactions and of the backlog."""

    async def happens(desk: Desk) -> None:
        made = [await desk.webhook(receiver.url), await desk.webhook(receiver.url)]
        await desk.act(limits.FOLLOWED_EVENTS_MAX + 100)
        await desk.send()
        for one in made:
            found = await desk.deliveries(one.webhook)
            assert {delivery.status for delivery in found} == {"delivered"}
            assert len(found) == limits.FOLLOWED_EVENTS_MAX + 100
        assert sorted(receiver.ids) == sorted(2 * list(dict.fromkeys(receiver.ids)))

    visit(happens)


def test_two_dispatchers_send_each_event_once(visit: Visit, receiver: FakeReceiver) -> None:
    async def happens(desk: Desk) -> None:
        made = [await desk.webhook(f"{receiver.url}/{number}") for number in range(4)]
        other = Dispatcher(desk.instance)
        for _ in range(5):
            await desk.act(20)
            await asyncio.gather(desk.send(), desk.send(other))
        await desk.send()
        assert len(receiver.received) == 4 * 100
        assert {(one.path, one.message_id) for one in receiver.received} == {(f"/hook/{n}", one) for n in range(4) for one in receiver.ids}
        for one in made:
            assert {delivery.attempts for delivery in await desk.deliveries(one.webhook)} == {1}

    visit(happens)


def test_what_a_killed_dispatcher_was_sending_is_sent_by_another(visit: Visit, receiver: FakeReceiver) -> None:
    receiver.behaviour = Behaviour(seconds_before=0.2)

    async def happens(desk: Desk) -> None:
        made, other = await desk.webhook(receiver.url), Dispatcher(desk.instance)
        await desk.act(3)
        await other.put_down()
        await other.begin_lanes()
        while not receiver.received:  # noqa: ASYNC110 - it is in another thread
            await asyncio.sleep(0.01)
        await other.stop()
        receiver.behaviour = Behaviour()
        await desk.send()
        assert {delivery.status for delivery in await desk.deliveries(made.webhook)} == {"pending"}, "the lease is the dead one's"
        desk.pass_time(seconds=limits.WEBHOOK_LEASE_MS / 1000 + 1)
        await desk.send()
        assert {delivery.status for delivery in await desk.deliveries(made.webhook)} == {"delivered"}
        assert len(set(receiver.ids)) == 3
        assert len(receiver.received) == 4, "the one that was under way, twice"

    visit(happens)


def test_a_lane_that_lost_its_lease_sends_nothing_more(visit: Visit, receiver: FakeReceiver) -> None:
    """Such as after a pause of the process: another one is at the webhook by then."""

    async def happens(desk: Desk) -> None:
        made = await desk.webhook(receiver.url)
        await desk.act(3)
        await desk.dispatcher.put_down()
        (lane,) = await desk.instance.database.write(queues.claim, SYSTEM, "01900000-0000-7000-8000-00000000000a", Pace(), {}, healthy=1, failing=0)
        desk.pass_time(seconds=limits.WEBHOOK_LEASE_MS / 1000 + 1)
        await desk.send()
        assert await desk.write(queues.keep, lane, Pace()) is None
        await desk.write(queues.release, lane)
        assert len(receiver.received) == 3
        assert {delivery.attempts for delivery in await desk.deliveries(made.webhook)} == {1}

    visit(happens)


def test_a_suspended_organization_is_told_nothing_until_it_is_active(visit: Visit, receiver: FakeReceiver) -> None:
    def set_status(tx: Tx, status: str) -> None:
        tx.run(sa.update(organizations).where(organizations.c.organization_id == tx.caller.organization_id).values(status=status))

    async def happens(desk: Desk) -> None:
        await desk.webhook(receiver.url)
        await desk.act()
        system = Caller(desk.known.organization_id, is_system=True)
        await desk.instance.database.write(set_status, system, "suspended")
        await desk.send()
        assert receiver.received == []
        await desk.instance.database.write(set_status, system, "active")
        await desk.send()
        assert len(receiver.received) == 1

    visit(happens)


def test_during_a_rotation_both_secrets_verify(visit: Visit, receiver: FakeReceiver) -> None:
    async def happens(desk: Desk) -> None:
        made = await desk.webhook(receiver.url)
        await desk.act()
        await desk.send()
        secrets = [made.signing_secret]
        secrets += [(await desk.write(actions.rotate_secret, made.webhook.webhook_id, desk.instance.sealer)).signing_secret for _ in range(2)]
        await desk.act()
        await desk.send()
        signatures = receiver.received[-1].headers["webhook-signature"].split(" ")
        assert len(signatures) == 3
        for secret in secrets:
            Verifier(secret).verify(receiver.received[-1].body, receiver.received[-1].headers)
        keyed = hmac.new(secrets[-1].encode(), receiver.received[-1].body, hashlib.sha256).hexdigest()
        assert receiver.received[-1].headers["x-sentryagent-signature"] == f"sha256={keyed}", "the newest"
        desk.pass_time(seconds=DAY + 1)
        await desk.act()
        await desk.send()
        assert len(receiver.received[-1].headers["webhook-signature"].split(" ")) == 1
        for _ in range(limits.WEBHOOK_SECRETS_MAX + 2):
            await desk.write(actions.rotate_secret, made.webhook.webhook_id, desk.instance.sealer)
        await desk.act()
        await desk.send()
        assert len(receiver.received[-1].headers["webhook-signature"].split(" ")) == limits.WEBHOOK_SECRETS_MAX

    visit(happens)


def test_redelivery_begins_anew_under_the_same_id(visit: Visit, receiver: FakeReceiver) -> None:
    async def happens(desk: Desk) -> None:
        made = await desk.webhook(receiver.url)
        await desk.act()
        await desk.send()
        (first,) = await desk.deliveries(made.webhook)
        again = await desk.write(actions.redeliver, made.webhook.webhook_id, first.delivery_id)
        assert (again.status, again.attempts, again.delivery_id) == ("pending", 0, first.delivery_id)
        await desk.send()
        (second,) = await desk.deliveries(made.webhook)
        assert (second.status, second.attempts, len(second.history)) == ("delivered", 1, 2)
        assert receiver.ids == [first.event_id] * 2
        assert receiver.received[0].body == receiver.received[1].body

    visit(happens)


def test_deliveries_are_forgotten_and_deleted_webhooks_go(visit: Visit, receiver: FakeReceiver) -> None:
    def rows(tx: Tx) -> list[int]:
        tables = (webhooks, webhook_secrets, webhook_queues, webhook_deliveries)
        return [tx.connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0 for table in tables]

    async def happens(desk: Desk) -> None:
        made = await desk.webhook(receiver.url)
        await desk.act(2)
        await desk.send()
        database = desk.instance.database
        assert await database.write(queues.sweep, SYSTEM) == 0
        desk.pass_time(seconds=limits.WEBHOOK_DELIVERIES_KEPT_MS / 1000 + 1)
        assert await database.write(queues.sweep, SYSTEM) == 2
        assert await database.read(rows, SYSTEM) == [1, 1, 1, 0]
        await desk.act(2)
        await desk.dispatcher.put_down()
        await desk.write(actions.delete_webhook, made.webhook.webhook_id)
        await desk.send()
        assert len(receiver.received) == 2, "what waited is not sent any more"
        await database.write(queues.sweep, SYSTEM)
        assert await database.read(rows, SYSTEM) == [1, 0, 1, 2], "somebody may still put down what he read before"
        desk.pass_time(seconds=limits.WEBHOOK_LEASE_MS / 1000)
        for _ in range(2):
            await database.write(queues.sweep, SYSTEM)
        assert await database.read(rows, SYSTEM) == [0, 0, 0, 0]
        with pytest.raises(queries.WebhookNotFound):
            await desk.state(made.webhook)

    visit(happens)


def test_what_a_deleted_organization_leaves_goes_too(visit: Visit, receiver: FakeReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    async def happens(desk: Desk) -> None:
        database, other = desk.instance.database, await make_known(desk.instance.database)
        for known in (desk.known, other):
            for _ in range(2):
                await desk.webhook(receiver.url, known=known)
            await desk.act(known=known)
        await desk.dispatcher.put_down()
        gone = other.caller.organization_id
        await database.write(
            lambda tx: tx.run(sa.update(organizations).values(status="deleted", updated_at=tx.now).where(organizations.c.organization_id == gone)), SYSTEM
        )
        desk.pass_time(seconds=limits.WEBHOOK_LEASE_MS / 1000)
        for left in (2, 2, 0):  # one of each transaction: others wait for the writer
            with monkeypatch.context() as patch:
                patch.setattr(limits, "SWEEP_ROWS_MAX", 1)
                assert await database.write(queues.sweep, SYSTEM) == min(left, 1)
        for table, count in ((webhooks, 2), (webhook_secrets, 2), (webhook_queues, 2), (webhook_deliveries, 2)):
            left = await database.read(lambda tx, of=table: tx.all(sa.select(of.c.organization_id)), SYSTEM)
            assert [row.organization_id for row in left] == [desk.known.caller.organization_id] * count

    visit(happens)


def test_what_nobody_will_give_up_stands_in_nobodys_way(visit: Visit, receiver: FakeReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleted webhooks of an organization that was suspended before what waits for them was given up; there are as many as one sweep looks at."""

    async def happens(desk: Desk) -> None:
        monkeypatch.setattr(limits, "WEBHOOKS_PER_ORGANIZATION_MAX", 2)
        database, suspended = desk.instance.database, await make_known(desk.instance.database)
        for _ in range(2):
            made = await desk.webhook(receiver.url, known=suspended)
            await desk.act(known=suspended)
            await desk.dispatcher.put_down()
            await desk.write(actions.delete_webhook, made.webhook.webhook_id, known=suspended)
        whose = organizations.c.organization_id == suspended.caller.organization_id
        await database.write(lambda tx: tx.run(sa.update(organizations).values(status="suspended").where(whose)), SYSTEM)
        made = await desk.webhook(receiver.url)
        await desk.write(actions.delete_webhook, made.webhook.webhook_id)
        desk.pass_time(seconds=limits.WEBHOOK_LEASE_MS / 1000)
        await database.write(queues.sweep, SYSTEM)
        assert await database.read(lambda tx: tx.all(sa.select(webhooks.c.webhook_id)), SYSTEM) == []

    visit(happens)


def test_gauges_tell_what_waits_and_what_was_given_up(visit: Visit, receiver: FakeReceiver) -> None:
    receiver.behaviour = Behaviour(status=lambda _: 410)

    async def happens(desk: Desk) -> None:
        database = desk.instance.database
        await desk.webhook(receiver.url)
        await desk.act()
        assert await database.read(queues.oldest_due, SYSTEM) is None
        await desk.dispatcher.put_down()
        assert await database.read(queues.oldest_due, SYSTEM) == pytest.approx(desk.clock(), abs=5_000)
        await desk.send()
        assert await database.read(queues.oldest_due, SYSTEM) is None
        assert await database.read(queues.count_dead_letters, SYSTEM) == 1
        assert desk.instance.metrics.registry.get_sample_value("agentidp_webhook_deliveries_total", {"outcome": "dead_letter"}) == 1

    visit(happens)
