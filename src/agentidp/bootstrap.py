"""The one row about the instance as a whole: an empty one's first organization, agent and credential, and a restored one's floor under its tokens."""

from dataclasses import dataclass, replace

import sqlalchemy as sa

from agentidp.agents.actions import register_agent
from agentidp.agents.rules import NewAgent
from agentidp.auth.scopes import SCOPES
from agentidp.core.clock import to_rfc3339
from agentidp.core.errors import Conflict
from agentidp.core.ids import new_id
from agentidp.core.plans import Plans, PlanTier
from agentidp.credentials.actions import generate_credential
from agentidp.db.schema import instance
from agentidp.db.unit import Tx
from agentidp.organizations.actions import create_organization


@dataclass(frozen=True, slots=True)
class FirstCredential:
    """What the person who set the instance up needs, once."""

    organization_id: str
    agent_id: str
    client_secret: str


class AlreadySetUp(Conflict):
    title = "The instance has been set up before."


def find_operator_organization(tx: Tx) -> str | None:
    """The operator's organization; None for an instance that nobody has set up."""
    row = tx.one(sa.select(instance.c.operator_organization_id))
    return row[0] if row else None


def set_up_instance(tx: Tx, secret_key: bytes, *, plan_tier: PlanTier, plans: Plans) -> FirstCredential:
    """Make what an empty instance needs, its organization on that plan. Raises AlreadySetUp, also when another process is quicker."""
    organization_id = new_id(tx.now)
    if not tx.insert_new(instance, singleton=1, operator_organization_id=organization_id, created_at=tx.now):
        raise AlreadySetUp
    create_organization(tx, organization_id, name="Default organization", slug="default", plan_tier=plan_tier)
    tx.caller = replace(tx.caller, organization_id=organization_id, scopes=frozenset(SCOPES))
    agent = register_agent(
        tx,
        NewAgent(
            email="operator@agentidp.local",
            agent_type="custom",
            version="1.0.0",
            capabilities=("agentidp:*",),
            owner="operator",
            deployment_env="development",
            scopes=frozenset(SCOPES),
            name="Operator",
            description="The first agent: holds every scope.",
        ),
        plans=plans,
    )
    created = generate_credential(tx, agent.agent_id, secret_key)
    tx.record("bootstrap.completed", "organization", organization_id)
    return FirstCredential(organization_id, agent.agent_id, created.secret.text)


def raise_token_floor(tx: Tx, tokens_not_before: int, *, newest_event_at: int | None) -> None:
    """Let every token that was issued before that instant (a whole second, in milliseconds) be dead, on every process from the commit on.

    The event says how far the restored history reaches. Raises Conflict for an instance that nobody has set up.
    """
    operator = find_operator_organization(tx)
    if operator is None:
        raise Conflict("the database holds no instance; `agentidp init` sets one up")
    floor = sa.func.coalesce(instance.c.tokens_not_before, 0)
    tx.run(sa.update(instance).where(floor < tokens_not_before).values(tokens_not_before=tokens_not_before))
    tx.record(
        "instance.restored",
        "organization",
        operator,
        organization_id=operator,
        tokensNotBefore=to_rfc3339(tokens_not_before),
        newestEventAt=to_rfc3339(newest_event_at) if newest_event_at is not None else None,
    )
