"""Data keys between the master key and what is sealed.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "data_keys",
        sa.Column("key_id", sa.String(length=8), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("master_key", sa.String(length=256), nullable=False),
        sa.Column("wrapped_key", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("status IN ('current', 'retired')", name=op.f("ck_data_keys_status")),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_data_keys")),
    )
    where = sa.text("status = 'current'")
    op.create_index("uq_data_keys_current", "data_keys", ["status"], unique=True, sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    op.drop_table("data_keys")
