"""Which process follows, where one does so for all.

Revision ID: 0012
Revises: 0011
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_ID = sa.String(length=36).with_variant(sa.UUID(as_uuid=False), "postgresql")


def upgrade() -> None:
    op.create_table(
        "follower_leases",
        sa.Column("follower", sa.String(length=16), nullable=False),
        sa.Column("holder", _ID, nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("follower", name=op.f("pk_follower_leases")),
    )


def downgrade() -> None:
    op.drop_table("follower_leases")
