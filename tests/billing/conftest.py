"""A shop of its own for each test: a fresh database, a fresh Stripe, one clock for both. And a store: a whole server, which sells at its till."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.billing.shop import Shop, open_shop
from tests.conftest import fresh_postgres_database
from tests.fakes.fake_stripe import FakeStripe, serving_stripe
from tests.serving import FakeClock, RunningServer, settings_for, stripe_settings
from tests.tenants import Tenant, make_tenant, selling_server

from agentidp.auth.scopes import SCOPES
from agentidp.core.caller import Caller
from agentidp.organizations.actions import update_organization

OTHER_SECRET = "whsec_the_one_before_this_one_0123456789"
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


@pytest.fixture(scope="session")
def stores() -> Iterator[dict[str, tuple[RunningServer, FakeStripe]]]:
    """A server with a Stripe of its own, for each engine: tests make it fail."""
    running: dict[str, tuple[RunningServer, FakeStripe]] = {}
    with serving_stripe(FakeStripe()) as one, serving_stripe(FakeStripe()) as other:
        tills = {"sqlite": one, "postgresql": other}
        running |= {name: (None, till) for name, till in tills.items()}  # type: ignore[misc]
        yield running
        for server, _ in running.values():
            if server is not None:
                server.stop()


@pytest.fixture
def till(engine: str, stores: dict[str, tuple[RunningServer, FakeStripe]]) -> Iterator[FakeStripe]:
    found = stores[engine][1]
    yield found
    found.heal()
    found.outbox.clear()


@pytest.fixture
def store(engine: str, stores: dict[str, Any], till: FakeStripe, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> RunningServer:
    if stores[engine][0] is None:
        # a database of its own, which goes with the cluster
        url = fresh_postgres_database(request.getfixturevalue("postgres")).__enter__() if engine == "postgresql" else None
        stripe = stripe_settings(till, webhook_secret_previous=OTHER_SECRET)
        settings = settings_for(tmp_path_factory.mktemp(engine), url, stripe=stripe, billing={"allowed_origins": ["https://app.example.com"]})
        stores[engine] = (selling_server(settings), till)
    return stores[engine][0]  # type: ignore[no-any-return]


@pytest.fixture
def buyer(store: RunningServer) -> Tenant:
    """A tenant on the free plan."""
    tenant = make_tenant(store)
    store.write(update_organization, Caller(tenant.organization_id, scopes=frozenset(SCOPES)), {"plan_tier": "free"})
    return tenant
