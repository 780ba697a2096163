"""Passing events on: the sealed history is the outbox. Whoever passes it on keeps, for each organization, the number of the last event it has seen to.

Events are there from the transaction of the act on, in order and without a gap, so nothing has to be written a second time, and no act waits for those
who follow. A follower moves on in the transaction in which it does, or puts down, what has to be done about the events: after a kill it goes on there.
"""

import asyncio
import contextlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from agentidp.core import limits
from agentidp.core.clock import to_rfc3339
from agentidp.db.schema import audit_events, audit_followers, audit_heads, follower_leases, organizations
from agentidp.db.unit import Tx


@dataclass(frozen=True, slots=True)
class Place:
    """Where a follower has come to in the history of an organization."""

    organization_id: str
    seq: int


@dataclass(frozen=True, slots=True)
class SealedEvent:
    """An event of the history, as far as it is told to others. `timestamp` in milliseconds."""

    organization_id: str
    event_id: str
    seq: int
    agent_id: str | None
    action: str
    outcome: str
    target_type: str | None
    target_id: str | None
    request_id: str | None
    metadata: dict[str, Any]
    timestamp: int


class Sealed:
    """Tells those who wait in this process that something was sealed. Belongs to one event loop."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def tell(self) -> None:
        self._next.set()
        self._next = asyncio.Event()

    def next(self) -> asyncio.Event:
        """Is set when something is sealed. Ask for it before you look: then nothing is missed in between."""
        return self._next


async def wait_for(event: asyncio.Event, seconds: float) -> None:
    """Until the event is set, or that long: another process may have sealed something, and tells nobody."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):  # `wait_for` of Python 3.11 forgets that it was cancelled when the event is set at that moment
            await event.wait()


def document(event: SealedEvent) -> dict[str, Any]:
    """What is told of an event, the same to webhooks, to streams, and to whoever looks it up. `seq` has no gaps: receivers can put events in order by it."""
    data = {
        "seq": event.seq,
        "agentId": event.agent_id,
        "outcome": event.outcome,
        "targetType": event.target_type,
        "targetId": event.target_id,
        "requestId": event.request_id,
        "metadata": event.metadata,
    }
    return {
        "id": event.event_id,
        "type": event.action,
        "timestamp": to_rfc3339(event.timestamp),
        "organizationId": event.organization_id,
        "data": data,
    }


def follow(tx: Tx, follower: str) -> None:
    """Begin to follow the caller's organization, with what is sealed from now on. Nothing if it is followed already."""
    head = sa.select(audit_heads.c.size).where(audit_heads.c.organization_id == tx.caller.organization_id)
    seq = tx.connection.scalar(head) or 0
    tx.insert_new(audit_followers, organization_id=tx.caller.organization_id, follower=follower, seq=seq, moved_at=tx.now)


def unfollow(tx: Tx, follower: str) -> None:
    """Stop following the caller's organization."""
    mine = sa.and_(audit_followers.c.organization_id == tx.caller.organization_id, audit_followers.c.follower == follower)
    tx.run(sa.delete(audit_followers).where(mine))


def find_behind(tx: Tx, follower: str) -> list[Place]:
    """Organizations whose history has gone on since the follower was there, a bounded number; those of earlier places first."""
    of, head = audit_followers.c, audit_heads.c
    query = (
        sa.select(of.organization_id, of.seq)
        .select_from(audit_followers.join(audit_heads, head.organization_id == of.organization_id))
        .where(of.follower == follower, of.seq < head.size)
        .order_by(of.moved_at, of.organization_id)
        .limit(limits.FOLLOWED_ORGANIZATIONS_MAX)
    )
    return [Place(row.organization_id, row.seq) for row in tx.all(query)]


def list_sealed(tx: Tx, place: Place, actions: Collection[str] | None = None) -> tuple[Sequence[SealedEvent], Place]:
    """The next events beyond the place, only those of `actions` if given, and the place behind what was looked at: the same one at the end."""
    event = audit_events.c
    size = tx.connection.scalar(sa.select(audit_heads.c.size).where(audit_heads.c.organization_id == place.organization_id)) or 0
    end = min(place.seq + limits.FOLLOWED_EVENTS_MAX, max(size, place.seq))
    names = [name for name in SealedEvent.__dataclass_fields__ if name != "metadata"]
    query = (
        sa.select(*(event[name] for name in names), event["metadata"])
        .where(event.organization_id == place.organization_id, event.seq > place.seq, event.seq <= end)
        .order_by(event.seq)
    )
    if actions is not None:
        query = query.where(event.action.in_(sorted(actions)))
    return [SealedEvent(**row._asdict()) for row in tx.all(query)], Place(place.organization_id, end)


def advance(tx: Tx, follower: str, begin: Place, end: Place) -> int | None:
    """Move on, unless another process has; holds the place until the transaction ends. Returns when that was: never earlier than the move before, by clocks that are about right.

    Call it before anything else is written about the events: of two processes one is told None, and must not write.
    """
    of = audit_followers.c
    mine = sa.and_(of.organization_id == begin.organization_id, of.follower == follower, of.seq == begin.seq)
    is_later = sa.and_(of.moved_at > tx.now, of.moved_at <= tx.now + limits.FOLLOWER_LEASE_BELIEVED_MS)  # beyond that, a clock was wrong
    moved_at = sa.case((is_later, of.moved_at), else_=tx.now)
    row = tx.run(sa.update(audit_followers).where(mine).values(seq=end.seq, moved_at=moved_at).returning(of.moved_at)).first()
    return None if row is None else int(row.moved_at)


def list_sizes(tx: Tx, organization_ids: Collection[str]) -> dict[str, int]:
    """How many events of each organization are sealed; those that have none are left out."""
    head = audit_heads.c
    return {row.organization_id: row.size for row in tx.all(sa.select(head.organization_id, head.size).where(head.organization_id.in_(organization_ids)))}


def take_up(tx: Tx, follower: str) -> None:
    """Follow every organization that the follower does not follow yet. Only whoever holds its lease may call it.

    The first time, with what is sealed from now on. Later those that are missing are new, and are followed from their first event.
    """
    of, head = audit_followers.c, audit_heads.c
    has_begun = tx.one(sa.select(of.seq).where(of.follower == follower).limit(1)) is not None
    places = (
        sa.select(organizations.c.organization_id, sa.literal(follower), sa.literal(0) if has_begun else sa.func.coalesce(head.size, 0), sa.literal(tx.now))
        .select_from(
            organizations.outerjoin(audit_heads, head.organization_id == organizations.c.organization_id).outerjoin(
                audit_followers, sa.and_(of.organization_id == organizations.c.organization_id, of.follower == follower)
            )
        )
        .where(of.seq.is_(None))
    )
    tx.run(sa.insert(audit_followers).from_select([of.organization_id, of.follower, of.seq, of.moved_at], places))


def lead(tx: Tx, follower: str, holder: str) -> bool:
    """Whether this holder is the one of all processes who follows, until the lease ends; taken if it is free. It spares work: what is right, `advance` decides."""
    lease, until = follower_leases.c, tx.now + limits.FOLLOWER_LEASE_MS
    if tx.insert_new(follower_leases, follower=follower, holder=holder, until=until):
        return True
    is_free = sa.or_(lease.holder == holder, lease.until <= tx.now, lease.until > tx.now + limits.FOLLOWER_LEASE_BELIEVED_MS)
    return tx.run(sa.update(follower_leases).where(lease.follower == follower, is_free).values(holder=holder, until=until)).rowcount == 1


def give_up(tx: Tx, follower: str, holder: str) -> None:
    """Leave the lease to whoever comes next."""
    tx.run(sa.delete(follower_leases).where(follower_leases.c.follower == follower, follower_leases.c.holder == holder))
