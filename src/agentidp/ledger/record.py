"""What the ledger writes for a unit of work: its audit events and counts, as its last statements, in its own transaction."""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from agentidp.core.ids import new_id
from agentidp.db.schema import audit_events, usage_counters
from agentidp.db.unit import Tx
from agentidp.ledger.chain import require_canonical
from agentidp.ledger.entries import DAY_MS


def record_unit(tx: Tx) -> None:
    """Insert the transaction's audit entries, all in one statement, and add up its meters, in the order in which counters are locked."""
    if tx.meters:
        _count(tx)
    if tx.entries:
        for entry in tx.entries:
            require_canonical(entry.metadata)  # here, not when it is sealed: what cannot be sealed must not happen
        tx.connection.execute(sa.insert(audit_events), _rows(tx))


def _rows(tx: Tx) -> list[dict[str, object]]:
    origin = tx.caller.origin
    return [
        {
            "organization_id": entry.organization_id or tx.caller.organization_id,
            "event_id": new_id(tx.now),
            "agent_id": entry.agent_id or tx.caller.agent_id,
            "action": entry.action,
            "outcome": entry.outcome,
            "target_type": entry.target_type,
            "target_id": entry.target_id,
            "ip_address": origin.ip_address,
            "user_agent": origin.user_agent,
            "request_id": origin.request_id,
            "metadata": entry.metadata,
            "timestamp": tx.now,
        }
        for entry in tx.entries
    ]


def _count(tx: Tx) -> None:
    insert = postgresql.insert if tx.connection.dialect.name == "postgresql" else sqlite.insert
    for meter, count in sorted(tx.meters.items()):
        statement = insert(usage_counters).values(organization_id=tx.caller.organization_id, day=tx.now // DAY_MS, meter=meter, count=count)
        tx.run(
            statement.on_conflict_do_update(
                index_elements=["organization_id", "day", "meter"], set_={"count": usage_counters.c.count + statement.excluded.count}
            )
        )
