"""The `agentidp` command as a process of its own: bounded, with files for its output, ended by its own process id."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import httpx2
from tests.serving import NO_TLS, free_port

COMMAND = str(Path(sys.executable).parent / "agentidp")
_SECONDS_MAX = 60  # a loaded machine starts slowly; nothing below asserts a time


def run(*arguments: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """One command, to its end."""
    return subprocess.run(
        [COMMAND, *arguments], env=environment(env), cwd=cwd, text=True, capture_output=True, timeout=_SECONDS_MAX, check=False, stdin=subprocess.DEVNULL
    )


def environment(env: dict[str, str] | None) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("AGENTIDP_")} | (env or {})


class ServerProcess:
    """`agentidp serve` with its data in `folder`, in a process group of its own. Settings by their names after the prefix: `LOG_LEVEL="debug"`."""

    command: ClassVar[tuple[str, ...]] = (COMMAND, "serve")

    def __init__(self, folder: Path, *arguments: str, **settings: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        port = settings.setdefault("PORT", str(free_port()))
        settings.setdefault("RATE_LIMIT__PER_MINUTE", "0")  # one agent makes the whole load
        settings.setdefault("RATE_LIMIT__FAILED_LOGINS_PER_MINUTE", "0")
        self.folder, self.data, self.url = folder, folder / "data", f"http://127.0.0.1:{port}"
        self.env = {"AGENTIDP_DATA_DIR": str(self.data)} | {f"AGENTIDP_{name}": value for name, value in settings.items()}
        with (folder / "stdout").open("ab") as stdout, (folder / "stderr").open("ab") as stderr:
            self._stdout_from = stdout.tell()
            self.process = subprocess.Popen(
                [*self.command, *arguments], env=environment(self.env), stdout=stdout, stderr=stderr, stdin=subprocess.DEVNULL, start_new_session=True
            )
        wait_until(lambda: self.process.poll() is not None or "AgentIdP is ready" in self.stdout)
        if self.process.poll() is not None:
            raise RuntimeError(f"the server ended with {self.process.returncode}: {self.stderr}")

    @property
    def stdout(self) -> str:
        """What this process has printed so far."""
        return (self.folder / "stdout").read_bytes()[self._stdout_from :].decode()

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text()

    @property
    def first(self) -> dict[str, str]:
        """What first-credential.json holds."""
        document: dict[str, str] = json.loads((self.data / "first-credential.json").read_text())
        return document

    def client(self, **options: Any) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, timeout=30, trust_env=False, verify=NO_TLS, **options)

    def token(self, **form: Any) -> dict[str, Any]:
        data = {"grant_type": "client_credentials", "client_id": self.first["clientId"], "client_secret": self.first["clientSecret"], **form}
        with self.client() as client:
            response = client.post("/api/v1/token", data=data)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end. Returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(_SECONDS_MAX)
            raise

    def kill(self) -> None:
        """kill -9 of the process and its children, whatever they are doing."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(_SECONDS_MAX)


@contextlib.contextmanager
def serving(folder: Path, *arguments: str, **settings: str) -> Iterator[ServerProcess]:
    """A server process for the length of the block."""
    server = ServerProcess(folder, *arguments, **settings)
    try:
        yield server
    finally:
        server.stop()


def wait_until(condition: Any) -> None:
    """Look until it holds. Raises AssertionError when it never does."""
    deadline = time.monotonic() + _SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
