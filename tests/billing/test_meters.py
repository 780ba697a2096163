"""What is reported to Stripe: the final count of each day with a subscription, once, whatever dies and however late."""

from typing import Any

import pytest
import sqlalchemy as sa
from tests.billing.shop import Killed, Shop
from tests.fakes.fake_stripe import FakeStripe
from tests.serving import stripe_settings

from agentidp.billing.rules import StripeFailed
from agentidp.core import limits
from agentidp.core.caller import Caller
from agentidp.db.schema import billing_reports
from agentidp.db.unit import Tx

DAY_MS = 24 * 3600 * 1000


def use(tx: Tx, tokens: int, calls: int) -> None:
    for meter, count in (("tokensIssued", tokens), ("apiCalls", calls), ("agentsRegistered", 1)):
        for _ in range(count):
            tx.count(meter)


async def day_passes(shop: Shop, *, late_ms: int = limits.METER_DELAY_MS) -> None:
    """To a moment after the next midnight UTC."""
    shop.clock.shift_ms += DAY_MS - shop.clock() % DAY_MS + late_ms


async def customer_with_use(shop: Shop) -> tuple[Caller, str, str]:
    """Subscribed, with 3 tokens and 5 calls today; and the customer's id, and the subscription's."""
    caller = await shop.organization()
    subscription = await shop.subscribe(caller)
    await shop.instance.database.write(use, caller, 3, 5)
    return caller, subscription["customer"], subscription["id"]


def told(fake: FakeStripe, customer: str) -> tuple[int, int]:
    return int(fake.metered(customer, "tokens_issued")), int(fake.metered(customer, "api_calls"))


def test_a_day_is_reported_after_it_has_ended_and_once(visit: Any, fake: FakeStripe) -> None:
    async def happen(shop: Shop) -> None:
        caller, customer, _ = await customer_with_use(shop)
        await shop.biller().keep_books()
        assert told(fake, customer) == (0, 0), "the day is not over"
        await day_passes(shop, late_ms=limits.METER_DELAY_MS - 60_000)
        await shop.biller().keep_books()
        assert told(fake, customer) == (0, 0), "counts of the last second may still be on their way"
        shop.clock.shift_ms += 60_000
        day = shop.clock() // DAY_MS - 1
        await shop.instance.database.write(use, caller, 7, 7)  # of the new day
        for _ in range(3):
            await shop.biller().keep_books()
        assert told(fake, customer) == (3, 5)
        sent = fake.all("billing.meter_event")
        assert sorted(one["identifier"] for one in sent) == [f"{caller.organization_id}:{day}:{meter}" for meter in ("apiCalls", "tokensIssued")]
        assert {one["timestamp"] for one in sent} == {(day + 1) * 24 * 3600 - 1}
        rows = await shop.read(sa.select(billing_reports))
        assert sorted((row.organization_id, row.day, row.meter, row.count) for row in map(_named, rows)) == [
            (caller.organization_id, day, "apiCalls", 5),
            (caller.organization_id, day, "tokensIssued", 3),
        ]

    visit(happen)


class _named:  # noqa: N801 - a row whose column `count` is not the method of tuples
    def __init__(self, row: Any) -> None:
        self.__dict__.update(row._mapping)


@pytest.mark.parametrize("step", ["report", "reported"])
def test_a_worker_that_dies_reports_nothing_twice(visit: Any, fake: FakeStripe, step: str) -> None:
    async def happen(shop: Shop) -> None:
        _, customer, _ = await customer_with_use(shop)
        await day_passes(shop)

        def die(here: str) -> None:
            if here == step:
                raise Killed

        for _ in range(3):
            with pytest.raises(Killed):
                await shop.biller(die).report_usage()
        await shop.biller().report_usage()
        assert told(fake, customer) == (3, 5)

    visit(happen)


@pytest.mark.parametrize("trouble", [500, 429, "reset", "malformed"])
def test_what_stripe_did_not_take_is_reported_later(visit: Any, fake: FakeStripe, trouble: Any) -> None:
    async def happen(shop: Shop) -> None:
        _, customer, _ = await customer_with_use(shop)
        await day_passes(shop)
        fake.fail_next(trouble, times=20, path="/v1/billing/meter_events", is_done=True)
        with pytest.raises(StripeFailed):
            await shop.biller().report_usage()
        fake.heal()
        await day_passes(shop, late_ms=-DAY_MS + limits.METER_DELAY_MS)  # the same day
        await shop.biller().report_usage()
        assert told(fake, customer) == (3, 5)

    visit(happen)


def test_only_days_with_a_subscription_are_reported(visit: Any, fake: FakeStripe) -> None:
    async def happen(shop: Shop) -> None:
        before = await shop.organization()
        await shop.instance.database.write(use, before, 100, 100)  # the day before the subscription
        never = await shop.organization()
        await shop.checkout(never)
        await shop.instance.database.write(use, never, 100, 100)
        await day_passes(shop)
        subscription = await shop.subscribe(before)
        await shop.instance.database.write(use, before, 1, 2)
        await day_passes(shop)
        fake.cancel(subscription)
        await shop.deliver()
        await shop.instance.database.write(use, before, 10, 20)  # the day on which it ends counts, the next one does not
        await day_passes(shop)
        await shop.instance.database.write(use, before, 100, 100)
        await day_passes(shop)
        await shop.biller().keep_books()
        assert told(fake, subscription["customer"]) == (11, 22)
        assert {one["payload"]["stripe_customer_id"] for one in fake.all("billing.meter_event")} == {subscription["customer"]}

    visit(happen)


def test_many_days_are_made_up_for_up_to_a_month(visit: Any, fake: FakeStripe) -> None:
    async def happen(shop: Shop) -> None:
        caller, customer, _ = await customer_with_use(shop)
        for _ in range(limits.METER_DAYS_MAX + 5):
            await day_passes(shop)
            await shop.instance.database.write(use, caller, 1, 1)
        await day_passes(shop)
        await shop.biller().report_usage()
        assert told(fake, customer) == (limits.METER_DAYS_MAX, limits.METER_DAYS_MAX)

    visit(happen)


def test_without_a_meter_nothing_is_reported(visit: Any, fake: FakeStripe) -> None:
    async def happen(shop: Shop) -> None:
        await customer_with_use(shop)
        await day_passes(shop)
        await shop.biller().keep_books()
        assert fake.all("billing.meter_event") == []
        assert await shop.read(sa.select(billing_reports)) == []

    visit(happen, stripe=stripe_settings(fake))
