"""UUIDv7 in the form of RFC 9562, in order whatever the clock and the threads do."""

import re
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from agentidp.core.clock import system_clock
from agentidp.core.ids import UUID_PATTERN, is_id, new_id

FAR = system_clock() + 10**9  # ahead of every other test, so that the time part is the one that is asked for


def test_has_the_form_of_a_version_7_uuid_with_the_time_in_front() -> None:
    now = max(FAR, _time_of(new_id(0)) + 1)
    text = new_id(now)
    parsed = uuid.UUID(text)
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert str(parsed) == text
    assert _time_of(text) == now
    assert re.fullmatch(UUID_PATTERN, text)
    assert is_id(text)


def test_ids_of_one_millisecond_are_in_order_even_beyond_the_counter() -> None:
    now = system_clock()
    ids = [new_id(now) for _ in range(10_000)]  # 4,096 fit in a millisecond
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)


def test_ids_stay_in_order_when_the_clock_steps_back() -> None:
    first = new_id(FAR * 2)
    later = [new_id(now) for now in (FAR, 0, FAR * 2 - 1)]
    assert [first, *later] == sorted([first, *later])


def test_ids_are_in_order_within_each_thread_and_unique_across_threads() -> None:
    with ThreadPoolExecutor(8) as pool:
        batches = list(pool.map(lambda _: [new_id(system_clock()) for _ in range(2_000)], range(8)))
    assert all(batch == sorted(batch) for batch in batches)
    assert len({one for batch in batches for one in batch}) == 16_000


def test_the_tail_cannot_be_guessed_from_the_one_before() -> None:
    tails = {new_id(FAR)[20:] for _ in range(1_000)}
    assert len(tails) == 1_000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "01A204DE-1431-7001-8DC3-4C35879F7B91",
        "{01a204de-1431-7001-8dc3-4c35879f7b91}",
        "urn:uuid:01a204de-1431-7001-8dc3-4c35879f7b91",
        "01a204de143170018dc34c35879f7b91",
        "01a204de-1431-7001-8dc3-4c35879f7b91\n",
        " 01a204de-1431-7001-8dc3-4c35879f7b91",
        "01a204de-1431-7001-8dc3-4c35879f7b9g",
        "\uff101a204de-1431-7001-8dc3-4c35879f7b91",
    ],
)
def test_other_spellings_are_no_ids(text: str) -> None:
    assert not is_id(text)


def _time_of(text: str) -> int:
    return int(text.replace("-", "")[:12], 16)
