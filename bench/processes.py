"""Processes that the benchmark starts on free loopback ports and ends by their own ids: servers and whatever serves them."""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORK = ROOT / "bench" / ".work"
READY_SECONDS_MAX = 60
STOP_SECONDS_MAX = 15
_TICKS = os.sysconf("SC_CLK_TCK")
_libc = ctypes.CDLL(None)


class Absent(Exception):
    """Something cannot be measured here; the text says why."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A process that serves HTTP on a port of 127.0.0.1. Its output goes to a file in `folder`. It dies with the benchmark."""

    def __init__(self, name: str, command: list[str], folder: Path, port: int, env: dict[str, str] | None = None, cwd: Path | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name, self.port, self.log = name, port, folder / f"{name}.log"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("AGENTIDP_")} | (env or {})
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                env=environment,
                cwd=cwd or folder,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - the benchmark has no threads
            )

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def wait_ready(self) -> None:
        """Until the port answers. Raises Absent with the end of the log when the process ends instead."""
        deadline = time.monotonic() + READY_SECONDS_MAX
        while time.monotonic() < deadline:
            if not self.alive:
                lines = self.log.read_text("utf-8", errors="replace").strip().splitlines() or ["no output"]
                raise Absent(f"{self.name} ended when started: {lines[-1][:200].replace(str(ROOT), '')}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.005)
        raise Absent(f"{self.name} did not listen within {READY_SECONDS_MAX} s")

    def family(self) -> list[int]:
        """The process and its descendants."""
        found, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    todo += [int(child) for child in task.read_text().split()]
        return found

    def cpu_seconds(self) -> float:
        total = 0
        for pid in self.family():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += int(fields[11]) + int(fields[12])
        return total / _TICKS

    def rss_mb(self) -> float:
        total = 0
        for pid in self.family():
            with contextlib.suppress(OSError):
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return total * os.sysconf("SC_PAGE_SIZE") / 1e6

    def stop(self) -> None:
        if self.alive:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def _die_with_parent() -> None:
    _libc.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: nothing outlives the benchmark, however it ends


@contextlib.contextmanager
def stopping(server: Server) -> Iterator[Server]:
    """The server, ready, for the length of the block."""
    try:
        server.wait_ready()
        yield server
    finally:
        server.stop()


def run(command: list[str], cwd: Path, seconds: float = 300) -> None:
    """One command to its end. Raises Absent with its last line when it fails."""
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=seconds, check=False, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Absent(f"{Path(command[0]).name}: {type(error).__name__}") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise Absent(f"{Path(command[0]).name} {command[1]} failed with {done.returncode}: {lines[-1][:160].replace(str(ROOT), '')}")
