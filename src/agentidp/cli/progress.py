"""How far something long has come, on standard error, every few seconds. What is done sooner says nothing."""

import sys
import time

_SECONDS = 3.0


class Progress:
    """Call it with how much is done, of how much."""

    def __init__(self, doing: str) -> None:
        self._doing, self._next = doing, time.monotonic() + _SECONDS

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _SECONDS
            print(f"agentidp: {self._doing}: {done * 100 // max(total, 1)} %", file=sys.stderr, flush=True)
