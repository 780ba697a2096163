"""The plans that an organization may be on, and what each allows. Settings may change a number; nothing else holds one.

How a limit is kept is not decided here: agents and the day's calls and tokens where they are counted, the rest by those who read it.
"""

from typing import Annotated, Final, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from agentidp.core import limits

PlanTier = Literal["free", "pro", "enterprise"]
TIERS: Final[tuple[PlanTier, ...]] = get_args(PlanTier)  # the lowest first

_Bound = Annotated[int | None, Field(ge=0, le=limits.ORGANIZATION_LIMIT_MAX), AfterValidator(lambda value: value or None)]
MaxAgents = Annotated[_Bound, Field(description="Agents that are not decommissioned; 0: no limit.")]
MaxCallsPerDay = Annotated[_Bound, Field(description="Authenticated calls of the API in a UTC day; 0: no limit.")]
MaxTokensPerDay = Annotated[_Bound, Field(description="Tokens issued in a UTC day; 0: no limit.")]
RequestsPerMinute = Annotated[int, Field(ge=1, le=limits.ORGANIZATION_LIMIT_MAX, description="Requests a minute of one client.")]
AuditKeptDays = Annotated[_Bound, Field(description="Days for which the audit trail is kept; 0: for ever.")]


class Plan(BaseModel):
    """What one plan allows. None: as much as one likes, or for ever."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_agents: MaxAgents
    max_calls_per_day: MaxCallsPerDay
    max_tokens_per_day: MaxTokensPerDay
    requests_per_minute: RequestsPerMinute
    audit_kept_days: AuditKeptDays

    def without_limits(self) -> "Plan":
        """The same plan where plans are not enforced; the rate of requests stays, which protects the instance."""
        return self.model_copy(update=dict.fromkeys(("max_agents", "max_calls_per_day", "max_tokens_per_day", "audit_kept_days")))


class FreePlan(Plan):
    """For trying it out."""

    max_agents: MaxAgents = 10
    max_calls_per_day: MaxCallsPerDay = 1_000
    max_tokens_per_day: MaxTokensPerDay = 1_000
    requests_per_minute: RequestsPerMinute = 100
    audit_kept_days: AuditKeptDays = 90


class ProPlan(Plan):
    """For a team."""

    max_agents: MaxAgents = 100
    max_calls_per_day: MaxCallsPerDay = 50_000
    max_tokens_per_day: MaxTokensPerDay = 50_000
    requests_per_minute: RequestsPerMinute = 1_000
    audit_kept_days: AuditKeptDays = 365


class EnterprisePlan(Plan):
    """Nothing is limited but the rate."""

    max_agents: MaxAgents = None
    max_calls_per_day: MaxCallsPerDay = None
    max_tokens_per_day: MaxTokensPerDay = None
    requests_per_minute: RequestsPerMinute = 10_000
    audit_kept_days: AuditKeptDays = None


class PlanSettings(BaseModel):
    """The table of plans."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    free: FreePlan = FreePlan()
    pro: ProPlan = ProPlan()
    enterprise: EnterprisePlan = EnterprisePlan()


Plans = dict[str, Plan]  # by the name of the plan, as it applies


def plans_in_force(table: PlanSettings, *, enforced: bool) -> Plans:
    """The plans as this process applies them."""
    plans: Plans = {tier: getattr(table, tier) for tier in TIERS}
    return plans if enforced else {tier: plan.without_limits() for tier, plan in plans.items()}


def limit_of(own: int | None, plan: int | None) -> int | None:
    """What is set on an organization itself goes before what its plan says."""
    return plan if own is None else own
