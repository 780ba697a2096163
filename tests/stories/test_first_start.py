"""The first minutes: an empty folder, one command, a printed curl that works; and what happens when something is wrong with the start."""

import json
import shlex
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.processes import ServerProcess, environment, run, serving
from tests.serving import free_port

from agentidp.core.secrets import new_master_key

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def idp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server process on what was an empty folder. Tests leave it running."""
    with serving(tmp_path_factory.mktemp("first")) as server:
        yield server


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    """What a command that refused said: one line on standard error, nothing on standard output."""
    assert result.stdout == ""
    assert result.stderr.startswith("agentidp: ")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr
    return result.stderr


def modes(folder: Path) -> dict[str, str]:
    return {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in folder.iterdir()}


def test_the_first_start_prints_all_that_is_needed_once(idp: ServerProcess) -> None:
    printed, first = idp.stdout, idp.first
    assert printed.count(first["clientSecret"]) == 2  # by itself and in the command to copy
    for expected in (f"ready at {idp.url}\n", f"{idp.url}/docs", f"{idp.url}/.well-known/jwks.json", first["clientId"], "first-credential.json"):
        assert expected in printed
    for path in ("/docs", "/.well-known/jwks.json"):
        assert httpx2.get(idp.url + path, trust_env=False).status_code == 200


def test_the_printed_command_gets_a_token(idp: ServerProcess) -> None:
    command = next(line.strip() for line in idp.stdout.splitlines() if line.strip().startswith("curl "))
    words = shlex.split(command)
    if shutil.which("curl"):
        answer = json.loads(subprocess.run([*words, "--noproxy", "*"], text=True, capture_output=True, timeout=30, check=True).stdout)
    else:
        fields = dict(words[i + 1].split("=", 1) for i, word in enumerate(words) if word == "-d")
        answer = httpx2.post(words[2], data=fields, trust_env=False).json()
    assert (answer["token_type"], answer["expires_in"]) == ("Bearer", 3600)
    headers = {"Authorization": f"Bearer {answer['access_token']}"}
    assert httpx2.get(f"{idp.url}/agent-info", headers=headers, trust_env=False).json()["sub"] == idp.first["agentId"]


def test_only_the_owner_may_read_what_the_server_wrote(idp: ServerProcess) -> None:
    found = modes(idp.data)
    assert {"agentidp.db", "agentidp.db.lock", "first-credential.json", "master.key"} <= found.keys()
    assert set(found.values()) == {"0o600"}
    assert stat.S_IMODE(idp.data.stat().st_mode) == 0o700


def test_an_existing_folder_that_others_may_read_is_no_way_to_the_data(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    assert run("init", env={"AGENTIDP_DATA_DIR": str(data)}).returncode == 0
    assert set(modes(data).values()) == {"0o600"}


def test_a_second_server_on_the_same_file_says_who_has_it(idp: ServerProcess) -> None:
    result = run("serve", env=idp.env | {"AGENTIDP_PORT": str(free_port())})
    assert result.returncode == 2
    assert f"in use by process {idp.process.pid};" in one_line(result)
    assert idp.token()["token_type"] == "Bearer"  # the first one goes on


def test_a_port_that_is_taken_is_one_clear_line_and_sets_nothing_up(idp: ServerProcess, tmp_path: Path) -> None:
    data = tmp_path / "data"
    result = run("serve", env={"AGENTIDP_DATA_DIR": str(data), "AGENTIDP_PORT": idp.env["AGENTIDP_PORT"]})
    assert result.returncode == 2
    assert "in use" in one_line(result)
    assert not data.exists()


def test_a_later_start_prints_the_urls_only_and_keeps_the_credential(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        port, first = server.env["AGENTIDP_PORT"], server.first
        kept = httpx2.get(f"{server.url}/.well-known/jwks.json", trust_env=False).json()
    with serving(tmp_path, PORT=port) as server:
        assert server.stdout.splitlines()[0] == f"AgentIdP is ready at {server.url}"
        assert len(server.stdout.strip().splitlines()) == 3
        assert first["clientSecret"] not in server.stdout
        assert first["clientId"] not in server.stdout
        assert server.token()["token_type"] == "Bearer"
        assert httpx2.get(f"{server.url}/.well-known/jwks.json", trust_env=False).json() == kept


@pytest.mark.parametrize("wanted", ["group", "others"])
def test_a_master_key_file_that_others_may_read_is_refused(wanted: str, tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    path.write_text(new_master_key())
    path.chmod(0o640 if wanted == "group" else 0o604)
    result = run("init", env={"AGENTIDP_DATA_DIR": str(tmp_path)})
    assert result.returncode == 2
    assert "chmod 600" in one_line(result)
    assert not (tmp_path / "agentidp.db").exists()


@pytest.mark.parametrize("text", ["", "short", "not base64url!", "A" * 43, "\xe9" * 43])
def test_a_master_key_file_that_holds_no_key_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    path.write_text(text)
    path.chmod(0o600)
    result = run("init", env={"AGENTIDP_DATA_DIR": str(tmp_path)})
    assert result.returncode == 2
    assert one_line(result)


class TestInit:
    """`agentidp init` on each engine."""

    @pytest.fixture
    def env(self, database_url: str, tmp_path: Path) -> dict[str, str]:
        return {"AGENTIDP_DATA_DIR": str(tmp_path / "data"), "AGENTIDP_DATABASE_URL": database_url}

    def test_prints_what_the_file_holds_and_refuses_a_second_time(self, env: dict[str, str]) -> None:
        result = run("init", "--json", env=env)
        assert (result.returncode, result.stderr) == (0, "")
        document: dict[str, Any] = json.loads(result.stdout)
        assert set(document) == {"issuer", "organizationId", "agentId", "clientId", "clientSecret"}
        assert document["issuer"] == "http://127.0.0.1:3000"
        assert document["clientSecret"].startswith("aidp_sk_")
        stored = Path(env["AGENTIDP_DATA_DIR"]) / "first-credential.json"
        assert json.loads(stored.read_text()) == document
        assert stat.S_IMODE(stored.stat().st_mode) == 0o600

        again = run("init", "--json", env=env)
        assert again.returncode == 1
        assert "has been set up before" in one_line(again)
        assert json.loads(stored.read_text()) == document

        wrong = run("init", env=env | {"AGENTIDP_MASTER_KEY": new_master_key()})
        assert wrong.returncode == 2
        assert "master_key: the database is sealed under master key" in one_line(wrong)

    def test_two_at_once_set_up_one_instance(self, env: dict[str, str], engine: str) -> None:
        """On PostgreSQL both start; exactly one sets up. On SQLite the second may also find the file in use."""
        from concurrent.futures import ThreadPoolExecutor

        env |= {"AGENTIDP_MASTER_KEY": new_master_key()}
        with ThreadPoolExecutor(2) as pool:
            results = list(pool.map(lambda _: run("init", "--json", env=env), range(2)))
        won = [result for result in results if result.returncode == 0]
        lost = [result for result in results if result.returncode != 0]
        assert (len(won), len(lost)) == (1, 1), results
        assert lost[0].returncode in ({1, 2} if engine == "sqlite" else {1})
        assert one_line(lost[0])
        assert json.loads(won[0].stdout)["clientSecret"]


_KILLED_BEFORE_A_LINK = """
import os, signal, sys, threading
from agentidp.cli import main
left = int(sys.argv[1])
def step(frame, event, argument):
    global left
    if event == "c_call" and argument is os.link:
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
threading.setprofile(step)
sys.setprofile(step)
main(["init"])
"""


@pytest.mark.parametrize("links", [0, 1])
def test_a_first_start_that_is_killed_loses_no_secret(links: int, database_url: str, tmp_path: Path) -> None:
    """Before the secret is durable nothing is set up; from then on it is there, also between the commit and the moment when the file gets its name."""
    settings = {"DATABASE_URL": database_url, "MASTER_KEY": new_master_key()}
    env = environment({"AGENTIDP_DATA_DIR": str(tmp_path / "data")} | {f"AGENTIDP_{name}": value for name, value in settings.items()})
    killed = subprocess.run([sys.executable, "-c", _KILLED_BEFORE_A_LINK, str(links)], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "data" / "first-credential.json").exists()
    with serving(tmp_path, **settings) as server:
        assert server.token()["token_type"] == "Bearer"
        assert (server.first["clientSecret"] in server.stdout) == (links == 0), "else it was set up by then"
    assert modes(tmp_path / "data")["first-credential.json"] == "0o600"
    assert not list((tmp_path / "data").glob("first-credential.json.*[0-9a-f]")), "none waits"


def test_init_for_people_names_the_next_step(tmp_path: Path) -> None:
    result = run("init", env={"AGENTIDP_DATA_DIR": str(tmp_path / "data")})
    assert result.returncode == 0
    assert "agentidp serve" in result.stdout
    assert json.loads((tmp_path / "data" / "first-credential.json").read_text())["clientSecret"] in result.stdout


def test_a_first_credential_of_another_database_is_not_overwritten(tmp_path: Path) -> None:
    env = {"AGENTIDP_DATA_DIR": str(tmp_path)}
    assert run("init", env=env).returncode == 0
    for path in tmp_path.glob("agentidp.db*"):
        path.unlink()
    before = (tmp_path / "first-credential.json").read_text()
    result = run("init", env=env)
    assert result.returncode == 2
    assert "belongs to another database" in one_line(result)
    assert (tmp_path / "first-credential.json").read_text() == before


def test_what_is_not_a_database_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "agentidp.db").write_bytes(b"certainly not SQLite" * 1000)
    for command in ("serve", "init"):
        result = run(command, env={"AGENTIDP_DATA_DIR": str(tmp_path), "AGENTIDP_PORT": str(free_port())})
        assert result.returncode == 2
        assert "cannot be opened" in one_line(result)


def test_a_database_of_a_later_release_is_refused_in_one_line(tmp_path: Path) -> None:
    env = {"AGENTIDP_DATA_DIR": str(tmp_path), "AGENTIDP_PORT": str(free_port())}
    assert run("init", env=env).returncode == 0
    with sqlite3.connect(tmp_path / "agentidp.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    result = run("serve", env=env)
    assert result.returncode == 2
    assert "a later release of AgentIdP" in one_line(result)


def test_an_unreachable_postgresql_is_refused_in_one_line(tmp_path: Path) -> None:
    url = f"postgresql://nobody:hidden-password@127.0.0.1:{free_port()}/none"
    result = run("serve", env={"AGENTIDP_DATA_DIR": str(tmp_path), "AGENTIDP_DATABASE_URL": url, "AGENTIDP_PORT": str(free_port())})
    assert result.returncode == 2
    assert "hidden-password" not in one_line(result)
