"""Giving unsealed events their place in their organizations' chains: read and hashed in one transaction, written in another.

Between the two another sealer may have been quicker. What decides is the row of the organization's head: its lease says who is at it, and
its `fence` goes up whenever the lease changes hands. A sealer writes only if it finds, under the row's lock, the fence and the size that it
hashed on, so a sealer that lost its lease, however late it wakes, changes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from agentidp.core import limits
from agentidp.core.clock import to_rfc3339
from agentidp.db.schema import audit_heads
from agentidp.db.unit import Tx
from agentidp.ledger.chain import FIRST_PREVIOUS_HASH, ChainedEvent, decode_metadata, event_hash

FIRST_ID = "00000000-0000-0000-0000-000000000000"  # before every id

# As text, because building and compiling an expression would cost more than the rows of a small batch. A chain is passed over while another
# sealer holds it, unless its lease ends in a future that only a wrong clock can have meant. ?1 sealer, ?2 after, ?3 now, ?4 believed, ?5 rows
_UNSEALED = """
SELECT CAST(e.organization_id AS text), CAST(e.event_id AS text), CAST(e.agent_id AS text), e.action, e.outcome, e.target_type, e.target_id,
       e.ip_address, e.user_agent, e.request_id, CAST(e.metadata AS text), e.timestamp, h.fence, h.size, h.head_hash
FROM audit_events AS e LEFT JOIN audit_heads AS h ON h.organization_id = e.organization_id
WHERE e.seq IS NULL AND e.organization_id > ?2
  AND (h.lease_owner IS NULL OR h.lease_owner = ?1 OR h.lease_until <= ?3 OR h.lease_until > ?4)
ORDER BY e.organization_id, e.event_id LIMIT ?5
"""
_SEAL = {  # on SQLite the driver counts changed rows only if the statement begins with UPDATE: so no WITH
    "sqlite": """
UPDATE audit_events SET seq = new.column3, previous_hash = new.column4, hash = new.column5 FROM (VALUES {rows}) AS new
WHERE organization_id = new.column1 AND event_id = new.column2 AND seq IS NULL
""",
    "postgresql": """
UPDATE audit_events AS e SET seq = new.seq, previous_hash = new.previous_hash, hash = new.hash
FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::text[], $5::text[]) AS new (organization_id, event_id, seq, previous_hash, hash)
WHERE e.organization_id = new.organization_id AND e.event_id = new.event_id AND e.seq IS NULL
""",
}
_MOVE = {
    "sqlite": """
UPDATE audit_heads SET size = new.column2, head_hash = new.column3, fence = new.column4, lease_owner = new.column5, lease_until = new.column6
FROM (VALUES {rows}) AS new WHERE organization_id = new.column1
""",
    "postgresql": """
UPDATE audit_heads AS h SET size = new.size, head_hash = new.head_hash, fence = new.fence, lease_owner = new.lease_owner, lease_until = new.lease_until
FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::bigint[], $5::uuid[], $6::bigint[])
  AS new (organization_id, size, head_hash, fence, lease_owner, lease_until)
WHERE h.organization_id = new.organization_id
""",
}
_NEW_HEAD = {"start_size": 0, "size": 0, "head_hash": FIRST_PREVIOUS_HASH, "fence": 0, "lease_until": 0, "checkpoint_size": 0, "checkpoint_at": 0}


@dataclass(frozen=True, slots=True)
class Links:
    """The next events of one organization's chain, hashed on the head that was read with them."""

    organization_id: str
    fence: int
    size: int  # of the chain before them
    events: Sequence[ChainedEvent]


@dataclass(frozen=True, slots=True)
class Found:
    """What a look at the unsealed events brought. `after` is where the next look begins, None when this one saw everything."""

    links: Sequence[Links]
    after: str | None
    oldest: int | None  # the instant of the oldest event found


class Overtaken(Exception):
    """Another sealer sealed some of the events that this one was about to seal; nothing was done."""


def find_unsealed(tx: Tx, sealer_id: str, after: str | None = None, *, rows_max: int = limits.SEAL_ROWS_MAX) -> Found:
    """The oldest unsealed events, organization by organization from beyond `after`, hashed; those of chains that another sealer holds stay.

    Events are taken in the order of their ids. One that commits later with a smaller id is found later, and gets a later number.
    """
    query = _UNSEALED if tx.connection.dialect.name == "sqlite" else _UNSEALED.replace("?", "$")
    values = (sealer_id, after or FIRST_ID, tx.now, tx.now + limits.SEAL_LEASE_BELIEVED_MS, rows_max)
    rows = tx.connection.exec_driver_sql(query, values).all()
    by_organization: dict[str, list[Any]] = {}
    for row in rows:
        by_organization.setdefault(row[0], []).append(row)
    links = [_link(organization_id, found) for organization_id, found in by_organization.items()]
    return Found(links, rows[-1][0] if len(rows) == rows_max else None, min((row.timestamp for row in rows), default=None))


def seal(tx: Tx, sealer_id: str, batch: Sequence[Links]) -> int:
    """Write what was hashed, and take or keep the leases. Returns how many events were sealed: none of chains that moved on meanwhile.

    Raises Overtaken.
    """
    heads = _lock_heads(tx, [links.organization_id for links in batch])
    won = [links for links in batch if _is_unchanged(heads.get(links.organization_id), links) and not _is_held(heads[links.organization_id], sealer_id, tx.now)]
    if not won:
        return 0
    until = tx.now + limits.SEAL_LEASE_MS
    moves = []
    for links in won:
        last, is_ours = links.events[-1], heads[links.organization_id].lease_owner == sealer_id
        moves.append((links.organization_id, last.seq, last.hash, links.fence if is_ours else links.fence + 1, sealer_id, until))
    _update(tx, _MOVE, moves)
    rows = [(event.organization_id, event.event_id, event.seq, event.previous_hash, event.hash) for links in won for event in links.events]
    if _update(tx, _SEAL, rows) != len(rows):
        raise Overtaken
    return len(rows)


def release(tx: Tx, sealer_id: str) -> None:
    """Give up all leases, so that nobody has to wait for them to run out."""
    tx.run(sa.update(audit_heads).where(audit_heads.c.lease_owner == sealer_id).values(lease_owner=None, lease_until=0))


def _link(organization_id: str, rows: Sequence[Any]) -> Links:
    fence, size, head = rows[0].fence or 0, rows[0].size or 0, rows[0].head_hash or FIRST_PREVIOUS_HASH
    events = []
    for seq, row in enumerate(rows, size + 1):
        _, event_id, agent_id, action, outcome, target_type, target_id, ip_address, user_agent, request_id, metadata, timestamp, *_ = row
        event = ChainedEvent(
            action=action,
            agent_id=agent_id,
            event_id=event_id,
            ip_address=ip_address,
            metadata=decode_metadata(metadata),
            organization_id=organization_id,
            outcome=outcome,
            previous_hash=head,
            request_id=request_id,
            seq=seq,
            target_id=target_id,
            target_type=target_type,
            timestamp=to_rfc3339(timestamp),
            user_agent=user_agent,
        )
        event.hash = head = event_hash(event)
        events.append(event)
    return Links(organization_id, fence, size, events)


def _update(tx: Tx, statements: Mapping[str, str], rows: Sequence[tuple[Any, ...]]) -> int:
    """Change as many rows as there are; returns how many it found.

    One statement on PostgreSQL; on SQLite one for 256, 128, … 1 rows, for the reasons that `ledger.sqlite` has for it.
    """
    statement, begin, found = statements[tx.connection.dialect.name], 0, 0
    if tx.connection.dialect.name == "postgresql":
        return tx.connection.exec_driver_sql(statement, tuple(list(column) for column in zip(*rows, strict=True))).rowcount
    row = f"({', '.join('?' * len(rows[0]))})"
    while begin < len(rows):
        size = min(1 << (len(rows) - begin).bit_length() - 1, limits.SEAL_ROWS_MAX)
        values = tuple(value for row in rows[begin : begin + size] for value in row)
        found += tx.connection.exec_driver_sql(statement.format(rows=", ".join([row] * size)), values).rowcount
        begin += size
    return found


def _lock_heads(tx: Tx, organization_ids: Sequence[str]) -> dict[str, sa.Row[Any]]:
    """The heads, made where there are none; without those that another sealer is writing at this moment."""
    wanted = sa.select(audit_heads).where(audit_heads.c.organization_id.in_(organization_ids)).with_for_update(skip_locked=True)
    heads = {row.organization_id: row for row in tx.all(wanted)}
    made = [one for one in organization_ids if one not in heads and tx.insert_new(audit_heads, organization_id=one, **_NEW_HEAD)]
    return {row.organization_id: row for row in tx.all(wanted)} if made else heads


def _is_unchanged(head: sa.Row[Any] | None, links: Links) -> bool:
    return head is not None and (head.fence, head.size) == (links.fence, links.size)


def _is_held(head: sa.Row[Any], sealer_id: str, now: int) -> bool:
    return head.lease_owner not in {None, sealer_id} and now < head.lease_until <= now + limits.SEAL_LEASE_BELIEVED_MS
