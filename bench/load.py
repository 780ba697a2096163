"""Load: wrk where it is installed, else a client of our own (uvloop, raw HTTP/1.1, keep-alive) in a separate process.

`python -m bench.load PLAN.json` is that process. With `rate` it is an open loop: requests are sent when they are due, whatever came of
those before, and the time of each counts from when it was due. wrk knows only the closed loop.
"""

import asyncio
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WRK = shutil.which("wrk")
NUMBER = "@@@@@@@@@"  # replaced in each request by a running number of as many digits
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(slots=True)
class Plan:
    """What to send. `requests` are whole HTTP/1.1 requests, taken in turn by all connections together."""

    port: int
    requests: list[str]
    connections: int
    seconds: float
    rate: float | None = None
    first_number: int = 0


@dataclass(slots=True)
class Outcome:
    """What came of it. Rates are requests a second, times are milliseconds; errors are answers other than 2xx and broken connections."""

    rate: float
    p50_ms: float
    p99_ms: float
    requests: int
    errors: int
    samples: list[str] = field(default_factory=list)


def http(method: str, target: str, port: int, headers: dict[str, str] | None = None, body: str | None = None) -> str:
    """One request as it goes over the wire."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: 127.0.0.1:{port}", *(f"{name}: {value}" for name, value in (headers or {}).items())]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines) + "\r\n\r\n" + (body or "")


def run_load(plan: Plan, *, generator: str | None = None) -> Outcome:
    """Run the plan to its end in a process of its own. `generator` is "wrk" or "own"; by default wrk where it is and can."""
    if generator is None:
        generator = "wrk" if WRK and plan.rate is None else "own"
    with tempfile.TemporaryDirectory() as folder:
        return _wrk(plan, Path(folder)) if generator == "wrk" else _own(plan, Path(folder))


def _wrk(plan: Plan, folder: Path) -> Outcome:
    assert WRK is not None
    listed = ",\n".join(json.dumps(request) for request in plan.requests)
    script = folder / "plan.lua"
    script.write_text(f"""local requests = {{{listed}}}
local at = {plan.first_number}
request = function()
  at = at + 1
  return (requests[at % #requests + 1]:gsub("{NUMBER}", string.format("%09d", at)))
end
done = function(summary, latency)
  local errors = summary.errors
  print(string.format('RESULT {{"requests":%d,"us":%d,"p50":%d,"p99":%d,"errors":%d}}', summary.requests, summary.duration, latency:percentile(50),
    latency:percentile(99), errors.status + errors.connect + errors.read + errors.write + errors.timeout))
end
""")
    command = [
        WRK,
        "-t1",
        f"-c{plan.connections}",
        f"-d{max(1, round(plan.seconds))}s",
        "--timeout",
        "30s",
        "-s",
        str(script),
        f"http://127.0.0.1:{plan.port}/",
    ]
    text = subprocess.run(command, capture_output=True, text=True, timeout=plan.seconds + 60, check=True).stdout
    found = json.loads(text.partition("RESULT ")[2])
    return Outcome(found["requests"] / found["us"] * 1e6, found["p50"] / 1000, found["p99"] / 1000, found["requests"], found["errors"])


def _own(plan: Plan, folder: Path) -> Outcome:
    path = folder / "plan.json"
    path.write_text(json.dumps({name: getattr(plan, name) for name in Plan.__slots__}))
    command = [sys.executable, "-m", "bench.load", str(path)]
    text = subprocess.run(command, capture_output=True, text=True, timeout=plan.seconds + 60, check=True, cwd=Path(__file__).parents[1]).stdout
    return Outcome(**json.loads(text))


class _Load:
    """All connections of one run."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.number = plan, plan.first_number
        self.requests = [request.encode() for request in plan.requests]
        self.numbered = any(NUMBER in request for request in plan.requests)
        self.idle: deque[_Client] = deque()
        self.due: deque[float] = deque()
        self.seconds: list[float] = []
        self.errors, self.sending = 0, True
        self.samples: list[str] = []

    def next_request(self) -> bytes:
        self.number += 1
        request = self.requests[self.number % len(self.requests)]
        return request.replace(NUMBER.encode(), b"%09d" % self.number) if self.numbered else request

    def free(self, client: "_Client") -> None:
        """The connection has nothing to do."""
        if not self.sending:
            return
        if self.plan.rate is None:
            client.send(time.perf_counter())
        elif self.due:
            client.send(self.due.popleft())
        else:
            self.idle.append(client)

    def answered(self, since: float, status: bytes, answer: bytes) -> None:
        if self.sending:
            self.seconds.append(time.perf_counter() - since)
        if not status.startswith(b"2"):
            self.errors += 1
            if len(self.samples) < 3:
                self.samples.append(answer[:300].decode("latin-1"))

    async def run(self) -> Outcome:
        loop = asyncio.get_running_loop()
        started = time.perf_counter()
        for _ in range(self.plan.connections):
            await loop.create_connection(lambda: _Client(self), "127.0.0.1", self.plan.port)
        if self.plan.rate is None:
            await asyncio.sleep(self.plan.seconds)
        else:
            await self._pace(started, self.plan.rate)
        elapsed = time.perf_counter() - started
        self.sending = False
        times = sorted(self.seconds) or [0.0]
        late = len(self.due)  # never sent: as bad as an error
        return Outcome(
            len(self.seconds) / elapsed,
            times[len(times) // 2] * 1000,
            times[min(len(times) - 1, len(times) * 99 // 100)] * 1000,
            len(self.seconds),
            self.errors + (late if late > self.plan.connections else 0),
            self.samples,
        )

    async def _pace(self, started: float, rate: float) -> None:
        """The loop's clock ticks in milliseconds: at each tick, everything that is due goes out, its time counted from its due time."""
        sent, end = 0, started + self.plan.seconds
        while (now := time.perf_counter()) < end:
            while started + sent / rate <= now:
                due = started + sent / rate
                sent += 1
                if self.idle:
                    self.idle.popleft().send(due)
                else:
                    self.due.append(due)
            await asyncio.sleep(0.001)


class _Client(asyncio.Protocol):
    """One connection, one request at a time; opened anew when the server closes it."""

    def __init__(self, load: _Load) -> None:
        self.load, self.buffer, self.since = load, b"", 0.0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.load.free(self)

    def send(self, since: float) -> None:
        self.since = since
        self.transport.write(self.load.next_request())

    def data_received(self, data: bytes) -> None:
        self.buffer = self.buffer + data if self.buffer else data
        head = self.buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        length = _LENGTH.search(self.buffer, 0, head)
        if length is None:
            if not self.buffer.endswith(b"0\r\n\r\n") and b" 204 " not in self.buffer[:16]:
                return
        elif len(self.buffer) < head + 4 + int(length[1]):
            return
        answer, self.buffer = self.buffer, b""
        self.load.answered(self.since, answer[9:12], answer)
        self.load.free(self)

    def connection_lost(self, _: Exception | None) -> None:
        load = self.load
        if load.sending:
            if self.buffer:
                load.errors += 1
            if self in load.idle:
                load.idle.remove(self)
            loop = asyncio.get_running_loop()
            loop.create_task(loop.create_connection(lambda: _Client(load), "127.0.0.1", load.plan.port))  # noqa: RUF006 - lives as long as the loop


def main() -> None:
    import uvloop  # noqa: PLC0415 - only this process needs it

    outcome = uvloop.run(_Load(Plan(**json.loads(Path(sys.argv[1]).read_text()))).run())
    print(json.dumps({name: getattr(outcome, name) for name in Outcome.__slots__}))


if __name__ == "__main__":
    main()
