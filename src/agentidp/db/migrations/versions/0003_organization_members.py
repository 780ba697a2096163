"""Which agents administer their organization.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "organization_members",
        sa.Column("organization_id", sa.String(length=36).with_variant(sa.UUID(as_uuid=False), "postgresql"), nullable=False),
        sa.Column("agent_id", sa.String(length=36).with_variant(sa.UUID(as_uuid=False), "postgresql"), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id", "agent_id"], ["agents.organization_id", "agents.agent_id"], name=op.f("fk_organization_members_organization_id_agent_id")
        ),
        sa.ForeignKeyConstraint(["organization_id"], ["organizations.organization_id"], name=op.f("fk_organization_members_organization_id")),
        sa.CheckConstraint("role IN ('member', 'admin')", name=op.f("ck_organization_members_role")),
        sa.PrimaryKeyConstraint("organization_id", "agent_id", name=op.f("pk_organization_members")),
    )


def downgrade() -> None:
    op.drop_table("organization_members")
