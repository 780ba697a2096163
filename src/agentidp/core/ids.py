"""UUIDv7 made by the application (RFC 9562 section 5.7), so that ids sort by time on every engine."""

import os
import re
import threading

UUID_PATTERN = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
_UUID = re.compile(UUID_PATTERN.strip("^$"), re.ASCII)
_POOL_BYTES = 8 * 512  # one system call for many ids
_lock = threading.Lock()
_pool = b""
_taken = 0
_last = 0  # the last 60-bit time and counter given out


def new_id(now: int) -> str:
    """A UUIDv7 for `now` (milliseconds). Ids of one process never go backwards: the 12 bits after the time are a counter."""
    global _last, _pool, _taken  # noqa: PLW0603 - a process-wide counter is what makes the ids monotonic
    with _lock:
        _last = ticks = max(now << 12, _last + 1)
        if _taken >= len(_pool):
            _pool, _taken = os.urandom(_POOL_BYTES), 0
        tail = int.from_bytes(_pool[_taken : _taken + 8]) & 0x3FFF_FFFF_FFFF_FFFF | 0x8000_0000_0000_0000
        _taken += 8
    text = f"{ticks >> 12:012x}7{ticks & 0xFFF:03x}{tail:016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _forget_pool() -> None:
    """A forked process must not draw the same bytes as its parent."""
    global _pool  # noqa: PLW0603
    _pool = b""


os.register_at_fork(after_in_child=_forget_pool)


def is_id(text: str) -> bool:
    """Whether the text is a UUID in the one spelling that we hand out: lower case, with dashes."""
    return _UUID.fullmatch(text) is not None
