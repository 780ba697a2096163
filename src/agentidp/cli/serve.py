"""`agentidp serve`"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from agentidp.cli.settings import Config

if TYPE_CHECKING:
    from agentidp.start import Started


def serve(*, config: Config = None) -> None:
    """Start the server; on an empty data folder, set everything up first and print the first credential, once."""
    import uvloop

    from agentidp.app import create_app
    from agentidp.core import log
    from agentidp.core.config import load
    from agentidp.server import listen, make_server
    from agentidp.server import serve as serve_until_stopped

    settings = load(config)
    log.configure(settings.log_level)
    failure: list[BaseException] = []
    found: list[Started] = []
    listener = listen(settings.host, settings.port)
    app = create_app(settings, on_start=found.append, on_failure=failure.append)

    def announce(_port: int) -> None:
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
