"""A bound on how many do the same costly thing at once in a process: whoever comes then is refused at once, and may come again."""

import contextlib
from collections.abc import Iterator

from agentidp.core import limits
from agentidp.core.errors import TooManyRequests, Unavailable


class Turns:
    """`with turns.take(whose): …` for at most `count_max` at once, of whom at most `each_max` are the same one's. Belongs to one event loop."""

    def __init__(self, count_max: int, each_max: int) -> None:
        self._count_max, self._each_max = count_max, each_max
        self._taken: list[str] = []  # by whom

    @contextlib.contextmanager
    def take(self, whose: str) -> Iterator[None]:
        """Raises TooManyRequests when as many are under way for `whose` as may be, Unavailable when all are taken."""
        if self._taken.count(whose) >= self._each_max:
            detail = f"Your organization may have {self._each_max} of these under way at once; nothing was done. Please try again when one is done."
            raise TooManyRequests(detail, headers={"Retry-After": str(limits.RETRY_AFTER_SECONDS)})
        if len(self._taken) >= self._count_max:
            raise Unavailable("As many of these are under way as the server takes on at once; nothing was done. Please try again.")
        self._taken.append(whose)
        try:
            yield
        finally:
            self._taken.remove(whose)
