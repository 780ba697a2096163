"""Giving unsealed events their place in their organizations' chains: read and hashed in one transaction, written in another.

Between the two another sealer may have been quicker. What decides is the row of the organization's head: its lease says who is at it, and
its `fence` goes up whenever the lease changes hands. A sealer writes only if it finds, in the transaction that writes, the fence and the size
that it hashed on, so a sealer that lost its lease, however late it wakes, changes nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from agentidp.core import limits
from agentidp.core.clock import to_rfc3339
from agentidp.db.schema import audit_events, audit_heads
from agentidp.db.unit import Tx
from agentidp.ledger.activity import Issued, add_tokens
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
WHERE e.organization_id = new.organization_id AND e.event_id = new.event_id AND e.seq IS NULL AND e.event_id BETWEEN $6 AND $7
""",  # the bounds spare the planner the partitions of other months
}
_MOVE = {  # nobody took a lease that was free when the events were read if neither fence nor size has changed
    "sqlite": """
UPDATE audit_heads SET size = new.column4, head_hash = new.column5, fence = fence + (lease_owner IS NOT new.column6),
                       lease_owner = new.column6, lease_until = new.column7
FROM (VALUES {rows}) AS new WHERE organization_id = new.column1 AND fence = new.column2 AND size = new.column3 RETURNING organization_id
""",
    "postgresql": """
UPDATE audit_heads AS h SET size = new.size, head_hash = new.head_hash, fence = h.fence + (h.lease_owner IS DISTINCT FROM new.lease_owner)::int,
                            lease_owner = new.lease_owner, lease_until = new.lease_until
FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::uuid[], $7::bigint[])
  AS new (organization_id, old_fence, old_size, size, head_hash, lease_owner, lease_until)
WHERE h.organization_id = new.organization_id AND h.fence = new.old_fence AND h.size = new.old_size RETURNING CAST(h.organization_id AS text)
""",
}
_ISSUED = frozenset({"token.issued", "token.exchanged"})  # what analytics count as a token of an agent
_NEW_HEAD = {"start_size": 0, "size": 0, "head_hash": FIRST_PREVIOUS_HASH, "fence": 0, "lease_until": 0, "checkpoint_size": 0, "checkpoint_at": 0}


@dataclass(frozen=True, slots=True)
class Links:
    """The next events of one organization's chain, hashed on the head that was read with them."""

    organization_id: str
    fence: int | None  # None: there was no head yet
    size: int  # of the chain before them
    events: Sequence[ChainedEvent]
    issued: Sequence[Issued]  # the tokens among them


@dataclass(frozen=True, slots=True)
class Found:
    """What a look at the unsealed events brought. `after` is where the next look begins, None when this one saw everything."""

    links: Sequence[Links]
    after: str | None
    oldest: int | None  # the instant of the oldest event found


class Overtaken(Exception):
    """Another sealer sealed some of the events that this one was about to seal; nothing was done."""


def find_unsealed(tx: Tx, sealer_id: str, after: str | None = None, *, only: str | None = None, rows_max: int = limits.SEAL_ROWS_MAX) -> Found:
    """The oldest unsealed events, organization by organization from beyond `after`, hashed; those of chains that another sealer holds stay.

    `only`: of this organization, instead. Events are taken in the order of their ids. One that commits later with a smaller id is found later, and gets a later number.
    """
    query = _UNSEALED if only is None else _UNSEALED.replace("e.organization_id > ?2", "e.organization_id = ?2")
    if tx.connection.dialect.name == "postgresql":
        query = query.replace("?", "$")
    values = (sealer_id, only or after or FIRST_ID, tx.now, tx.now + limits.SEAL_LEASE_BELIEVED_MS, rows_max)
    rows = tx.connection.exec_driver_sql(query, values).all()
    by_organization: dict[str, list[Any]] = {}
    for row in rows:
        by_organization.setdefault(row[0], []).append(row)
    links = [_link(organization_id, found) for organization_id, found in by_organization.items()]
    return Found(links, rows[-1][0] if len(rows) == rows_max else None, min((row.timestamp for row in rows), default=None))


def next_unsealed(tx: Tx, after: str) -> str | None:
    """The next organization beyond `after` with unsealed events, whoever holds its chain."""
    event = audit_events.c
    query = sa.select(event.organization_id).where(event.seq.is_(None), event.organization_id > after)
    row = tx.one(query.order_by(event.organization_id).limit(1))
    return None if row is None else str(row.organization_id)


def seal(tx: Tx, sealer_id: str, batch: Sequence[Links]) -> int:
    """Write what was hashed, count its tokens, and take or keep the leases. Returns how many events were sealed: none of chains that moved on meanwhile.

    Raises Overtaken.
    """
    until, moves = tx.now + limits.SEAL_LEASE_MS, []
    for links in batch:
        if links.fence is None:
            tx.insert_new(audit_heads, organization_id=links.organization_id, **_NEW_HEAD)
        last = links.events[-1]
        moves.append((links.organization_id, links.fence or 0, links.size, last.seq, last.hash, sealer_id, until))
    moved = {row[0] for result in _run(tx, _MOVE, moves) for row in result}
    won = [links for links in batch if links.organization_id in moved]
    rows = [(event.organization_id, event.event_id, event.seq, event.previous_hash, event.hash) for links in won for event in links.events]
    ids = [row[1] for row in rows]
    if sum(result.rowcount for result in _run(tx, _SEAL, rows, min(ids, default=""), max(ids, default=""))) != len(rows):
        raise Overtaken
    add_tokens(tx, (token for links in won for token in links.issued))
    return len(rows)


def release(tx: Tx, sealer_id: str) -> None:
    """Give up all leases, so that nobody has to wait for them to run out."""
    tx.run(sa.update(audit_heads).where(audit_heads.c.lease_owner == sealer_id).values(lease_owner=None, lease_until=0))


def _link(organization_id: str, rows: Sequence[Any]) -> Links:
    fence, size, head = rows[0].fence, rows[0].size or 0, rows[0].head_hash or FIRST_PREVIOUS_HASH
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
    issued = [(organization_id, row[2], row.timestamp) for row in rows if row.action in _ISSUED and row[2] is not None]
    return Links(organization_id, fence, size, events, issued)


def _run(tx: Tx, statements: Mapping[str, str], rows: Sequence[tuple[Any, ...]], *bounds: str) -> Iterator[sa.CursorResult[Any]]:
    """The statement for all rows at once on PostgreSQL, which is told the bounds, too; on SQLite for 256, 128, … 1 of them, for the reasons that `ledger.sqlite` has for it."""
    statement, begin = statements[tx.connection.dialect.name], 0
    while begin < len(rows):
        if tx.connection.dialect.name == "postgresql":
            size, values = len(rows), (*(list(column) for column in zip(*rows, strict=True)), *bounds)
        else:
            size = min(1 << (len(rows) - begin).bit_length() - 1, limits.SEAL_ROWS_MAX)
            statement = statements["sqlite"].format(rows=", ".join([f"({', '.join('?' * len(rows[0]))})"] * size))
            values = tuple(value for row in rows[begin : begin + size] for value in row)
        yield tx.connection.exec_driver_sql(statement, values)
        begin += size
