"""Issuers whose keys are asked for."""

from collections.abc import Iterator

import pytest
from tests.auth.asking import Clock
from tests.fakes.fake_issuers import FakeIssuer, serving_issuer


@pytest.fixture
def issuer() -> Iterator[FakeIssuer]:
    with serving_issuer(FakeIssuer()) as running:
        yield running


@pytest.fixture
def clock() -> Clock:
    return Clock()
