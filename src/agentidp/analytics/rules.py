"""What is made of the ledger's counters: days without a gap, a week's hours, totals. Pure. Days are UTC, numbered from 1970-01-01."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from agentidp.core import limits
from agentidp.core.caller import AuditEntry, Caller
from agentidp.core.errors import Forbidden, InvalidDateRange
from agentidp.ledger.entries import DAY_MS

SCOPE: Final = "analytics:read"
_FIRST_DAY_OF_WEEK = 4  # 1970-01-01 was a Thursday, and a week begins on Sunday


@dataclass(frozen=True, slots=True)
class Days:
    """From one day to another, both inclusive."""

    first: int
    last: int

    @property
    def count(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class DayCount:
    day: int
    count: int


@dataclass(frozen=True, slots=True)
class HourCount:
    """A cell of the heat map: an hour of one day of the week, 0 for Sunday."""

    day_of_week: int
    hour: int
    count: int


@dataclass(frozen=True, slots=True)
class AgentUsage:
    """What one agent did. `last_seen_at` in milliseconds; None: not in these days."""

    agent_id: str
    name: str
    tokens_issued: int
    api_calls: int
    last_seen_at: int | None


@dataclass(frozen=True, slots=True)
class MeterSummary:
    """One meter over some days. The peak is the earliest of the days with the highest count; None where nothing was counted."""

    total: int
    daily_average: float
    peak_day: DayCount | None


@dataclass(frozen=True, slots=True)
class UsageSummary:
    days: Days
    tokens_issued: MeterSummary
    api_calls: MeterSummary


def require_reader(caller: Caller, role: str | None) -> None:
    """Raises Forbidden unless the caller's token holds the scope or the caller administers its organization."""
    if SCOPE not in caller.scopes and role != "admin":
        entry = AuditEntry("access.denied", "failure", metadata={"requiredScope": SCOPE})
        raise Forbidden(f"This needs a token with scope {SCOPE}, or an administrator of the organization.", scope=SCOPE, audit=[entry])


def latest(now: int, count: int) -> Days:
    """The last `count` days, today included."""
    today = now // DAY_MS
    return Days(today - count + 1, today)


def between(now: int, first: int | None, last: int | None) -> Days:
    """The days from `first` to `last`; without them, up to today and from 30 days before the end. Raises InvalidDateRange."""
    last = now // DAY_MS if last is None else last
    first = max(0, last - limits.ANALYTICS_DAYS_DEFAULT + 1) if first is None else first
    days = Days(first, last)
    if days.count < 1:
        raise InvalidDateRange("from must not be after to; without to, not after today.")
    if days.count > limits.USAGE_SUMMARY_DAYS_MAX:
        raise InvalidDateRange(f"from and to may be at most {limits.USAGE_SUMMARY_DAYS_MAX} days apart, both included.")
    return days


def zero_filled(days: Days, counts: Mapping[int, int]) -> list[DayCount]:
    """One for every day, oldest first."""
    return [DayCount(day, counts.get(day, 0)) for day in range(days.first, days.last + 1)]


def heat_map(hours: Iterable[tuple[int, int, int]]) -> list[HourCount]:
    """All 168 cells, Sunday's first hour first, from (day, hour, count)."""
    cells = [[0] * 24 for _ in range(7)]
    for day, hour, count in hours:
        cells[(day + _FIRST_DAY_OF_WEEK) % 7][hour] += count
    return [HourCount(day, hour, count) for day, row in enumerate(cells) for hour, count in enumerate(row)]


def summary(days: Days, counts: Mapping[int, int]) -> MeterSummary:
    peak = max(zero_filled(days, counts), key=lambda one: one.count)
    total = sum(counts.values())
    return MeterSummary(total, round(total / days.count, 2), peak if peak.count else None)
