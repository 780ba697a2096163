"""Heads and checkpoints of the audit chains, and the indexes by which events are sealed and followed.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_ID = sa.String(length=36).with_variant(sa.UUID(as_uuid=False), "postgresql")


def upgrade() -> None:
    op.create_table(
        "audit_heads",
        sa.Column("organization_id", _ID, nullable=False),
        sa.Column("start_size", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("head_hash", sa.String(length=64), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("lease_owner", _ID, nullable=True),
        sa.Column("lease_until", sa.BigInteger(), nullable=False),
        sa.Column("checkpoint_size", sa.BigInteger(), nullable=False),
        sa.Column("checkpoint_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("organization_id", name=op.f("pk_audit_heads")),
    )
    op.create_table(
        "audit_checkpoints",
        sa.Column("organization_id", _ID, nullable=False),
        sa.Column("size", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("head_hash", sa.String(length=64), nullable=False),
        sa.Column("signed_at", sa.BigInteger(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "size", name=op.f("pk_audit_checkpoints")),
    )
    op.create_index("ix_audit_checkpoints_signed_at", "audit_checkpoints", ["organization_id", "signed_at"])
    unsealed, sealed = sa.text("seq IS NULL"), sa.text("seq IS NOT NULL")
    op.create_index("ix_audit_events_unsealed", "audit_events", ["organization_id", "event_id"], sqlite_where=unsealed, postgresql_where=unsealed)
    op.create_index("uq_audit_events_seq", "audit_events", ["organization_id", "seq"], unique=True, sqlite_where=sealed, postgresql_where=sealed)


def downgrade() -> None:
    op.drop_index("uq_audit_events_seq", "audit_events")
    op.drop_index("ix_audit_events_unsealed", "audit_events")
    op.drop_table("audit_checkpoints")
    op.drop_table("audit_heads")
