"""A word from the writers to the sealer that there is something to seal, cheap enough to be given with every batch."""

import asyncio
import contextlib


class Nudge:
    """`give` may be called in any thread; `wait` belongs to one event loop."""

    def __init__(self) -> None:
        self._given = True  # what an earlier process left unsealed is looked for at once
        self._loop: asyncio.AbstractEventLoop | None = None
        self._event = asyncio.Event()

    def give(self) -> None:
        """Costs a comparison as long as the last one was not taken."""
        if not self._given:
            self._given = True
            if self._loop is not None:
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, seconds: float) -> bool:
        """Until one is given, or that long. Returns whether one was."""
        self._loop = asyncio.get_running_loop()
        if not self._given:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):  # not `wait_for`, which in Python 3.11 may forget that it was cancelled
                    await self._event.wait()
        given, self._given = self._given, False
        self._event.clear()
        return given
