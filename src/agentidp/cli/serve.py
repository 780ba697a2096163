"""`agentidp serve`"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from agentidp.cli.settings import Config

if TYPE_CHECKING:
    import socket

    from agentidp.core.config import Settings
    from agentidp.start import Started


def serve(*, config: Config = None, workers: Annotated[int, Parameter(help="Server processes on one socket; more than one needs PostgreSQL.")] = 1) -> None:
    """Start the server; on an empty data folder, set everything up first and print the first credential, once."""
    from agentidp.cli.processes import run_processes
    from agentidp.core import limits, log
    from agentidp.core.config import load
    from agentidp.core.errors import WrongSettings
    from agentidp.db.engine import database_url
    from agentidp.server import listen

    settings = load(config)
    if not 1 <= workers <= limits.PROCESSES_MAX:
        raise WrongSettings(f"--workers: must be 1 to {limits.PROCESSES_MAX}")
    if workers > 1 and database_url(settings).drivername == "sqlite":
        raise WrongSettings("--workers: an SQLite database serves one process; set AGENTIDP_DATABASE_URL to a PostgreSQL database")
    log.configure(settings.log_level)
    listener = listen(settings.host, settings.port)
    if workers == 1:
        _serve_one(settings, listener)
    else:
        run_processes(workers, lambda index: _serve_one(settings, listener, announces=index == 0))


def _serve_one(settings: Settings, listener: socket.socket, *, announces: bool = True) -> None:
    import uvloop

    from agentidp.app import create_app
    from agentidp.server import make_server
    from agentidp.server import serve as serve_until_stopped

    failure: list[BaseException] = []
    found: list[Started] = []
    app = create_app(settings, on_start=found.append, on_failure=failure.append)

    def announce(_port: int) -> None:
        if announces or found[0].first is not None:  # whichever process set the instance up has its secret
            print(_welcome(settings.issuer, found[0]), flush=True)

    try:
        started = uvloop.run(serve_until_stopped(make_server(app, settings.host, settings.port, announce), listener))
    except asyncio.CancelledError:
        started = True
    if failure:
        raise failure[0]
    if not started:
        sys.exit(1)


def _welcome(issuer: str, started: Started) -> str:
    lines = [f"AgentIdP is ready at {issuer}", f"  reference  {issuer}/docs", f"  key set    {issuer}/.well-known/jwks.json"]
    if started.first is not None:
        first = started.first
        folder = started.instance.settings.data_dir
        lines += [
            "",
            "The first agent, shown once (also in " + str(folder / "first-credential.json") + "):",
            f"  client id      {first.agent_id}",
            f"  client secret  {first.client_secret}",
            "",
            "Get a token:",
            f"  curl -s {issuer}/api/v1/token -d grant_type=client_credentials -d client_id={first.agent_id} -d client_secret={first.client_secret}",
        ]
    return "\n".join(lines) + "\n"
