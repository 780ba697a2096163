"""Several server processes on one socket, and the worker: they start, are replaced, and end when asked."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from tests.conftest import fresh_postgres_database
from tests.processes import COMMAND, ServerProcess, environment, run, serving, wait_until


def children_of(pid: int) -> list[int]:
    """From /proc: `pid (name) state parent …`"""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(path.parent.name))
    return sorted(found)


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.mark.slow
def test_two_processes_serve_are_replaced_and_end_together(postgres: str, tmp_path: Path) -> None:
    with fresh_postgres_database(postgres) as url, serving(tmp_path, "--workers", "2", DATABASE_URL=url, LOG_LEVEL="error") as server:
        before = children_of(server.process.pid)
        assert len(before) == 2
        wait_until(lambda: "client secret" in server.stdout)  # whichever process has set the instance up
        assert server.stdout.count("client secret") == 1
        assert server.token()["token_type"] == "Bearer"

        for victim in before:
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda victim=victim: len(children_of(server.process.pid)) == 2 and not is_alive(victim))  # type: ignore[misc]
            assert server.token()["token_type"] == "Bearer"
        after = children_of(server.process.pid)
        assert not set(before) & set(after)
        assert server.stderr.count("ended with status -9") == 2

        assert server.stop() == 0
        assert not any(map(is_alive, after))


@pytest.mark.slow
def test_processes_do_not_outlive_their_parent(postgres: str, tmp_path: Path) -> None:
    with fresh_postgres_database(postgres) as url:
        server = ServerProcess(tmp_path, "--workers", "2", DATABASE_URL=url, LOG_LEVEL="error")
        children = children_of(server.process.pid)
        server.process.kill()
        server.process.wait(60)
        wait_until(lambda: not any(map(is_alive, children)))
        with serving(tmp_path, "--workers", "2", DATABASE_URL=url, PORT=server.url.rpartition(":")[2]) as again:  # the port is free
            assert again.token()["token_type"] == "Bearer"
    assert again.process.returncode == 0


def test_sqlite_and_impossible_numbers_are_refused_in_one_line(tmp_path: Path) -> None:
    for number, reason in (("2", "an SQLite database serves one process"), ("0", "must be 1 to"), ("1000", "must be 1 to")):
        answer = run("serve", "--workers", number, env={"AGENTIDP_DATA_DIR": str(tmp_path)})
        assert answer.returncode == 2
        assert reason in answer.stderr
        assert answer.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_worker_runs_beside_servers_until_it_is_asked_to_end(postgres: str, tmp_path: Path) -> None:
    with fresh_postgres_database(postgres) as url, serving(tmp_path, DATABASE_URL=url, LOG_LEVEL="error") as server:
        with (tmp_path / "worker").open("wb") as output:
            worker = subprocess.Popen([COMMAND, "worker"], env=environment(server.env), stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        try:
            wait_until(lambda: worker.poll() is not None or "worker is running" in (tmp_path / "worker").read_text())
            assert worker.poll() is None
            worker.terminate()
            assert worker.wait(60) == 0
        finally:
            worker.kill()
            worker.wait(60)
        assert (tmp_path / "worker").read_text() == "AgentIdP worker is running\n"


@pytest.mark.slow
def test_a_worker_on_the_sqlite_file_of_a_server_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path, LOG_LEVEL="error") as server:
        answer = run("worker", env=server.env)
        assert (answer.returncode, answer.stderr.count("\n")) == (2, 1)
        assert "is in use by process" in answer.stderr
