"""Deleted organizations are found without a look at the others.

Revision ID: 0016
Revises: 0015
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_DELETED = sa.text("status = 'deleted'")


def upgrade() -> None:
    op.create_index("ix_organizations_deleted", "organizations", ["organization_id"], sqlite_where=_DELETED, postgresql_where=_DELETED)


def downgrade() -> None:
    op.drop_index("ix_organizations_deleted", "organizations")
