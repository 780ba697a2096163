"""The worker's part: applying accepted events by asking Stripe how things are, ends of grace, and reports of use. Decides nothing; see `actions`.

Any number of processes may do this at once. Stripe is asked outside of every transaction; a process that dies leaves a lease that runs out.
"""

import asyncio
import logging
from collections.abc import Callable

from agentidp.auth.instance import Instance
from agentidp.billing import actions, queries
from agentidp.billing.actions import Look
from agentidp.billing.rules import Standing, standing_of, superseded
from agentidp.billing.stripe import Stripe
from agentidp.core import limits
from agentidp.core.caller import OPERATOR_SCOPE, SYSTEM, Caller
from agentidp.core.errors import Problem
from agentidp.ledger.entries import DAY_MS

log = logging.getLogger(__name__)
_DAY_SECONDS = DAY_MS // 1000


class Biller:
    """What one process does for billing, beside answering requests. `step` is told before each step of applying an event: tests stop it there."""

    def __init__(self, instance: Instance, stripe: Stripe, step: Callable[[str], None] = lambda _: None) -> None:
        self._instance, self._database, self._stripe, self._step = instance, instance.database, stripe, step
        self._operator = Caller(instance.operator_organization_id, is_system=True)  # what concerns no tenant is in the operator's history

    async def run(self) -> None:
        """Apply what is accepted, soon after it was, until cancelled."""
        try:
            while True:
                await self._stripe.nudge.wait(limits.BILLING_POLL_SECONDS)
                try:
                    while await self.apply_next():
                        pass
                except Problem as problem:
                    log.warning("billing has to wait", extra={"reason": problem.detail})
                except Exception:
                    log.exception("billing failed")
        finally:
            await self._stripe.close()

    async def keep_books(self) -> None:
        """One round: reports of use, old events forgotten, the number of parked ones."""
        while await self._database.write(actions.sweep_events, SYSTEM) >= limits.SWEEP_ROWS_MAX:
            pass
        self._instance.metrics.billing_events_parked.set(await self._database.read(queries.count_parked, SYSTEM))
        await self.report_usage()

    async def apply_next(self) -> bool:
        """Apply the next event that is due, or look at the next customer. Returns whether there was one."""
        self._step("begin")
        look = await self._database.write(actions.begin_look, self._operator, is_production=self._instance.settings.environment == "production")
        if look is None:
            return False
        if look.organization_id is None:  # ignored
            return True
        organization = Caller(look.organization_id, scopes=frozenset({OPERATOR_SCOPE}), is_system=True)
        try:
            self._step("ask")
            found = await self._ask(look)
            self._step("finish")
            await self._database.write(actions.finish_look, organization, look, found)
            self._step("done")
        except Exception as error:
            reason = error.code if isinstance(error, Problem) else type(error).__name__
            log.warning("an event of Stripe could not be applied", extra={"event": look.event_id, "attempt": look.attempts, "reason": reason}, exc_info=True)
            if await self._database.write(actions.postpone, SYSTEM, look, reason):
                self._instance.metrics.billing_events_parked.set(await self._database.read(queries.count_parked, SYSTEM))
        return True

    async def report_usage(self) -> None:
        """Tell Stripe the final counts of past days, the oldest first, each under an identifier of its own: told twice, Stripe counts it once."""
        while self._stripe.meters:
            due = await self._database.read(queries.list_due_reports, SYSTEM, list(self._stripe.meters))
            for one in due:
                self._step("report")
                name, identifier = self._stripe.meters[one.meter], f"{one.organization_id}:{one.day}:{one.meter}"
                last_second = (one.day + 1) * _DAY_SECONDS - 1
                await self._stripe.report_usage(name, one.customer_id, one.count, identifier=identifier, seconds=last_second)
                self._step("reported")
                await self._database.write(actions.record_report, Caller(one.organization_id), one)
            if len(due) < limits.METERS_REPORTED_MAX:
                return

    async def _ask(self, look: Look) -> Standing:
        """How the customer stands at Stripe. What a higher plan has taken the place of is ended there: nobody pays for two."""
        grace_ms = self._instance.settings.billing.grace_days * DAY_MS
        async with asyncio.timeout(limits.BILLING_LEASE_MS / 2000):
            subscriptions = await self._stripe.list_subscriptions(look.customer_id)
            found = standing_of(subscriptions, self._stripe.plans, self._instance.clock(), held=look.held, grace_ms=grace_ms)
            for subscription_id in superseded(subscriptions, self._stripe.plans, found):
                await self._stripe.cancel_subscription(subscription_id)
        return found
