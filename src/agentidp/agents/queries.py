"""Looking agents up, always within one organization."""

from typing import Any

import sqlalchemy as sa

from agentidp.agents.rules import Agent, AgentFilter, AgentNotFound, Tier, is_active
from agentidp.core.ids import is_id
from agentidp.core.plans import Plans, limit_of
from agentidp.db.paging import PageRequest, RowPage, fetch_page
from agentidp.db.schema import agents, organization_members, organizations
from agentidp.db.unit import Tx


def get_agent(tx: Tx, agent_id: str) -> Agent:
    """An agent of the caller's organization. Raises AgentNotFound."""
    return to_agent(_row(tx, agent_id, lock=False), tx.now)


def lock_agent(tx: Tx, agent_id: str) -> sa.Row[Any]:
    """The stored row, held until the unit of work ends. Raises AgentNotFound."""
    return _row(tx, agent_id, lock=True)


def list_agents(tx: Tx, wanted: AgentFilter, request: PageRequest) -> RowPage:
    query = sa.select(agents).where(agents.c.organization_id == tx.caller.organization_id)
    for column, value in ((agents.c.owner, wanted.owner), (agents.c.agent_type, wanted.agent_type), (agents.c.deployment_env, wanted.deployment_env)):
        if value is not None:
            query = query.where(column == value)
    if wanted.status is not None:
        query = query.where(_has_status(wanted.status, tx.now))
    if wanted.capability is not None:  # words are separated by single spaces
        query = query.where((" " + agents.c.capabilities + " ").contains(f" {wanted.capability} ", autoescape=True))
    if wanted.text is not None:
        query = query.where(sa.or_(*(column.icontains(wanted.text, autoescape=True) for column in (agents.c.name, agents.c.email, agents.c.description))))
    return fetch_page(tx, query, agents.c.agent_id, request)


def count_agents(tx: Tx, *statuses: str) -> int:
    """How many agents have one of these statuses, as the API shows them."""
    counted = sa.or_(*(_has_status(status, tx.now) for status in statuses))
    return tx.connection.scalar(sa.select(sa.func.count()).select_from(agents).where(agents.c.organization_id == tx.caller.organization_id, counted)) or 0


def lock_tier(tx: Tx, plans: Plans) -> Tier | None:
    """The organization, which cannot be changed until the unit of work ends; None when there is none.

    Where agents are limited, registrations wait for each other, so that the last free place is given once; elsewhere they share the lock.
    """
    mine = organizations.c.organization_id == tx.caller.organization_id
    query = sa.select(organizations.c.status, organizations.c.plan_tier, organizations.c.max_agents).where(mine)
    row = tx.one(query)
    if row is not None and _tier(row, plans).agents_max is None:
        row = tx.one(query.with_for_update(read=True))
    if row is not None and _tier(row, plans).agents_max is not None:  # also when it came to be limited just now
        row = tx.one(query.with_for_update(key_share=True))
    return None if row is None else _tier(row, plans)


def _tier(row: sa.Row[Any], plans: Plans) -> Tier:
    return Tier(row.status, row.plan_tier, limit_of(row.max_agents, plans[row.plan_tier].max_agents))


def is_administrator(tx: Tx, agent_id: str | None) -> bool:
    """Whether the agent administers the organization of the unit of work."""
    members = organization_members.c
    mine = sa.and_(members.organization_id == tx.caller.organization_id, members.agent_id == agent_id)
    return tx.one(sa.select(members.role).where(mine, members.role == "admin")) is not None


def to_agent(row: sa.Row[Any], now: int) -> Agent:
    status = row.status if row.status != "active" or is_active(row.status, row.expires_at, now) else "suspended"
    return Agent(
        organization_id=row.organization_id,
        agent_id=row.agent_id,
        email=row.email,
        name=row.name,
        description=row.description,
        agent_type=row.agent_type,
        version=row.version,
        capabilities=tuple(row.capabilities.split()),
        owner=row.owner,
        deployment_env=row.deployment_env,
        scopes=tuple(row.scopes.split()),
        is_public=row.is_public,
        status=status,
        expires_at=row.expires_at,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _row(tx: Tx, agent_id: str, *, lock: bool) -> sa.Row[Any]:
    if not is_id(agent_id):
        raise AgentNotFound
    query = sa.select(agents).where(agents.c.organization_id == tx.caller.organization_id, agents.c.agent_id == agent_id)
    row = tx.one(query.with_for_update() if lock else query)
    if row is None:
        raise AgentNotFound
    return row


def _has_status(status: str, now: int) -> sa.ColumnElement[bool]:
    """The status that the API shows: an active agent past its expiry is suspended."""
    expired = sa.and_(agents.c.status == "active", agents.c.expires_at <= now)
    if status == "active":
        return sa.and_(agents.c.status == "active", sa.or_(agents.c.expires_at.is_(None), agents.c.expires_at > now))
    if status == "suspended":
        return sa.or_(agents.c.status == "suspended", expired)
    return agents.c.status == status
