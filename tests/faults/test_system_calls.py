"""The same from outside, where strace may look: between two answers to one client the log was synced, with success."""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.processes import ServerProcess

_SYNCED = re.compile(r"(fdatasync|fsync)\(\d+\) += 0|<\.\.\. (fdatasync|fsync) resumed>.*= 0")
_ANSWERED = re.compile(r'(write|writev|sendto|sendmsg)\(.*"HTTP/1\.1 (\d+)')


@pytest.fixture
def traced(tmp_path: Path) -> Iterator[tuple[ServerProcess, Path]]:
    strace, trace = shutil.which("strace"), tmp_path / "trace"
    if strace is None or subprocess.run([strace, "-o", trace, "true"], check=False, capture_output=True).returncode:
        pytest.skip("strace is not here or may not trace")
    calls = "trace=fdatasync,fsync,write,writev,sendto,sendmsg"

    class Traced(ServerProcess):
        command = (strace, "-f", "-qq", "-s", "40", "-e", calls, "-e", "signal=none", "-o", str(trace), *ServerProcess.command)

    server = Traced(tmp_path, LOG_LEVEL="error")
    yield server, trace
    server.kill()


@pytest.mark.slow
def test_every_answer_follows_a_sync_of_its_own(traced: tuple[ServerProcess, Path], amount: Callable[[int, int], int], table: Any) -> None:
    server, trace = traced
    requests = amount(20, 1000)
    form = {"grant_type": "client_credentials", "client_id": server.first["clientId"], "client_secret": server.first["clientSecret"]}
    begin = len(trace.read_text().splitlines())
    with server.client() as client:
        for _ in range(requests):
            assert client.post("/api/v1/token", data=form).status_code == 200
    answers = synced = 0
    for line in trace.read_text().splitlines()[begin:]:
        if _SYNCED.search(line):
            synced += 1
        elif match := _ANSWERED.search(line):
            assert match[2] == "200"
            assert synced, "an answer left before its sync"
            answers, synced = answers + 1, 0
    assert answers == requests
    table(answers=answers, before_their_sync=0)
