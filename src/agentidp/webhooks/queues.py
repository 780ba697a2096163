"""What the dispatcher reads and writes: deliveries put down from the history, the lease on a webhook's queue, and what became of each attempt.

Whoever has the lease on a queue is alone at it. A lease that was lost does no harm: a result counts only if the delivery is as it was when it was read.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import sqlalchemy as sa

from agentidp.core import limits
from agentidp.core.ids import new_id
from agentidp.core.secrets import Sealer
from agentidp.db.schema import organizations, webhook_deliveries, webhook_queues, webhook_secrets, webhooks
from agentidp.db.unit import Tx
from agentidp.ledger.following import Place, SealedEvent, advance, document, find_behind, list_sealed
from agentidp.webhooks.actions import disable_webhook, new_delivery
from agentidp.webhooks.queries import to_delivery
from agentidp.webhooks.rules import EVENT_TYPES, FOLLOWER, Attempt, Delivery, DisabledReason, Pace, Result, history_with, secret_text

# a suspended organization's webhooks wait until it is active again
_SERVED = webhook_queues.join(organizations, sa.and_(organizations.c.organization_id == webhook_queues.c.organization_id, organizations.c.status == "active"))


@dataclass(frozen=True, slots=True)
class Wanted:
    """The events from `begin` to `end` of an organization that its webhooks want, each with its body and the webhooks."""

    begin: Place
    end: Place
    events: Sequence[tuple[SealedEvent, str, Sequence[str]]]


@dataclass(slots=True)
class Lane:
    """A webhook's queue in the hands of one process, and how its receiver does."""

    organization_id: str
    webhook_id: str
    lease_owner: str
    lease_until: int
    failures: int = 0
    failing_since: int | None = None
    paused_until: int = 0

    def observe(self, attempt: Attempt, pace: Pace) -> None:
        if attempt.is_success:
            self.failures, self.failing_since, self.paused_until = 0, None, 0
            return
        self.failures += 1
        self.failing_since = self.failing_since or attempt.at
        self.paused_until = attempt.ended_at + pace.receiver_pause(self.failures)


@dataclass(frozen=True, slots=True)
class Receiver:
    """Where deliveries go, and what is due. Without a `url`, because the webhook is not active or deleted, all that waits is to be given up."""

    url: str | None
    secrets: Sequence[str] = ()
    due: Sequence[Delivery] = field(default=())


def collect(tx: Tx) -> tuple[list[Wanted], bool]:
    """What was sealed in some of the organizations that are behind, and whether there may be more. Writes nothing: see `put_down`."""
    places, found, rows = find_behind(tx, FOLLOWER), [], 0
    for place in places:
        events, end = list_sealed(tx, place, EVENT_TYPES)
        hooks = _listening(tx, place.organization_id)  # after the events: whoever was told that a webhook is there misses none that came later
        wanted = []
        for event in events:
            ids = [hook.webhook_id for hook in hooks if event.action in hook.events.split() and event.timestamp >= hook.created_at]
            if event.outcome != "success" or not ids:
                continue
            if rows >= limits.WEBHOOK_FAN_OUT_ROWS:
                end = replace(place, seq=event.seq - 1)
                break
            wanted.append((event, msgspec.json.encode(document(event)).decode(), ids))
            rows += len(ids)
        found.append(Wanted(place, end, wanted))
        if rows >= limits.WEBHOOK_FAN_OUT_ROWS:
            return found, True
    return found, any(one.end.seq - one.begin.seq >= limits.FOLLOWED_EVENTS_MAX for one in found) or len(places) >= limits.FOLLOWED_ORGANIZATIONS_MAX


def put_down(tx: Tx, found: Sequence[Wanted]) -> int:
    """Write the deliveries of what nobody else has put down meanwhile. Returns how many."""
    rows, queues = [], []
    for one in sorted(found, key=lambda one: one.begin.organization_id):
        due_at = advance(tx, FOLLOWER, one.begin, one.end)
        if due_at is None:
            continue
        for event, body, webhook_ids in one.events:
            rows += [new_delivery(event, webhook_id, body, new_id(tx.now), now=tx.now, due_at=due_at) for webhook_id in webhook_ids]
        touched = sorted({webhook_id for _, _, webhook_ids in one.events for webhook_id in webhook_ids})
        queues += [{"of": one.begin.organization_id, "which": webhook_id, "at": due_at} for webhook_id in touched]
    if rows:
        tx.connection.execute(sa.insert(webhook_deliveries), rows)
        put_down_at, queue = sa.bindparam("at", type_=sa.BigInteger), webhook_queues.c
        at = sa.case((queue.paused_until > put_down_at, queue.paused_until), else_=put_down_at)
        sooner = sa.case((queue.due_at < at, queue.due_at), else_=at)
        which = sa.and_(queue.organization_id == sa.bindparam("of"), queue.webhook_id == sa.bindparam("which"))
        tx.connection.execute(sa.update(webhook_queues).where(which).values(due_at=sooner), queues)
    return len(rows)


def is_due(tx: Tx) -> bool:
    """Whether there is a lease to be had; of all organizations."""
    return tx.one(sa.select(webhook_queues.c.webhook_id).select_from(_SERVED).where(*_free(tx)).limit(1)) is not None


def claim(tx: Tx, lease_owner: str, pace: Pace, held: Mapping[str, int], *, healthy: int, failing: int) -> list[Lane]:
    """The leases on up to so many queues in which something is due, those that have waited longest, and of each organization a few.

    `held` says how many lanes the process has already, by organization. `lease_owner` is new each time: a process that finds a webhook free which it has a
    lane for has lost that lane.
    """
    lanes, counts = [], Counter(held)
    for is_failing, count in ((False, healthy), (True, failing)):
        queue = webhook_queues.c
        query = (
            sa.select(webhook_queues)
            .select_from(_SERVED)
            .where(*_free(tx), queue.failures > 0 if is_failing else queue.failures == 0)
            .where(queue.organization_id.not_in([whose for whose, number in counts.items() if number >= limits.WEBHOOK_LANES_EACH_MAX]))
            .order_by(queue.due_at)
            .limit(count)
            .with_for_update(skip_locked=True, of=webhook_queues)
        )
        for row in tx.all(query) if count else ():
            counts[row.organization_id] += 1
            if counts[row.organization_id] > limits.WEBHOOK_LANES_EACH_MAX:
                continue
            lane = Lane(row.organization_id, row.webhook_id, lease_owner, tx.now + pace.lease, row.failures, row.failing_since, row.paused_until)
            which = sa.and_(queue.organization_id == lane.organization_id, queue.webhook_id == lane.webhook_id)
            tx.run(sa.update(webhook_queues).where(which).values(lease_owner=lease_owner, lease_until=lane.lease_until))
            lanes.append(lane)
    return lanes


def keep(tx: Tx, lane: Lane, pace: Pace) -> int | None:
    """Renew the lease. Returns until when, None when it is somebody else's."""
    until = tx.now + pace.lease
    return until if _change(tx, lane, lease_until=until) else None


def release(tx: Tx, lane: Lane) -> None:
    """Give the lease back; the queue is due again when the next attempt is, behind those that wait already, but not while its receiver is left alone."""
    if not _change(tx, lane, lease_until=0):
        return
    # Asked now that the row is held: whoever puts something down waits for this to end, and makes it due.
    of = webhook_deliveries.c
    waiting = sa.and_(of.organization_id == lane.organization_id, of.webhook_id == lane.webhook_id, of.next_attempt_at.is_not(None))
    due_at = tx.connection.scalar(sa.select(sa.func.min(of.next_attempt_at)).where(waiting))
    _change(tx, lane, lease_owner=None, due_at=None if due_at is None else max(due_at, lane.paused_until, tx.now))


def disable(tx: Tx, lane: Lane, reason: DisabledReason) -> None:
    """On behalf of its receiver, if this lane still speaks for it: its owner may have given it another url meanwhile. Raises WebhookNotFound."""
    if _change(tx, lane, due_at=tx.now):
        disable_webhook(tx, lane.webhook_id, reason)


def look(tx: Tx, lane: Lane, sealer: Sealer) -> Receiver:
    """The webhook as it is now, and the next of its deliveries that are due."""
    of, secrets, hook = webhook_deliveries.c, webhook_secrets.c, webhooks.c
    whose = sa.and_(organizations.c.organization_id == hook.organization_id, hook.organization_id == lane.organization_id)
    query = sa.select(hook.url, hook.is_active, organizations.c.status).select_from(webhooks.join(organizations, whose))
    row = tx.one(query.where(hook.webhook_id == lane.webhook_id))
    if row is None or not row.is_active:
        return Receiver(None)
    if row.status != "active":
        return Receiver(row.url)  # suspended while the lane was under way
    signing = sa.select(secrets.secret_id, secrets.sealed_secret).where(
        secrets.organization_id == lane.organization_id,
        secrets.webhook_id == lane.webhook_id,
        sa.or_(secrets.valid_until.is_(None), secrets.valid_until > tx.now),
    )
    place = ("webhook_secrets", "sealed_secret", lane.organization_id, lane.webhook_id)
    opened = [secret_text(sealer.unseal(one.sealed_secret, *place, one.secret_id)) for one in tx.all(signing.order_by(secrets.secret_id.desc()))]
    if not opened:  # deleted between the two statements
        return Receiver(None)
    waiting = sa.and_(of.organization_id == lane.organization_id, of.webhook_id == lane.webhook_id, of.next_attempt_at <= tx.now)
    due = tx.all(sa.select(webhook_deliveries).where(waiting).order_by(of.next_attempt_at, of.seq).limit(limits.WEBHOOK_READ_MAX))
    return Receiver(row.url, opened, [to_delivery(one) for one in due])


def record(tx: Tx, results: Sequence[Result], lanes: Sequence[Lane]) -> list[Lane]:
    """What became of attempts, of many webhooks at once, and how their receivers do. Returns the lanes that have lost their lease."""
    of = webhook_deliveries.c
    as_read = sa.and_(
        of.organization_id == sa.bindparam("of"),
        of.delivery_id == sa.bindparam("which"),
        of.attempts == sa.bindparam("tried"),
        of.next_attempt_at == sa.bindparam("due"),
    )
    rows = [
        {
            "of": result.delivery.organization_id,
            "which": result.delivery.delivery_id,
            "tried": result.delivery.attempts,
            "due": result.delivery.next_attempt_at,
            "status": result.status,
            "attempts": result.delivery.attempts + 1,
            "history": history_with(result.delivery, result.attempt),
            "response_body": result.attempt.response_body,
            "next_attempt_at": result.next_attempt_at,
            "completed_at": tx.now if result.next_attempt_at is None else None,
        }
        for result in results
    ]
    tx.connection.execute(sa.update(webhook_deliveries).where(as_read), rows)
    delivered = {result.delivery.webhook_id for result in results if result.status == "delivered"}
    return _tell(tx, lanes, delivered)


def give_up(tx: Tx, lane: Lane, reason: str) -> int:
    """Some of what waits, without another attempt. Returns how many; call it until there is nothing."""
    of = webhook_deliveries.c
    waiting = sa.and_(of.organization_id == lane.organization_id, of.webhook_id == lane.webhook_id, of.next_attempt_at.is_not(None))
    found = [to_delivery(row) for row in tx.all(sa.select(webhook_deliveries).where(waiting).limit(limits.WEBHOOK_FAN_OUT_ROWS))]
    ended = Attempt(tx.now, 0, error=reason)
    rows = [{"of": one.organization_id, "which": one.delivery_id, "history": history_with(one, ended)} for one in found]
    if rows:
        which = sa.and_(of.organization_id == sa.bindparam("of"), of.delivery_id == sa.bindparam("which"), of.next_attempt_at.is_not(None))
        values = {"status": "dead_letter", "next_attempt_at": None, "completed_at": tx.now}
        tx.connection.execute(sa.update(webhook_deliveries).where(which).values(**values, history=sa.bindparam("history")), rows)
    return len(rows)


def sweep(tx: Tx) -> int:
    """Forget deliveries that ended long ago, and webhooks that were deleted, or their organizations, with theirs, a bounded number. Returns how many."""
    of, hook = webhook_deliveries.c, webhooks.c
    old = sa.select(of.organization_id, of.delivery_id).where(of.completed_at <= tx.now - limits.WEBHOOK_DELIVERIES_KEPT_MS)
    whose = webhooks.join(organizations, organizations.c.organization_id == hook.organization_id)
    is_deleted = organizations.c.status == sa.literal("deleted", literal_execute=True)  # said in the statement, so that their index is of use
    ids = (hook.organization_id, hook.webhook_id)
    before = tx.now - limits.WEBHOOK_LEASE_MS  # whoever knew them still has put down by now what he had for them
    some = sa.select(*ids).select_from(whose).limit(limits.WEBHOOKS_PER_ORGANIZATION_MAX)
    served = organizations.c.status == "active"
    orphaned = [  # nobody gives up what waits for them
        *tx.all(some.where(is_deleted, organizations.c.updated_at <= before)),
        *tx.all(some.where(hook.deleted_at <= before, sa.not_(served))),
    ]
    deleted = tx.all(some.where(hook.deleted_at <= before, served))
    key, ended = sa.tuple_(of.organization_id, of.delivery_id), []
    swept = [tx.run(sa.delete(webhook_deliveries).where(key.in_(old.limit(limits.SWEEP_ROWS_MAX)))).rowcount]
    for row in sorted({*orphaned, *deleted}):  # one by one, by the index
        if sum(swept) >= limits.SWEEP_ROWS_MAX:  # the rest has time: others wait for the writer
            break
        its = sa.and_(of.organization_id == row.organization_id, of.webhook_id == row.webhook_id)
        mine = sa.select(of.organization_id, of.delivery_id).where(its).limit(limits.SWEEP_ROWS_MAX)
        mine = mine if row in orphaned else mine.where(of.next_attempt_at.is_(None))
        swept.append(tx.run(sa.delete(webhook_deliveries).where(key.in_(mine))).rowcount)
        if tx.one(sa.select(of.delivery_id).where(its).limit(1)) is None:
            ended.append((row.organization_id, row.webhook_id))
    for table in (webhooks, webhook_queues, webhook_secrets):
        tx.run(sa.delete(table).where(sa.tuple_(table.c.organization_id, table.c.webhook_id).in_(ended)))
    return sum(swept)


def count_dead_letters(tx: Tx) -> int:
    """Of all organizations: for the operator."""
    of = webhook_deliveries.c
    dead = sa.and_(of.status == "dead_letter", of.status != sa.literal("delivered", literal_execute=True))
    return tx.connection.scalar(sa.select(sa.func.count()).select_from(webhook_deliveries).where(dead)) or 0


def oldest_due(tx: Tx) -> int | None:
    """Since when the queue that has waited longest is due; of all organizations, but only where the receiver does not fail: that would be no fault of ours."""
    queue = webhook_queues.c
    due = sa.select(sa.func.min(queue.due_at)).select_from(_SERVED).where(*_free(tx), queue.failures == 0)
    due_at: int | None = tx.connection.scalar(due)
    return due_at


def _listening(tx: Tx, organization_id: str) -> Sequence[sa.Row[Any]]:
    hook = webhooks.c
    whose = webhooks.join(organizations, organizations.c.organization_id == hook.organization_id)
    query = sa.select(hook.webhook_id, hook.events, hook.created_at).select_from(whose)
    query = query.where(hook.organization_id == organization_id, hook.is_active, organizations.c.status != "deleted")
    return tx.all(query.order_by(hook.webhook_id))


def _free(tx: Tx) -> tuple[sa.ColumnElement[bool], ...]:
    """Due, and nobody's: a lease that ends too late was taken by a clock that is wrong."""
    queue = webhook_queues.c
    return queue.due_at <= tx.now, sa.or_(queue.lease_until <= tx.now, queue.lease_until > tx.now + limits.FOLLOWER_LEASE_BELIEVED_MS)


def _tell(tx: Tx, lanes: Sequence[Lane], delivered: Collection[str]) -> list[Lane]:
    """Write how the receivers do, into the queues that are still ours. Returns the lanes of the others."""
    queue = webhook_queues.c
    ours = sa.and_(queue.organization_id == sa.bindparam("of"), queue.webhook_id == sa.bindparam("which"), queue.lease_owner == sa.bindparam("owner"))
    last = sa.func.coalesce(sa.bindparam("delivered_at", type_=sa.BigInteger), queue.last_delivery_at)
    rows = [
        {
            "of": lane.organization_id,
            "which": lane.webhook_id,
            "owner": lane.lease_owner,
            "failures": lane.failures,
            "failing_since": lane.failing_since,
            "paused_until": lane.paused_until,
            "delivered_at": tx.now if lane.webhook_id in delivered else None,
        }
        for lane in sorted(lanes, key=lambda lane: (lane.organization_id, lane.webhook_id))
    ]
    tx.connection.execute(sa.update(webhook_queues).where(ours).values(last_delivery_at=last), rows)
    which = sa.tuple_(queue.organization_id, queue.webhook_id).in_([(lane.organization_id, lane.webhook_id) for lane in lanes])
    held = {(row.webhook_id, row.lease_owner) for row in tx.all(sa.select(queue.webhook_id, queue.lease_owner).where(which))}
    return [lane for lane in lanes if (lane.webhook_id, lane.lease_owner) not in held]


def _change(tx: Tx, lane: Lane, **columns: object) -> bool:
    """Returns whether the lease is still ours."""
    queue = webhook_queues.c
    ours = sa.and_(queue.organization_id == lane.organization_id, queue.webhook_id == lane.webhook_id, queue.lease_owner == lane.lease_owner)
    return tx.run(sa.update(webhook_queues).where(ours).values(**columns)).rowcount == 1
