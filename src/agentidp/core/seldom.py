"""What may happen as often as it likes and is noted seldom: once in a while for each key, so that nobody can flood the history with it."""

from collections.abc import Hashable


class Seldom:
    """Remembers when each key was last due. The oldest keys go when there are too many. Belongs to one event loop."""

    def __init__(self, period_ms: int, keys_max: int) -> None:
        self._period_ms, self._keys_max = period_ms, keys_max
        self._noted: dict[Hashable, int] = {}

    def is_due(self, key: Hashable, now: int) -> bool:
        """Whether the period since the key was last due is over, or the clock has been set back; if so, it is due now."""
        noted = self._noted.pop(key, None)
        if noted is not None and 0 <= now - noted < self._period_ms:
            self._noted[key] = noted
            return False
        if len(self._noted) >= self._keys_max:
            del self._noted[next(iter(self._noted))]
        self._noted[key] = now
        return True

    def forget(self, key: Hashable) -> None:
        """Let the key be due again at once: what was due did not happen."""
        self._noted.pop(key, None)
