"""A real server in a thread of the test process: uvicorn, real HTTP on loopback, a real database, and a clock that tests can turn."""

import asyncio
import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
from tests.openapi_check import OpenApiCheck

from agentidp.app import create_app
from agentidp.auth.instance import Instance
from agentidp.core.caller import Caller
from agentidp.core.clock import system_clock
from agentidp.core.config import Settings, load
from agentidp.server import make_server
from agentidp.start import Started

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # shared and empty: a client that loads certificates takes 45 ms to make


class FakeClock:
    """The system's clock, shifted. `with clock.ahead(seconds=…)` puts it forward for the length of the block."""

    def __init__(self) -> None:
        self.shift_ms = 0

    def __call__(self) -> int:
        return system_clock() + self.shift_ms

    @contextlib.contextmanager
    def ahead(self, *, seconds: float) -> Iterator[None]:
        self.shift_ms += int(seconds * 1000)
        try:
            yield
        finally:
            self.shift_ms -= int(seconds * 1000)


class RunningServer:
    """`run` calls actions and queries of the product inside the server's own event loop, as its database's clients do."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.clock = settings, FakeClock()
        self.url = settings.issuer
        self._found: list[Started] = []
        self._failed: list[BaseException] = []
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        app = create_app(settings, self.clock, on_start=self._found.append, on_failure=self._failed.append)
        self._server = make_server(app, settings.host, settings.port, lambda _: self._ready.set())
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        if not self._ready.wait(30) or self._failed:
            raise RuntimeError(f"the server did not start: {self._failed}")
        self.check = OpenApiCheck(httpx2.get(f"{self.url}/openapi.json", verify=NO_TLS).json())

    @property
    def instance(self) -> Instance:
        return self._found[0].instance

    @property
    def first(self) -> Any:
        """The first credential that this server made."""
        return self._found[0].first

    def client(self, **options: Any) -> httpx2.Client:
        """An HTTP client whose every response is held against the served OpenAPI document."""
        return httpx2.Client(base_url=self.url, event_hooks={"response": [self.check]}, timeout=30, trust_env=False, verify=NO_TLS, **options)

    def write(self, action: Callable[..., Any], caller: Caller, *args: Any, **kwargs: Any) -> Any:
        return self.await_(self.instance.database.write(action, caller, *args, **kwargs))

    def read(self, query: Callable[..., Any], caller: Caller, *args: Any, **kwargs: Any) -> Any:
        return self.await_(self.instance.database.read(query, caller, *args, **kwargs))

    def await_(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(30)

    def _run(self) -> None:
        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            await self._server.serve()

        try:
            asyncio.run(main())
        finally:
            self._ready.set()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def stripe_settings(fake: Any, **other: Any) -> dict[str, Any]:
    """The `stripe` section of the settings of a server that sells its plans at the fake."""
    prices = {"pro": "price_pro", "enterprise": "price_enterprise"}
    return {"api_key": min(fake.api_keys), "webhook_secret": fake.webhook_secrets[0], "api_base": fake.url, "prices": prices} | other


def settings_for(folder: Path, database_url: str | None, **overrides: Any) -> Settings:
    """Settings of a test server: everything in `folder`, a free port, nothing from this process's environment.

    All tests come from one address and are often wrong on purpose: what limits a source is off, but where a test is about it.
    """
    assert not [name for name in os.environ if name.startswith("AGENTIDP_")]
    overrides.setdefault("rate_limit", {"failed_logins_per_minute": 0, "public_per_minute": 0})
    return load(data_dir=folder, port=free_port(), **({"database_url": database_url} if database_url else {}), **overrides)
