"""How long history is kept, and forgetting what is older: only up to a kept checkpoint, at which verification then begins.

On PostgreSQL a month of which no organization keeps anything is dropped as a whole; everything else goes row by row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from agentidp.core import limits
from agentidp.core.ids import first_id
from agentidp.core.plans import Plans
from agentidp.db import partitions
from agentidp.db.partitions import Month
from agentidp.db.schema import audit_checkpoints, audit_events, audit_heads, organizations
from agentidp.db.unit import Tx
from agentidp.ledger.entries import DAY_MS


@dataclass(frozen=True, slots=True)
class Cut:
    """An organization's events up to number `size` are to be forgotten; a checkpoint of that size is kept."""

    organization_id: str
    size: int


def find_cuts(tx: Tx, after: str, plans: Plans) -> tuple[Sequence[Cut], str | None]:
    """What is due to be forgotten of the next organizations beyond `after`, and the last of them, None when there are no more.

    What was sealed by the time of a checkpoint is no younger than it: the cut is the last checkpoint that is older than the plan keeps.
    A change of plan may be a mistake, or be taken back; what is forgotten is not: so for some time after it, nothing is.
    """
    kept, head, changed_at = audit_checkpoints.c, audit_heads.c, organizations.c.plan_changed_at
    query = (
        sa.select(head.organization_id, head.start_size, organizations.c.plan_tier)
        .select_from(audit_heads.join(organizations, organizations.c.organization_id == head.organization_id))
        .where(head.organization_id > after, sa.or_(changed_at.is_(None), changed_at <= tx.now - limits.RETENTION_PLAN_DAYS * DAY_MS))
        .order_by(head.organization_id)
        .limit(limits.RETENTION_ORGANIZATIONS)
    )
    cuts, rows = [], tx.all(query)
    for row in rows:
        days = plans[row.plan_tier].audit_kept_days
        if days is None:
            continue
        older = sa.and_(kept.organization_id == row.organization_id, kept.signed_at <= tx.now - days * DAY_MS)
        found = tx.one(sa.select(kept.size).where(older).order_by(kept.signed_at.desc(), kept.size.desc()).limit(1))
        if found is not None:
            cuts.append(Cut(row.organization_id, max(found.size, row.start_size)))
    return cuts, rows[-1].organization_id if len(rows) == limits.RETENTION_ORGANIZATIONS else None


def begin_at(tx: Tx, cuts: Sequence[Cut]) -> None:
    """From here on, verification begins at the cuts, whether what is below them is still there or not."""
    for cut in cuts:
        begins_earlier = sa.and_(audit_heads.c.organization_id == cut.organization_id, audit_heads.c.start_size < cut.size)
        tx.run(sa.update(audit_heads).where(begins_earlier).values(start_size=cut.size))


def find_forgotten(tx: Tx) -> Sequence[Month]:
    """The months that ended more than a day ago and of which all that is left is below the cuts."""
    past = first_id(tx.now - DAY_MS)
    return [month for month in partitions.list_months(tx.connection) if month.end <= past and not _is_kept(tx, month)]


def drop(tx: Tx, month: Month) -> bool:
    """Forget a month as a whole, unless something was written into it since it was found. Returns whether it is gone."""
    partitions.hold_still(tx)
    if _is_kept(tx, month):
        return False
    partitions.drop(tx, month)
    return True


def _is_kept(tx: Tx, month: Month) -> bool:
    """Whether there is an event of the month that is above its organization's cut or in no chain yet: an index look-up for each organization."""
    event, head = audit_events.c, audit_heads.c
    within = sa.and_(event.event_id < month.end, sa.true() if month.first is None else event.event_id >= month.first)
    # with an OFFSET it stays a look-up, where the planner might read all of the month for a join
    above = sa.select(sa.literal(1)).where(event.organization_id == head.organization_id, event.seq > head.start_size, within).offset(0).exists()
    unsealed = sa.select(sa.literal(1)).select_from(audit_events).where(event.seq.is_(None), within)
    kept = sa.select(sa.literal(1)).select_from(audit_heads).where(above)
    return tx.one(unsealed.limit(1)) is not None or tx.one(kept.limit(1)) is not None


def purge(tx: Tx, cut: Cut) -> int:
    """Forget the oldest events up to the cut, as many as one transaction may hold. Returns how many; call it until it returns less than that."""
    begin_at(tx, [cut])
    organization_id, event = cut.organization_id, audit_events.c
    oldest = (
        sa.select(event.event_id)
        .where(audit_events.c.organization_id == organization_id, event.seq <= cut.size)
        .order_by(event.seq)
        .limit(limits.SWEEP_ROWS_MAX)
    )
    return tx.run(sa.delete(audit_events).where(audit_events.c.organization_id == organization_id, event.event_id.in_(oldest))).rowcount
