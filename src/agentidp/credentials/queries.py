"""Looking credentials up: of an agent of the caller's organization, and by a presented secret."""

import hmac
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from agentidp.agents.queries import get_agent
from agentidp.agents.rules import Agent
from agentidp.core.ids import is_id
from agentidp.core.secrets import keyed_hash
from agentidp.credentials.rules import Credential, CredentialNotFound, credential_status, parse_client_secret, require_may_manage
from agentidp.db.paging import PageRequest, RowPage, fetch_page
from agentidp.db.schema import agents, credential_secrets, credentials, organizations
from agentidp.db.unit import Tx


@dataclass(frozen=True, slots=True)
class Authenticated:
    """An agent that proved itself with a live secret. It may still be suspended: see `is_active`. Instants are milliseconds."""

    organization_id: str
    agent_id: str
    credential_id: str
    is_active: bool
    scopes: frozenset[str]
    token_epoch: int
    expires_at: int | None
    last_used_at: int | None


@dataclass(frozen=True, slots=True)
class AuthenticationFailure:
    """Why not, for the audit trail only; `organization_id` and `agent_id` when the secret was somebody's."""

    reason: str
    organization_id: str | None = None
    agent_id: str | None = None


def list_credentials(tx: Tx, agent_id: str, status: str | None, request: PageRequest) -> RowPage:
    """Raises AgentNotFound, Forbidden."""
    agent = get_agent(tx, agent_id)
    require_may_manage(tx.caller, agent_id, frozenset(agent.scopes), "agents:read")
    query = _of_agent(tx, agent_id)
    if status is not None:
        query = query.where(_has_status(status, agent, tx.now))
    return fetch_page(tx, query, credentials.c.credential_id, request)


def lock_credential(tx: Tx, agent_id: str, credential_id: str) -> sa.Row[Any]:
    """The stored row, held until the unit of work ends. Raises CredentialNotFound."""
    row = None
    if is_id(credential_id):
        row = tx.one(_of_agent(tx, agent_id).where(credentials.c.credential_id == credential_id).with_for_update())
    if row is None:
        raise CredentialNotFound
    return row


def count_active_credentials(tx: Tx, agent_id: str) -> int:
    live = sa.and_(credentials.c.revoked_at.is_(None), sa.or_(credentials.c.expires_at.is_(None), credentials.c.expires_at > tx.now))
    return tx.connection.scalar(sa.select(sa.func.count()).select_from(_of_agent(tx, agent_id).where(live).subquery())) or 0


def to_credential(row: sa.Row[Any], agent_status: str, now: int) -> Credential:
    status = credential_status(revoked_at=row.revoked_at, expires_at=row.expires_at, agent_status=agent_status, now=now)
    return Credential(row.credential_id, row.agent_id, row.kind, status, row.hint, row.created_at, row.expires_at, row.revoked_at, row.last_used_at)


def authenticate_client(tx: Tx, client_id: str, presented_secret: str, secret_key: bytes) -> Authenticated | AuthenticationFailure:
    """Who presents this secret. The same work is done for an unknown id, a wrong, a revoked and an expired secret."""
    secret = parse_client_secret(presented_secret)
    presented_hash = keyed_hash(secret_key, presented_secret)
    row = tx.one(_by_secret(secret.credential_key if secret else ""))
    stored_hash = row.secret_hash if row is not None else bytes(len(presented_hash))
    matches = hmac.compare_digest(presented_hash, stored_hash)
    if row is None or secret is None:
        return AuthenticationFailure("unknown secret")
    owner = (row.organization_id, row.agent_id)
    if not matches:
        return AuthenticationFailure("wrong secret", *owner)
    if row.agent_id != client_id:
        return AuthenticationFailure("secret of another client", *owner)
    status = credential_status(revoked_at=row.revoked_at, expires_at=row.expires_at, agent_status=row.status, now=tx.now)
    if status != "active" or (row.valid_until is not None and row.valid_until <= tx.now):
        return AuthenticationFailure(f"{status} credential" if status != "active" else "rotated secret", *owner)
    expiries = [instant for instant in (row.expires_at, row.agent_expires_at) if instant is not None]
    is_active = row.status == "active" and row.organization_status == "active" and (row.agent_expires_at is None or row.agent_expires_at > tx.now)
    return Authenticated(*owner, row.credential_id, is_active, frozenset(row.scopes.split()), row.token_epoch, min(expiries, default=None), row.last_used_at)


def _by_secret(credential_key: str) -> sa.Select[Any]:
    return (
        sa.select(
            credential_secrets.c.secret_hash,
            credential_secrets.c.valid_until,
            credentials.c.organization_id,
            credentials.c.credential_id,
            credentials.c.agent_id,
            credentials.c.revoked_at,
            credentials.c.expires_at,
            credentials.c.last_used_at,
            agents.c.status,
            agents.c.scopes,
            agents.c.token_epoch,
            agents.c.expires_at.label("agent_expires_at"),
            organizations.c.status.label("organization_status"),
        )
        .join(
            credentials,
            sa.and_(
                credentials.c.organization_id == credential_secrets.c.organization_id,
                credentials.c.credential_id == credential_secrets.c.credential_id,
            ),
        )
        .join(agents, sa.and_(agents.c.organization_id == credentials.c.organization_id, agents.c.agent_id == credentials.c.agent_id))
        .join(organizations, organizations.c.organization_id == agents.c.organization_id)
        .where(credential_secrets.c.credential_key == credential_key)
    )


def _of_agent(tx: Tx, agent_id: str) -> sa.Select[Any]:
    return sa.select(credentials).where(credentials.c.organization_id == tx.caller.organization_id, credentials.c.agent_id == agent_id)


def _has_status(status: str, agent: Agent, now: int) -> sa.ColumnElement[bool]:
    """The status that the API shows, in SQL; see `rules.credential_status`."""
    if agent.status == "decommissioned":
        return sa.literal(status == "revoked")
    unrevoked = credentials.c.revoked_at.is_(None)
    if status == "revoked":
        return ~unrevoked
    if status == "expired":
        return sa.and_(unrevoked, credentials.c.expires_at <= now)
    return sa.and_(unrevoked, sa.or_(credentials.c.expires_at.is_(None), credentials.c.expires_at > now))
