"""Every table of the product on one page, each with its owner: anyone may read a table, only its owner's slice writes it.

Conventions: instants are milliseconds since the epoch (BIGINT); ids are UUIDv7 in lower case; primary keys begin with the
organization, so that the tables can be distributed by it; `revision` counts the changes of a row. Sets of words (scopes,
capabilities) are stored as OAuth stores them: sorted, separated by one space.
"""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Id = sa.String(36).with_variant(postgresql.UUID(as_uuid=False), "postgresql")
Json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
Instant = sa.BigInteger


def _organization_key() -> sa.Column[str]:
    return sa.Column("organization_id", Id, sa.ForeignKey("organizations.organization_id"), primary_key=True)


# owner: bootstrap. One row once the instance has been set up: its primary key makes a second set-up impossible.
# Tokens issued before `tokens_not_before`, a whole second, are dead: it is raised when a backup has been restored.
instance = sa.Table(
    "instance",
    metadata,
    sa.Column("singleton", sa.SmallInteger, sa.CheckConstraint("singleton = 1", name="one_row"), primary_key=True, autoincrement=False),
    sa.Column("operator_organization_id", Id, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("tokens_not_before", Instant),
)

# owner: auth. The keys under which every `sealed_…` column is sealed, each wrapped by the master key that `master_key` names.
# New values are sealed under the one that is current; retired ones stay for what is still sealed under them.
data_keys = sa.Table(
    "data_keys",
    metadata,
    sa.Column("key_id", sa.String(8), primary_key=True),
    sa.Column("status", sa.String(16), sa.CheckConstraint("status IN ('current', 'retired')", name="status"), nullable=False),
    sa.Column("master_key", sa.String(256), nullable=False),
    sa.Column("wrapped_key", sa.Text, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    # processes that start at once share one
    sa.Index("uq_data_keys_current", "status", unique=True, sqlite_where=sa.text("status = 'current'"), postgresql_where=sa.text("status = 'current'")),
)

# owner: auth. Server-side secrets by name.
server_secrets = sa.Table(
    "server_secrets",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("sealed_value", sa.Text, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
)

# owner: auth. Every key that signs or signed; `published_until` is set when a key stops signing.
signing_keys = sa.Table(
    "signing_keys",
    metadata,
    sa.Column("key_id", sa.String(64), primary_key=True),
    sa.Column("algorithm", sa.String(16), nullable=False),
    sa.Column("status", sa.String(16), sa.CheckConstraint("status IN ('next', 'current', 'retired')", name="status"), nullable=False),
    sa.Column("public_jwk", Json, nullable=False),
    sa.Column("sealed_private_key", sa.Text, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("activated_at", Instant),
    sa.Column("published_until", Instant),
    # at most one key is next and one is current, whatever two processes do at once
    sa.Index("uq_signing_keys_next", "status", unique=True, sqlite_where=sa.text("status = 'next'"), postgresql_where=sa.text("status = 'next'")),
    sa.Index("uq_signing_keys_current", "status", unique=True, sqlite_where=sa.text("status = 'current'"), postgresql_where=sa.text("status = 'current'")),
)

# owner: organizations. The tenants.
organizations = sa.Table(
    "organizations",
    metadata,
    sa.Column("organization_id", Id, primary_key=True),
    sa.Column("name", sa.String(100), nullable=False),
    sa.Column("slug", sa.String(50), nullable=False, unique=True),
    sa.Column("plan_tier", sa.String(16), sa.CheckConstraint("plan_tier IN ('free', 'pro', 'enterprise')", name="plan_tier"), nullable=False),
    sa.Column("status", sa.String(16), sa.CheckConstraint("status IN ('active', 'suspended', 'deleted')", name="status"), nullable=False),
    sa.Column("max_agents", sa.Integer),
    sa.Column("max_tokens_per_day", sa.Integer),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("updated_at", Instant, nullable=False),
    sa.Column("plan_changed_at", Instant),  # null: it is on the plan that it began with
    sa.Index("ix_organizations_deleted", "organization_id", sqlite_where=sa.text("status = 'deleted'"), postgresql_where=sa.text("status = 'deleted'")),
)

# owner: agents. `token_epoch` goes up when everything issued so far dies; tokens carry the epoch they were issued in.
agents = sa.Table(
    "agents",
    metadata,
    _organization_key(),
    sa.Column("agent_id", Id, primary_key=True),
    sa.Column("email", sa.String(254), nullable=False),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("description", sa.String(1024), nullable=False),
    sa.Column("agent_type", sa.String(16), nullable=False),
    sa.Column("version", sa.String(64), nullable=False),
    sa.Column("capabilities", sa.Text, nullable=False),
    sa.Column("owner", sa.String(128), nullable=False),
    sa.Column("deployment_env", sa.String(16), nullable=False),
    sa.Column("scopes", sa.Text, nullable=False),
    sa.Column("is_public", sa.Boolean(create_constraint=False), nullable=False),
    sa.Column("status", sa.String(16), sa.CheckConstraint("status IN ('active', 'suspended', 'decommissioned')", name="status"), nullable=False),
    sa.Column("expires_at", Instant),
    sa.Column("token_epoch", sa.Integer, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("updated_at", Instant, nullable=False),
    sa.UniqueConstraint("organization_id", "email"),
)

# owner: organizations. Which of its own agents administer an organization, or are merely listed as members.
organization_members = sa.Table(
    "organization_members",
    metadata,
    _organization_key(),
    sa.Column("agent_id", Id, primary_key=True),
    sa.Column("role", sa.String(16), sa.CheckConstraint("role IN ('member', 'admin')", name="role"), nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.ForeignKeyConstraint(["organization_id", "agent_id"], ["agents.organization_id", "agents.agent_id"]),
)

# owner: credentials. What an agent proves itself with; the secret itself lives in `credential_secrets`, the public key in `credential_keys`, a policy in
# `trust_policies`.
credentials = sa.Table(
    "credentials",
    metadata,
    _organization_key(),
    sa.Column("credential_id", Id, primary_key=True),
    sa.Column("agent_id", Id, nullable=False),
    sa.Column("kind", sa.String(16), sa.CheckConstraint("kind IN ('secret', 'public_key', 'policy')", name="kind"), nullable=False),
    sa.Column("hint", sa.String(64), nullable=False),
    sa.Column("expires_at", Instant),
    sa.Column("revoked_at", Instant),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.ForeignKeyConstraint(["organization_id", "agent_id"], ["agents.organization_id", "agents.agent_id"]),
    sa.Index("ix_credentials_agent", "organization_id", "agent_id", "credential_id"),
)

# owner: credentials. The directory by which a presented secret is found without knowing its organization.
# `valid_until` is set by a rotation: both secrets live until then.
credential_secrets = sa.Table(
    "credential_secrets",
    metadata,
    sa.Column("credential_key", sa.String(16), primary_key=True),
    sa.Column("organization_id", Id, nullable=False),
    sa.Column("credential_id", Id, nullable=False),
    sa.Column("secret_hash", sa.LargeBinary(32), nullable=False),
    sa.Column("valid_until", Instant),
    sa.Column("created_at", Instant, nullable=False),
    sa.ForeignKeyConstraint(["organization_id", "credential_id"], ["credentials.organization_id", "credentials.credential_id"]),
    sa.Index("ix_credential_secrets_credential", "organization_id", "credential_id"),
)

# owner: credentials. The directory by which a client's keys are found without knowing its organization: a key, or where they are published.
credential_keys = sa.Table(
    "credential_keys",
    metadata,
    sa.Column("agent_id", Id, primary_key=True),
    sa.Column("credential_id", Id, primary_key=True),
    sa.Column("organization_id", Id, nullable=False),
    sa.Column("public_jwk", Json),
    sa.Column("jwks_uri", sa.Text),
    sa.Column("created_at", Instant, nullable=False),
    sa.ForeignKeyConstraint(["organization_id", "credential_id"], ["credentials.organization_id", "credentials.credential_id"]),
    sa.Index("ix_credential_keys_credential", "organization_id", "credential_id"),
)

# owner: policies. Whose tokens of other issuers are good for what. `credential_id` stands for the policy where it leads to an agent: revoked with it, so that its
# tokens die, and raised in revision whenever the organization's policies change, so that nobody decides on old ones. The repository's numbers are recorded at
# first use. Without an agent, its tokens register one.
trust_policies = sa.Table(
    "trust_policies",
    metadata,
    _organization_key(),
    sa.Column("policy_id", Id, primary_key=True),
    sa.Column("provider", sa.String(16), sa.CheckConstraint("provider IN ('github', 'gitlab', 'kubernetes', 'oidc')", name="provider"), nullable=False),
    sa.Column("issuer", sa.Text, nullable=False),
    sa.Column("audience", sa.Text, nullable=False),
    sa.Column("repository", sa.String(256)),
    sa.Column("branch", sa.String(256)),
    sa.Column("conditions", Json, nullable=False),
    sa.Column("agent_id", Id),
    sa.Column("scopes", sa.Text),
    sa.Column("repository_id", sa.String(20)),
    sa.Column("repository_owner_id", sa.String(20)),
    sa.Column("credential_id", Id),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("updated_at", Instant, nullable=False),
    sa.ForeignKeyConstraint(["organization_id", "credential_id"], ["credentials.organization_id", "credentials.credential_id"]),
)

# owner: tokens. Single tokens revoked before they expired; swept after that.
revoked_tokens = sa.Table(
    "revoked_tokens",
    metadata,
    _organization_key(),
    sa.Column("token_id", Id, primary_key=True),
    sa.Column("agent_id", Id, nullable=False),
    sa.Column("revoked_at", Instant, nullable=False),
    sa.Column("expires_at", Instant, nullable=False),
    sa.Index("ix_revoked_tokens_expires_at", "expires_at"),
)

# owner: ledger. When a credential was last used, to the minute; apart from `credentials`, so that no revocation waits for it.
credential_uses = sa.Table(
    "credential_uses",
    metadata,
    sa.Column("organization_id", Id, primary_key=True),
    sa.Column("credential_id", Id, primary_key=True),
    sa.Column("last_used_at", Instant, nullable=False),
)

# owner: ledger. Values from outside that were used and may not be used again, by kind and digest: see `ledger.one_time`. Swept some time after they expire.
one_time_values = sa.Table(
    "one_time_values",
    metadata,
    sa.Column("organization_id", Id, primary_key=True),
    sa.Column("kind", sa.String(16), primary_key=True),
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("expires_at", Instant, nullable=False),
    sa.Index("ix_one_time_values_expires_at", "expires_at"),
)

# owner: ledger. How much an organization used on a UTC day (days since the epoch); updated once per batch.
usage_counters = sa.Table(
    "usage_counters",
    metadata,
    sa.Column("organization_id", Id, primary_key=True),
    sa.Column("day", sa.Integer, primary_key=True),
    sa.Column("meter", sa.String(32), primary_key=True),
    sa.Column("count", sa.BigInteger, nullable=False),
)

# owner: ledger. What an agent did on a UTC day, by meter: see `ledger.activity`. `day` has an index of its own, to forget by.
agent_activity = sa.Table(
    "agent_activity",
    metadata,
    sa.Column("organization_id", Id, primary_key=True),
    sa.Column("agent_id", Id, primary_key=True),
    sa.Column("day", sa.Integer, primary_key=True),
    sa.Column("meter", sa.String(32), primary_key=True),
    sa.Column("count", sa.BigInteger, nullable=False),
    sa.Column("last_seen_at", Instant, nullable=False),
    sa.Index("ix_agent_activity_day", "day"),
)

# owner: ledger. Tokens issued by an organization in an hour of a UTC day, 0 to 23.
hourly_tokens = sa.Table(
    "hourly_tokens",
    metadata,
    sa.Column("organization_id", Id, primary_key=True),
    sa.Column("day", sa.Integer, primary_key=True),
    sa.Column("hour", sa.SmallInteger, primary_key=True),
    sa.Column("count", sa.BigInteger, nullable=False),
    sa.Index("ix_hourly_tokens_day", "day"),
)

# owner: ledger. What was done and what was refused, by whom; `seq` and the hashes are filled in when the event is sealed.
# No foreign key: PostgreSQL would look the organization up for every event, and what is appended was read with its organization.
audit_events = sa.Table(
    "audit_events",
    metadata,
    sa.Column("organization_id", Id, primary_key=True),
    sa.Column("event_id", Id, primary_key=True),
    sa.Column("seq", sa.BigInteger),
    sa.Column("agent_id", Id),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("outcome", sa.String(16), sa.CheckConstraint("outcome IN ('success', 'failure')", name="outcome"), nullable=False),
    sa.Column("target_type", sa.String(32)),
    sa.Column("target_id", sa.String(128)),
    sa.Column("ip_address", sa.String(45)),
    sa.Column("user_agent", sa.String(256)),
    sa.Column("request_id", sa.String(128)),
    sa.Column("metadata", Json, nullable=False),
    sa.Column("timestamp", Instant, nullable=False),
    sa.Column("previous_hash", sa.String(64)),
    sa.Column("hash", sa.String(64)),
    sa.Index("ix_audit_events_action", "organization_id", "action", "event_id"),
    sa.Index("ix_audit_events_agent", "organization_id", "agent_id", "event_id"),
    sa.Index("ix_audit_events_target", "organization_id", "target_id", "event_id"),
    sa.Index("ix_audit_events_request", "organization_id", "request_id", "event_id"),
    # costs an event that is none nothing
    sa.Index(
        "ix_audit_events_failures",
        "organization_id",
        "event_id",
        sqlite_where=sa.text("outcome = 'failure'"),
        postgresql_where=sa.text("outcome = 'failure'"),
    ),
    # an event is in one of these two: in the first for the moment until it is sealed
    sa.Index("ix_audit_events_unsealed", "organization_id", "event_id", sqlite_where=sa.text("seq IS NULL"), postgresql_where=sa.text("seq IS NULL")),
    # on PostgreSQL each partition has its own: see `db.partitions`
    sa.Index("uq_audit_events_seq", "organization_id", "seq", unique=True, sqlite_where=sa.text("seq IS NOT NULL"), info={"dialect": "sqlite"}).ddl_if(
        "sqlite"
    ),
    postgresql_partition_by="RANGE (event_id)",
)

# owner: ledger. Where each organization's chain has come to, and which sealer is at it: see `ledger.sealing`. Events up to `start_size` may have
# been forgotten: verification starts there.
audit_heads = sa.Table(
    "audit_heads",
    metadata,
    sa.Column("organization_id", Id, primary_key=True),
    sa.Column("start_size", sa.BigInteger, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("head_hash", sa.String(64), nullable=False),
    sa.Column("fence", sa.BigInteger, nullable=False),
    sa.Column("lease_owner", Id),
    sa.Column("lease_until", Instant, nullable=False),
    sa.Column("checkpoint_size", sa.BigInteger, nullable=False),
    sa.Column("checkpoint_at", Instant, nullable=False),
)

# owner: ledger. Signed heads, kept for ever; `note` is the whole signed note.
audit_checkpoints = sa.Table(
    "audit_checkpoints",
    metadata,
    sa.Column("organization_id", Id, primary_key=True),
    sa.Column("size", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("head_hash", sa.String(64), nullable=False),
    sa.Column("signed_at", Instant, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Index("ix_audit_checkpoints_signed_at", "organization_id", "signed_at"),
)

# owner: ledger. How far into each organization's history those have come who pass its events on: see `ledger.following`.
# `moved_at` never goes back, whatever the clocks of the processes say.
audit_followers = sa.Table(
    "audit_followers",
    metadata,
    sa.Column("organization_id", Id, primary_key=True),
    sa.Column("follower", sa.String(16), primary_key=True),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("moved_at", Instant, nullable=False),
)

# owner: ledger. Which process follows, where one does so for all: see `ledger.following.lead`.
follower_leases = sa.Table(
    "follower_leases",
    metadata,
    sa.Column("follower", sa.String(16), primary_key=True),
    sa.Column("holder", Id, nullable=False),
    sa.Column("until", Instant, nullable=False),
)

# owner: federation. Other issuers whose tokens an organization wants to check; what has expired says so by `expires_at`, not by `status`.
federation_partners = sa.Table(
    "federation_partners",
    metadata,
    _organization_key(),
    sa.Column("partner_id", Id, primary_key=True),
    sa.Column("name", sa.String(100), nullable=False),
    sa.Column("issuer", sa.Text, nullable=False),
    sa.Column("jwks_uri", sa.Text, nullable=False),
    sa.Column("allowed_organizations", Json, nullable=False),
    sa.Column("status", sa.String(16), sa.CheckConstraint("status IN ('active', 'suspended')", name="status"), nullable=False),
    sa.Column("expires_at", Instant),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("updated_at", Instant, nullable=False),
    sa.UniqueConstraint("organization_id", "issuer"),
)

# owner: billing. Who an organization is at Stripe, and what it has paid for as far as the newest look there told; `plan_tier` is what that look granted.
# Looks are numbered when they begin: `looks` have begun, up to `look_applied` they have been applied. `look_at`: when to look without being told to.
billing_customers = sa.Table(
    "billing_customers",
    metadata,
    _organization_key(),
    sa.Column("customer_id", sa.String(128), nullable=False, unique=True),
    sa.Column("plan_tier", sa.String(16), sa.CheckConstraint("plan_tier IN ('free', 'pro', 'enterprise')", name="plan_tier"), nullable=False),
    sa.Column("subscription_id", sa.String(128)),
    sa.Column("subscription_status", sa.String(32)),
    sa.Column("subscribed_at", Instant),
    sa.Column("ended_at", Instant),
    sa.Column("grace_until", Instant),
    sa.Column("looks", sa.Integer, nullable=False),
    sa.Column("look_applied", sa.Integer, nullable=False),
    sa.Column("look_at", Instant),
    sa.Column("created_at", Instant, nullable=False),
    sa.Index("ix_billing_customers_look_at", "look_at"),
)

# owner: billing. The checkout that an organization opened last for a plan.
billing_checkouts = sa.Table(
    "billing_checkouts",
    metadata,
    _organization_key(),
    sa.Column("plan_tier", sa.String(16), primary_key=True),
    sa.Column("session_id", sa.String(128), nullable=False),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("is_open", sa.Boolean(create_constraint=False), nullable=False),
    sa.Column("expires_at", Instant, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
)

# owner: billing. What Stripe sent and we acknowledged, as it was signed. Whose it is is found out when it is applied: nothing in it is believed before.
billing_events = sa.Table(
    "billing_events",
    metadata,
    sa.Column("event_id", sa.String(128), primary_key=True),
    sa.Column("type", sa.String(128), nullable=False),
    sa.Column("customer_id", sa.String(128)),
    sa.Column("livemode", sa.Boolean(create_constraint=False), nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("received_at", Instant, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("next_attempt_at", Instant),
    sa.Column("applied_at", Instant),
    sa.Column("parked_reason", sa.String(200)),
    # an event has a next attempt until it is applied or parked
    sa.Index("ix_billing_events_next_attempt_at", "next_attempt_at"),
    sa.Index("ix_billing_events_received_at", "received_at"),
)

# owner: billing. What of a day's use has been reported to Stripe.
billing_reports = sa.Table(
    "billing_reports",
    metadata,
    _organization_key(),
    sa.Column("day", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("meter", sa.String(32), primary_key=True),
    sa.Column("count", sa.BigInteger, nullable=False),
    sa.Column("reported_at", Instant, nullable=False),
)

# owner: webhooks. Where an organization wants to be told what happens; `events` are the types that it wants, as words. A deleted one stays until its
# deliveries are gone.
webhooks = sa.Table(
    "webhooks",
    metadata,
    _organization_key(),
    sa.Column("webhook_id", Id, primary_key=True),
    sa.Column("name", sa.String(100), nullable=False),
    sa.Column("url", sa.String(2048), nullable=False),
    sa.Column("events", sa.Text, nullable=False),
    sa.Column("is_active", sa.Boolean(create_constraint=False), nullable=False),
    sa.Column("disabled_reason", sa.String(16)),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("updated_at", Instant, nullable=False),
    sa.Column("deleted_at", Instant),
    sa.Index("ix_webhooks_deleted_at", "deleted_at", sqlite_where=sa.text("deleted_at IS NOT NULL"), postgresql_where=sa.text("deleted_at IS NOT NULL")),
)

# owner: webhooks. What deliveries to a webhook are signed with, the newest first; each other one until `valid_until`.
webhook_secrets = sa.Table(
    "webhook_secrets",
    metadata,
    _organization_key(),
    sa.Column("webhook_id", Id, primary_key=True),
    sa.Column("secret_id", Id, primary_key=True),
    sa.Column("sealed_secret", sa.Text, nullable=False),
    sa.Column("valid_until", Instant),
    sa.Column("created_at", Instant, nullable=False),
)

# owner: webhooks. How a webhook's receiver does, and which process is at its deliveries: see `webhooks.queues`. `due_at` is when somebody has to look at
# it next, null when nothing waits; however much waits for a receiver that is dead, it is one row here.
webhook_queues = sa.Table(
    "webhook_queues",
    metadata,
    _organization_key(),
    sa.Column("webhook_id", Id, primary_key=True),
    sa.Column("due_at", Instant),
    sa.Column("lease_owner", Id),
    sa.Column("lease_until", Instant, nullable=False),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("failing_since", Instant),
    sa.Column("paused_until", Instant, nullable=False),
    sa.Column("last_delivery_at", Instant),
    sa.Index("ix_webhook_queues_due_at", "due_at"),
)

# owner: webhooks. An event on its way to a webhook, and what became of it. It has a next attempt until it is delivered or given up; `history` has an
# object for each attempt, `attempts` counts those since it was last asked for.
webhook_deliveries = sa.Table(
    "webhook_deliveries",
    metadata,
    sa.Column("organization_id", Id, primary_key=True),
    sa.Column("delivery_id", Id, primary_key=True),
    sa.Column("webhook_id", Id, nullable=False),
    sa.Column("event_id", Id, nullable=False),
    sa.Column("event_type", sa.String(64), nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("status", sa.String(16), sa.CheckConstraint("status IN ('pending', 'delivered', 'failed', 'dead_letter')", name="status"), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("history", Json, nullable=False),
    sa.Column("response_body", sa.Text),
    sa.Column("next_attempt_at", Instant),
    sa.Column("asked_at", Instant, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("completed_at", Instant),
    sa.Index("ix_webhook_deliveries_webhook", "organization_id", "webhook_id", "delivery_id"),
    # what waits, in the order in which it is sent
    sa.Index(
        "ix_webhook_deliveries_waiting",
        *("organization_id", "webhook_id", "next_attempt_at", "seq"),
        sqlite_where=sa.text("next_attempt_at IS NOT NULL"),
        postgresql_where=sa.text("next_attempt_at IS NOT NULL"),
    ),
    # most are delivered: costs them nothing
    sa.Index(
        "ix_webhook_deliveries_undelivered",
        *("organization_id", "webhook_id", "status", "delivery_id"),
        sqlite_where=sa.text("status <> 'delivered'"),
        postgresql_where=sa.text("status <> 'delivered'"),
    ),
    sa.Index("ix_webhook_deliveries_completed_at", "completed_at"),
)
