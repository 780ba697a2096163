"""One-time values that were used.

Revision ID: 0011
Revises: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_ID = sa.String(36).with_variant(sa.UUID(as_uuid=False), "postgresql")


def upgrade() -> None:
    op.create_table(
        "one_time_values",
        sa.Column("organization_id", _ID, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "kind", "digest", name="pk_one_time_values"),
    )
    op.create_index("ix_one_time_values_expires_at", "one_time_values", ["expires_at"])


def downgrade() -> None:
    op.drop_table("one_time_values")
