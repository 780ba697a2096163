"""Trust policies, and the credentials that stand for them.

Revision ID: 0012
Revises: 0011
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_ID = sa.String(36).with_variant(sa.UUID(as_uuid=False), "postgresql")
_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
_KINDS = "kind IN ('secret')"
_KINDS_NOW = "kind IN ('secret', 'policy')"


def upgrade() -> None:
    _allow_kinds(_KINDS_NOW)
    op.create_table(
        "trust_policies",
        sa.Column("organization_id", _ID, nullable=False),
        sa.Column("policy_id", _ID, nullable=False),
        sa.Column("provider", sa.String(16), nullable=False),
        sa.Column("issuer", sa.Text, nullable=False),
        sa.Column("audience", sa.Text, nullable=False),
        sa.Column("repository", sa.String(256), nullable=True),
        sa.Column("branch", sa.String(256), nullable=True),
        sa.Column("conditions", _JSON, nullable=False),
        sa.Column("agent_id", _ID, nullable=True),
        sa.Column("scopes", sa.Text, nullable=True),
        sa.Column("repository_id", sa.String(20), nullable=True),
        sa.Column("repository_owner_id", sa.String(20), nullable=True),
        sa.Column("credential_id", _ID, nullable=True),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.CheckConstraint("provider IN ('github', 'gitlab', 'kubernetes', 'oidc')", name=op.f("ck_trust_policies_provider")),
        sa.ForeignKeyConstraint(["organization_id"], ["organizations.organization_id"], name=op.f("fk_trust_policies_organization_id")),
        sa.ForeignKeyConstraint(
            ["organization_id", "credential_id"],
            ["credentials.organization_id", "credentials.credential_id"],
            name=op.f("fk_trust_policies_organization_id_credential_id"),
        ),
        sa.PrimaryKeyConstraint("organization_id", "policy_id", name=op.f("pk_trust_policies")),
    )


def downgrade() -> None:
    op.drop_table("trust_policies")
    op.execute("UPDATE credentials SET kind = 'secret' WHERE kind = 'policy'")  # without a secret it is good for nothing
    _allow_kinds(_KINDS)


def _allow_kinds(condition: str) -> None:
    with op.batch_alter_table("credentials") as batch:
        batch.drop_constraint(op.f("ck_credentials_kind"), type_="check")
        batch.create_check_constraint(op.f("ck_credentials_kind"), condition)
