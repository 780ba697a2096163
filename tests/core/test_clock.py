"""Instants as milliseconds, and RFC 3339 both ways."""

import pytest
import time_machine
from hypothesis import given
from hypothesis import strategies as st

from agentidp.core import limits
from agentidp.core.clock import from_rfc3339, system_clock, to_rfc3339


@given(st.integers(0, limits.TIMESTAMP_MS_MAX))
def test_every_instant_survives_the_round_trip(instant: int) -> None:
    text = to_rfc3339(instant)
    assert len(text) == len("2026-11-22T19:20:31.042Z")
    assert from_rfc3339(text) == instant


@given(st.integers(0, limits.TIMESTAMP_MS_MAX), st.integers(0, limits.TIMESTAMP_MS_MAX))
def test_texts_sort_as_instants_do(one: int, other: int) -> None:
    assert (one < other) == (to_rfc3339(one) < to_rfc3339(other))


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:00z", 0),
        ("2026-11-22T19:20:31.042Z", 1795375231042),
        ("2026-11-22T20:20:31.042+01:00", 1795375231042),
        ("2026-11-22T14:50:31.042-04:30", 1795375231042),
        ("2026-11-22T19:20:31Z", 1795375231000),
        ("2026-11-22T19:20:31.0421Z", 1795375231042),
        ("2026-11-22T19:20:31.042000000Z", 1795375231042),
        ("2028-02-29T00:00:00Z", 1835395200000),
        ("9999-12-31T23:59:59.999Z", limits.TIMESTAMP_MS_MAX),
    ],
)
def test_reads_what_rfc_3339_allows(text: str, instant: int) -> None:
    assert from_rfc3339(text) == instant


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "1795375231042",
        "2026-11-22",
        "2026-11-22T19:20:31",
        "2026-11-22 19:20:31Z",
        "2026-11-22T19:20Z",
        "2026-11-22T19:20:31,042Z",
        "2026-11-22T19:20:31.Z",
        "2026-11-22T19:20:31+0100",
        "2026-11-22T19:20:31Z ",
        "2026-11-22T19:20:31Z\n",
        "2026-13-01T00:00:00Z",
        "2026-02-29T00:00:00Z",
        "2026-11-22T25:00:00Z",
        "2026-11-22T19:20:31+25:00",
        "1969-12-31T23:59:59Z",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59.999-23:59",
        "\uff12\uff10\uff12\uff16-11-22T19:20:31Z",
        "+2026-11-22T19:20:31Z",
        "2026-W47-7T19:20:31Z",
    ],
)
def test_refuses_everything_else(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(must be an RFC 3339 date and time|is out of range|day is out of range|month must be|hour must be)"):
        from_rfc3339(text)


def test_the_system_clock_counts_milliseconds_since_the_epoch() -> None:
    with time_machine.travel(1_795_375_231.042, tick=False):
        assert system_clock() == 1_795_375_231_042
        assert to_rfc3339(system_clock()) == "2026-11-22T19:20:31.042Z"
