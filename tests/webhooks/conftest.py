"""A desk for each test, and a server that may send to loopback, shared by those that need a whole one."""

import contextlib
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import fresh_postgres_database
from tests.fakes.fake_receiver import FakeReceiver, receiving
from tests.serving import RunningServer, settings_for
from tests.webhooks.desk import Desk, at_desk


@pytest.fixture
def visit(database_url: str, tmp_path: Path) -> Callable[..., None]:
    """`visit(what)` opens a desk and lets `what(desk)` happen there."""

    def run(what: Callable[[Desk], Coroutine[Any, Any, None]], **options: Any) -> None:
        at_desk(tmp_path / "data", database_url, what, **options)

    return run


@pytest.fixture
def receiver() -> Iterator[FakeReceiver]:
    with receiving() as running:
        yield running


@pytest.fixture(scope="session")
def _servers(folder: Path) -> Iterator[Callable[..., RunningServer]]:
    running: dict[str, RunningServer] = {}
    with contextlib.ExitStack() as stack:

        def server_on(engine: str, request: pytest.FixtureRequest, *, allow_loopback: bool) -> RunningServer:
            name = f"{engine}-{'sending' if allow_loopback else 'strict'}"
            if name not in running:
                # the database ends with its PostgreSQL, which may be sooner
                url = fresh_postgres_database(request.getfixturevalue("postgres")).__enter__() if engine == "postgresql" else None
                running[name] = RunningServer(settings_for(folder / name, url, webhooks={"allow_loopback": allow_loopback}))
                stack.callback(running[name].stop)
            return running[name]

        yield server_on


@pytest.fixture
def sending_server(engine: str, _servers: Callable[..., RunningServer], request: pytest.FixtureRequest) -> RunningServer:
    """A server whose worker sends by itself, also to http addresses of this machine; shared by the tests of an engine."""
    return _servers(engine, request, allow_loopback=True)


@pytest.fixture
def strict_server(engine: str, _servers: Callable[..., RunningServer], request: pytest.FixtureRequest) -> RunningServer:
    """A server as in production: nothing inside may be called."""
    return _servers(engine, request, allow_loopback=False)
