"""Reading the ledger's counters of the caller's organization. What a query reads is bounded by its days and its page, not by the history."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from agentidp.analytics.rules import AgentUsage, DayCount, Days, HourCount, UsageSummary, between, heat_map, latest, require_reader, summary, zero_filled
from agentidp.db.paging import PageRequest, RowPage, fetch_page
from agentidp.db.schema import agent_activity, agents, hourly_tokens, usage_counters
from agentidp.db.unit import Tx
from agentidp.organizations.queries import find_own_role


def get_daily_tokens(tx: Tx, count: int) -> list[DayCount]:
    """Tokens issued on each of the last `count` days. Raises Forbidden."""
    _require_reader(tx)
    days = latest(tx.now, count)
    return zero_filled(days, _by_day(tx, days, "tokensIssued"))


def get_heat_map(tx: Tx, count: int) -> list[HourCount]:
    """Tokens issued in each hour of a week, over the last `count` days. Raises Forbidden."""
    _require_reader(tx)
    days, hourly = latest(tx.now, count), hourly_tokens.c
    query = sa.select(hourly.day, hourly.hour, hourly.count.label("total")).where(
        hourly.organization_id == tx.caller.organization_id, _within(hourly.day, days)
    )
    return heat_map((row.day, row.hour, row.total) for row in tx.all(query))


def list_agents(tx: Tx, count: int, request: PageRequest) -> tuple[RowPage, list[AgentUsage]]:
    """A page of the agents, and what each of them did in the last `count` days. Raises Forbidden."""
    _require_reader(tx)
    query = sa.select(agents.c.agent_id, agents.c.name).where(agents.c.organization_id == tx.caller.organization_id)
    page = fetch_page(tx, query, agents.c.agent_id, request)
    return page, _usage(tx, latest(tx.now, count), page.rows)


def get_usage_summary(tx: Tx, first: int | None, last: int | None) -> UsageSummary:
    """Raises Forbidden, InvalidDateRange."""
    _require_reader(tx)
    days = between(tx.now, first, last)
    return UsageSummary(days, *(summary(days, _by_day(tx, days, meter)) for meter in ("tokensIssued", "apiCalls")))


def _require_reader(tx: Tx) -> None:
    require_reader(tx.caller, find_own_role(tx))


def _within(day: sa.ColumnElement[int], days: Days) -> sa.ColumnElement[bool]:
    return day.between(days.first, days.last)


def _by_day(tx: Tx, days: Days, meter: str) -> dict[int, int]:
    counted = usage_counters.c
    mine = sa.and_(counted.organization_id == tx.caller.organization_id, _within(counted.day, days), counted.meter == meter)
    return {row.day: row.total for row in tx.all(sa.select(counted.day, counted.count.label("total")).where(mine))}


def _usage(tx: Tx, days: Days, rows: Iterable[sa.Row[Any]]) -> list[AgentUsage]:
    usage = {row.agent_id: AgentUsage(row.agent_id, row.name, 0, 0, None) for row in rows}
    done = agent_activity.c
    # The days are written into the statement: not knowing them, PostgreSQL would take the index of days for the better one, and read all agents.
    within = done.day.between(sa.literal(days.first, literal_execute=True), sa.literal(days.last, literal_execute=True))
    query = (
        sa.select(done.agent_id, done.meter, sa.func.sum(done.count).label("total"), sa.func.max(done.last_seen_at).label("last_seen_at"))
        .where(done.organization_id == tx.caller.organization_id, done.agent_id.in_(usage), within)
        .group_by(done.agent_id, done.meter)
    )
    for row in tx.all(query):
        known, total = usage[row.agent_id], int(row.total)
        known = replace(known, tokens_issued=total) if row.meter == "tokensIssued" else replace(known, api_calls=total)
        usage[row.agent_id] = replace(known, last_seen_at=max(known.last_seen_at or 0, row.last_seen_at))
    return list(usage.values())
