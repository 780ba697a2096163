"""Writing audit events: the last statement of every unit of work, in the unit's own transaction."""

import sqlalchemy as sa

from agentidp.core.ids import new_id
from agentidp.db.schema import audit_events
from agentidp.db.unit import Tx


def write_entries(tx: Tx) -> None:
    """Insert the transaction's audit entries, all in one statement. Whoever did it and from where comes from the caller."""
    origin = tx.caller.origin
    tx.connection.execute(
        sa.insert(audit_events),
        [
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
        ],
    )
    tx.entries.clear()
