"""A bound on how many do the same costly thing at once in a process: whoever comes then is refused at once, and may come again."""

import contextlib
from collections.abc import Iterator

from agentidp.core.errors import Unavailable


class Turns:
    """`with turns.take(): …` for at most `count_max` at once. Belongs to one event loop."""

    def __init__(self, count_max: int) -> None:
        self._left = count_max

    @contextlib.contextmanager
    def take(self) -> Iterator[None]:
        """Raises Unavailable when all are taken."""
        if self._left <= 0:
            raise Unavailable("As many of these are under way as the server takes on at once; nothing was done. Please try again.")
        self._left -= 1
        try:
            yield
        finally:
            self._left += 1
