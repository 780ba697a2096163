"""Names to addresses by the system's resolver, in threads of its own: a name server that never answers must hold nobody up who needs another thread."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Sequence

from agentidp.core import limits
from agentidp.core.unreachable import Unreachable


class Lookup:
    """Call it with a name and a port. A caller that gives up leaves its thread behind until the resolver has, too; the bound on threads holds for those."""

    def __init__(self) -> None:
        self._under_way: dict[tuple[str, int], asyncio.Future[list[str]]] = {}

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """The addresses as text, in the order of RFC 6724. Whoever asks for the same name meanwhile waits for the same answer.

        Raises OSError, a ValueError for what no name server is asked for, and Unreachable when so many names are being looked up that this one is not.
        """
        found = self._under_way.get((host, port))
        if found is None:
            if len(self._under_way) >= limits.OUTGOING_LOOKUPS_MAX:
                raise Unreachable("busy", "Too many names are being looked up.")
            found = self._begin(host, port)
        return await asyncio.shield(found)

    def _begin(self, host: str, port: int) -> "asyncio.Future[list[str]]":
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[str]] = loop.create_future()

        def finish(addresses: list[str], error: Exception | None) -> None:
            del self._under_way[host, port]
            if error is None:
                found.set_result(addresses)
            else:
                found.set_exception(error)
                found.exception()  # whoever asked may have given up

        def look_up() -> None:
            addresses: list[str] = []
            error: Exception | None = None
            try:
                addresses = [str(row[4][0]) for row in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
            except (OSError, ValueError) as failure:
                error = failure
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(finish, addresses, error)

        try:
            threading.Thread(target=look_up, name=f"lookup {host}", daemon=True).start()
        except RuntimeError as error:
            raise OSError("no thread can be started") from error
        self._under_way[host, port] = found
        return found
