"""Turns at something that many tenants share, and that are waited for: so many at once, and of one tenant so many. `core.turns` refuses instead."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass


@dataclass(slots=True)
class _Share:
    """A tenant's part of the turns. `users` counts those who wait for one, too."""

    turns: asyncio.Semaphore
    users: int = 0


class SharedTurns:
    """Belongs to one event loop. Who waits is served in order, but behind the others of its tenant. How long it waits is the caller's to bound."""

    def __init__(self, at_once: int, of_one: int) -> None:
        self._turns, self._of_one = asyncio.Semaphore(at_once), of_one
        self._shares: dict[str, _Share] = {}

    @property
    def is_unused(self) -> bool:
        return not self._shares

    @contextlib.asynccontextmanager
    async def turn(self, tenant: str) -> AsyncIterator[None]:
        share = self._shares.setdefault(tenant, _Share(asyncio.Semaphore(self._of_one)))
        share.users += 1
        try:
            async with share.turns, self._turns:
                yield
        finally:
            share.users -= 1
            if not share.users:
                del self._shares[tenant]
