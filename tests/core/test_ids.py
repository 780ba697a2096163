"""UUIDv7 in the form of RFC 9562, in order whatever the clock and the threads do."""

import re
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from agentidp.core import limits
from agentidp.core.clock import system_clock
from agentidp.core.ids import UUID_PATTERN, first_id, is_id, new_id

FAR = system_clock() + 10**9  # ahead of every other test, so that the time part is the one that is asked for


def test_has_the_form_of_a_version_7_uuid_with_the_time_in_front() -> None:
    now = FAR * 2
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


def test_ids_stay_in_order_when_the_clock_steps_back_a_little() -> None:
    first = new_id(FAR * 3)
    later = [new_id(FAR * 3 - back) for back in (1, limits.ID_LEAD_MS_MAX - 1, 60_000)]
    assert [first, *later] == sorted([first, *later])


def test_ids_keep_to_the_clock_when_it_steps_back_far() -> None:
    new_id(FAR * 4)
    now = FAR * 4 - limits.ID_LEAD_MS_MAX - 1
    later = [new_id(now) for _ in range(100)]
    assert {_time_of(text) for text in later} == {now}
    assert later == sorted(set(later))


def test_the_first_id_of_an_instant_is_below_every_other() -> None:
    now = FAR * 5
    assert new_id(now - 1) < first_id(now) <= new_id(now) < first_id(now + 1)
    assert is_id(first_id(0))
    assert first_id(limits.TIMESTAMP_MS_MAX) < first_id(limits.TIMESTAMP_MS_MAX + 1)


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
