"""Twenty storms; `make faults` runs five hundred. See `storms`."""

import random
from typing import Any

import pytest
from tests.billing.shop import Shop
from tests.billing.storms import STORMS_AT_ONCE, rage


@pytest.mark.parametrize("seed", range(20 // STORMS_AT_ONCE))
def test_after_the_storm_everything_is_as_stripe_says(visit: Any, seed: int) -> None:
    async def happen(shop: Shop) -> None:
        assert await rage(shop, random.Random(seed)), "nobody died"

    visit(happen)
