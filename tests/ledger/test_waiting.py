"""Whoever waits can be cancelled at any moment, also in the one in which what is waited for is there: otherwise a server would not end."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from tests.db.opened import opened

from agentidp.core.caller import SYSTEM
from agentidp.core.clock import system_clock
from agentidp.db.unit import Tx
from agentidp.ledger.following import Sealed, wait_for
from agentidp.ledger.nudge import Nudge

TURNS = 5  # of the loop between the two


async def _cancel_when_it_is_there(wait: Callable[[], Awaitable[object]], come: Callable[[], object], turns: int) -> None:
    async def forever() -> None:
        while True:
            await wait()

    task = asyncio.create_task(forever())
    for _ in range(TURNS):
        await asyncio.sleep(0)
    come()
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=10)
    assert task.cancelled()


@pytest.mark.parametrize("turns", range(TURNS))
def test_a_follower_ends_when_something_is_sealed_meanwhile(turns: int) -> None:
    async def run() -> None:
        sealed = Sealed()
        await _cancel_when_it_is_there(lambda: wait_for(sealed.next(), 20), sealed.tell, turns)

    asyncio.run(run())


@pytest.mark.parametrize("turns", range(TURNS))
def test_the_sealer_ends_when_it_is_nudged_meanwhile(turns: int) -> None:
    async def run() -> None:
        nudge = Nudge()
        await _cancel_when_it_is_there(lambda: nudge.wait(20), nudge.give, turns)

    asyncio.run(run())


def test_a_loop_of_reads_ends(database_url: str) -> None:
    async def run() -> None:
        async with opened(database_url, system_clock) as database:

            async def reads() -> None:
                while True:
                    await database.read(_nothing, SYSTEM)

            for turns in range(200):
                task = asyncio.create_task(reads())
                for _ in range(turns % 40):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task], timeout=10)
                assert task.cancelled()

    asyncio.run(run())


def _nothing(_: Tx) -> None:
    pass
