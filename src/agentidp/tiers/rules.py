"""What an organization is told of its plan. Pure."""

from dataclasses import dataclass

from agentidp.core.plans import PlanTier
from agentidp.usage.rules import Usage


@dataclass(frozen=True, slots=True)
class TierStatus:
    """An organization's plan, what limits it (None: nothing), and what it has used."""

    tier: PlanTier
    max_agents: int | None
    max_calls_per_day: int | None
    max_tokens_per_day: int | None
    requests_per_minute: int
    agent_count: int
    usage: Usage
