"""The heads of the chains, signed: a checkpoint of every chain that grew, every minute and on request, and all of them kept."""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from agentidp.core import limits
from agentidp.db.schema import audit_checkpoints, audit_events, audit_heads
from agentidp.db.unit import Tx
from agentidp.ledger.chain import FIRST_PREVIOUS_HASH, ROW, event_hash, from_row
from agentidp.ledger.checkpoint import Checkpoint, origin, sign


@dataclass(frozen=True, slots=True)
class AuditKey:
    """What an instance signs checkpoints with: its issuer, and the 32 bytes of the sealed server secret `audit_key`."""

    issuer: str = ""
    seed: bytes = b""


def organizations_to_sign(tx: Tx) -> list[str]:
    """Those whose chain grew since its last checkpoint, which is no longer fresh."""
    head = audit_heads.c
    query = sa.select(head.organization_id).where(head.size > head.checkpoint_size, head.checkpoint_at <= tx.now - limits.CHECKPOINT_FRESH_MS)
    return [row.organization_id for row in tx.all(query.order_by(head.checkpoint_at).limit(limits.CHECKPOINTS_SIGNED_MAX))]


def sign_heads(tx: Tx, key: AuditKey, organization_ids: Sequence[str]) -> list[str]:
    """Sign each organization's head. Returns those whose last event is not the one that was sealed, for the operator's eyes."""
    for organization_id in organization_ids:
        sign_head(tx, key, organization_id)
    return [organization_id for organization_id in organization_ids if not _is_last_event_intact(tx, organization_id)]


def sign_head(tx: Tx, key: AuditKey, organization_id: str) -> str:
    """A checkpoint of everything that is sealed so far, as a signed note: the last one if nothing happened since."""
    head = tx.one(sa.select(audit_heads).where(audit_heads.c.organization_id == organization_id).with_for_update())
    size, head_hash = (head.size, head.head_hash) if head else (0, FIRST_PREVIOUS_HASH)
    kept = sa.select(audit_checkpoints.c.note).where(audit_checkpoints.c.organization_id == organization_id, audit_checkpoints.c.size == size)
    last = tx.one(kept)
    note = str(last.note) if last else sign(Checkpoint(origin(key.issuer, organization_id), size, head_hash, tx.now), key.seed)
    if last is None and size:  # an empty chain has nothing to keep
        tx.run(sa.insert(audit_checkpoints).values(organization_id=organization_id, size=size, head_hash=head_hash, signed_at=tx.now, note=note))
    if head and head.checkpoint_size != size:
        tx.run(sa.update(audit_heads).where(audit_heads.c.organization_id == organization_id).values(checkpoint_size=size, checkpoint_at=tx.now))
    return note


def _is_last_event_intact(tx: Tx, organization_id: str) -> bool:
    columns = {column.name: column for column in audit_events.c} | {"metadata": sa.cast(audit_events.c.metadata, sa.Text)}
    query = (
        sa.select(*(columns[name].label(name) for name in ROW), audit_heads.c.head_hash)
        .select_from(
            audit_heads.outerjoin(
                audit_events, sa.and_(audit_events.c.organization_id == audit_heads.c.organization_id, audit_events.c.seq == audit_heads.c.size)
            )
        )
        .where(audit_heads.c.organization_id == organization_id)
    )
    row = tx.one(query)
    return row is not None and row.event_id is not None and hmac.compare_digest(event_hash(from_row(tuple(row)[: len(ROW)])), row.head_hash)
