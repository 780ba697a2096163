"""50 at once with one value, through two connections to one database and in units of work beside them: exactly one has it, also after a restart."""

import asyncio
import contextlib
from collections import Counter
from typing import Any

import pytest
from tests.db.opened import Turned, opened
from tests.ledger.made import Known, make_known
from tests.ledger.test_one_time import value
from tests.ledger.test_writers import entry

from agentidp.db.unit import Database
from agentidp.ledger.entries import Verdict
from agentidp.ledger.one_time import claim_once

AT_ONCE = 50


async def claim_at_once(databases: list[Database], known: Known, now: int, name: str) -> Counter[bool]:
    """Half of them entries of the ledger, half of them units of work, spread over the databases."""

    async def one(number: int) -> bool:
        database = databases[number % len(databases)]
        if number // len(databases) % 2:
            return await database.write(claim_once, known.caller, value(name))
        asked = entry(known, now, once=(value(name), value(f"{name} {number}")))
        await database.append(asked)
        return asked.verdict is Verdict.RECORDED

    return Counter(await asyncio.gather(*(one(number) for number in range(AT_ONCE))))


@pytest.mark.parametrize("round_", range(3))
def test_one_value_is_used_once(database_url: str, engine: str, round_: int) -> None:
    clock = Turned()

    async def work() -> Any:
        async with contextlib.AsyncExitStack() as stack:
            databases = [await stack.enter_async_context(opened(database_url, clock)) for _ in range(1 if engine == "sqlite" else 2)]
            known = await make_known(databases[0])
            first = await claim_at_once(databases, known, clock.now, f"value {round_}")
        async with opened(database_url, clock) as database:
            return first, await claim_at_once([database], known, clock.now, f"value {round_}")

    assert asyncio.run(work()) == (Counter({True: 1, False: AT_ONCE - 1}), Counter({False: AT_ONCE}))


def test_values_in_any_order_do_not_wait_for_each_other_in_a_circle(database_url: str, engine: str) -> None:
    """Batches of two processes that hold the same values: both are settled, each value in exactly one of them."""
    clock = Turned()

    async def work() -> list[Verdict]:
        async with contextlib.AsyncExitStack() as stack:
            databases = [await stack.enter_async_context(opened(database_url, clock)) for _ in range(1 if engine == "sqlite" else 2)]
            known = await make_known(databases[0])
            names = [f"value {number}" for number in range(40)]
            batches = [[entry(known, clock.now, once=(value(name),)) for name in order] for order in (names, names[::-1])]
            await asyncio.gather(*(databases[number % len(databases)].append(one) for number, batch in enumerate(batches) for one in batch))
            return [{a.verdict, b.verdict} for a, b in zip(batches[0], reversed(batches[1]), strict=True)]  # type: ignore[misc]

    assert asyncio.run(work()) == [{Verdict.RECORDED, Verdict.REPLAYED}] * 40
