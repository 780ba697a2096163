"""Looking events up, always within one organization."""

from typing import Any

import sqlalchemy as sa

from agentidp.audit.rules import AuditEvent, AuditEventNotFound, AuditFilter
from agentidp.core.ids import is_id
from agentidp.db.paging import PageRequest, RowPage, fetch_page
from agentidp.db.schema import audit_events
from agentidp.db.unit import Tx


def get_event(tx: Tx, event_id: str) -> AuditEvent:
    """Raises AuditEventNotFound."""
    if not is_id(event_id):
        raise AuditEventNotFound
    row = tx.one(sa.select(audit_events).where(audit_events.c.organization_id == tx.caller.organization_id, audit_events.c.event_id == event_id))
    if row is None:
        raise AuditEventNotFound
    return to_event(row)


def list_events(tx: Tx, wanted: AuditFilter, request: PageRequest) -> RowPage:
    query = sa.select(audit_events).where(audit_events.c.organization_id == tx.caller.organization_id)
    equal = {
        audit_events.c.agent_id: wanted.agent_id,
        audit_events.c.action: wanted.action,
        audit_events.c.outcome: wanted.outcome,
        audit_events.c.target_id: wanted.target_id,
        audit_events.c.request_id: wanted.request_id,
    }
    for column, value in equal.items():
        if value is not None:
            query = query.where(column == value)
    if wanted.from_date is not None:
        query = query.where(audit_events.c.timestamp >= wanted.from_date)
    if wanted.to_date is not None:
        query = query.where(audit_events.c.timestamp <= wanted.to_date)
    return fetch_page(tx, query, audit_events.c.event_id, request)


def to_event(row: sa.Row[Any]) -> AuditEvent:
    return AuditEvent(**row._asdict())
