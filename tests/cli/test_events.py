"""`agentidp events tail` against a server process: what happens, from where, over a restart, until it is told to end."""

import contextlib
import functools
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.processes import COMMAND, ServerProcess, environment, run, serving
from tests.serving import free_port

TYPES = ("--types", "agent.created", "--json")


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(tmp_path_factory.mktemp("events")) as running:
        yield running


def create(process: ServerProcess, name: str) -> str:
    created = run("agents", "create", f"{name}@acme.example", "--no-credential", "--json", env=process.env)
    assert created.returncode == 0, created.stderr
    return str(json.loads(created.stdout)["agentId"])


def newest(process: ServerProcess) -> str:
    return str(json.loads(run("audit", "tail", "-n", "1", "--json", env=process.env).stdout)["eventId"])


@pytest.mark.slow
def test_tail_goes_on_behind_an_event_and_ends_at_its_limit(process: ServerProcess) -> None:
    since = newest(process)
    agents = [create(process, f"since-{number}") for number in range(3)]
    seen = run("events", "tail", "--since", since, "--limit", "3", *TYPES, env=process.env)
    assert (seen.returncode, seen.stderr) == (0, "")
    assert [json.loads(line)["data"]["targetId"] for line in seen.stdout.splitlines()] == agents
    (line,) = run("events", "tail", "--since", since, "-n", "1", "--types", "agent.created", env=process.env).stdout.splitlines()
    assert line.split()[1:3] == ["success", "agent.created"]


@pytest.mark.slow
def test_what_cannot_pass_ends_it_with_the_reason(process: ServerProcess) -> None:
    unknown = run("events", "tail", "--since", "01890000-0000-7000-8000-000000000000", env=process.env)
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "404 AUDIT_EVENT_NOT_FOUND" in unknown.stderr
    wrong = run("events", "tail", "--types", "No Type", env=process.env)
    assert wrong.returncode == 1
    assert "400 VALIDATION_ERROR" in wrong.stderr


def interrupt(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Ctrl-C, as often as it takes: Python drops one that arrives while it is cleaning up an object."""
    for _ in range(6):
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=10)
    raise AssertionError("it does not end")


@pytest.mark.slow
def test_it_survives_a_restart_of_the_server_and_ends_at_ctrl_c(tmp_path: Path) -> None:
    settings = {"PORT": str(free_port())}
    with serving(tmp_path, **settings) as first:
        since, before = newest(first), create(first, "before")
        arguments = [COMMAND, "events", "tail", "--since", since, *TYPES]
        # who runs in the background ignores Ctrl-C, and hands that on
        heeds = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(arguments, env=environment(first.env), preexec_fn=heeds, **pipes) as tail:  # noqa: PLW1509 - no other thread runs here
            assert tail.stdout is not None
            assert tail.stderr is not None
            seen = [json.loads(tail.stdout.readline())["data"]["targetId"]]
            first.kill()
            with serving(tmp_path, **settings) as second:
                after = create(second, "after")
                seen.append(json.loads(tail.stdout.readline())["data"]["targetId"])
                rest, said = interrupt(tail)
    assert seen == [before, after]
    assert (tail.returncode, rest) == (130, "")
    assert "Traceback" not in said
    assert "trying again" in said
