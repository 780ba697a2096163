"""When an organization's plan last changed: nothing of its history is forgotten for a while after that.

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("organizations", sa.Column("plan_changed_at", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("organizations", "plan_changed_at")
