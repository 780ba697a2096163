"""Reading and caching the snapshots that decisions are made on. What is cached may be stale: the ledger finds out before anything counts."""

from typing import Any

import sqlalchemy as sa

from agentidp.core import limits
from agentidp.core.caller import SYSTEM, Caller
from agentidp.core.plans import Plans, limit_of
from agentidp.db.schema import agents, credential_keys, credential_secrets, credentials, organizations
from agentidp.db.unit import Database, Tx
from agentidp.ledger.entries import ClientKey, ClientKeys, SecretSnapshot, Snapshot

_COLUMNS = (
    credentials.c.organization_id,
    credentials.c.agent_id,
    credentials.c.credential_id,
    organizations.c.revision.label("organization_revision"),
    agents.c.revision.label("agent_revision"),
    credentials.c.revision.label("credential_revision"),
    organizations.c.status.label("organization_status"),
    agents.c.status.label("agent_status"),
    agents.c.expires_at.label("agent_expires_at"),
    credentials.c.revoked_at,
    credentials.c.expires_at,
    agents.c.scopes,
    agents.c.token_epoch,
    organizations.c.max_tokens_per_day,
    organizations.c.plan_tier,
)
_TABLES = credentials.join(agents, sa.and_(agents.c.organization_id == credentials.c.organization_id, agents.c.agent_id == credentials.c.agent_id)).join(
    organizations, organizations.c.organization_id == credentials.c.organization_id
)


class Snapshots:
    """The snapshots that this process has read, by credential key, by client and by credential id; the oldest go when there are too many."""

    def __init__(self, database: Database, plans: Plans) -> None:
        self._database, self._plans = database, plans
        self._by_key: dict[str, SecretSnapshot] = {}
        self._by_client: dict[str, ClientKeys] = {}
        self._by_id: dict[tuple[str, str], Snapshot] = {}

    async def find_secret(self, credential_key: str) -> SecretSnapshot | None:
        """From the cache or the database; what does not exist is not cached."""
        found = self._by_key.get(credential_key)
        if found is None:
            found = await self._database.read(read_secret_snapshot, SYSTEM, credential_key, self._plans)
            if found is not None:
                _keep(self._by_key, credential_key, found)
        return found

    async def find_keys(self, client_id: str) -> ClientKeys | None:
        """The same; None also for a client without keys."""
        found = self._by_client.get(client_id)
        if found is None:
            found = await self._database.read(read_client_keys, SYSTEM, client_id, self._plans)
            if found is not None:
                _keep(self._by_client, client_id, found)
        return found

    async def find(self, organization_id: str, credential_id: str) -> Snapshot | None:
        found = self._by_id.get((organization_id, credential_id))
        if found is None:
            found = await self._database.read(read_snapshot, Caller(organization_id), organization_id, credential_id, self._plans)
            if found is not None:
                _keep(self._by_id, (organization_id, credential_id), found)
        return found

    def forget(self, found: Snapshot | SecretSnapshot | ClientKeys) -> None:
        """Call it when what was found may be stale. The same credential under another key is found out by its own commit."""
        if isinstance(found, SecretSnapshot):
            self._by_key.pop(found.credential_key, None)
        elif isinstance(found, ClientKeys):
            self._by_client.pop(found.client_id, None)
        else:
            self._by_id.pop((found.organization_id, found.credential_id), None)


def read_secret_snapshot(tx: Tx, credential_key: str, plans: Plans) -> SecretSnapshot | None:
    """Looks across organizations: a credential key belongs to exactly one."""
    secret = credential_secrets
    query = (
        sa.select(secret.c.secret_hash, secret.c.valid_until, *_COLUMNS)
        .select_from(
            _TABLES.join(secret, sa.and_(secret.c.organization_id == credentials.c.organization_id, secret.c.credential_id == credentials.c.credential_id))
        )
        .where(secret.c.credential_key == credential_key)
    )
    row = tx.one(query)
    return None if row is None else SecretSnapshot(credential_key, row.secret_hash, row.valid_until, _from_row(row, plans))


def read_client_keys(tx: Tx, client_id: str, plans: Plans) -> ClientKeys | None:
    """Looks across organizations, too: an agent belongs to exactly one."""
    key = credential_keys
    query = (
        sa.select(key.c.public_jwk, key.c.jwks_uri, *_COLUMNS)
        .select_from(_TABLES.join(key, sa.and_(key.c.organization_id == credentials.c.organization_id, key.c.credential_id == credentials.c.credential_id)))
        .where(key.c.agent_id == client_id, credentials.c.revoked_at.is_(None))
        .where(sa.or_(credentials.c.expires_at.is_(None), credentials.c.expires_at > tx.now))
        .order_by(key.c.credential_id.desc())
        .limit(limits.ACTIVE_CREDENTIALS_PER_AGENT_MAX)
    )
    rows = tx.all(query)
    return ClientKeys(client_id, tuple(ClientKey(row.public_jwk, row.jwks_uri, _from_row(row, plans)) for row in rows)) if rows else None


def read_snapshot(tx: Tx, organization_id: str, credential_id: str, plans: Plans) -> Snapshot | None:
    query = sa.select(*_COLUMNS).select_from(_TABLES).where(credentials.c.organization_id == organization_id, credentials.c.credential_id == credential_id)
    row = tx.one(query)
    return None if row is None else _from_row(row, plans)


def _from_row(row: sa.Row[Any], plans: Plans) -> Snapshot:
    plan = plans[row.plan_tier]
    return Snapshot(
        organization_id=row.organization_id,
        agent_id=row.agent_id,
        credential_id=row.credential_id,
        revisions=(row.organization_revision, row.agent_revision, row.credential_revision),
        organization_status=row.organization_status,
        agent_status=row.agent_status,
        agent_expires_at=row.agent_expires_at,
        revoked_at=row.revoked_at,
        expires_at=row.expires_at,
        scopes=frozenset(row.scopes.split()),
        token_epoch=row.token_epoch,
        tokens_per_day_max=limit_of(row.max_tokens_per_day, plan.max_tokens_per_day),
        calls_per_day_max=plan.max_calls_per_day,
        plan_tier=row.plan_tier,
    )


def _keep(cache: dict[Any, Any], key: Any, value: Any) -> None:
    if len(cache) >= limits.SNAPSHOTS_MAX:
        del cache[next(iter(cache))]
    cache[key] = value
