"""A shop of its own for each test: a fresh database, a fresh Stripe, one clock for both."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.billing.shop import Shop, open_shop
from tests.fakes.fake_stripe import FakeStripe, serving_stripe
from tests.serving import FakeClock

Visit = Callable[[Shop], Coroutine[Any, Any, None]]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def fake(clock: FakeClock) -> Iterator[FakeStripe]:
    with serving_stripe(FakeStripe(clock=lambda: clock() / 1000)) as serving:
        yield serving


@pytest.fixture
def visit(database_url: str, tmp_path: Path, fake: FakeStripe, clock: FakeClock) -> Callable[..., None]:
    """`visit(what)` opens the shop, with other settings if given, and lets `what(shop)` happen there."""

    def run(what: Visit, **settings: Any) -> None:
        async def inside() -> None:
            async with open_shop(tmp_path / "data", database_url, fake, clock, **settings) as shop:
                await what(shop)

        asyncio.run(inside())

    return run
