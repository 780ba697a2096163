"""Storms: whatever customers do, each event one to four times, shuffled, workers that die at any step; and at the end everything is as Stripe says.

The oracle knows nothing of the product: it reads Stripe's own objects. What a storm is made of follows from its seed.
"""

import asyncio
import itertools
import random
from collections import Counter
from typing import Any

import sqlalchemy as sa
from tests.billing.shop import Killed, Shop
from tests.fakes.fake_stripe import FakeStripe
from tests.fakes.stripe_shapes import Json

from agentidp.core import limits
from agentidp.core.caller import Caller
from agentidp.core.errors import InvalidFields
from agentidp.db.schema import billing_reports, usage_counters
from agentidp.db.unit import Tx

HONOURED = {
    "checkout.session.completed",
    "customer.subscription.created",
    "customer.subscription.updated",
    "customer.subscription.deleted",
    "invoice.paid",
    "invoice.payment_failed",
}
HEIGHT = {"free": 0, "pro": 1, "enterprise": 2}
STORMS_AT_ONCE = 5  # of one instance: they share the worker and Stripe, and must not mix
DEADLY = ("begin", "ask", "finish", "done", "report", "reported")
DAY_MS = 24 * 3600 * 1000


def oracle(fake: FakeStripe, customer_id: str) -> str:
    """The plan that Stripe's objects say is paid for, or about to be."""
    plans = [
        one["items"]["data"][0]["price"]["id"].removeprefix("price_")
        for one in fake.all("subscription")
        if one["customer"] == customer_id and one["status"] in {"active", "trialing", "past_due"}
    ]
    return max(plans, key=HEIGHT.__getitem__, default="free")


class Storm:
    """One organization's weather. `events` are those of its customer, so far not delivered, as often as they will be."""

    def __init__(self, shop: Shop, caller: Caller, chance: random.Random) -> None:
        self.shop, self.caller, self.chance = shop, caller, chance
        self.seen: set[str] = set()
        self.used: Counter[str] = Counter()

    async def happen(self) -> None:
        """One thing that a customer, or a card, does."""
        fake = self.shop.fake
        mine = [one for one in fake.all("subscription") if one["customer"] == await self._customer() and not one["ended_at"]]
        what = self.chance.choice(["checkout", "pay", "fail", "recover", "renew", "cancel", "use"])
        if what == "use":
            await self.shop.instance.database.write(self._use, self.caller)
        elif what in {"checkout", "pay"}:
            await self._check_out(is_paid=what == "pay")
        elif mine:
            act: Any = {"fail": fake.fail_payment, "recover": fake.recover, "renew": fake.renew, "cancel": fake.cancel}[what]
            act(self.chance.choice(mine))

    async def _check_out(self, *, is_paid: bool) -> None:
        try:
            session_id = await self.shop.checkout(self.caller, **self.chance.choice([{}, {"target_tier": "pro"}, {"target_tier": "enterprise"}]))
        except InvalidFields:  # there is no higher plan
            return
        if is_paid and self.shop.fake.get("checkout.session", session_id)["status"] == "open":
            self.shop.fake.pay(session_id)

    async def _customer(self) -> str | None:
        found = [one for one in self.shop.fake.all("customer") if one["metadata"].get("organization_id") == self.caller.organization_id]
        return str(found[0]["id"]) if found else None

    def _use(self, tx: Tx) -> None:
        for meter in ("tokensIssued", "apiCalls"):
            for _ in range(self.chance.randint(1, 3)):
                tx.count(meter)
                self.used[meter] += 1

    async def check(self, customer_of: dict[str, str]) -> None:
        """Tier, audit trail and use are exactly as the oracle says."""
        shop, caller = self.shop, self.caller
        customer_id = await self._customer()
        plan = oracle(shop.fake, customer_id) if customer_id else "free"
        assert await shop.plan(caller) == plan
        tiers = await shop.tiers(caller)
        path = ["free", *(new for _, _, new in tiers)]
        assert [(old, new) for _, old, new in tiers] == list(itertools.pairwise(path)), "each change begins where the last one ended"
        assert path[-1] == plan
        assert all((action == "tier.upgraded") == (HEIGHT[new] > HEIGHT[old]) for action, old, new in tiers)
        applied = Counter(row.target_id for row in await shop.audit(caller, "billing.event_applied"))
        mine = {event_id for event_id, owner in customer_of.items() if owner == customer_id}
        assert applied == Counter(mine), "every event once"
        counted = {row.meter: row.used for row in await shop.read(_used(caller))}
        assert counted == dict(self.used)


def _used(caller: Caller) -> sa.Select[Any]:
    query = sa.select(usage_counters.c.meter, sa.func.sum(usage_counters.c.count).label("used"))
    return query.where(usage_counters.c.organization_id == caller.organization_id).group_by(usage_counters.c.meter)


class Lightning:
    """Kills the worker at one step in `odds`."""

    def __init__(self, chance: random.Random, odds: int) -> None:
        self.chance, self.odds, self.deaths = chance, odds, 0

    def __call__(self, step: str) -> None:
        assert step in DEADLY
        if self.chance.randrange(self.odds) == 0:
            self.deaths += 1
            raise Killed(step)


async def work(shop: Shop, strike: Lightning, times: int) -> None:
    """A worker that is started anew each time it has died."""
    for _ in range(times):
        try:
            if not await shop.biller(strike).apply_next():
                return
        except Killed:
            continue


async def rage(shop: Shop, chance: random.Random) -> int:
    """Five storms at once. Returns how often the worker died."""
    storms = [Storm(shop, await shop.organization(), chance) for _ in range(STORMS_AT_ONCE)]
    strike, queue, told = Lightning(chance, 6), list[Json](), dict[str, Json]()
    for _ in range(chance.randint(10, 40)):
        await chance.choice(storms).happen()
        queue += _multiplied(shop, chance, told)
        chance.shuffle(queue)
        for _ in range(chance.randint(0, 4)):
            if queue:
                await shop.accept(queue.pop())
        await asyncio.gather(*(work(shop, strike, chance.randint(0, 3)) for _ in range(chance.randint(1, 3))))
        shop.clock.shift_ms += chance.choice([0, 0, 1_000, limits.BILLING_LEASE_MS + 1])
    is_calm = False
    while not is_calm:
        queue += _multiplied(shop, chance, told)
        while queue:
            await shop.accept(queue.pop(chance.randrange(len(queue))))
            await work(shop, strike, 2)
        await shop.settle()
        is_calm = not shop.fake.outbox  # ending a superseded subscription makes an event of its own
    customer_of = {event_id: event["data"]["object"]["customer"] for event_id, event in told.items() if event["type"] in HONOURED}
    for storm in storms:
        await storm.check(customer_of)
    await _report(shop, strike)
    return strike.deaths


def _multiplied(shop: Shop, chance: random.Random, told: dict[str, Json]) -> list[Json]:
    """What is new in Stripe's outbox, each event one to four times."""
    fresh = shop.take_events()
    told |= {event["id"]: event for event in fresh}
    return [event for event in fresh for _ in range(chance.randint(1, 4))]


async def _report(shop: Shop, strike: Lightning) -> None:
    """The next day: reported by a worker that dies, too, and counted by Stripe exactly once."""
    shop.clock.shift_ms += DAY_MS - shop.clock() % DAY_MS + limits.METER_DELAY_MS
    for _ in range(10_000):
        try:
            await shop.biller(strike).report_usage()
        except Killed:
            continue
        break
    reports = await shop.read(sa.select(billing_reports))
    told = Counter((one["identifier"]) for one in shop.fake.all("billing.meter_event"))
    assert told == Counter(f"{row.organization_id}:{row.day}:{row.meter}" for row in reports)
    assert set(told.values()) <= {1}
