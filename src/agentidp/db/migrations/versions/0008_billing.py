"""Customers at Stripe, open checkouts, received events, and reported use.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_ID = sa.String(length=36).with_variant(sa.UUID(as_uuid=False), "postgresql")


def upgrade() -> None:
    op.create_table(
        "billing_customers",
        sa.Column("organization_id", _ID, nullable=False),
        sa.Column("customer_id", sa.String(length=128), nullable=False),
        sa.Column("plan_tier", sa.String(length=16), nullable=False),
        sa.Column("subscription_id", sa.String(length=128), nullable=True),
        sa.Column("subscription_status", sa.String(length=32), nullable=True),
        sa.Column("subscribed_at", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("grace_until", sa.BigInteger(), nullable=True),
        sa.Column("looks", sa.Integer(), nullable=False),
        sa.Column("look_applied", sa.Integer(), nullable=False),
        sa.Column("look_at", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("plan_tier IN ('free', 'pro', 'enterprise')", name=op.f("ck_billing_customers_plan_tier")),
        sa.ForeignKeyConstraint(["organization_id"], ["organizations.organization_id"], name=op.f("fk_billing_customers_organization_id")),
        sa.PrimaryKeyConstraint("organization_id", name=op.f("pk_billing_customers")),
        sa.UniqueConstraint("customer_id", name=op.f("uq_billing_customers_customer_id")),
    )
    op.create_index("ix_billing_customers_look_at", "billing_customers", ["look_at"])
    op.create_table(
        "billing_checkouts",
        sa.Column("organization_id", _ID, nullable=False),
        sa.Column("plan_tier", sa.String(length=16), nullable=False),
        sa.Column("session_id", sa.String(length=128), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("is_open", sa.Boolean(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["organization_id"], ["organizations.organization_id"], name=op.f("fk_billing_checkouts_organization_id")),
        sa.PrimaryKeyConstraint("organization_id", "plan_tier", name=op.f("pk_billing_checkouts")),
    )
    op.create_table(
        "billing_events",
        sa.Column("event_id", sa.String(length=128), nullable=False),
        sa.Column("type", sa.String(length=128), nullable=False),
        sa.Column("customer_id", sa.String(length=128), nullable=True),
        sa.Column("livemode", sa.Boolean(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.BigInteger(), nullable=True),
        sa.Column("applied_at", sa.BigInteger(), nullable=True),
        sa.Column("parked_reason", sa.String(length=200), nullable=True),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_billing_events")),
    )
    op.create_index("ix_billing_events_next_attempt_at", "billing_events", ["next_attempt_at"])
    op.create_index("ix_billing_events_received_at", "billing_events", ["received_at"])
    op.create_table(
        "billing_reports",
        sa.Column("organization_id", _ID, nullable=False),
        sa.Column("day", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("meter", sa.String(length=32), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("reported_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["organization_id"], ["organizations.organization_id"], name=op.f("fk_billing_reports_organization_id")),
        sa.PrimaryKeyConstraint("organization_id", "day", "meter", name=op.f("pk_billing_reports")),
    )


def downgrade() -> None:
    op.drop_table("billing_reports")
    op.drop_table("billing_events")
    op.drop_table("billing_checkouts")
    op.drop_table("billing_customers")
