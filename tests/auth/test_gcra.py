"""The cell rate algorithm as what it promises, for any sequence of requests and any clock."""

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from agentidp.core.gcra import MINUTE, Cells, Rate

LIMITS = st.integers(1, 20_000)
GAPS = st.lists(st.integers(0, MINUTE // 4), min_size=1, max_size=200)
START = 1_800_000_000_000_000


@given(per_minute=LIMITS, gaps=GAPS)
def test_no_span_holds_more_than_the_burst_and_what_came_back_in_it(per_minute: int, gaps: list[int]) -> None:
    cells = Cells(per_minute, 10)
    allowed = [now for now in accumulate(gaps, initial=START) if cells.take("k", now).is_allowed]
    for first, begin in enumerate(allowed):
        for last, end in enumerate(allowed[first:]):
            assert last + 1 <= per_minute + (end - begin) // Rate.of(per_minute).interval


@given(per_minute=st.integers(1, 300))
def test_the_burst_is_the_limit_and_is_counted_down(per_minute: int) -> None:
    cells = Cells(per_minute, 10)
    seen = [cells.take("k", START) for _ in range(per_minute + 2)]
    assert [standing.is_allowed for standing in seen] == [True] * per_minute + [False] * 2
    assert [standing.remaining for standing in seen] == [*range(per_minute - 1, -1, -1), 0, 0]
    assert {standing.reset_at for standing in seen[-3:]} == {-(-(START + Rate.of(per_minute).interval * per_minute) // 1_000_000)}


@given(per_minute=LIMITS, gaps=GAPS)
def test_whoever_waits_as_told_is_allowed(per_minute: int, gaps: list[int]) -> None:
    cells = Cells(per_minute, 10)
    for now in accumulate(gaps, initial=START):
        standing = cells.take("k", now)
        assert standing.retry_seconds >= 1
        assert cells.look("k", now + standing.retry_seconds * 1_000_000).is_allowed
        assert 0 <= standing.remaining < per_minute
        assert standing.reset_at * 1_000_000 >= now


@given(per_minute=LIMITS, gaps=GAPS)
def test_looking_says_what_taking_would_and_counts_nothing(per_minute: int, gaps: list[int]) -> None:
    cells, looked_at = Cells(per_minute, 10), Cells(per_minute, 10)
    for now in accumulate(gaps, initial=START):
        looked = [looked_at.look("k", now) for _ in range(3)]
        taken = cells.take("k", now)
        assert {standing.is_allowed for standing in looked} == {taken.is_allowed}
        looked_at.put("k", taken.backlog, now)


@given(per_minute=LIMITS, back=st.integers(1, 10 * 365 * 24 * 60) | st.just(0), acts=st.integers(1, 50))
def test_a_clock_that_is_set_back_locks_nobody_out_for_more_than_a_minute(per_minute: int, back: int, acts: int) -> None:
    cells = Cells(per_minute, 10)
    for _ in range(acts):
        cells.take("k", START)
    now = START - back * MINUTE
    cells.take("k", now)
    assert cells.take("k", now + Rate.of(per_minute).interval).is_allowed
    assert cells.take("k", now + MINUTE + Rate.of(per_minute).interval).is_allowed


def test_keys_do_not_know_each_other_and_the_idle_go_first() -> None:
    cells = Cells(1, 3)
    for key in ("a", "b", "c", "a", "d"):  # b is the one that has not been asked for longest
        cells.take(key, START)
    assert [cells.look(key, START).is_allowed for key in ("a", "b", "c", "d")] == [False, True, False, False]
    assert len(cells) == 3
    cells.put("e", 0, START)
    assert len(cells) == 3
    assert cells.look("c", START).is_allowed
