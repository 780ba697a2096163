"""An index of the audit events that are failures, so that they are found among many others.

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    failures = sa.text("outcome = 'failure'")
    op.create_index("ix_audit_events_failures", "audit_events", ["organization_id", "event_id"], sqlite_where=failures, postgresql_where=failures)


def downgrade() -> None:
    op.drop_index("ix_audit_events_failures", "audit_events")
