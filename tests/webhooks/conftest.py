"""A desk for each test, and a server that may send to loopback, shared by those that need a whole one."""

from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
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
def _sending() -> Iterator[dict[str, RunningServer]]:
    running: dict[str, RunningServer] = {}
    yield running
    for server in running.values():
        server.stop()


@pytest.fixture
def sending_server(engine: str, _sending: dict[str, RunningServer], folder: Path, request: pytest.FixtureRequest) -> RunningServer:
    """A server whose worker sends by itself, also to http addresses of this machine."""
    if engine not in _sending:
        url = request.getfixturevalue("postgres") if engine == "postgresql" else None
        url = url.replace("/postgres?", "/template1?") if url else None
        _sending[engine] = RunningServer(settings_for(folder / f"sending-{engine}", url, webhooks={"allow_loopback": True}))
    return _sending[engine]
