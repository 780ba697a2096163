"""Time as an argument. All instants are integers: milliseconds since 1970-01-01T00:00:00Z."""

import functools
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime

from agentidp.core import limits

Clock = Callable[[], int]

_DAY_MS = 24 * 3600 * 1000

_MILLISECONDS = tuple(f".{number:03d}Z" for number in range(1000))
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])",
    re.ASCII,
)


def system_clock() -> int:
    """The wall clock, in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def seconds_to_midnight(instant: int) -> int:
    """Whole seconds until the next midnight UTC, at least 1: when the counters of a day begin again."""
    return (_DAY_MS - instant % _DAY_MS + 999) // 1000


def to_rfc3339(instant: int) -> str:
    """`2026-11-22T19:20:31.042Z`: UTC with milliseconds (RFC 3339 section 5.6)."""
    seconds, milliseconds = divmod(instant, 1000)
    return _to_the_second(seconds) + _MILLISECONDS[milliseconds]


@functools.lru_cache(64)  # what happens in one second is written with the same text
def _to_the_second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def from_rfc3339(text: str) -> int:
    """Milliseconds since the epoch. Raises ValueError for anything that RFC 3339 does not allow or that has no zone."""
    if not _RFC3339.fullmatch(text):
        message = "must be an RFC 3339 date and time with a zone, such as 2026-11-22T19:20:31Z"
        raise ValueError(message)
    try:
        instant = datetime.fromisoformat(text.upper()).astimezone(UTC)
    except OverflowError as error:
        raise ValueError("is out of range") from error
    milliseconds = round(instant.timestamp() * 1000)
    if not 0 <= milliseconds <= limits.TIMESTAMP_MS_MAX:
        raise ValueError("is out of range")
    return milliseconds
