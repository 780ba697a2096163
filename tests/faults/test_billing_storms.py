"""Storms of Stripe's events over workers that die at any step: see `tests.billing.storms`."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.billing.shop import open_shop
from tests.billing.storms import STORMS_AT_ONCE, rage
from tests.fakes.fake_stripe import FakeStripe, serving_stripe
from tests.serving import FakeClock


def test_billing_comes_through_any_storm(database_url: str, tmp_path: Path, dice: random.Random, amount: Callable[[int, int], int], table: Any) -> None:
    """Five fresh customers at a time."""
    clock, rounds = FakeClock(), amount(1, 500 // STORMS_AT_ONCE)
    seeds = [dice.getrandbits(32) for _ in range(rounds)]

    async def storms(fake: FakeStripe) -> int:
        deaths = 0
        async with open_shop(tmp_path / "data", database_url, fake, clock) as shop:
            for seed in seeds:
                print(f"storm {seed}")
                deaths += await rage(shop, random.Random(seed))
        return deaths

    with serving_stripe(FakeStripe(clock=lambda: clock() / 1000)) as fake:
        deaths = asyncio.run(storms(fake))
    table(storms=rounds * STORMS_AT_ONCE, deaths=deaths)
