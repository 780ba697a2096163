"""/tiers: the table of plans for anybody, and for an organization where it stands on its own."""

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request

from agentidp.auth.guard import ANY_TOKEN, GuardedRoute, read
from agentidp.auth.instance import instance_of
from agentidp.core.operations import public, secured
from agentidp.core.plans import PlanTier
from agentidp.core.resources import InstantOut, Resource
from agentidp.tiers import queries

router = APIRouter(prefix="/api/v1/tiers", tags=["Tiers"], route_class=GuardedRoute)


class LimitsResource(Resource):
    """What limits an organization; null: nothing does."""

    max_agents: int | None = Field(description="Agents that are not decommissioned.")
    max_calls_per_day: int | None = Field(description="Authenticated calls in a UTC day.")
    max_tokens_per_day: int | None = Field(description="Tokens issued in a UTC day.")
    requests_per_minute: int = Field(description="Requests a minute of one client.")


class TierResource(LimitsResource):
    """A plan."""

    tier: PlanTier
    audit_kept_days: int | None = Field(description="Days for which the audit trail is kept; null: for ever.")


class TierTable(Resource):
    """All plans, the lowest first."""

    data: list[TierResource]


class UsageResource(Resource):
    """What an organization has used of its limits. Tokens and calls are exact, this call included."""

    agent_count: int
    calls_today: int
    tokens_today: int


class TierStatusResource(Resource):
    """An organization's plan. Its limits are its own where the operator has set some, else the plan's."""

    tier: PlanTier
    limits: LimitsResource
    usage: UsageResource
    resets_at: InstantOut = Field(description="Midnight UTC, when the counters of the day begin again.")


@router.get("", operation_id="listTiers", **public())
async def list_(request: Request) -> TierTable:
    """The plans, and what each allows on this instance."""
    return TierTable(data=[TierResource(tier=tier, **plan.model_dump()) for tier, plan in instance_of(request).plans.items()])


@router.get("/status", operation_id="getTierStatus", **secured(ANY_TOKEN, essential=True))
async def status(request: Request) -> TierStatusResource:
    """Your organization's plan, its limits, and what it has used today. Answered also when the day's calls are used up."""
    found = await read(request, queries.get_tier_status, instance_of(request).plans)
    usage = UsageResource(agent_count=found.agent_count, calls_today=found.usage.calls, tokens_today=found.usage.tokens)
    return TierStatusResource(tier=found.tier, limits=LimitsResource.model_validate(found), usage=usage, resets_at=found.usage.ends_at)
