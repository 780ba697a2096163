"""Looking trust policies up, always within one organization."""

from typing import Any

import sqlalchemy as sa

from agentidp.core import limits
from agentidp.core.ids import is_id
from agentidp.db.paging import PageRequest, RowPage, fetch_page
from agentidp.db.schema import credentials, organizations, trust_policies
from agentidp.db.unit import Tx
from agentidp.policies.rules import Policy, PolicyNotFound


def get_policy(tx: Tx, policy_id: str) -> Policy:
    """Raises PolicyNotFound."""
    row = tx.one(_mine(tx).where(trust_policies.c.policy_id == policy_id)) if is_id(policy_id) else None
    if row is None:
        raise PolicyNotFound
    return to_policy(row)


def list_policies(tx: Tx, request: PageRequest) -> RowPage:
    return fetch_page(tx, _mine(tx), trust_policies.c.policy_id, request)


def all_policies(tx: Tx) -> tuple[Policy, ...]:
    """Those of the organization, oldest first: whatever a token is held against."""
    rows = tx.all(_mine(tx).order_by(trust_policies.c.policy_id).limit(limits.TRUST_POLICIES_MAX))
    return tuple(map(to_policy, rows))


def find_status(tx: Tx) -> str | None:
    """The organization's; None when there is none."""
    row = tx.one(sa.select(organizations.c.status).where(organizations.c.organization_id == tx.caller.organization_id))
    return None if row is None else str(row.status)


def lock_organization(tx: Tx) -> str | None:
    """The organization's status; whoever else adds a policy to it waits until the unit of work ends. None when there is none."""
    query = sa.select(organizations.c.status).where(organizations.c.organization_id == tx.caller.organization_id)
    row = tx.one(query.with_for_update(key_share=True))
    return None if row is None else str(row.status)


def count_policies(tx: Tx) -> int:
    mine = trust_policies.c.organization_id == tx.caller.organization_id
    return tx.connection.scalar(sa.select(sa.func.count()).select_from(trust_policies).where(mine)) or 0


def to_policy(row: sa.Row[Any]) -> Policy:
    return Policy(
        organization_id=row.organization_id,
        policy_id=row.policy_id,
        provider=row.provider,
        issuer=row.issuer,
        audience=row.audience,
        repository=row.repository,
        branch=row.branch,
        conditions=row.conditions,
        agent_id=row.agent_id,
        scopes=None if row.scopes is None else frozenset(row.scopes.split()),
        repository_id=row.repository_id,
        repository_owner_id=row.repository_owner_id,
        credential_id=row.credential_id,
        credential_revision=row.revision,
        is_revoked=row.revoked_at is not None,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _mine(tx: Tx) -> sa.Select[Any]:
    same = sa.and_(credentials.c.organization_id == trust_policies.c.organization_id, credentials.c.credential_id == trust_policies.c.credential_id)
    query = sa.select(trust_policies, credentials.c.revision, credentials.c.revoked_at).select_from(trust_policies.outerjoin(credentials, same))
    return query.where(trust_policies.c.organization_id == tx.caller.organization_id)
