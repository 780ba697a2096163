"""/tiers: the table of plans for anybody; for an organization where it stands on its own, and the way to a higher one."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request

from agentidp.auth.guard import ANY_TOKEN, GuardedRoute, caller_of, read
from agentidp.auth.instance import Instance, instance_of
from agentidp.billing.checkout import open_checkout
from agentidp.billing.rules import StripeFailed
from agentidp.core.operations import public, secured
from agentidp.core.plans import PlanTier
from agentidp.core.resources import InstantOut, RequestBody, Resource
from agentidp.tiers import queries

router = APIRouter(prefix="/api/v1/tiers", tags=["Tiers"], route_class=GuardedRoute)
upgrade_router = APIRouter(prefix="/api/v1/tiers", tags=["Tiers"], route_class=GuardedRoute)  # there only where plans are sold


class LimitsResource(Resource):
    """What limits an organization; null: nothing does."""

    max_agents: int | None = Field(description="Agents that are not decommissioned.")
    max_calls_per_day: int | None = Field(description="Authenticated calls in a UTC day.")
    max_tokens_per_day: int | None = Field(description="Tokens issued in a UTC day.")
    requests_per_minute: int | None = Field(description="Requests a minute of one client.")


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


class UpgradeRequest(RequestBody):
    """The plan to buy."""

    target_tier: PlanTier = Field(description="Higher than the current one.", examples=["enterprise"])


class UpgradeResponse(Resource):
    """A page of Stripe's; the plan changes when it has been paid there."""

    checkout_url: Annotated[str, Field(json_schema_extra={"format": "uri"})]


@router.get("", operation_id="listTiers", **public())
async def list_(request: Request) -> TierTable:
    """The plans, and what each allows on this instance."""
    instance = instance_of(request)
    plans = {tier: plan.model_dump() | {"requests_per_minute": _per_minute(instance, tier)} for tier, plan in instance.plans.items()}
    return TierTable(data=[TierResource(tier=tier, **plan) for tier, plan in plans.items()])


@router.get("/status", operation_id="getTierStatus", **secured(ANY_TOKEN, essential=True))
async def status(request: Request) -> TierStatusResource:
    """Your organization's plan, its limits, and what it has used today. Answered also when the day's calls are used up."""
    instance = instance_of(request)
    found = await read(request, queries.get_tier_status, instance.plans)
    limits = LimitsResource(**found.limits, requests_per_minute=_per_minute(instance, found.tier))
    usage = UsageResource(agent_count=found.agent_count, calls_today=found.usage.calls, tokens_today=found.usage.tokens)
    return TierStatusResource(tier=found.tier, limits=limits, usage=usage, resets_at=found.usage.ends_at)


@upgrade_router.post("/upgrade", status_code=201, operation_id="upgradeTier", **secured("billing:write", StripeFailed, body=True, essential=True))
async def upgrade(request: Request, body: UpgradeRequest) -> UpgradeResponse:
    """Buy a higher plan: creates a Stripe Checkout Session, or gives the one that is open. Afterwards it leads back to the console."""
    return UpgradeResponse(checkout_url=await open_checkout(instance_of(request), caller_of(request), target_tier=body.target_tier))


def _per_minute(instance: Instance, tier: str) -> int | None:
    """The plan's rate, unless a setting goes before all plans."""
    cells = instance.rates.clients[tier]
    return cells.rate.per_minute if cells is not None else None
