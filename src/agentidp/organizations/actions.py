"""Creating organizations, changing and deleting them, and who administers them. Each act runs in, and is recorded in, the organization acted upon.

Suspending or deleting one stops the tokens of all its agents at once: the row's revision goes up, so no cached snapshot outlives it.
"""

from dataclasses import asdict, dataclass, replace

import sqlalchemy as sa

from agentidp.agents.actions import register_agent
from agentidp.agents.queries import count_agents, get_agent
from agentidp.agents.rules import AgentAlreadyDecommissioned, AgentNotFound, NewAgent
from agentidp.core.caller import OPERATOR_SCOPE
from agentidp.core.plans import TIERS, Plans, PlanTier
from agentidp.credentials.actions import generate_credential
from agentidp.db.schema import organization_members, organizations
from agentidp.db.unit import Tx
from agentidp.organizations.queries import count_other_administrators, find_role, get_organization, is_operators, lock_organization
from agentidp.organizations.rules import (
    AlreadyMember,
    HasActiveAgents,
    LastAdministrator,
    Member,
    OperatorsOrganization,
    Organization,
    OrganizationDeleted,
    SlugTaken,
    changes,
    is_operator,
)


@dataclass(frozen=True, slots=True)
class NewAdministrator:
    """An administrator's credential, to be shown once."""

    organization_id: str
    agent_id: str
    scopes: tuple[str, ...]
    client_secret: str


def create_organization(
    tx: Tx, organization_id: str, *, name: str, slug: str, plan_tier: str, max_agents: int | None = None, max_tokens_per_day: int | None = None
) -> Organization:
    """A new, empty, active organization. Raises SlugTaken."""
    new = Organization(organization_id, name, slug, plan_tier, max_agents, max_tokens_per_day, "active", tx.now, tx.now)
    try:
        tx.run(sa.insert(organizations).values(**asdict(new), revision=1))
    except sa.exc.IntegrityError as error:
        raise SlugTaken from error
    tx.record("org.created", "organization", organization_id, organization_id=organization_id, slug=slug, planTier=plan_tier)
    return new


def update_organization(tx: Tx, patch: dict[str, object]) -> Organization:
    """Change the named columns. Raises OrganizationNotFound, Forbidden, OrganizationDeleted, OperatorsOrganization, SlugTaken."""
    change = changes(tx.caller, lock_organization(tx)._asdict(), patch)
    if "status" in change.columns and is_operators(tx):
        raise OperatorsOrganization
    if change.columns:
        try:
            _store(tx, change.columns)
        except sa.exc.IntegrityError as error:
            raise SlugTaken from error
        tx.record("org.updated", "organization", tx.caller.organization_id, **change.metadata)
    return get_organization(tx)


def set_plan(tx: Tx, plan_tier: PlanTier, *, subscription: str | None) -> None:
    """The plan that a subscription pays for, or the free one without any. Nothing where it is the plan already, or where the organization is deleted.

    Raises OrganizationNotFound, Forbidden.
    """
    held = lock_organization(tx)
    if held.status == "deleted" or held.plan_tier == plan_tier:
        return
    _store(tx, {"plan_tier": plan_tier})
    action = "tier.upgraded" if TIERS.index(plan_tier) > TIERS.index(held.plan_tier) else "tier.downgraded"
    tx.record(action, "organization", tx.caller.organization_id, oldTier=held.plan_tier, newTier=plan_tier, subscription=subscription)


def delete_organization(tx: Tx) -> None:
    """Final; the rows and the slug stay. Raises OrganizationNotFound, OrganizationDeleted, OperatorsOrganization, HasActiveAgents."""
    if lock_organization(tx).status == "deleted":
        raise OrganizationDeleted
    if is_operators(tx):
        raise OperatorsOrganization
    if count_agents(tx, "active"):
        raise HasActiveAgents
    _store(tx, {"status": "deleted"})
    tx.record("org.deleted", "organization", tx.caller.organization_id)


def add_member(tx: Tx, agent_id: str, role: str) -> Member:
    """Raises OrganizationNotFound, Forbidden, OrganizationDeleted, AgentNotFound (another tenant's, too), AgentAlreadyDecommissioned, AlreadyMember."""
    if lock_organization(tx).status == "deleted":
        raise OrganizationDeleted
    if get_agent(tx, agent_id).status == "decommissioned":
        raise AgentAlreadyDecommissioned
    if find_role(tx, agent_id):
        raise AlreadyMember
    tx.run(sa.insert(organization_members).values(organization_id=tx.caller.organization_id, agent_id=agent_id, role=role, created_at=tx.now))
    tx.record("org.member_added", "agent", agent_id, role=role)
    return Member(tx.caller.organization_id, agent_id, role, tx.now)


def remove_member(tx: Tx, agent_id: str) -> None:
    """The agent's role ends with this. Raises OrganizationNotFound, Forbidden, AgentNotFound, LastAdministrator."""
    lock_organization(tx)
    role = find_role(tx, get_agent(tx, agent_id).agent_id)
    if role is None:
        raise AgentNotFound
    if role == "admin" and not is_operator(tx.caller) and not count_other_administrators(tx, agent_id):
        raise LastAdministrator
    member = sa.and_(organization_members.c.organization_id == tx.caller.organization_id, organization_members.c.agent_id == agent_id)
    tx.run(sa.delete(organization_members).where(member))
    tx.record("org.member_removed", "agent", agent_id, role=role)


def register_administrator(tx: Tx, email: str, secret_key: bytes, *, plans: Plans) -> NewAdministrator:
    """An agent with a credential and the role `admin`: the way into an organization that is empty or has lost its secrets.

    It may ask for what the caller's token holds, the operator's own scope excepted. Raises OrganizationNotFound, OrganizationDeleted,
    OrganizationNotActive, AgentAlreadyExists, OverLimit.
    """
    if lock_organization(tx).status == "deleted":
        raise OrganizationDeleted
    scopes = tx.caller.scopes - {OPERATOR_SCOPE}
    tx.caller = replace(tx.caller, scopes=tx.caller.scopes | {"agents:write"})  # the operator's right to make the credential needs no other scope
    agent = register_agent(
        tx,
        NewAgent(
            email=email,
            agent_type="custom",
            version="1.0.0",
            capabilities=("agentidp:*",),
            owner="administrator",
            deployment_env="production",
            scopes=scopes,
            description="An administrator of the organization, registered by the instance's operator.",
        ),
        plans=plans,
    )
    created = generate_credential(tx, agent.agent_id, secret_key)
    add_member(tx, agent.agent_id, "admin")
    return NewAdministrator(agent.organization_id, agent.agent_id, agent.scopes, created.secret.text)


def _store(tx: Tx, columns: dict[str, object]) -> None:
    """The only way in which an organization's row changes: decisions made on the old one are found stale by their commit."""
    if "plan_tier" in columns:
        columns = columns | {"plan_changed_at": tx.now}
    tx.run(
        sa.update(organizations)
        .where(organizations.c.organization_id == tx.caller.organization_id)
        .values(**columns, revision=organizations.c.revision + 1, updated_at=tx.now)
    )
