"""Which plan is higher than which, and what an organization is told of its own. Pure."""

from dataclasses import dataclass

from agentidp.core.errors import Invalid
from agentidp.core.plans import TIERS, PlanTier
from agentidp.usage.rules import Usage


class NotHigher(Invalid):
    title = "The organization is on this plan or a higher one already."


@dataclass(frozen=True, slots=True)
class TierStatus:
    """An organization's plan, what limits it (None: nothing), and what it has used. `resets_at` is in milliseconds."""

    tier: PlanTier
    max_agents: int | None
    max_calls_per_day: int | None
    max_tokens_per_day: int | None
    requests_per_minute: int
    agent_count: int
    usage: Usage


def require_higher(current: PlanTier, target: PlanTier) -> None:
    """Raises NotHigher."""
    if TIERS.index(target) <= TIERS.index(current):
        raise NotHigher(f"The organization is on the plan {current}; {target} is not a higher one.")
