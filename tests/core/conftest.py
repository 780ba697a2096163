"""What belongs to an event loop works on asyncio's own and on uvloop."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import uvloop

Run = Callable[[Awaitable[None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    runner: Run = asyncio.run if request.param == "asyncio" else uvloop.run
    return runner
