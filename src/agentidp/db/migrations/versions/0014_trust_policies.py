"""Trust policies, and the credentials that stand for them.

Revision ID: 0014
Revises: 0013
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_ID = sa.String(36).with_variant(sa.UUID(as_uuid=False), "postgresql")
_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
_BEFORE = "kind IN ('secret', 'public_key')"
_AFTER = "kind IN ('secret', 'public_key', 'policy')"


def upgrade() -> None:
    _replace_check(_BEFORE, _AFTER)
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
    if op.get_context().dialect.name == "postgresql":
        op.execute("ALTER TABLE credentials NO FORCE ROW LEVEL SECURITY")  # else its owner would delete nothing
    op.execute("DELETE FROM credentials WHERE kind = 'policy'")  # what is left of them opens nothing
    _replace_check(_AFTER, _BEFORE)


def _replace_check(old: str, new: str) -> None:
    """As in 0013."""
    if op.get_context().dialect.name == "postgresql":
        op.drop_constraint(op.f("ck_credentials_kind"), "credentials", type_="check")
        op.create_check_constraint(op.f("ck_credentials_kind"), "credentials", new)
        return
    connection = op.get_bind()
    version = connection.exec_driver_sql("PRAGMA schema_version").scalar_one()
    connection.exec_driver_sql("PRAGMA writable_schema=ON")
    connection.exec_driver_sql("UPDATE sqlite_schema SET sql = replace(sql, ?, ?) WHERE name = 'credentials'", (old, new))
    connection.exec_driver_sql(f"PRAGMA schema_version={version + 1}")
    connection.exec_driver_sql("PRAGMA writable_schema=OFF")
