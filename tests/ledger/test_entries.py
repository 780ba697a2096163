"""The rules by which a batch is judged."""

import random
from dataclasses import replace

import pytest

from agentidp.core.caller import Origin
from agentidp.ledger.entries import DAY_MS, Entry, Event, Facts, Snapshot, Verdict, counters, events, judge, refuse_over_limit

NOW = 20_000 * DAY_MS + 1
SNAPSHOT = Snapshot("o1", "a1", "c1", (1, 1, 1), "active", "active", None, None, None, frozenset(), 0, None, None, "enterprise")
RECORDED, STALE, DEAD, OVER = Verdict.RECORDED, Verdict.STALE, Verdict.DEAD, Verdict.OVER_LIMIT


def event(number: int = 0) -> Event:
    return Event(f"e{number}", "a1", "token.issued", "token", f"t{number}", "{}", Origin())


def facts(revisions: dict[str, tuple[int, int, int]] | None = None, revoked: str = "", withdrawn: str = "") -> Facts:
    return Facts({"c1": (1, 1, 1)} if revisions is None else revisions, frozenset({revoked}), frozenset({withdrawn}))


@pytest.mark.parametrize("revisions", [{}, {"c1": (2, 1, 1)}, {"c1": (1, 2, 1)}, {"c1": (1, 1, 2)}, {"c2": (1, 1, 1)}])
def test_whatever_changed_behind_the_snapshot_makes_it_stale(revisions: dict[str, tuple[int, int, int]]) -> None:
    entry = Entry(SNAPSHOT, token_id="t")
    judge([entry], facts(revisions, revoked="t"))
    assert entry.verdict is STALE


@pytest.mark.parametrize(("revoked", "withdrawn", "verdict"), [("", "", RECORDED), ("t", "", DEAD), ("", "k", DEAD), ("other", "other", RECORDED)])
def test_a_revoked_token_or_a_withdrawn_key_is_dead(revoked: str, withdrawn: str, verdict: Verdict) -> None:
    entry = Entry(SNAPSHOT, token_id="t", key_id="k")
    judge([entry], facts(revoked=revoked, withdrawn=withdrawn))
    assert entry.verdict is verdict


@pytest.mark.parametrize(("issued_at", "verdict"), [(4999, DEAD), (5000, RECORDED), (5001, RECORDED)])
def test_a_token_from_before_the_floor_is_dead(issued_at: int, verdict: Verdict) -> None:
    entry = Entry(SNAPSHOT, token_id="t", token_issued_at=issued_at)
    judge([entry], replace(facts(), tokens_not_before=5000))
    assert entry.verdict is verdict


def test_an_entry_about_no_token_is_not_dead() -> None:
    entry = Entry(SNAPSHOT)
    judge([entry], replace(facts(revoked="t", withdrawn="k"), tokens_not_before=5000))
    assert entry.verdict is RECORDED


def test_a_batch_that_is_written_again_is_judged_anew() -> None:
    """A serialization failure undoes the counting, and what it refused."""
    entry = Entry(SNAPSHOT, verdict=OVER)
    judge([entry], facts())
    assert entry.verdict is RECORDED


def test_counters_are_locked_in_one_order_and_leave_out_what_is_refused() -> None:
    snapshots = [replace(SNAPSHOT, organization_id=name) for name in ("o1", "o2", "o3")]
    batch = [Entry(one, meter) for one in snapshots for meter in ("tokensIssued", "apiCalls", None)] * 2
    batch += [Entry(replace(SNAPSHOT, organization_id="o0"), "apiCalls", verdict=verdict) for verdict in (STALE, DEAD, OVER)]
    random.shuffle(batch)
    found = counters(batch, NOW)
    assert list(found) == [(owner, 20_000, meter) for owner in ("o1", "o2", "o3") for meter in ("apiCalls", "tokensIssued")]
    assert {len(counted) for counted in found.values()} == {2}
    assert list(counters([Entry(SNAPSHOT, "apiCalls")], NOW - 2)) == [("o1", 19_999, "apiCalls")]


@pytest.mark.parametrize(("meter", "limit_name"), [("tokensIssued", "tokens_per_day_max"), ("apiCalls", "calls_per_day_max")])
@pytest.mark.parametrize(
    ("limit", "total", "refused"),
    [(None, 10**9, 0), (10, 8, 0), (10, 10, 0), (10, 11, 1), (10, 13, 3), (10, 500, 3), (0, 3, 3)],
)
def test_the_newest_beyond_the_limit_are_refused(meter: str, limit_name: str, limit: int | None, total: int, refused: int) -> None:
    counted = [Entry(replace(SNAPSHOT, **{limit_name: limit}), meter) for _ in range(3)]
    assert refuse_over_limit(counted, total) == refused
    assert [entry.verdict for entry in counted] == [RECORDED] * (3 - refused) + [OVER] * refused


@pytest.mark.parametrize(("meter", "limit_name"), [("apiCalls", "tokens_per_day_max"), ("tokensIssued", "calls_per_day_max"), ("other", "calls_per_day_max")])
def test_a_limit_is_that_of_its_meter(meter: str, limit_name: str) -> None:
    counted = [Entry(replace(SNAPSHOT, **{limit_name: 0}), meter)]
    assert refuse_over_limit(counted, 5) == 0
    assert counted[0].verdict is RECORDED


@pytest.mark.parametrize(
    ("essential", "total", "verdicts"),
    [
        ((True, False, False), 11, (RECORDED, RECORDED, OVER)),
        ((False, False, True), 11, (RECORDED, OVER, RECORDED)),
        ((False, True, False), 13, (OVER, RECORDED, OVER)),
        ((True, True, True), 13, (RECORDED, RECORDED, RECORDED)),
    ],
)
def test_what_is_essential_counts_and_is_not_refused(essential: tuple[bool, ...], total: int, verdicts: tuple[Verdict, ...]) -> None:
    known = replace(SNAPSHOT, calls_per_day_max=10)
    counted = [Entry(known, "apiCalls", essential=one) for one in essential]
    assert refuse_over_limit(counted, total) == verdicts.count(OVER)
    assert tuple(entry.verdict for entry in counted) == verdicts


def test_only_what_is_recorded_leaves_an_event() -> None:
    batch = [Entry(SNAPSHOT, event=event(number), verdict=verdict) for number, verdict in enumerate(Verdict)] + [Entry(SNAPSHOT)]
    assert events(batch) == [("o1", event(0))]


@pytest.mark.parametrize(
    ("change", "active"),
    [
        ({}, True),
        ({"agent_status": "suspended"}, False),
        ({"organization_status": "deleted"}, False),
        ({"agent_expires_at": NOW}, False),
        ({"agent_expires_at": NOW + 1}, True),
    ],
)
def test_a_snapshot_is_active(change: dict[str, object], active: bool) -> None:  # noqa: FBT001 - what is expected
    assert replace(SNAPSHOT, **change).is_active(NOW) is active


@pytest.mark.parametrize(("credential", "agent", "ends"), [(None, None, None), (5, None, 5), (None, 6, 6), (5, 6, 5), (7, 6, 6)])
def test_a_snapshot_ends_with_the_first_that_expires(credential: int | None, agent: int | None, ends: int | None) -> None:
    assert replace(SNAPSHOT, expires_at=credential, agent_expires_at=agent).ends_at == ends
