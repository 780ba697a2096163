"""A fake Stripe for each test, and the real library's client to it."""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.fakes.fake_stripe import FakeStripe, serving_stripe
from tests.fakes.stripe_client import client_of


@pytest.fixture
def fake() -> Iterator[FakeStripe]:
    with serving_stripe(FakeStripe()) as running:
        yield running


@pytest.fixture
def api(fake: FakeStripe) -> Iterator[Any]:
    with client_of(fake) as client:
        yield client
