"""How long the fault tests run: short in `make test`, long by `make faults`. Every run draws a new seed unless one is given, and prints it."""

import os
import random
from collections.abc import Callable
from typing import Any

import pytest

_KEY = "fault"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", choices=("short", "long"), default="short", help="how long the fault tests run")
    parser.addoption("--fault-seed", type=int, default=None, help="repeat the run with this seed")


@pytest.fixture(scope="session")
def amount(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """`amount(short, long)` is the one of this run. The option is known only where this folder was named on the command line."""
    is_long = request.config.getoption("--faults", default="short") == "long"
    return lambda short, long: long if is_long else short


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    given = request.config.getoption("--fault-seed", default=None)
    chosen = int.from_bytes(os.urandom(4)) if given is None else int(given)
    print(f"seed {chosen}")
    return chosen


@pytest.fixture
def dice(seed: int) -> random.Random:
    return random.Random(seed)


@pytest.fixture
def table(request: pytest.FixtureRequest, record_property: Any) -> Any:
    """Call it with what a run counted: a line of the table at the end of the long run."""

    def add(**counts: object) -> None:
        line = f"{request.node.name}: " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in counts.items())
        print(line)
        record_property(_KEY, line)

    return add


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, [])]
    lines = [value for report in reports for name, value in report.user_properties if name == _KEY]
    if lines:
        terminalreporter.section("faults")
        for line in lines:
            terminalreporter.write_line(line)
