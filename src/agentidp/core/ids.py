"""UUIDv7 made by the application (RFC 9562 section 5.7), so that ids sort by time on every engine."""

import os
import re
import threading

from agentidp.core import limits

UUID_PATTERN = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
_UUID = re.compile(UUID_PATTERN.strip("^$"), re.ASCII)
_TAIL_DIGITS = 16  # 64 bits: the variant and 62 random ones
_POOL_BYTES = 8 * 512  # one system call for many ids
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
_LEAD_TICKS = limits.ID_LEAD_MS_MAX << 12
_lock = threading.Lock()
_last = 0  # the last 60-bit time and counter given out
_pool = ""  # random hexadecimal digits
_taken = 0


def new_id(now: int) -> str:
    """A UUIDv7 for `now` (milliseconds). Ids of one process are in order: the 12 bits after the time are a counter.

    When the clock steps back, ids go on from where they were, unless it steps back so far that their time would be wrong (RFC 9562 section 6.2).
    """
    global _last, _pool, _taken  # noqa: PLW0603 - a process-wide counter is what makes the ids monotonic
    with _lock:
        ticks = max(now << 12, _last + 1)
        if ticks - (now << 12) > _LEAD_TICKS:
            ticks = now << 12
        _last = ticks
        if _taken >= len(_pool):
            _pool, _taken = os.urandom(_POOL_BYTES).hex(), 0
        tail = _pool[_taken : _taken + _TAIL_DIGITS]
        _taken += _TAIL_DIGITS
    return f"{ticks >> 28:08x}-{ticks >> 12 & 0xFFFF:04x}-7{ticks & 0xFFF:03x}-{_VARIANT[tail[0]]}{tail[1:4]}-{tail[4:]}"


def _forget_pool() -> None:
    """A forked process must not draw the same digits as its parent."""
    global _pool  # noqa: PLW0603 - as above
    _pool = ""


os.register_at_fork(after_in_child=_forget_pool)


def first_id(now: int) -> str:
    """The smallest UUIDv7 for the instant (milliseconds): no id of an earlier one is as large."""
    return f"{now >> 16:08x}-{now & 0xFFFF:04x}-7000-8000-000000000000"


def is_id(text: str) -> bool:
    """Whether the text is a UUID in the one spelling that we hand out: lower case, with dashes."""
    return _UUID.fullmatch(text) is not None
