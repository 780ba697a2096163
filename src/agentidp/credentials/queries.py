"""Looking credentials up: of an agent of the caller's organization, and by a presented secret."""

from typing import Any

import sqlalchemy as sa

from agentidp.agents.queries import get_agent
from agentidp.agents.rules import Agent
from agentidp.core.ids import is_id
from agentidp.credentials.rules import Credential, CredentialNotFound, credential_status, require_may_manage
from agentidp.db.paging import PageRequest, RowPage, fetch_page
from agentidp.db.schema import credential_keys, credential_uses, credentials
from agentidp.db.unit import Tx


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
        row = tx.one(_of_agent(tx, agent_id).where(credentials.c.credential_id == credential_id).with_for_update(of=credentials))
    if row is None:
        raise CredentialNotFound
    return row


def count_active_credentials(tx: Tx, agent_id: str) -> int:
    return tx.connection.scalar(sa.select(sa.func.count()).select_from(_of_agent(tx, agent_id).where(_is_live(tx.now)).subquery())) or 0


def has_key(tx: Tx, agent_id: str, thumbprint: str) -> bool:
    """Whether the key is one of the agent's that are neither revoked nor expired."""
    return tx.one(_of_agent(tx, agent_id).where(credentials.c.hint == thumbprint, _is_live(tx.now))) is not None


def publishes_keys(tx: Tx, agent_id: str) -> bool:
    """Whether the agent has a credential, neither revoked nor expired, that says where its keys are."""
    key = credential_keys
    mine = sa.and_(credentials.c.organization_id == key.c.organization_id, credentials.c.credential_id == key.c.credential_id)
    query = sa.select(key.c.credential_id).join(credentials, mine).where(key.c.organization_id == tx.caller.organization_id, key.c.agent_id == agent_id)
    return tx.one(query.where(key.c.jwks_uri.is_not(None), _is_live(tx.now))) is not None


def to_credential(row: sa.Row[Any], agent_status: str, now: int) -> Credential:
    status = credential_status(revoked_at=row.revoked_at, expires_at=row.expires_at, agent_status=agent_status, now=now)
    return Credential(row.credential_id, row.agent_id, row.kind, status, row.hint, row.created_at, row.expires_at, row.revoked_at, row.last_used_at)


def _of_agent(tx: Tx, agent_id: str) -> sa.Select[Any]:
    uses = sa.and_(credential_uses.c.organization_id == credentials.c.organization_id, credential_uses.c.credential_id == credentials.c.credential_id)
    query = sa.select(credentials, credential_uses.c.last_used_at).join_from(credentials, credential_uses, uses, isouter=True)
    return query.where(credentials.c.organization_id == tx.caller.organization_id, credentials.c.agent_id == agent_id)


def _has_status(status: str, agent: Agent, now: int) -> sa.ColumnElement[bool]:
    """The status that the API shows, in SQL; see `rules.credential_status`."""
    if agent.status == "decommissioned":
        return sa.literal(status == "revoked")
    unrevoked = credentials.c.revoked_at.is_(None)
    if status == "revoked":
        return ~unrevoked
    if status == "expired":
        return sa.and_(unrevoked, credentials.c.expires_at <= now)
    return _is_live(now)


def _is_live(now: int) -> sa.ColumnElement[bool]:
    return sa.and_(credentials.c.revoked_at.is_(None), sa.or_(credentials.c.expires_at.is_(None), credentials.c.expires_at > now))
