"""Asking issuers on this machine for their keys, with a clock that only tests move."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tests.fakes.fake_issuers import KEYS, FakeIssuer

from agentidp.auth.outside_keys import IssuerUnreachable, OutsideKeys
from agentidp.core.clock import system_clock
from agentidp.core.outgoing import Bounds, Outgoing


class Clock:
    def __init__(self) -> None:
        self.now = system_clock()

    def __call__(self) -> int:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += int(seconds * 1000)


def run(clock: Clock, work: Callable[[OutsideKeys], Awaitable[Any]], bounds: Bounds | None = None, **options: Any) -> Any:
    async def main() -> Any:
        outgoing = Outgoing(allow_loopback=True, bounds=bounds or Bounds(seconds=1.0))
        try:
            return await work(OutsideKeys(outgoing, clock, **options))
        finally:
            await outgoing.close()

    return asyncio.run(main())


def fetches(issuer: FakeIssuer) -> int:
    return issuer.requests.count(issuer.path + KEYS)


async def unreachable(keys: OutsideKeys, issuer: FakeIssuer, key_id: str | None = None, whose: str = "acme") -> bool:
    try:
        await keys.find(issuer.url, key_id or issuer.key.key_id, whose=whose)
    except IssuerUnreachable:
        return True
    return False
