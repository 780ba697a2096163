"""What an organization has used, from the ledger's counters: exact, because whatever was acknowledged was counted in the same commit."""

import sqlalchemy as sa

from agentidp.db.schema import usage_counters
from agentidp.db.unit import Tx
from agentidp.ledger.entries import DAY_MS
from agentidp.usage.rules import Usage


def get_usage_today(tx: Tx) -> Usage:
    """The caller's organization today; the call that asks is counted, too."""
    day, counter = tx.now // DAY_MS, usage_counters.c
    query = sa.select(counter.meter, counter.count).where(counter.organization_id == tx.caller.organization_id, counter.day == day)
    counts: dict[str, int] = {row.meter: row.count for row in tx.all(query)}
    return Usage(day, counts.get("apiCalls", 0), counts.get("tokensIssued", 0))
