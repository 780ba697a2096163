"""What an organization has used, from the ledger's counters: exact, because whatever was acknowledged was counted in the same commit."""

import sqlalchemy as sa

from agentidp.db.schema import usage_counters
from agentidp.db.unit import Tx
from agentidp.ledger.entries import DAY_MS
from agentidp.usage.rules import Usage


def get_usage_today(tx: Tx) -> Usage:
    """The caller's organization today; the call that asks is counted, too."""
    day, counter = tx.now // DAY_MS, usage_counters.c
    query = sa.select(counter.meter, counter.count.label("used")).where(counter.organization_id == tx.caller.organization_id, counter.day == day)
    counts: dict[str, int] = {row.meter: row.used for row in tx.all(query)}
    meters = {"apiCalls": "calls", "tokensIssued": "tokens", "agentsRegistered": "agents", "credentialsGenerated": "credentials"}
    return Usage(day, **{name: counts.get(meter, 0) for meter, name in meters.items()})
