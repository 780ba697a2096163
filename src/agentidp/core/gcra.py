"""The generic cell rate algorithm: how often a key may act, kept as a single instant for each key. ITU-T I.371, annex A.

A cell is the instant at which its key has the whole burst again; the burst is one minute's worth. Instants and spans are whole microseconds.
"""

from collections import OrderedDict
from typing import Final

import msgspec

MINUTE: Final = 60_000_000
_SECOND: Final = 1_000_000


class Rate(msgspec.Struct, frozen=True):
    """A limit, with the time that one act takes up and that of the whole burst."""

    per_minute: int
    interval: int
    window: int

    @classmethod
    def of(cls, per_minute: int) -> "Rate":
        interval = -(-MINUTE // per_minute)  # rounded up: never more than `per_minute` of them go into a minute
        return cls(per_minute, interval, interval * per_minute)


class Standing(msgspec.Struct, frozen=True):
    """Where a key stands once it has asked at `now`. `backlog`: how long until it has the whole burst again."""

    rate: Rate
    is_allowed: bool
    backlog: int
    now: int

    @property
    def remaining(self) -> int:
        """How many more would be allowed at once."""
        return (self.rate.window - self.backlog) // self.rate.interval

    @property
    def retry_seconds(self) -> int:
        """Whole seconds until one more is allowed, at least 1."""
        wait = self.backlog + self.rate.interval - self.rate.window
        return max(1, -(-wait // _SECOND))

    @property
    def reset_at(self) -> int:
        """When the whole burst is there again; seconds since the epoch."""
        return -(-(self.now + self.backlog) // _SECOND)


class Cells:
    """The cells of one limit in one process. There are at most `keys_max`; those not asked for longest are forgotten, and their keys start anew."""

    def __init__(self, per_minute: int, keys_max: int) -> None:
        self.rate = Rate.of(per_minute)
        self._keys_max = keys_max
        self._full_at: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, key: str, now: int) -> Standing:
        """One more act of the key, counted if it is allowed."""
        rate, backlog = self.rate, self._backlog(key, now)
        is_allowed = backlog + rate.interval <= rate.window
        if is_allowed:
            backlog += rate.interval
        self.put(key, backlog, now)
        return Standing(rate, is_allowed, backlog, now)

    def look(self, key: str, now: int) -> Standing:
        """Whether one more would be allowed. Counts nothing."""
        backlog = self._backlog(key, now)
        return Standing(self.rate, backlog + self.rate.interval <= self.rate.window, backlog, now)

    def put(self, key: str, backlog: int, now: int) -> None:
        """Where the key stands, also when that is known from elsewhere."""
        cells = self._full_at
        cells[key] = now + backlog
        cells.move_to_end(key)
        if len(cells) > self._keys_max:
            cells.popitem(last=False)

    def _backlog(self, key: str, now: int) -> int:
        """More than the window is only left of a clock that was set back: then the key starts anew."""
        backlog = self._full_at.get(key, 0) - now
        return backlog if 0 <= backlog <= self.rate.window else 0
