"""The cheapest possible server, to show how fast the load generators are: it parses nothing and answers a constant. `python -m bench.target PORT`."""

import asyncio
import sys
from typing import Any

import uvloop

_BODY = b'{"access_token":"' + b"x" * 480 + b'","token_type":"Bearer","expires_in":3600}'
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(_BODY), _BODY)


class Constant(asyncio.Protocol):
    """One answer for each piece of data, which is one request as long as the clients do not pipeline."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, _: bytes) -> None:
        self.transport.write(_ANSWER)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Constant, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
