"""Partners of an organization.

Revision ID: 0015
Revises: 0014
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_ID = sa.String(36).with_variant(sa.UUID(as_uuid=False), "postgresql")
_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "federation_partners",
        sa.Column("organization_id", _ID, nullable=False),
        sa.Column("partner_id", _ID, nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("issuer", sa.Text, nullable=False),
        sa.Column("jwks_uri", sa.Text, nullable=False),
        sa.Column("allowed_organizations", _JSON, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=True),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.CheckConstraint("status IN ('active', 'suspended')", name=op.f("ck_federation_partners_status")),
        sa.ForeignKeyConstraint(["organization_id"], ["organizations.organization_id"], name=op.f("fk_federation_partners_organization_id")),
        sa.PrimaryKeyConstraint("organization_id", "partner_id", name=op.f("pk_federation_partners")),
        sa.UniqueConstraint("organization_id", "issuer", name=op.f("uq_federation_partners_organization_id_issuer")),
    )


def downgrade() -> None:
    op.drop_table("federation_partners")
