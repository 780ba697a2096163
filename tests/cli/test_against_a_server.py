"""Commands that talk to a running server process: as an agent, over HTTP. And a backup of a live server that becomes a working one."""

import json
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from tests.processes import COMMAND, ServerProcess, environment, run, serving
from tests.serving import free_port


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(tmp_path_factory.mktemp("cli")) as running:
        yield running


def test_token_prints_a_token_that_works_and_nothing_else(server: ServerProcess) -> None:
    result = run("token", env=server.env)
    assert (result.returncode, result.stderr) == (0, "")
    headers = {"Authorization": f"Bearer {result.stdout.strip()}"}
    assert httpx2.get(f"{server.url}/agent-info", headers=headers, trust_env=False).json()["sub"] == server.first["agentId"]
    answer = json.loads(run("token", "--json", "--scope", "agents:read", "--resource", "https://api.example.com", env=server.env).stdout)
    assert (answer["scope"], answer["token_type"]) == ("agents:read", "Bearer")


@pytest.mark.slow
def test_agents_are_created_with_a_secret_that_works_and_listed(server: ServerProcess) -> None:
    email = "cli-1@acme.example"
    created = json.loads(run("agents", "create", email, "--agent-type", "screener", "--capability", "resume:read", "--json", env=server.env).stdout)
    assert (created["email"], created["capabilities"], created["clientId"]) == (email, ["resume:read"], created["agentId"])
    own = {"AGENTIDP_URL": server.url, "AGENTIDP_CLIENT_ID": created["clientId"], "AGENTIDP_CLIENT_SECRET": created["clientSecret"]}
    assert run("token", env=own).returncode == 0

    listed = json.loads(run("agents", "list", "--json", env=server.env).stdout)
    assert email in {agent["email"] for agent in listed["data"]}
    text = run("agents", "list", "--limit", "1", env=server.env).stdout
    assert text.splitlines()[-1].startswith("1 of ")
    assert run("agents", "list", "--status", "suspended", env=server.env).stdout == "0 of 0\n"

    again = run("agents", "create", email, env=server.env)
    assert again.returncode == 1
    assert "409 AGENT_ALREADY_EXISTS" in again.stderr
    bare = run("agents", "create", "cli-2@acme.example", "--no-credential", env=server.env)
    assert "secret" not in bare.stdout


@pytest.mark.slow
def test_organizations_are_created_with_an_administrator_suspended_and_reactivated(server: ServerProcess) -> None:
    created = json.loads(run("orgs", "create", "Acme", "--slug", "acme", "--plan-tier", "pro", "--json", env=server.env).stdout)
    assert (created["slug"], created["planTier"]) == ("acme", "pro")
    own = {"AGENTIDP_URL": server.url, "AGENTIDP_CLIENT_ID": created["clientId"], "AGENTIDP_CLIENT_SECRET": created["clientSecret"]}
    listed = json.loads(run("agents", "list", "--json", env=own).stdout)
    assert [agent["email"] for agent in listed["data"]] == ["admin@acme.agentidp.local"]
    assert run("orgs", "list", env=own).returncode == 1, "an administrator is no operator"

    rescue = run("orgs", "add-administrator", created["organizationId"], "rescue@acme.example", env=server.env).stdout
    assert rescue.count("aidp_sk_") == 1
    assert run("orgs", "suspend", created["organizationId"], env=server.env).stdout == f"{created['organizationId']}  suspended\n"
    assert "unauthorized_client" in run("token", env=own).stderr
    text = run("orgs", "list", "--status", "suspended", env=server.env).stdout
    assert text.splitlines() == [f"{created['organizationId']}  suspended  pro         acme", "1 of 1"]
    assert run("orgs", "reactivate", created["organizationId"], env=server.env).returncode == 0
    assert run("token", env=own).returncode == 0

    again = run("orgs", "create", "Acme", "--slug", "acme", env=server.env)
    assert again.returncode == 1
    assert "409 ORG_SLUG_TAKEN" in again.stderr


@pytest.mark.slow
def test_what_the_server_refuses_is_one_line_with_its_code(server: ServerProcess) -> None:
    for arguments, code in ((["token", "--scope", "no:such"], "invalid_scope"), (["agents", "list", "--limit", "1000"], "VALIDATION_ERROR")):
        result = run(*arguments, env=server.env)
        assert (result.returncode, result.stdout) == (1, "")
        assert code in result.stderr
        assert result.stderr.count("\n") == 1
    wrong = run("token", env={"AGENTIDP_URL": server.url, "AGENTIDP_CLIENT_ID": server.first["clientId"], "AGENTIDP_CLIENT_SECRET": "wrong-secret"})
    assert wrong.returncode == 1
    assert "invalid_client" in wrong.stderr
    assert "wrong-secret" not in wrong.stderr


@pytest.mark.slow
def test_without_a_server_or_a_credential_it_says_what_is_missing(server: ServerProcess, tmp_path: Path) -> None:
    nobody = run("token", env={"AGENTIDP_DATA_DIR": str(tmp_path)})
    assert nobody.returncode == 2
    assert "AGENTIDP_CLIENT_SECRET" in nobody.stderr
    nowhere = run("token", env=server.env | {"AGENTIDP_URL": f"http://127.0.0.1:{free_port()}"})
    assert nowhere.returncode == 1
    assert "no usable answer" in nowhere.stderr
    assert server.first["clientSecret"] not in nowhere.stderr


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_is_no_error(server: ServerProcess) -> None:
    with subprocess.Popen([COMMAND, "routes"], env=environment(server.env), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 1


@pytest.mark.slow
def test_a_backup_of_a_live_server_is_complete_and_becomes_a_working_instance(server: ServerProcess, tmp_path: Path) -> None:
    created = json.loads(run("agents", "create", "kept@acme.example", "--json", env=server.env).stdout)
    checked = run("db", "check", "--json", env=server.env)  # a server may run meanwhile
    assert (checked.returncode, checked.stderr) == (0, "")
    assert json.loads(checked.stdout)["integrity"] == "ok"
    restored = tmp_path / "restored" / "data"
    restored.mkdir(parents=True)
    assert run("db", "backup", str(restored / "agentidp.db"), env=server.env).returncode == 0
    connection = sqlite3.connect(restored / "agentidp.db")
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    server.token()  # the live one goes on

    for name in ("master.key", "first-credential.json"):
        shutil.copy2(server.data / name, restored / name)
    with serving(tmp_path / "restored") as copy:
        assert copy.first == server.first
        assert copy.token()["token_type"] == "Bearer"
        own = {"AGENTIDP_URL": copy.url, "AGENTIDP_CLIENT_ID": created["clientId"], "AGENTIDP_CLIENT_SECRET": created["clientSecret"]}
        assert run("token", env=own).returncode == 0
        keys = [httpx2.get(f"{url}/.well-known/jwks.json", trust_env=False).json() for url in (server.url, copy.url)]
        assert keys[0] == keys[1]
