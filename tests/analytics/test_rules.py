"""Days, hours and totals, without a database."""

from datetime import date, datetime, timedelta

import pytest

from agentidp.analytics.rules import DayCount, Days, HourCount, MeterSummary, between, heat_map, latest, require_reader, summary, zero_filled
from agentidp.core.caller import Caller
from agentidp.core.errors import Forbidden, InvalidDateRange
from agentidp.ledger.entries import DAY_MS

DAY = 20_000
LAST_MOMENT = (DAY + 1) * DAY_MS - 1


def test_the_last_days_end_with_today_until_midnight_utc() -> None:
    assert latest(LAST_MOMENT, 1) == Days(DAY, DAY)
    assert latest(LAST_MOMENT + 1, 1) == Days(DAY + 1, DAY + 1)
    assert latest(LAST_MOMENT, 90) == Days(DAY - 89, DAY)
    assert latest(LAST_MOMENT, 90).count == 90


@pytest.mark.parametrize(
    ("first", "last", "found"),
    [
        (None, None, Days(DAY - 29, DAY)),
        (DAY - 3, None, Days(DAY - 3, DAY)),
        (None, 100, Days(71, 100)),
        (None, 3, Days(0, 3)),
        (DAY, DAY, Days(DAY, DAY)),
        (DAY - 365, DAY, Days(DAY - 365, DAY)),
        (-700_000, -699_999, Days(-700_000, -699_999)),
        (DAY + 1, DAY + 5, Days(DAY + 1, DAY + 5)),
    ],
)
def test_dates_that_are_left_out_are_filled_in(first: int | None, last: int | None, found: Days) -> None:
    assert between(LAST_MOMENT, first, last) == found


@pytest.mark.parametrize(("first", "last"), [(DAY, DAY - 1), (DAY + 1, None), (None, -1), (DAY - 366, DAY), (-700_000, None)])
def test_dates_in_the_wrong_order_or_too_far_apart_are_refused(first: int | None, last: int | None) -> None:
    with pytest.raises(InvalidDateRange, match=r"^from "):
        between(LAST_MOMENT, first, last)


def test_every_day_is_there_oldest_first() -> None:
    assert zero_filled(Days(5, 8), {6: 3, 8: 1}) == [DayCount(5, 0), DayCount(6, 3), DayCount(7, 0), DayCount(8, 1)]


def test_the_heat_map_has_168_cells_and_its_weeks_begin_on_sunday() -> None:
    """Against the calendar, for every day of three years."""
    assert heat_map([]) == [HourCount(day, hour, 0) for day in range(7) for hour in range(24)]
    begin = datetime(2025, 1, 1)  # noqa: DTZ001 - only its date counts
    for number in range(3 * 365):
        at = begin + timedelta(days=number, hours=number % 24)
        filled = [cell for cell in heat_map([(at.toordinal() - date(1970, 1, 1).toordinal(), at.hour, 7)]) if cell.count]
        assert filled == [HourCount(at.isoweekday() % 7, at.hour, 7)]


def test_the_same_hour_of_several_weeks_is_one_cell() -> None:
    cells = heat_map([(DAY, 3, 2), (DAY - 7, 3, 5), (DAY - 6, 3, 1)])
    assert sorted(cell.count for cell in cells if cell.count) == [1, 7]


def test_a_summary_divides_by_all_days_and_names_the_first_peak() -> None:
    assert summary(Days(1, 3), {2: 4, 3: 4}) == MeterSummary(8, 2.67, DayCount(2, 4))
    assert summary(Days(1, 3), {}) == MeterSummary(0, 0.0, None)


def test_the_scope_or_the_role_will_do() -> None:
    require_reader(Caller("o", "a", frozenset({"analytics:read"})), None)
    require_reader(Caller("o", "a", frozenset({"openid"})), "admin")
    for role in (None, "member"):
        with pytest.raises(Forbidden) as raised:
            require_reader(Caller("o", "a", frozenset({"audit:read", "admin:orgs"})), role)
        assert raised.value.scope == "analytics:read"
        assert [entry.action for entry in raised.value.audit] == ["access.denied"]
