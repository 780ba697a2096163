"""`agentidp worker`"""

from __future__ import annotations

import asyncio
import signal

from agentidp.cli.settings import Config


def worker(*, config: Config = None) -> None:
    """Keep house in a process of its own, on PostgreSQL: fresh keys, due rotations, expired revocations. Servers do the same by themselves."""
    from agentidp import worker as housekeeping
    from agentidp.core import log
    from agentidp.core.config import load
    from agentidp.start import start

    settings = load(config)
    log.configure(settings.log_level)

    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        instance = (await start(settings)).instance
        try:
            async with housekeeping.running(instance):
                print("AgentIdP worker is running", flush=True)
                await stop.wait()
        finally:
            await instance.outgoing.close()
            await instance.database.close()

    asyncio.run(run())
