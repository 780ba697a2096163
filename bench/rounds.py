"""Interleaved rounds: A B C, A B C, … so that whatever else the machine does falls on all alike; medians, and ratios round by round."""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.load import Outcome, Plan, run_load
from bench.processes import Server

WARM_UP_SECONDS = 1
FINISH_SECONDS_MAX = 20  # after a load has ended
ERRORS_MAX = 0.001  # of all requests: connections that end with the load


@dataclass
class Contestant:
    """One line of a comparison: who serves, what is asked, by how many connections at once."""

    name: str
    label: str
    server: Server
    requests: list[str]
    connections: int = 64
    rate: float | None = None
    note: str = ""
    number: int = 0  # where the running number of its requests stands


def run_rounds(contestants: list[Contestant], *, rounds: int, seconds: float, generator: str | None = None) -> dict[str, dict[str, Any]]:
    """Rates and times of each contestant by name, round by round."""
    found: dict[str, list[dict[str, float]]] = {contestant.name: [] for contestant in contestants}
    refused: dict[str, str] = {}
    for contestant in contestants:
        _run(contestant, WARM_UP_SECONDS, generator)
    for number in range(rounds):
        for contestant in contestants:
            if contestant.name in refused:
                continue
            before = contestant.server.cpu_seconds()
            outcome = _run(contestant, seconds, generator)
            cpu = contestant.server.cpu_seconds() - before  # with what was left to finish
            if outcome.errors > max(1, ERRORS_MAX * outcome.requests):
                refused[contestant.name] = f"{outcome.errors} of {outcome.requests} requests failed {outcome.samples[:1]}"
                continue
            say(f"  round {number + 1}  {contestant.label:<58} {outcome.rate:9,.1f}/s  p50 {outcome.p50_ms:7.2f} ms  p99 {outcome.p99_ms:7.2f} ms")
            row = {"rate": outcome.rate, "p50_ms": outcome.p50_ms, "p99_ms": outcome.p99_ms, "requests": outcome.requests}
            found[contestant.name].append(row | {"cpu_us": cpu / max(1, outcome.requests) * 1e6})
    return {contestant.name: _summary(contestant, found[contestant.name], refused.get(contestant.name)) for contestant in contestants}


def ratios(numerator: dict[str, Any], denominator: dict[str, Any], measure: str = "rate") -> list[float]:
    """Round by round, which takes out what slowed both down."""
    return [mine[measure] / other[measure] for mine, other in zip(numerator["rounds"], denominator["rounds"], strict=False) if other[measure]]


def rounded(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def attempt(what: str, work: Callable[[], Any], absent: dict[str, str], *kinds: type[Exception]) -> Any:
    """The result of `work`, or None with the reason said and noted."""
    try:
        return work()
    except kinds as error:
        absent[what] = str(error)
        say(f"  absent: {what}: {error}")
        return None


def _run(contestant: Contestant, seconds: float, generator: str | None) -> Outcome:
    plan = Plan(contestant.server.port, contestant.requests, contestant.connections, seconds, contestant.rate, contestant.number)
    outcome = run_load(plan, generator=generator)
    contestant.number += outcome.requests + contestant.connections + 1
    _let_finish(contestant.server)
    return outcome


def _let_finish(server: Server) -> None:
    """What the load left behind (64 requests may be waiting for bcrypt) must not fall on the next one."""
    deadline = time.monotonic() + FINISH_SECONDS_MAX
    while time.monotonic() < deadline:
        before = server.cpu_seconds()
        time.sleep(0.1)
        if server.cpu_seconds() - before <= 0.01:
            return


def _summary(contestant: Contestant, rounds: list[dict[str, float]], refused: str | None) -> dict[str, Any]:
    medians = {measure: rounded(statistics.median(row[measure] for row in rounds)) for measure in ("rate", "p50_ms", "p99_ms", "cpu_us")} if rounds else {}
    kept = [{measure: rounded(value) for measure, value in row.items()} for row in rounds]
    summary = {"label": contestant.label, "connections": contestant.connections, **medians, "rounds": kept}
    if contestant.note:
        summary["note"] = contestant.note
    if refused:
        summary["refused"] = refused
    return summary
