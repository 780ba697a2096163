"""Looking up what an organization is at Stripe, and what it used."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from agentidp.core import limits
from agentidp.core.plans import PlanTier
from agentidp.db.schema import billing_checkouts, billing_customers, billing_events, billing_reports, organizations, usage_counters
from agentidp.db.unit import Tx
from agentidp.ledger.entries import DAY_MS


@dataclass(frozen=True, slots=True)
class Account:
    """What a checkout starts from. `checkouts` are the organization's last ones, by plan."""

    plan: PlanTier
    customer_id: str | None
    checkouts: Mapping[str, sa.Row[Any]]


@dataclass(frozen=True, slots=True)
class Due:
    """A day's final count that Stripe has not been told."""

    organization_id: str
    customer_id: str
    day: int
    meter: str
    count: int


def get_account(tx: Tx) -> Account:
    """The caller's organization, as it stands."""
    mine = tx.caller.organization_id
    plan = tx.connection.execute(sa.select(organizations.c.plan_tier).where(organizations.c.organization_id == mine)).scalar_one()
    rows = tx.all(sa.select(billing_checkouts).where(billing_checkouts.c.organization_id == mine))
    return Account(plan, find_customer(tx), {row.plan_tier: row for row in rows})


def find_customer(tx: Tx) -> str | None:
    """The organization's customer id at Stripe."""
    row = tx.one(sa.select(billing_customers.c.customer_id).where(billing_customers.c.organization_id == tx.caller.organization_id))
    return row.customer_id if row else None


def list_due_reports(tx: Tx, meters: Sequence[str]) -> list[Due]:
    """The oldest final counts of days on which an organization had a subscription, and which Stripe has not been told."""
    customer, used, report = billing_customers.c, usage_counters.c, billing_reports.c
    same = sa.and_(report.organization_id == used.organization_id, report.day == used.day, report.meter == used.meter)
    today = (tx.now - limits.METER_DELAY_MS) // DAY_MS
    query = (
        sa.select(used.organization_id, customer.customer_id, used.day, used.meter, used.count.label("used"))
        .select_from(
            usage_counters.join(billing_customers, customer.organization_id == used.organization_id).outerjoin(billing_reports, same),
        )
        .where(used.meter.in_(meters), used.day < today, used.day >= today - limits.METER_DAYS_MAX, report.day.is_(None))
        .where(used.day >= customer.subscribed_at // DAY_MS, sa.or_(customer.ended_at.is_(None), used.day <= customer.ended_at // DAY_MS))
    )
    rows = tx.all(query.order_by(used.day, used.organization_id, used.meter).limit(limits.METERS_REPORTED_MAX))
    return [Due(row.organization_id, row.customer_id, row.day, row.meter, row.used) for row in rows]


def count_parked(tx: Tx) -> int:
    """Events that were given up, of all organizations: for the operator."""
    return tx.connection.scalar(sa.select(sa.func.count()).select_from(billing_events).where(billing_events.c.parked_reason.is_not(None))) or 0
