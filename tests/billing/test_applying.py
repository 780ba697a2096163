"""What events do, once each, in any order, from any number of processes, and after any failure."""

import asyncio
import itertools
from typing import Any

import pytest
import sqlalchemy as sa
from tests.billing.shop import Killed, Shop
from tests.fakes.fake_stripe import FakeStripe

from agentidp.billing import actions
from agentidp.billing.rules import HONOURED, Standing
from agentidp.core import limits
from agentidp.core.caller import OPERATOR_SCOPE, SYSTEM, Caller
from agentidp.core.secrets import new_master_key
from agentidp.db.schema import audit_events, billing_checkouts, billing_customers, billing_events

DAY = 24 * 3600


def test_a_plan_is_bought_kept_while_a_payment_is_due_lost_and_bought_again(visit: Any, fake: FakeStripe) -> None:
    async def happen(shop: Shop) -> None:
        caller = await shop.organization()
        subscription = await shop.subscribe(caller)
        assert await shop.plan(caller) == "pro"
        fake.fail_payment(subscription)
        await shop.deliver()
        assert await shop.plan(caller) == "pro", "the payment may come yet"
        assert (await shop.customer(caller)).grace_until is not None
        fake.recover(subscription)
        await shop.deliver()
        assert ((await shop.customer(caller)).grace_until, await shop.plan(caller)) == (None, "pro")
        fake.cancel(subscription)
        await shop.deliver()
        assert await shop.plan(caller) == "free"
        await shop.subscribe(caller, target_tier="enterprise")
        assert await shop.plan(caller) == "enterprise"
        assert await shop.tiers(caller) == [
            ("tier.upgraded", "free", "pro"),
            ("tier.downgraded", "pro", "free"),
            ("tier.upgraded", "free", "enterprise"),
        ]

    visit(happen)


def test_grace_ends_without_any_event(visit: Any, fake: FakeStripe) -> None:
    async def happen(shop: Shop) -> None:
        caller = await shop.organization()
        subscription = await shop.subscribe(caller)
        fake.fail_payment(subscription)
        await shop.deliver()
        shop.clock.shift_ms += 3 * DAY * 1000 - 60_000
        await shop.apply_all()
        assert await shop.plan(caller) == "pro"
        fake.fail_payment(subscription)  # once more: grace goes on from where it began
        await shop.deliver()
        shop.clock.shift_ms += 60_000
        await shop.apply_all()
        assert await shop.plan(caller) == "free"
        assert await shop.tiers(caller) == [("tier.upgraded", "free", "pro"), ("tier.downgraded", "pro", "free")]
        fake.recover(subscription)
        await shop.deliver()
        assert await shop.plan(caller) == "pro"

    visit(happen, billing={"grace_days": 3})


@pytest.mark.parametrize("status", ["unpaid", "incomplete", "incomplete_expired", "paused"])
def test_what_is_not_paid_is_not_granted(visit: Any, fake: FakeStripe, status: str) -> None:
    async def happen(shop: Shop) -> None:
        caller = await shop.organization()
        fake.set_status(fake.pay(await shop.checkout(caller)), status)
        await shop.deliver()
        assert await shop.plan(caller) == "free"
        assert await shop.tiers(caller) == []

    visit(happen)


def test_nobody_pays_for_two_plans(visit: Any, fake: FakeStripe) -> None:
    async def happen(shop: Shop) -> None:
        caller = await shop.organization()
        first = await shop.subscribe(caller)
        second = await shop.subscribe(caller)  # the next one up
        await shop.deliver()
        assert await shop.plan(caller) == "enterprise"
        assert [fake.get("subscription", one)["status"] for one in (first, second)] == ["canceled", "active"]
        assert await shop.tiers(caller) == [("tier.upgraded", "free", "pro"), ("tier.upgraded", "pro", "enterprise")]

    visit(happen)


def test_an_event_acts_once_however_often_it_comes(visit: Any, fake: FakeStripe) -> None:
    async def happen(shop: Shop) -> None:
        caller = await shop.organization()
        fake.pay(await shop.checkout(caller))
        events = shop.take_events()
        for _ in range(3):
            await shop.deliver(events)
        honoured = [event["id"] for event in events if event["type"] in HONOURED]
        assert sorted(row.target_id for row in await shop.audit(caller, "billing.event_applied")) == sorted(honoured)
        assert len(await shop.read(sa.select(billing_events.c.event_id))) == len(honoured)
        assert len(await shop.tiers(caller)) == 1

    visit(happen)


def test_what_the_operator_set_stays_until_the_subscription_changes(visit: Any, fake: FakeStripe) -> None:
    async def happen(shop: Shop) -> None:
        caller = await shop.organization("pro")
        fake.expire(await shop.checkout(caller))
        subscription = fake.pay(await shop.checkout(await shop.organization()))  # somebody else's
        await shop.deliver()
        customer = (await shop.customer(caller)).customer_id
        await shop.deliver([fake.event("invoice.paid", {"object": "invoice", "customer": customer, "subscription": subscription["id"]})])
        assert await shop.plan(caller) == "pro"
        assert await shop.tiers(caller) == []

    visit(happen)


def test_events_for_others_are_ignored_and_on_record(visit: Any, fake: FakeStripe) -> None:
    """TH25: metadata may name any organization; what counts is the customer that a checkout of ours was opened with."""

    async def happen(shop: Shop) -> None:
        victim = await shop.organization()
        await shop.checkout(victim)
        metadata = {"organization_id": victim.organization_id, "orgId": victim.organization_id}
        stranger = {"id": "cs_1", "object": "checkout.session", "customer": "cus_stranger", "client_reference_id": victim.organization_id, "metadata": metadata}
        events = [fake.event("checkout.session.completed", stranger), fake.event("checkout.session.completed", stranger | {"customer": None})]
        await shop.deliver(events)
        await shop.deliver(events)
        assert await shop.plan(victim) == "free"
        assert await shop.audit(victim, "billing.event_applied", "billing.event_ignored") == []
        operator = Caller(shop.instance.operator_organization_id)
        ignored = await shop.audit(operator, "billing.event_ignored")
        assert sorted(row.target_id for row in ignored) == sorted(event["id"] for event in events)
        assert {row.metadata["reason"] for row in ignored} == {"no customer of this instance"}

    visit(happen)


def test_test_mode_does_not_count_in_production(visit: Any, fake: FakeStripe) -> None:
    production = {"environment": "production", "issuer": "https://id.example.com", "master_key": new_master_key()}

    async def happen(shop: Shop) -> None:
        caller = await shop.organization()
        fake.pay(await shop.checkout(caller))
        events = shop.take_events()
        assert not any(event["livemode"] for event in events)
        await shop.deliver(events)
        assert await shop.plan(caller) == "free"
        ignored = await shop.audit(Caller(shop.instance.operator_organization_id), "billing.event_ignored")
        assert {row.metadata["reason"] for row in ignored} == {"test mode"}
        await shop.deliver([fake.event("invoice.paid", {"object": "invoice", "customer": (await shop.customer(caller)).customer_id}, livemode=True)])
        assert await shop.plan(caller) == "pro"

    visit(happen, **production)


def test_types_that_mean_nothing_are_not_kept(visit: Any, fake: FakeStripe) -> None:
    async def happen(shop: Shop) -> None:
        assert not await shop.accept(fake.event("product.updated", {"object": "product"}))
        assert await shop.read(sa.select(billing_events)) == []

    visit(happen)


def test_an_older_look_never_overwrites_a_newer_one(visit: Any, fake: FakeStripe) -> None:
    """Both looks have begun; the later one is stored first. Its events are both done with, and the newer state stays."""

    async def happen(shop: Shop) -> None:
        caller = await shop.organization()
        fake.pay(await shop.checkout(caller))
        for event in shop.take_events():
            await shop.accept(event)
        looks = [await shop.instance.database.write(actions.begin_look, SYSTEM, is_production=False) for _ in range(2)]
        organization = Caller(caller.organization_id, scopes=frozenset({OPERATOR_SCOPE}), is_system=True)
        found = [Standing("pro", "sub_1", "active"), Standing("free", "sub_1", "canceled")]
        for look, standing in reversed(list(zip(looks, found, strict=True))):
            assert look is not None
            await shop.instance.database.write(actions.finish_look, organization, look, standing)
        assert [look.number for look in looks if look] == [1, 2]
        assert await shop.plan(caller) == "free"
        assert await shop.tiers(caller) == []
        assert len(await shop.audit(caller, "billing.event_applied")) == 2

    visit(happen)


def test_whoever_wakes_after_its_lease_changes_nothing(visit: Any, fake: FakeStripe) -> None:
    async def happen(shop: Shop) -> None:
        caller = await shop.organization()
        fake.pay(await shop.checkout(caller))
        (event,) = [event for event in shop.take_events() if event["type"] == "checkout.session.completed"]
        await shop.accept(event)
        late = await shop.instance.database.write(actions.begin_look, SYSTEM, is_production=False)
        assert late is not None
        shop.clock.shift_ms += limits.BILLING_LEASE_MS + 1
        await shop.apply_all()
        organization = Caller(caller.organization_id, scopes=frozenset({OPERATOR_SCOPE}), is_system=True)
        await shop.instance.database.write(actions.finish_look, organization, late, Standing())
        await shop.instance.database.write(actions.postpone, SYSTEM, late, "too late")
        await shop.settle()
        assert await shop.plan(caller) == "pro"
        assert len(await shop.audit(caller, "billing.event_applied")) == 1

    visit(happen)


def test_two_processes_apply_each_event_once(visit: Any, fake: FakeStripe) -> None:
    async def happen(shop: Shop) -> None:
        callers = [await shop.organization() for _ in range(4)]
        for caller in callers:
            fake.pay(await shop.checkout(caller))
        events = shop.take_events()
        for event in events:
            await shop.accept(event)
        await asyncio.gather(*(shop.apply_all() for _ in range(4)))
        await shop.settle()
        applied = [row.target_id for caller in callers for row in await shop.audit(caller, "billing.event_applied")]
        assert sorted(applied) == sorted(event["id"] for event in events if event["type"] in HONOURED)
        assert [await shop.tiers(caller) for caller in callers] == [[("tier.upgraded", "free", "pro")]] * 4

    visit(happen)


@pytest.mark.parametrize("step", ["begin", "ask", "finish", "done"])
def test_a_process_that_dies_leaves_nothing_undone_and_nothing_twice(visit: Any, fake: FakeStripe, step: str) -> None:
    async def happen(shop: Shop) -> None:
        caller = await shop.organization()
        fake.pay(await shop.checkout(caller))
        events = shop.take_events()
        for event in events:
            await shop.accept(event)

        def die(here: str) -> None:
            if here == step:
                raise Killed

        with pytest.raises(Killed):
            await shop.biller(die).apply_next()
        await shop.settle()
        assert await shop.plan(caller) == "pro"
        applied = [row.target_id for row in await shop.audit(caller, "billing.event_applied")]
        assert sorted(applied) == sorted(event["id"] for event in events if event["type"] in HONOURED)

    visit(happen)


def test_an_event_that_always_fails_is_parked_seen_and_revived(visit: Any, fake: FakeStripe) -> None:
    async def happen(shop: Shop) -> None:
        caller = await shop.organization()
        fake.pay(await shop.checkout(caller))
        (event,) = [event for event in shop.take_events() if event["type"] == "checkout.session.completed"]
        fake.fail_next(500, times=10_000, path="/v1/subscriptions")
        await shop.deliver([event])
        row = await shop.event(event)
        assert (row.applied_at, row.next_attempt_at, row.attempts, row.parked_reason) == (None, None, limits.BILLING_ATTEMPTS_MAX, "STRIPE_ERROR")
        assert shop.instance.metrics.registry.get_sample_value("agentidp_billing_events_parked") == 1
        assert await shop.plan(caller) == "free"
        fake.heal()
        await shop.apply_all()
        assert await shop.plan(caller) == "free", "parked is parked"
        assert await shop.accept(event), "sent again from Stripe's dashboard"
        await shop.settle()
        await shop.biller().keep_books()
        assert (await shop.event(event)).parked_reason is None
        assert shop.instance.metrics.registry.get_sample_value("agentidp_billing_events_parked") == 0
        assert await shop.plan(caller) == "pro"

    visit(happen)


def test_an_event_that_kills_its_process_every_time_is_parked(visit: Any, fake: FakeStripe) -> None:
    async def happen(shop: Shop) -> None:
        caller = await shop.organization()
        fake.pay(await shop.checkout(caller))
        (event,) = [event for event in shop.take_events() if event["type"] == "checkout.session.completed"]
        await shop.accept(event)

        def die(here: str) -> None:
            if here == "finish":
                raise Killed

        for _ in range(limits.BILLING_ATTEMPTS_MAX):
            with pytest.raises(Killed):
                await shop.biller(die).apply_next()
            shop.clock.shift_ms += limits.BILLING_LEASE_MS + 1
        await shop.apply_all()
        assert (await shop.event(event)).parked_reason == "did not come to an end"

    visit(happen)


def test_old_events_are_forgotten_and_parked_ones_stay(visit: Any, fake: FakeStripe) -> None:
    async def happen(shop: Shop) -> None:
        caller = await shop.organization()
        fake.pay(await shop.checkout(caller))
        first, *others = [event for event in shop.take_events() if event["type"] in HONOURED]
        fake.fail_next(400, times=10_000, path="/v1/subscriptions")
        await shop.deliver([first])
        fake.heal()
        await shop.deliver(others)
        await shop.biller().keep_books()
        assert len(await shop.read(sa.select(billing_events))) == len(others) + 1
        shop.clock.shift_ms += limits.BILLING_EVENTS_KEPT_MS
        await shop.biller().keep_books()
        assert [row.event_id for row in await shop.read(sa.select(billing_events))] == [first["id"]]

    visit(happen)


async def bought_and_failed(shop: Shop, caller: Caller) -> None:
    shop.fake.fail_payment(shop.fake.pay(await shop.checkout(caller)))


async def bought_and_cancelled(shop: Shop, caller: Caller) -> None:
    shop.fake.cancel(shop.fake.pay(await shop.checkout(caller)))


async def failed_and_recovered(shop: Shop, caller: Caller) -> None:
    subscription = shop.fake.pay(await shop.checkout(caller))
    shop.fake.fail_payment(subscription)
    shop.fake.recover(subscription)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("story", "plan"),
    [(bought_and_failed, "pro"), (bought_and_cancelled, "free"), (failed_and_recovered, "pro")],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_every_order_of_five_events_comes_to_the_same(visit: Any, story: Any, plan: str) -> None:
    """All 120 of them; after each event the plan is what Stripe says at that moment, so it changes at most once."""

    async def happen(shop: Shop) -> None:
        for order in itertools.permutations(range(5)):
            caller = await shop.organization()
            await story(shop, caller)
            honoured = [event for event in shop.take_events() if event["type"] in HONOURED]
            extra = shop.fake.event("invoice.paid", honoured[0]["data"]["object"])
            five = [*honoured[-4:], extra]
            for index in order:
                await shop.accept(five[index])
                await shop.apply_all()
                assert await shop.plan(caller) == plan, order
            applied = [row.target_id for row in await shop.audit(caller, "billing.event_applied")]
            assert applied == [five[index]["id"] for index in order]
            assert await shop.tiers(caller) == ([("tier.upgraded", "free", "pro")] if plan == "pro" else [])

    visit(happen)


def test_a_wall_stands_before_the_events(visit: Any, fake: FakeStripe, engine: str) -> None:
    """No organization may look at them on PostgreSQL, and none at another's customer."""

    async def happen(shop: Shop) -> None:
        caller, other = await shop.organization(), await shop.organization()
        await shop.subscribe(caller)

        def look(tx: Any, table: Any) -> int:
            return len(tx.all(sa.select(table)))

        if engine == "postgresql":
            assert [await shop.instance.database.read(look, other, table) for table in (billing_customers, billing_checkouts)] == [0, 0]
            with pytest.raises(Exception, match=r"cannot answer|answer right now"):
                await shop.instance.database.read(look, caller, billing_events)
        assert await shop.instance.database.read(look, SYSTEM, audit_events) > 0

    visit(happen)
