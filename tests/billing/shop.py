"""An instance that sells plans at a fake Stripe, without a server and without its background work: tests take each step themselves, and stop it where they like."""

import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from tests.fakes.fake_stripe import WEBHOOK_SECRET, FakeStripe
from tests.fakes.stripe_shapes import Json
from tests.fakes.stripe_webhooks import event_body, signature
from tests.serving import FakeClock, settings_for, stripe_settings

from agentidp.auth.instance import Instance
from agentidp.auth.scopes import SCOPES
from agentidp.billing import actions
from agentidp.billing.applying import Biller
from agentidp.billing.checkout import open_checkout
from agentidp.billing.stripe import Stripe, stripe_of
from agentidp.core import limits
from agentidp.core.caller import SYSTEM, Caller
from agentidp.db.schema import audit_events, billing_customers, billing_events, organizations
from agentidp.db.unit import Tx
from agentidp.organizations.actions import create_organization
from agentidp.start import start


class Killed(BaseException):
    """What kill -9 is to a process: nothing of ours catches it."""


def rows(tx: Tx, query: sa.Select[Any]) -> list[sa.Row[Any]]:
    return tx.all(query)


@dataclass
class Shop:
    """`biller()` is one process's worker. Time is the instance's and Stripe's alike."""

    instance: Instance
    fake: FakeStripe
    clock: FakeClock
    stripe: Stripe = field(init=False)

    def __post_init__(self) -> None:
        self.stripe = stripe_of(self.instance)

    async def organization(self, plan: str = "free") -> Caller:
        caller = Caller(str(uuid.uuid4()), scopes=frozenset(SCOPES))

        def make(tx: Tx) -> None:
            create_organization(tx, caller.organization_id, name="Shopper", slug=f"s-{uuid.uuid4().hex[:12]}", plan_tier=plan)

        await self.instance.database.write(make, caller)
        return caller

    async def checkout(self, caller: Caller, **wanted: Any) -> str:
        """Open a checkout; returns the session's id."""
        return (await open_checkout(self.instance, caller, **wanted)).rpartition("/")[2]

    async def accept(self, event: Json) -> bool:
        """What the webhook does with a signed event."""
        body = event_body(event)
        now = self.instance.clock()
        verified = self.stripe.verify(body, signature(body, [WEBHOOK_SECRET], now // 1000), now)
        return await self.instance.database.write(actions.accept_event, SYSTEM, verified, body)

    def take_events(self) -> list[Json]:
        events = list(self.fake.outbox)
        self.fake.outbox.clear()
        return events

    def biller(self, step: Callable[[str], None] = lambda _: None) -> Biller:
        return Biller(self.instance, self.stripe, step)

    async def apply_all(self, biller: Biller | None = None) -> None:
        """Until nothing is due."""
        biller = biller or self.biller()
        while await biller.apply_next():
            pass

    async def settle(self) -> None:
        """Until nothing is left but what is parked, however long the leases and pauses are."""
        for _ in range(4 * limits.BILLING_ATTEMPTS_MAX):
            await self.apply_all()
            waiting = sa.select(sa.func.count()).select_from(billing_events).where(billing_events.c.next_attempt_at.is_not(None))
            if not (await self.read(waiting))[0][0]:
                return
            self.clock.shift_ms += max(limits.BILLING_LEASE_MS, limits.BILLING_RETRY_MS * 2**limits.BILLING_ATTEMPTS_MAX) + 1
        raise AssertionError("it does not come to an end")

    async def deliver(self, events: Iterable[Json] | None = None) -> None:
        """Accept and apply these, else what is in Stripe's outbox."""
        for event in self.take_events() if events is None else events:
            await self.accept(event)
        await self.settle()

    async def subscribe(self, caller: Caller, **wanted: Any) -> Json:
        """Buy a plan, with everything that follows."""
        subscription = self.fake.pay(await self.checkout(caller, **wanted))
        await self.deliver()
        return subscription

    async def read(self, query: sa.Select[Any]) -> list[sa.Row[Any]]:
        return await self.instance.database.read(rows, SYSTEM, query)

    async def plan(self, caller: Caller) -> str:
        (row,) = await self.read(sa.select(organizations.c.plan_tier).where(organizations.c.organization_id == caller.organization_id))
        return str(row.plan_tier)

    async def customer(self, caller: Caller) -> sa.Row[Any]:
        (row,) = await self.read(sa.select(billing_customers).where(billing_customers.c.organization_id == caller.organization_id))
        return row

    async def event(self, event: Json) -> sa.Row[Any]:
        (row,) = await self.read(sa.select(billing_events).where(billing_events.c.event_id == event["id"]))
        return row

    async def audit(self, caller: Caller, *actions_: str) -> list[sa.Row[Any]]:
        """The organization's audit events with one of these actions, in their order."""
        query = sa.select(audit_events).where(audit_events.c.organization_id == caller.organization_id, audit_events.c.action.in_(actions_))
        return await self.read(query.order_by(audit_events.c.event_id))

    async def tiers(self, caller: Caller) -> list[tuple[str, str, str]]:
        """Every change of the organization's plan: action, from, to."""
        found = await self.audit(caller, "tier.upgraded", "tier.downgraded")
        return [(row.action, row.metadata["oldTier"], row.metadata["newTier"]) for row in found]


@contextlib.asynccontextmanager
async def open_shop(folder: Path, database_url: str, fake: FakeStripe, clock: FakeClock, **settings: Any) -> AsyncIterator[Shop]:
    """`fake` is being served; its clock should be the shop's."""
    meters = {"tokens": "tokens_issued", "calls": "api_calls"}
    chosen = settings_for(folder, database_url, **{"stripe": stripe_settings(fake, meters=meters)} | settings)
    instance = (await start(chosen, clock)).instance
    shop = Shop(instance, fake, clock)
    try:
        yield shop
    finally:
        await shop.stripe.close()
        await instance.database.close()
