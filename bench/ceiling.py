"""The product with a store that does nothing: what HTTP, decisions and signature cost. Settings as `agentidp serve` takes them.

Only `append` of the database is another one; it answers at once that the entry is recorded. Everything else is the product's own.
"""

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import uvloop

from agentidp.app import create_app
from agentidp.core import log
from agentidp.core.config import load
from agentidp.ledger.entries import Verdict
from agentidp.server import listen, make_server, serve
from agentidp.start import Started


def without_store(started: Started) -> None:
    """From here on nothing that is appended is written."""

    def append(entry: Any) -> "asyncio.Future[None]":
        entry.verdict = Verdict.RECORDED
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future

    started.instance.database.append = append  # type: ignore[method-assign]  # the whole point


def run(on_start: Callable[[Started], None]) -> None:
    """Serve the product as `on_start` leaves it."""
    settings = load()
    log.configure(settings.log_level)
    listener = listen(settings.host, settings.port)
    app = create_app(settings, on_start=on_start)
    if not uvloop.run(serve(make_server(app, settings.host, settings.port), listener)):
        sys.exit(1)


if __name__ == "__main__":
    run(without_store)
