"""Keeping what Stripe said, and letting it take effect: each event once, and never an older look at Stripe over a newer one.

An event only says that there is something to look at. A look has a number from the moment when it begins, before Stripe is asked; what it found is
stored if no look with a higher number has been stored. Whatever happens at Stripe after a look began leads to another event, and so to a later look.
"""

from dataclasses import dataclass, field

import sqlalchemy as sa

from agentidp.billing.queries import Due
from agentidp.billing.rules import HONOURED, Checkout, Session, Standing, StripeEvent, StripeFailed, retry_ms
from agentidp.core import limits
from agentidp.core.plans import TIERS
from agentidp.db.schema import billing_checkouts, billing_customers, billing_events, billing_reports
from agentidp.db.unit import Tx
from agentidp.organizations.actions import set_plan


@dataclass(frozen=True, slots=True)
class Look:
    """The right to store what Stripe says about a customer from now on. `event_id` is None for a look that no event asked for."""

    event_id: str | None
    event_type: str | None
    attempts: int
    organization_id: str | None = None  # None: no customer of ours
    customer_id: str = ""
    number: int = 0
    held: Standing = field(default_factory=Standing)


def accept_event(tx: Tx, event: StripeEvent, raw_body: bytes) -> bool:
    """Keep an event that Stripe signed, unless it is kept already; one that was parked is due again. Returns whether there is something to apply."""
    if event.type not in HONOURED:
        return False
    values = {
        "event_id": event.event_id,
        "type": event.type,
        "customer_id": event.customer_id,
        "livemode": event.livemode,
        "payload": raw_body.decode(),
        "created_at": event.created_at,
        "received_at": tx.now,
        "attempts": 0,
        "next_attempt_at": tx.now,
    }
    if tx.insert_new(billing_events, **values):
        return True
    parked = sa.and_(billing_events.c.event_id == event.event_id, billing_events.c.parked_reason.is_not(None))
    return tx.run(sa.update(billing_events).where(parked).values(attempts=0, next_attempt_at=tx.now, parked_reason=None)).rowcount == 1


def begin_look(tx: Tx, *, is_production: bool) -> Look | None:
    """Take the next event that is due, else the next customer; None when nothing is. Whoever takes one holds it for the length of a lease.

    What does not concern us (another's customer, a test in production) is put on record and done with.
    """
    due = sa.select(billing_events).where(billing_events.c.next_attempt_at <= tx.now).order_by(billing_events.c.next_attempt_at, billing_events.c.event_id)
    while row := tx.one(due.limit(1).with_for_update(skip_locked=True)):
        if row.attempts >= limits.BILLING_ATTEMPTS_MAX:  # whoever took it the last time did not live to say why
            _park(tx, row.event_id, "did not come to an end")
            continue
        reason = "test mode" if is_production and not row.livemode else None
        look = None if reason else _look(tx, billing_customers.c.customer_id == row.customer_id, row.event_id, row.type, row.attempts + 1)
        if look is None:
            _finish(tx, row.event_id)
            tx.record("billing.event_ignored", "billing_event", row.event_id, type=row.type, reason=reason or "no customer of this instance")
            return Look(row.event_id, row.type, 0)
        taken = {"attempts": row.attempts + 1, "next_attempt_at": tx.now + limits.BILLING_LEASE_MS}
        tx.run(sa.update(billing_events).where(billing_events.c.event_id == row.event_id).values(**taken))
        return look
    return _look(tx, billing_customers.c.look_at <= tx.now, None, None, 0)


def finish_look(tx: Tx, look: Look, found: Standing) -> None:
    """Store what Stripe said, give the organization its plan, and be done with the event: all of it or nothing. Nothing if somebody else was quicker.

    The unit of work is the organization's, on behalf of the instance. Raises OrganizationNotFound.
    """
    mine = billing_customers.c.organization_id == tx.caller.organization_id
    customer = tx.one(sa.select(billing_customers).where(mine).with_for_update())
    assert customer is not None
    if look.event_id is not None:
        if not _finish(tx, look.event_id):
            return
        tx.record(
            "billing.event_applied",
            "billing_event",
            look.event_id,
            type=look.event_type,
            plan=found.plan,
            subscription=found.subscription_id,
            subscriptionStatus=found.status,
        )
    if look.number <= customer.look_applied:
        return
    is_new = found.subscription_id != customer.subscription_id or (found.plan != TIERS[0] and customer.ended_at is not None)
    values = {
        "plan_tier": found.plan,
        "subscription_id": found.subscription_id or customer.subscription_id,
        "subscription_status": found.status,
        "subscribed_at": tx.now if found.plan != TIERS[0] and (is_new or customer.subscribed_at is None) else customer.subscribed_at,
        "ended_at": None if found.plan != TIERS[0] else customer.ended_at or tx.now,
        "grace_until": found.grace_until,
        "look_applied": look.number,
        "look_at": found.grace_until if found.grace_until is not None and found.plan != TIERS[0] else None,
    }
    tx.run(sa.update(billing_customers).where(mine).values(**values))
    if found.plan != customer.plan_tier:  # else the plan is as we left it, or as the operator has set it since
        if found.plan != TIERS[0]:
            _close_checkouts(tx)
        set_plan(tx, found.plan, subscription=found.subscription_id)


def postpone(tx: Tx, look: Look, reason: str) -> bool:
    """After a failure: the event is due again after a pause, or parked after too many. Returns whether it was parked."""
    if look.event_id is None:
        return False
    if look.attempts >= limits.BILLING_ATTEMPTS_MAX:
        return _park(tx, look.event_id, reason)
    mine = sa.and_(billing_events.c.event_id == look.event_id, billing_events.c.next_attempt_at.is_not(None))
    tx.run(sa.update(billing_events).where(mine).values(next_attempt_at=tx.now + retry_ms(look.attempts)))
    return False


def record_checkout(tx: Tx, checkout: Checkout, customer_id: str, session: Session) -> None:
    """Bind the customer to the organization for good, and remember the checkout. Raises StripeFailed if it has become another's meanwhile."""
    mine = tx.caller.organization_id
    new = {"plan_tier": TIERS[0], "looks": 0, "look_applied": 0, "created_at": tx.now}
    tx.insert_new(billing_customers, organization_id=mine, customer_id=customer_id, **new)
    bound = tx.one(sa.select(billing_customers.c.customer_id).where(billing_customers.c.organization_id == mine))
    if bound is None or bound.customer_id != customer_id:
        raise StripeFailed
    place = sa.and_(billing_checkouts.c.organization_id == mine, billing_checkouts.c.plan_tier == checkout.plan)
    values = {"session_id": session.session_id, "fingerprint": checkout.fingerprint, "url": session.url, "is_open": True, "expires_at": session.expires_at}
    if not tx.insert_new(billing_checkouts, organization_id=mine, plan_tier=checkout.plan, created_at=tx.now, **values):
        tx.run(sa.update(billing_checkouts).where(place, billing_checkouts.c.session_id != session.session_id).values(**values, created_at=tx.now))


def record_report(tx: Tx, due: Due) -> bool:
    """Stripe has been told. Returns whether this is the first to say so."""
    return tx.insert_new(billing_reports, organization_id=tx.caller.organization_id, day=due.day, meter=due.meter, count=due.count, reported_at=tx.now)


def sweep_events(tx: Tx) -> int:
    """Forget events applied long ago, a bounded number at a time. Returns how many."""
    old = billing_events.c.received_at <= tx.now - limits.BILLING_EVENTS_KEPT_MS
    found = sa.select(billing_events.c.event_id).where(old, billing_events.c.applied_at.is_not(None)).limit(limits.SWEEP_ROWS_MAX)
    return tx.run(sa.delete(billing_events).where(billing_events.c.event_id.in_(found))).rowcount


def _look(tx: Tx, which: sa.ColumnElement[bool], event_id: str | None, event_type: str | None, attempts: int) -> Look | None:
    """Begin the next look at that customer."""
    query = sa.select(billing_customers).where(which).order_by(billing_customers.c.look_at).limit(1)
    row = tx.one(query.with_for_update(skip_locked=event_id is None))
    if row is None:
        return None
    number, again = row.looks + 1, tx.now + limits.BILLING_LEASE_MS if row.look_at is not None and row.look_at <= tx.now else row.look_at
    tx.run(sa.update(billing_customers).where(billing_customers.c.organization_id == row.organization_id).values(looks=number, look_at=again))
    held = Standing(row.plan_tier, row.subscription_id, row.subscription_status, row.grace_until)
    return Look(event_id, event_type, attempts, row.organization_id, row.customer_id, number, held)


def _finish(tx: Tx, event_id: str) -> bool:
    open_ = sa.and_(billing_events.c.event_id == event_id, billing_events.c.applied_at.is_(None))
    return tx.run(sa.update(billing_events).where(open_).values(applied_at=tx.now, next_attempt_at=None, parked_reason=None)).rowcount == 1


def _park(tx: Tx, event_id: str, reason: str) -> bool:
    open_ = sa.and_(billing_events.c.event_id == event_id, billing_events.c.next_attempt_at.is_not(None))
    values = {"next_attempt_at": None, "parked_reason": reason[: limits.BILLING_REASON_CHARACTERS_MAX]}
    return tx.run(sa.update(billing_events).where(open_).values(**values)).rowcount == 1


def _close_checkouts(tx: Tx) -> None:
    """What was bought is not for sale a second time: the next checkout is a new one."""
    tx.run(sa.update(billing_checkouts).where(billing_checkouts.c.organization_id == tx.caller.organization_id).values(is_open=False))
