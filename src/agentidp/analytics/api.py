"""/analytics: how much an organization and its agents did. Days are UTC; tokens by agent and by hour are there a moment after they were issued."""

import re
from datetime import date
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema
from starlette.requests import Request

from agentidp.analytics import queries
from agentidp.analytics.rules import SCOPE
from agentidp.auth.guard import ANY_TOKEN, GuardedRoute, caller_of, read
from agentidp.core import limits
from agentidp.core.errors import InvalidDateRange
from agentidp.core.operations import secured
from agentidp.core.resources import InstantOut, Page, PageParameters, QueryParameters, Resource, Uuid, parse_number
from agentidp.db.paging import page_request

router = APIRouter(prefix="/api/v1/analytics", tags=["Analytics"], route_class=GuardedRoute)

_READER: dict[str, Any] = {"otherwise": SCOPE, "scope_note": "Any token of an administrator of the organization; for its other agents analytics:read."}
_EPOCH = date(1970, 1, 1).toordinal()
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_DATE_SCHEMA = {"type": "string", "format": "date", "examples": ["2027-01-31"]}


def _parse_date(value: Any) -> int:
    """The number of the day; it may be before 1970."""
    if not isinstance(value, str) or not _DATE.fullmatch(value):
        raise ValueError("must be a date such as 2027-01-31")
    return date.fromisoformat(value).toordinal() - _EPOCH


def _to_date(day: int) -> str:
    return date.fromordinal(day + _EPOCH).isoformat()


DateIn = Annotated[int, BeforeValidator(_parse_date), WithJsonSchema(_DATE_SCHEMA)]
DateOut = Annotated[int, PlainSerializer(_to_date, return_type=str), WithJsonSchema(_DATE_SCHEMA)]
LastDays = Annotated[
    int, Field(ge=1, le=limits.ANALYTICS_DAYS_MAX, description="How many days (UTC), today included.", examples=[30]), BeforeValidator(parse_number)
]


class DaysParameters(QueryParameters):
    """How far back."""

    days: LastDays = limits.ANALYTICS_DAYS_DEFAULT


class AgentsParameters(PageParameters):
    """How far back, and where in the list."""

    days: LastDays = limits.ANALYTICS_DAYS_DEFAULT


class DatesParameters(QueryParameters):
    """Which days, both included."""

    from_: DateIn | None = Field(None, alias="from", description="The first day (UTC); when absent, 29 days before the last.")
    to: DateIn | None = Field(None, description=f"The last day (UTC); when absent, today. At most {limits.USAGE_SUMMARY_DAYS_MAX} days in all.")


class DayResource(Resource):
    """What was counted on a day."""

    date: DateOut
    count: int


class DailyTokensResource(Resource):
    """Tokens issued, day by day: every day is there, the oldest first."""

    organization_id: Uuid
    days: int
    data: list[DayResource]


class HourResource(Resource):
    """What was counted in an hour of a day of the week."""

    day_of_week: int = Field(ge=0, le=6, description="0 is Sunday.")
    hour: int = Field(ge=0, le=23, description="Of the day, UTC.")
    count: int


class HeatMapResource(Resource):
    """Tokens issued by day of the week and hour: all 168 of them are there, Sunday's first hour first."""

    organization_id: Uuid
    days: int
    data: list[HourResource] = Field(min_length=168, max_length=168)


class AgentUsageResource(Resource):
    """What an agent did in these days."""

    agent_id: Uuid
    name: str
    tokens_issued: int
    api_calls: int = Field(description="Calls of this API with one of the agent's tokens or as a client.")
    last_seen_at: InstantOut | None = Field(description="When it last was issued a token or called, in these days.")


class AgentUsagePage(Page[AgentUsageResource]):
    """One page of the organization's agents, the newest first, those without any activity included."""

    organization_id: Uuid
    days: int


class MeterSummaryResource(Resource):
    """One meter over the days asked for."""

    total: int
    daily_average: float = Field(description="The total divided by the number of days, to two decimals.")
    peak_day: DayResource | None = Field(description="The first of the days with the highest count; null when nothing was counted.")


class UsageSummaryResource(Resource):
    """What the organization used, from one day to another, both included."""

    organization_id: Uuid
    from_: DateOut = Field(alias="from")
    to: DateOut
    tokens_issued: MeterSummaryResource
    api_calls: MeterSummaryResource


@router.get("/tokens", operation_id="getDailyTokens", **secured(ANY_TOKEN, **_READER))
async def tokens(request: Request, parameters: Annotated[DaysParameters, Query()]) -> DailyTokensResource:
    """Count the tokens issued on each of the last days."""
    data = await read(request, queries.get_daily_tokens, parameters.days)
    days = [DayResource(date=one.day, count=one.count) for one in data]
    return DailyTokensResource(organization_id=caller_of(request).organization_id, days=parameters.days, data=days)


@router.get("/agents/activity", operation_id="getAgentActivity", **secured(ANY_TOKEN, **_READER))
async def activity(request: Request, parameters: Annotated[DaysParameters, Query()]) -> HeatMapResource:
    """Show at which hours of the week agents are active: the tokens issued to them in the last days as a heat map."""
    cells = [HourResource.model_validate(cell) for cell in await read(request, queries.get_heat_map, parameters.days)]
    return HeatMapResource(organization_id=caller_of(request).organization_id, days=parameters.days, data=cells)


@router.get("/agents", operation_id="listAgentUsage", **secured(ANY_TOKEN, **_READER))
async def agents(request: Request, parameters: Annotated[AgentsParameters, Query()]) -> AgentUsagePage:
    """List the organization's agents, newest first, with what each of them did in the last days."""
    wanted = page_request(parameters.limit, parameters.page, parameters.cursor)
    page, usage = await read(request, queries.list_agents, parameters.days, wanted)
    return AgentUsagePage(
        organization_id=caller_of(request).organization_id,
        days=parameters.days,
        data=[AgentUsageResource.model_validate(one) for one in usage],
        page=page.page,
        limit=page.limit,
        total=page.total,
        next_cursor=page.next_cursor,
    )


@router.get("/usage-summary", operation_id="getUsageSummary", **secured(ANY_TOKEN, InvalidDateRange, **_READER))
async def usage_summary(request: Request, parameters: Annotated[DatesParameters, Query()]) -> UsageSummaryResource:
    """Add up tokens and calls from one day to another: total, daily average and peak day."""
    found = await read(request, queries.get_usage_summary, parameters.from_, parameters.to)
    tokens_issued, api_calls = (
        MeterSummaryResource(
            total=one.total,
            daily_average=one.daily_average,
            peak_day=DayResource(date=one.peak_day.day, count=one.peak_day.count) if one.peak_day else None,
        )
        for one in (found.tokens_issued, found.api_calls)
    )
    return UsageSummaryResource(
        organization_id=caller_of(request).organization_id, from_=found.days.first, to=found.days.last, tokens_issued=tokens_issued, api_calls=api_calls
    )
