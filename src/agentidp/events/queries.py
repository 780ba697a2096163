"""Where in the history a stream begins."""

import sqlalchemy as sa

from agentidp.audit.rules import AuditEventNotFound
from agentidp.core.ids import is_id
from agentidp.db.schema import audit_events, audit_heads
from agentidp.db.unit import Tx
from agentidp.ledger.following import Place


def get_beginning(tx: Tx, after_id: str | None) -> tuple[Place, str | None]:
    """Behind that event, or behind the newest when None, and which event that is. Raises AuditEventNotFound."""
    event, mine = audit_events.c, audit_events.c.organization_id == tx.caller.organization_id
    if after_id is not None:
        seq = tx.one(sa.select(event.seq).where(mine, event.event_id == after_id)) if is_id(after_id) else None
        if seq is None:
            raise AuditEventNotFound("The event to go on behind is not in your organization's history, or is no longer kept.")
        if seq.seq is not None:
            return Place(tx.caller.organization_id, seq.seq), after_id
    size = tx.connection.scalar(sa.select(audit_heads.c.size).where(audit_heads.c.organization_id == tx.caller.organization_id)) or 0
    newest = tx.connection.scalar(sa.select(event.event_id).where(mine, event.seq == size))
    return Place(tx.caller.organization_id, size), newest
