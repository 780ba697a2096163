"""What an organization is told of its plan. Pure."""

from dataclasses import dataclass

from agentidp.core.plans import PlanTier
from agentidp.usage.rules import Usage


@dataclass(frozen=True, slots=True)
class TierStatus:
    """An organization's plan, what limits it by name (None: nothing), and what it has used."""

    tier: PlanTier
    limits: dict[str, int | None]
    agent_count: int
    usage: Usage
