"""UUIDv7 made by the application (RFC 9562 section 5.7), so that ids sort by time on every engine."""

import os
import re
import threading

UUID_PATTERN = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
_UUID = re.compile(UUID_PATTERN.strip("^$"), re.ASCII)
_lock = threading.Lock()
_last = 0  # the last 60-bit time and counter given out


def new_id(now: int) -> str:
    """A UUIDv7 for `now` (milliseconds). Ids of one process never go backwards: the 12 bits after the time are a counter."""
    global _last  # noqa: PLW0603 - a process-wide counter is what makes the ids monotonic
    with _lock:
        _last = max(now << 12, _last + 1)
        ticks = _last
    tail = int.from_bytes(os.urandom(8)) & 0x3FFF_FFFF_FFFF_FFFF | 0x8000_0000_0000_0000
    text = f"{ticks >> 12:012x}7{ticks & 0xFFF:03x}{tail:016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def is_id(text: str) -> bool:
    """Whether the text is a UUID in the one spelling that we hand out: lower case, with dashes."""
    return _UUID.fullmatch(text) is not None
