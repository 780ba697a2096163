"""What agents did by day, and an organization by hour. Both begin empty: what was sealed before is in `usage_counters` and in the history only.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_ID = sa.String(36).with_variant(sa.UUID(as_uuid=False), "postgresql")


def upgrade() -> None:
    op.create_table(
        "agent_activity",
        sa.Column("organization_id", _ID, nullable=False),
        sa.Column("agent_id", _ID, nullable=False),
        sa.Column("day", sa.Integer, nullable=False),
        sa.Column("meter", sa.String(32), nullable=False),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.Column("last_seen_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "agent_id", "day", "meter", name="pk_agent_activity"),
    )
    op.create_index("ix_agent_activity_day", "agent_activity", ["day"])
    op.create_table(
        "hourly_tokens",
        sa.Column("organization_id", _ID, nullable=False),
        sa.Column("day", sa.Integer, nullable=False),
        sa.Column("hour", sa.SmallInteger, nullable=False),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "day", "hour", name="pk_hourly_tokens"),
    )
    op.create_index("ix_hourly_tokens_day", "hourly_tokens", ["day"])


def downgrade() -> None:
    op.drop_table("hourly_tokens")
    op.drop_table("agent_activity")
