"""What an answer makes of a delivery, and when to try again."""

import pytest

from agentidp.core import limits
from agentidp.webhooks.rules import EVENT_TYPES, Attempt, Delivery, Pace, history_with, parse_retry_after, result_of, secret_text

PACE, NOW = Pace(), 1_800_000_000_000
ENDED = NOW + 3  # of the attempts below: a pause begins when an attempt is over


def delivery(attempts: int = 0, history: int = 0) -> Delivery:
    ids = ("o", "d", "w", "e")
    past = [{"attemptedAt": number, "latencyMs": 1, "statusCode": 500, "error": "status"} for number in range(history)]
    return Delivery(*ids, "agent.created", 1, "{}", "pending", attempts, past, None, NOW, NOW, NOW, None)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_is_success(status: int) -> None:
    result = result_of(delivery(), Attempt(NOW, 3, status), PACE, 0.5)
    assert (result.status, result.next_attempt_at) == ("delivered", None)


@pytest.mark.parametrize("status", [100, 199, 300, 301, 307, 400, 404, 500, 599])
def test_nothing_else_is(status: int) -> None:
    assert result_of(delivery(), Attempt(NOW, 3, status), PACE, 0.5).status == "failed"


def test_gone_is_the_end_at_once() -> None:
    assert result_of(delivery(), Attempt(NOW, 3, 410), PACE, 0.5).status == "dead_letter"


@pytest.mark.parametrize("attempts", range(9))
def test_pauses_are_spread_by_a_tenth(attempts: int) -> None:
    pauses = [result_of(delivery(attempts), Attempt(NOW, 3, error="timeout"), PACE, jitter).next_attempt_at for jitter in (0.0, 0.5, 1.0)]
    middle = PACE.pauses[attempts]
    assert pauses == [ENDED + int(middle * 0.9), ENDED + middle, pytest.approx(ENDED + middle * 1.1, abs=1)]


def test_the_tenth_failure_is_the_last() -> None:
    assert result_of(delivery(8), Attempt(NOW, 3, 500), PACE, 0.5).status == "failed"
    assert result_of(delivery(9), Attempt(NOW, 3, 500), PACE, 0.5).status == "dead_letter"


@pytest.mark.parametrize(("status", "honoured"), [(429, True), (503, True), (500, False), (404, False)])
def test_retry_after_counts_where_it_means_something(status: int, *, honoured: bool) -> None:
    result = result_of(delivery(), Attempt(NOW, 3, status, retry_after_seconds=600), PACE, 0.5)
    assert result.next_attempt_at == ENDED + (600_000 if honoured else 5_000)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("120", 120), ("0", 0), (None, None), ("-1", None), ("1.5", None), ("٣", None), ("9" * 10, None), ("Wed, 21 Oct 2015 07:28:00 GMT", None), ("", None)],
)
def test_retry_after_is_whole_seconds(text: str | None, seconds: int | None) -> None:
    assert parse_retry_after(text) == seconds


def test_a_receiver_is_left_alone_for_longer_and_longer() -> None:
    pauses = [PACE.receiver_pause(failures) for failures in range(1, 2000)]
    first = limits.WEBHOOK_FAILURES_BEFORE_PAUSE - 1
    assert pauses[:first] == [0] * first
    assert pauses[first : first + 6] == [1000, 2000, 4000, 8000, 16_000, 32_000]
    assert set(pauses[first + 6 :]) == {limits.WEBHOOK_PAUSE_MS_MAX}


def test_history_is_bounded() -> None:
    full = history_with(delivery(history=limits.WEBHOOK_HISTORY_MAX), Attempt(NOW, 7, 200))
    assert len(full) == limits.WEBHOOK_HISTORY_MAX
    assert full[-1] == {"attemptedAt": NOW, "latencyMs": 7, "statusCode": 200, "error": None}


def test_a_delivery_outlives_its_attempts() -> None:
    """What has its last attempt late, by jitter and a receiver that is left alone, is not given up before it."""
    assert sum(PACE.pauses) * 1.1 + len(PACE.pauses) * limits.WEBHOOK_PAUSE_MS_MAX < PACE.expires
    assert limits.WEBHOOK_LEASE_LEFT_MS > 1000 * (limits.OUTGOING_TURN_SECONDS_MAX + limits.OUTGOING_SECONDS_MAX), "an attempt ends within its lease"


def test_a_secret_is_as_the_standard_has_it() -> None:
    assert secret_text(b"\0" * 32) == "whsec_" + "A" * 43 + "="


def test_every_type_is_an_action_of_the_history() -> None:
    assert len(set(EVENT_TYPES)) == len(EVENT_TYPES) == 13
