"""Names to addresses by the system's resolver, in threads of its own: a name server that never answers must hold nobody up who needs another thread."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Sequence

from agentidp.core import limits


class Lookup:
    """Call it with a name and a port. A caller that gives up leaves its thread behind until the resolver has, too; the bound on threads holds for those."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(limits.OUTGOING_LOOKUPS_MAX)

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """The addresses as text, in the order of RFC 6724. Raises OSError, or a ValueError for what no name server is asked for."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[str]] = loop.create_future()

        def finish(addresses: list[str], error: Exception | None) -> None:
            self._turns.release()
            if found.done():
                return
            if error is None:
                found.set_result(addresses)
            else:
                found.set_exception(error)

        def look_up() -> None:
            addresses: list[str] = []
            error: Exception | None = None
            try:
                addresses = [str(row[4][0]) for row in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
            except (OSError, ValueError) as failure:
                error = failure
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(finish, addresses, error)

        await self._turns.acquire()
        try:
            threading.Thread(target=look_up, name=f"lookup {host}", daemon=True).start()
        except RuntimeError as error:
            self._turns.release()
            raise OSError("no thread can be started") from error
        return await found
