"""Where an organization stands on its plan."""

import sqlalchemy as sa

from agentidp.agents.queries import count_agents
from agentidp.core.plans import Plans, limit_of
from agentidp.db.schema import organizations
from agentidp.db.unit import Tx
from agentidp.tiers.rules import TierStatus
from agentidp.usage.queries import get_usage_today


def get_tier_status(tx: Tx, plans: Plans) -> TierStatus:
    """The caller's organization: its plan, the limits that apply to it, and what it has used of them."""
    row = tx.run(sa.select(organizations).where(organizations.c.organization_id == tx.caller.organization_id)).one()  # whoever has a token has it
    plan = plans[row.plan_tier]
    return TierStatus(
        tier=row.plan_tier,
        limits={
            "max_agents": limit_of(row.max_agents, plan.max_agents),
            "max_calls_per_day": plan.max_calls_per_day,
            "max_tokens_per_day": limit_of(row.max_tokens_per_day, plan.max_tokens_per_day),
        },
        agent_count=count_agents(tx, "active", "suspended"),
        usage=get_usage_today(tx),
    )
