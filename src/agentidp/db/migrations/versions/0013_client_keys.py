"""Public keys as credentials, and one-time values that were used.

Revision ID: 0013
Revises: 0012
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_ID = sa.String(36).with_variant(sa.UUID(as_uuid=False), "postgresql")
_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
_BEFORE, _AFTER = "kind IN ('secret')", "kind IN ('secret', 'public_key')"


def upgrade() -> None:
    _replace_check(_BEFORE, _AFTER)
    op.create_table(
        "credential_keys",
        sa.Column("agent_id", _ID, nullable=False),
        sa.Column("credential_id", _ID, nullable=False),
        sa.Column("organization_id", _ID, nullable=False),
        sa.Column("public_jwk", _JSON),
        sa.Column("jwks_uri", sa.Text),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id", "credential_id"],
            ["credentials.organization_id", "credentials.credential_id"],
            name="fk_credential_keys_organization_id_credential_id",
        ),
        sa.PrimaryKeyConstraint("agent_id", "credential_id", name="pk_credential_keys"),
    )
    op.create_index("ix_credential_keys_credential", "credential_keys", ["organization_id", "credential_id"])
    op.create_table(
        "one_time_values",
        sa.Column("organization_id", _ID, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "kind", "digest", name="pk_one_time_values"),
    )
    op.create_index("ix_one_time_values_expires_at", "one_time_values", ["expires_at"])


def downgrade() -> None:
    op.drop_table("one_time_values")
    op.drop_table("credential_keys")
    if op.get_context().dialect.name == "postgresql":
        op.execute("ALTER TABLE credentials NO FORCE ROW LEVEL SECURITY")  # else its owner would delete nothing
    op.execute("DELETE FROM credentials WHERE kind = 'public_key'")  # what is left of them opens nothing
    _replace_check(_AFTER, _BEFORE)


def _replace_check(old: str, new: str) -> None:
    """On SQLite in the table's text, the way of https://sqlite.org/lang_altertable.html section 7: a copy of the table would take its foreign keys along."""
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
