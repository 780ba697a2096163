"""Looking organizations and their members up. A unit of work looks at the organization that it runs in; only the operator's list crosses tenants."""

from typing import Any

import sqlalchemy as sa

from agentidp.db.paging import PageRequest, RowPage, fetch_page
from agentidp.db.schema import agents, instance, organization_members, organizations
from agentidp.db.unit import Tx
from agentidp.organizations.rules import Member, Organization, OrganizationNotFound, require_administrator


def get_organization(tx: Tx) -> Organization:
    """The organization of the unit of work. Raises OrganizationNotFound, Forbidden."""
    row = _row(tx, lock=False)
    require_administrator(tx.caller, find_own_role(tx))
    return to_organization(row)


def lock_organization(tx: Tx) -> sa.Row[Any]:
    """The stored row, held until the unit of work ends. Raises OrganizationNotFound, Forbidden.

    Who may act is looked up once the row is held, so that of two administrators who remove each other one comes too late.
    """
    row = _row(tx, lock=True)
    require_administrator(tx.caller, find_own_role(tx))
    return row


def list_organizations(tx: Tx, status: str | None, request: PageRequest) -> RowPage:
    """All tenants, for the operator."""
    query = sa.select(organizations)
    if status is not None:
        query = query.where(organizations.c.status == status)
    return fetch_page(tx, query, organizations.c.organization_id, request)


def list_members(tx: Tx, request: PageRequest) -> RowPage:
    """Raises OrganizationNotFound, Forbidden."""
    get_organization(tx)
    return fetch_page(tx, _members(tx), organization_members.c.agent_id, request)


def find_role(tx: Tx, agent_id: str | None) -> str | None:
    """The agent's role in the organization of the unit of work; a decommissioned agent has none any more."""
    row = tx.one(_members(tx).where(organization_members.c.agent_id == agent_id))
    return row.role if row else None


def find_own_role(tx: Tx) -> str | None:
    """The caller's, which no token has that was made of another or given by a trust policy."""
    return None if tx.caller.is_delegated else find_role(tx, tx.caller.agent_id)


def count_other_administrators(tx: Tx, agent_id: str) -> int:
    others = _members(tx).where(organization_members.c.role == "admin", organization_members.c.agent_id != agent_id)
    return tx.connection.scalar(sa.select(sa.func.count()).select_from(others.subquery())) or 0


def is_operators(tx: Tx) -> bool:
    """Whether the unit of work runs in the organization of the instance's operator."""
    row = tx.one(sa.select(instance.c.operator_organization_id))
    return row is not None and row[0] == tx.caller.organization_id


def to_organization(row: sa.Row[Any]) -> Organization:
    return Organization(
        organization_id=row.organization_id,
        name=row.name,
        slug=row.slug,
        plan_tier=row.plan_tier,
        max_agents=row.max_agents,
        max_tokens_per_day=row.max_tokens_per_day,
        status=row.status,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def to_member(row: sa.Row[Any]) -> Member:
    return Member(row.organization_id, row.agent_id, row.role, row.created_at)


def _row(tx: Tx, *, lock: bool) -> sa.Row[Any]:
    query = sa.select(organizations).where(organizations.c.organization_id == tx.caller.organization_id)
    row = tx.one(query.with_for_update(key_share=True) if lock else query)  # new agents and credentials refer to the row meanwhile
    if row is None:
        raise OrganizationNotFound
    return row


def _members(tx: Tx) -> sa.Select[Any]:
    mine = sa.and_(agents.c.organization_id == organization_members.c.organization_id, agents.c.agent_id == organization_members.c.agent_id)
    query = sa.select(organization_members).join_from(organization_members, agents, mine)
    return query.where(organization_members.c.organization_id == tx.caller.organization_id, agents.c.status != "decommissioned")
