"""Registering agents, changing them and stopping them. Suspending or decommissioning kills every token issued so far, for good."""

from typing import Any

import sqlalchemy as sa

from agentidp.agents.queries import count_agents, get_agent, lock_agent, lock_tier
from agentidp.agents.rules import Agent, AgentAlreadyExists, NewAgent, OrganizationNotActive, changes, require_place
from agentidp.auth.registration import use
from agentidp.auth.scopes import require_grantable, to_text
from agentidp.core.errors import InvalidFields
from agentidp.core.ids import new_id
from agentidp.core.plans import Plans
from agentidp.db.schema import agents
from agentidp.db.unit import Tx


def register_agent(tx: Tx, new: NewAgent, *, plans: Plans) -> Agent:
    """Raises AgentAlreadyExists, InvalidScopes (a scope that the caller does not hold), InvalidFields (expiry in the past), OverLimit, OrganizationNotActive.

    Also RegistrationUsed, when the caller is no agent and its token has registered one.
    """
    registration = tx.caller.registration
    require_grantable(new.scopes, tx.caller.scopes if registration is None else use(tx, registration))
    _require_future(tx, new.expires_at)
    tier = lock_tier(tx, plans)
    if tier is None or tier.status != "active":  # it was when the call came in
        raise OrganizationNotActive
    agent_id = new_id(tx.now)
    taken = sa.select(agents.c.agent_id).where(agents.c.organization_id == tx.caller.organization_id, agents.c.email == new.email)
    if tx.one(taken):
        raise AgentAlreadyExists
    if tier.agents_max is not None:
        require_place(count_agents(tx, "active", "suspended"), tier.agents_max, tier.plan_tier, tx.caller.organization_id)
    row = {
        "organization_id": tx.caller.organization_id,
        "agent_id": agent_id,
        "email": new.email,
        "name": new.name or new.email.partition("@")[0],
        "description": new.description,
        "agent_type": new.agent_type,
        "version": new.version,
        "capabilities": to_text(new.capabilities),
        "owner": new.owner,
        "deployment_env": new.deployment_env,
        "scopes": to_text(new.scopes),
        "is_public": new.is_public,
        "status": "active",
        "expires_at": new.expires_at,
        "token_epoch": 1,
        "revision": 1,
        "created_at": tx.now,
        "updated_at": tx.now,
    }
    try:
        tx.run(sa.insert(agents).values(row))
    except sa.exc.IntegrityError as error:  # somebody else was quicker
        raise AgentAlreadyExists from error
    tx.count("agentsRegistered")
    by_policy: dict[str, Any] = {} if registration is None else {"policyId": registration.policy_id}
    tx.record("agent.created", "agent", agent_id, email=new.email, scopes=sorted(new.scopes), **by_policy)
    return get_agent(tx, agent_id)


def update_agent(tx: Tx, agent_id: str, patch: dict[str, object]) -> Agent:
    """Change the named columns. Raises AgentNotFound, AgentAlreadyDecommissioned, InvalidScopes, InvalidFields."""
    row = lock_agent(tx, agent_id)
    expires_at = patch.get("expires_at")
    if expires_at != row.expires_at:
        _require_future(tx, expires_at if isinstance(expires_at, int) else None)
    change = changes(row._asdict(), patch)
    if isinstance(scopes := change.columns.get("scopes"), str):
        require_grantable(frozenset(scopes.split()) - frozenset(row.scopes.split()), tx.caller.scopes)
    if change.columns:
        _store(tx, agent_id, change.columns, kills_tokens=change.kills_tokens)
    for action in change.actions:
        tx.record(action, "agent", agent_id, fields=sorted(change.columns))
    return get_agent(tx, agent_id)


def decommission_agent(tx: Tx, agent_id: str) -> None:
    """Final: all credentials and tokens of the agent die with this. Raises AgentNotFound, AgentAlreadyDecommissioned."""
    update_agent(tx, agent_id, {"status": "decommissioned"})


def revoke_agent_tokens(tx: Tx, agent_id: str) -> None:
    """Everything issued to the agent before now is dead. Raises AgentNotFound."""
    lock_agent(tx, agent_id)
    _store(tx, agent_id, {}, kills_tokens=True)
    tx.record("token.revoked", "agent", agent_id, all=True)


def _store(tx: Tx, agent_id: str, columns: dict[str, object], *, kills_tokens: bool) -> None:
    epoch = {"token_epoch": agents.c.token_epoch + 1} if kills_tokens else {}
    tx.run(
        sa.update(agents)
        .where(agents.c.organization_id == tx.caller.organization_id, agents.c.agent_id == agent_id)
        .values(**columns, **epoch, revision=agents.c.revision + 1, updated_at=tx.now)
    )


def _require_future(tx: Tx, expires_at: int | None) -> None:
    if expires_at is not None and expires_at <= tx.now:
        raise InvalidFields([("expiresAt", "must be in the future")])
