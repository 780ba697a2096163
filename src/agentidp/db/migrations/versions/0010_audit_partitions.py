"""The history by months, on PostgreSQL: the table that is there becomes the first partition, which is read once for it but not copied.

Revision ID: 0010
Revises: 0009
"""

import datetime as dt

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_ID = sa.String(length=36).with_variant(sa.UUID(as_uuid=False), "postgresql")
_INDEXES = {
    "ix_audit_events_action": ("action",),
    "ix_audit_events_agent": ("agent_id",),
    "ix_audit_events_target": ("target_id",),
    "ix_audit_events_request": ("request_id",),
    "ix_audit_events_failures": (),
    "ix_audit_events_unsealed": (),
}
_WHERE = {"ix_audit_events_failures": "outcome = 'failure'", "ix_audit_events_unsealed": "seq IS NULL"}


def upgrade() -> None:
    if op.get_context().dialect.name != "postgresql":
        return
    begin = dt.datetime.now(dt.UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    end = int((begin + dt.timedelta(days=32)).replace(day=1).timestamp()) * 1000
    end_id = f"{end >> 16:08x}-{end & 0xFFFF:04x}-7000-8000-000000000000"
    old = f"audit_events_until_{begin:%Y_%m}"
    op.rename_table("audit_events", old)
    op.execute(f"ALTER TABLE {old} RENAME CONSTRAINT pk_audit_events TO {old}_pkey")
    op.execute(f"ALTER INDEX uq_audit_events_seq RENAME TO {old}_seq")
    for name in _INDEXES:
        op.execute(f"ALTER INDEX {name} RENAME TO {name.replace('audit_events', old)}")
    _create_table("audit_events", postgresql_partition_by="RANGE (event_id)")
    op.execute("CREATE TABLE audit_events_rest PARTITION OF audit_events DEFAULT")
    op.execute("CREATE UNIQUE INDEX audit_events_rest_seq ON audit_events_rest (organization_id, seq) WHERE seq IS NOT NULL")
    # what a clock that was wrong has left
    op.execute(f"INSERT INTO audit_events_rest SELECT * FROM {old} WHERE event_id >= '{end_id}'")  # noqa: S608 - made of a date
    op.execute(f"DELETE FROM {old} WHERE event_id >= '{end_id}'")  # noqa: S608 - as above
    op.execute(f"ALTER TABLE audit_events ATTACH PARTITION {old} FOR VALUES FROM (MINVALUE) TO ('{end_id}')")


def downgrade() -> None:
    if op.get_context().dialect.name != "postgresql":
        return
    op.execute("ALTER TABLE audit_events NO FORCE ROW LEVEL SECURITY")  # else its owner would copy nothing
    op.rename_table("audit_events", "audit_events_by_month")
    op.execute("ALTER TABLE audit_events_by_month RENAME CONSTRAINT pk_audit_events TO pk_audit_events_by_month")
    for name in _INDEXES:
        op.execute(f"ALTER INDEX {name} RENAME TO {name}_by_month")
    _create_table("audit_events")
    op.create_index("uq_audit_events_seq", "audit_events", ["organization_id", "seq"], unique=True, postgresql_where=sa.text("seq IS NOT NULL"))
    op.execute("INSERT INTO audit_events SELECT * FROM audit_events_by_month")
    op.drop_table("audit_events_by_month")


def _create_table(name: str, **options: str) -> None:
    op.create_table(
        name,
        sa.Column("organization_id", _ID, nullable=False),
        sa.Column("event_id", _ID, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=True),
        sa.Column("agent_id", _ID, nullable=True),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("target_type", sa.String(length=32), nullable=True),
        sa.Column("target_id", sa.String(length=128), nullable=True),
        sa.Column("ip_address", sa.String(length=45), nullable=True),
        sa.Column("user_agent", sa.String(length=256), nullable=True),
        sa.Column("request_id", sa.String(length=128), nullable=True),
        sa.Column("metadata", postgresql.JSONB(), nullable=False),
        sa.Column("timestamp", sa.BigInteger(), nullable=False),
        sa.Column("previous_hash", sa.String(length=64), nullable=True),
        sa.Column("hash", sa.String(length=64), nullable=True),
        sa.CheckConstraint("outcome IN ('success', 'failure')", name=op.f("ck_audit_events_outcome")),
        sa.PrimaryKeyConstraint("organization_id", "event_id", name=op.f("pk_audit_events")),
        **options,
    )
    for index, columns in _INDEXES.items():
        where = sa.text(_WHERE[index]) if index in _WHERE else None
        op.create_index(index, name, ["organization_id", *columns, "event_id"], postgresql_where=where)
