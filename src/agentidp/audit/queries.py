"""Looking events up, always within one organization."""

import contextlib
import sqlite3
from collections.abc import Sequence
from typing import Any, cast

import sqlalchemy as sa

from agentidp.audit.rules import AuditEvent, AuditEventNotFound, AuditFilter, ChainState, Dates
from agentidp.core import limits
from agentidp.core.ids import first_id, is_id
from agentidp.db.paging import PageRequest, RowPage, fetch_page
from agentidp.db.schema import audit_checkpoints, audit_events, audit_heads
from agentidp.db.unit import Tx
from agentidp.ledger.chain import FIRST_PREVIOUS_HASH, ROW

_UNTYPED = {column.name: column for column in audit_events.c} | {
    name: sa.cast(audit_events.c[name], sa.Text) for name in ("organization_id", "event_id", "agent_id", "metadata")
}
# Built once, and read as the driver gives it: a long history is made of many of these.
_LINKS = (
    sa.select(*(_UNTYPED[name].label(name) for name in ROW))
    .where(
        audit_events.c.organization_id == sa.bindparam("organization_id"),
        audit_events.c.seq > sa.bindparam("after"),
        audit_events.c.seq <= sa.bindparam("to_seq"),
    )
    .order_by(audit_events.c.seq)
    .limit(limits.AUDIT_LINKS_MAX)
)
_CHECKPOINTS = (
    sa.select(audit_checkpoints.c.size, audit_checkpoints.c.head_hash, audit_checkpoints.c.signed_at, audit_checkpoints.c.note)
    .where(
        audit_checkpoints.c.organization_id == sa.bindparam("organization_id"),
        audit_checkpoints.c.size >= sa.bindparam("from_size"),
        audit_checkpoints.c.size <= sa.bindparam("to_size"),
    )
    .order_by(audit_checkpoints.c.size)
)


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
        audit_events.c.target_id: wanted.target_id,
        audit_events.c.request_id: wanted.request_id,
    }
    for column, value in equal.items():
        if value is not None:
            query = query.where(column == value)
    if wanted.outcome is not None:  # written into the statement: only then does SQLite see that the index of failures will do
        query = query.where(audit_events.c.outcome == sa.literal(wanted.outcome, literal_execute=True))
    # No index is on `timestamp`: ids are made in its order, nearly, so that every index that ends in an id can be cut to the dates.
    if wanted.from_date is not None:
        first = first_id(max(0, wanted.from_date - limits.AUDIT_ID_MARGIN_MS))
        query = query.where(audit_events.c.timestamp >= wanted.from_date, audit_events.c.event_id >= first)
    if wanted.to_date is not None:
        behind = first_id(wanted.to_date + limits.AUDIT_ID_MARGIN_MS)
        query = query.where(audit_events.c.timestamp <= wanted.to_date, audit_events.c.event_id < behind)
    return fetch_page(tx, query, audit_events.c.event_id, request)


def to_event(row: sa.Row[Any]) -> AuditEvent:
    return AuditEvent(**row._asdict())


def get_chain_state(tx: Tx) -> ChainState:
    """In one statement: PostgreSQL would show two of them two states of a chain that grows."""
    mine = audit_heads.c.organization_id == tx.caller.organization_id
    size = sa.func.coalesce(sa.select(audit_heads.c.size).where(mine).scalar_subquery(), 0)
    behind = sa.select(sa.func.min(audit_events.c.seq)).where(audit_events.c.organization_id == tx.caller.organization_id, audit_events.c.seq > size)
    newest = sa.select(sa.func.max(audit_checkpoints.c.size)).where(audit_checkpoints.c.organization_id == tx.caller.organization_id)
    columns = (audit_heads.c.start_size, audit_heads.c.size, audit_heads.c.head_hash, audit_heads.c.checkpoint_size)
    row = tx.one(sa.select(*(sa.select(column).where(mine).scalar_subquery() for column in columns), newest.scalar_subquery(), behind.scalar_subquery()))
    assert row is not None
    start_size, head_size, head_hash, checkpoint_size, newest_checkpoint, beyond = tuple[Any, ...](row)
    return ChainState(start_size or 0, head_size or 0, head_hash or FIRST_PREVIOUS_HASH, checkpoint_size or 0, newest_checkpoint or 0, beyond)


def list_links(tx: Tx, after: int, to_seq: int) -> tuple[Sequence[tuple[Any, ...]], Sequence[tuple[int, str, int, str]]]:
    """The next sealed events behind number `after`, as `chain.ROW`, and the checkpoints (size, head, instant, note) that lie among them."""
    values = {"organization_id": tx.caller.organization_id, "after": after, "to_seq": to_seq}
    cursor = tx.connection.execute(_LINKS, values).cursor
    assert cursor is not None
    try:
        rows = cursor.fetchall()
    except sqlite3.OperationalError as error:
        if "UTF-8" not in str(error):
            raise
        rows = _before_what_is_no_text(tx, values)
    return rows, list_checkpoints(tx, after, rows[-1][ROW.index("seq")] if rows else after)


def _before_what_is_no_text(tx: Tx, values: dict[str, Any]) -> list[tuple[Any, ...]]:
    """SQLite keeps any bytes as text, and its driver reads none that are not UTF-8: the chain ends before them."""
    cursor, rows = tx.connection.execute(_LINKS, values).cursor, list[tuple[Any, ...]]()
    assert cursor is not None
    with contextlib.suppress(sqlite3.OperationalError):
        while (row := cursor.fetchone()) is not None:
            rows.append(row)
    return rows


def list_checkpoints(tx: Tx, from_size: int, to_size: int) -> Sequence[tuple[int, str, int, str]]:
    """(size, head, instant, note) of the checkpoints of these sizes, both ends among them."""
    values = {"organization_id": tx.caller.organization_id, "from_size": from_size, "to_size": to_size}
    return cast("Sequence[tuple[int, str, int, str]]", tx.connection.execute(_CHECKPOINTS, values).all())


def find_range(tx: Tx, dates: Dates) -> tuple[int, int] | None:
    """The first and the last number of the sealed events of the dates; None where there are none.

    Numbers are given in the order of commits, ids and timestamps are made before: around each end, as many events are looked at as
    processes with different clocks may have put in another order.
    """
    events = audit_events.c
    sealed = sa.select(events.seq).where(events.organization_id == tx.caller.organization_id, events.seq.is_not(None)).limit(limits.AUDIT_RANGE_EDGE_MAX)
    first, last = sealed.order_by(events.event_id), sealed.order_by(events.event_id.desc())
    if dates.from_date is not None:
        first = first.where(events.timestamp >= dates.from_date, events.event_id >= first_id(max(0, dates.from_date - limits.AUDIT_ID_MARGIN_MS)))
    if dates.to_date is not None:
        last = last.where(events.timestamp <= dates.to_date, events.event_id < first_id(dates.to_date + limits.AUDIT_ID_MARGIN_MS))
    from_seq = tx.connection.scalar(sa.select(sa.func.min(first.subquery().c.seq)))
    to_seq = tx.connection.scalar(sa.select(sa.func.max(last.subquery().c.seq)))
    return None if from_seq is None or to_seq is None or from_seq > to_seq else (from_seq, to_seq)
