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
    """Fresh customers at a fresh Stripe for each five storms, in one database."""
    deaths, clock, rounds = 0, FakeClock(), amount(1, 500 // STORMS_AT_ONCE)
    for number in range(rounds):
        with serving_stripe(FakeStripe(clock=lambda: clock() / 1000)) as fake:

            async def storm(fake: FakeStripe = fake, seed: int = dice.getrandbits(32)) -> int:
                print(f"round {number}: seed {seed}")
                async with open_shop(tmp_path / "data", database_url, fake, clock) as shop:
                    return await rage(shop, random.Random(seed))

            deaths += asyncio.run(storm())
    table(storms=rounds * STORMS_AT_ONCE, deaths=deaths)
