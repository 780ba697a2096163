"""Every command that works on settings and databases, in the process of the test: what it prints, its JSON, its exit code."""

import json
import shutil
import sqlite3
import stat
import subprocess
from pathlib import Path

import pytest
from tests.cli.conftest import Command

from agentidp import __version__
from agentidp.core.secrets import Sealer, new_master_key
from agentidp.db.migrate import HEAD

COMMANDS = [
    "serve",
    "init",
    "token",
    "routes",
    "openapi",
    "completion",
    "worker",
    *(f"agents {name}" for name in ("list", "create")),
    *(f"keys {name}" for name in ("list", "rotate", "retire", "master", "rotate-master")),
    *(f"db {name}" for name in ("upgrade", "check", "backup", "restore", "after-restore", "copy")),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command: str, agentidp: Command) -> None:
    code, out, err = agentidp(*command.split(), "--help")
    assert (code, err) == (0, "")
    assert "For example:" in out
    example = out.partition("For example:")[2]
    assert f"agentidp {command}" in " ".join(example.split())


def test_a_data_folder_that_cannot_be_written_loses_no_credential(
    database_url: str, agentidp: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is set up whose only secret could not be kept."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("AGENTIDP_MASTER_KEY", new_master_key())
    monkeypatch.setenv("AGENTIDP_DATABASE_URL", database_url)
    monkeypatch.setenv("AGENTIDP_DATA_DIR", str(tmp_path / "file"))
    code, _, err = agentidp("init")
    assert (code, err.count("\n")) == (2, 1)
    assert "data_dir" in err
    monkeypatch.setenv("AGENTIDP_DATA_DIR", str(tmp_path / "folder"))
    code, out, _ = agentidp("init", "--json")
    assert code == 0
    assert json.loads(out)["clientSecret"]


def test_help_without_a_command_lists_them_all(agentidp: Command) -> None:
    code, out, _ = agentidp("--help")
    assert code == 0
    for command in COMMANDS:
        assert command.split()[0] in out
    assert agentidp("--version") == (0, f"{__version__}\n", "")


@pytest.mark.parametrize("arguments", [["nonsense"], ["token", "--nope"], ["completion", "tcsh"], ["keys", "retire"], ["agents", "list", "--limit", "many"]])
def test_wrong_usage_leaves_with_2_and_says_why(arguments: list[str], agentidp: Command) -> None:
    code, out, err = agentidp(*arguments)
    assert code == 2
    assert (out + err).strip()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_prints_a_completion_script_that_the_shell_accepts(shell: str, agentidp: Command, tmp_path: Path) -> None:
    code, out, _ = agentidp("completion", shell)
    assert code == 0
    for word in ("serve", "rotate", "backup"):
        assert word in out
    script = tmp_path / "completion"
    script.write_text(out)
    if shutil.which(shell) is None:
        assert shell != "bash"
        print(f"{shell} is not installed: its script was not tried")
        return
    check = subprocess.run([shell, "-n", str(script)], capture_output=True, text=True, timeout=30, check=False)
    assert (check.returncode, check.stderr) == (0, "")


def test_routes_lists_every_operation_with_its_place_and_scope(agentidp: Command) -> None:
    rows = json.loads(agentidp("routes", "--json")[1])
    document = json.loads(agentidp("openapi")[1])
    served = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert {(row["method"], row["path"]) for row in rows} == served
    assert all(row["scope"] and ":" in row["source"] for row in rows)
    lines = agentidp("routes", "credentials")[1].splitlines()
    assert lines
    assert all("credentials" in line.lower() for line in lines)
    assert agentidp("routes", "no such word")[:2] == (0, "")


def test_keys_master_prints_a_key_that_works(agentidp: Command) -> None:
    keys = {agentidp("keys", "master")[1].strip() for _ in range(5)}
    assert len(keys) == 5
    assert len({Sealer(key).key_id for key in keys}) == 5


def test_keys_list_rotate_and_retire(instance: dict[str, str], agentidp: Command) -> None:
    rows = json.loads(agentidp("keys", "list", "--json")[1])
    assert sorted(row["status"] for row in rows) == ["current", "next"]
    by_status = {row["status"]: row["keyId"] for row in rows}
    for row in rows:
        assert set(row) == {"keyId", "algorithm", "status", "createdAt", "publishedUntil", "masterKey"}
        assert row["keyId"] in agentidp("keys", "list")[1]

    code, out, err = agentidp("keys", "rotate")
    assert (code, out) == (1, "")
    assert "--at-once" in err
    assert json.loads(agentidp("keys", "rotate", "--at-once", "--json")[1]) == {"current": by_status["next"]}
    assert "until" in agentidp("keys", "list")[1]

    assert agentidp("keys", "retire", by_status["next"])[0] == 1, "it signs"
    for unknown in ("unknown", "-begins-like-an-option"):  # as one key id in 64 does
        code, _, err = agentidp("keys", "retire", unknown)
        assert code == 1
        assert f"There is no key {unknown};" in err
    assert agentidp("keys", "retire", by_status["current"])[0] == 0
    assert by_status["current"] not in agentidp("keys", "list")[1]
    assert by_status["current"] in agentidp("keys", "list", "--all")[1]


@pytest.mark.parametrize(
    "arguments", [["keys", "list"], ["keys", "rotate"], ["keys", "retire", "x"], ["db", "check"], ["db", "backup", "copy.db"]], ids=" ".join
)
def test_looking_at_an_instance_that_is_not_there_does_not_make_one(arguments: list[str], data: Path, agentidp: Command) -> None:
    code, out, err = agentidp(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith("agentidp: there is no database at ")
    assert not data.exists()


def test_db_upgrade_creates_and_then_has_nothing_to_do(data: Path, agentidp: Command) -> None:
    assert agentidp("db", "upgrade")[:2] == (0, f"created: revision {HEAD}\n")
    assert agentidp("db", "upgrade")[:2] == (0, f"current: revision {HEAD}\n")
    assert stat.S_IMODE((data / "agentidp.db").stat().st_mode) == 0o600


def test_db_check_of_a_sound_database(instance: dict[str, str], agentidp: Command, engine: str) -> None:
    code, out, err = agentidp("db", "check", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["engine"], found["revision"]) == (engine, found["expected"])
    assert found.get("integrity", "ok") == "ok"
    assert "revision" in agentidp("db", "check")[1]


def test_db_check_finds_a_wrong_revision(instance: dict[str, str], agentidp: Command, database_url: str) -> None:
    import asyncio

    import sqlalchemy as sa

    from agentidp.db.migrate import in_transaction

    asyncio.run(in_transaction(sa.make_url(database_url), lambda connection: connection.exec_driver_sql("DELETE FROM alembic_version")))
    code, _, err = agentidp("db", "check")
    assert code == 1
    assert "agentidp db upgrade" in err


def test_db_check_finds_a_damaged_page(file: Path, agentidp: Command) -> None:
    raw = bytearray(file.read_bytes())
    assert len(raw) > 3 * 4096
    for start in range(4096, len(raw), 4096):
        raw[start : start + 64] = b"\xa5" * 64
    file.write_bytes(raw)
    code, _, err = agentidp("db", "check")
    assert code == 1
    assert "backup" in err
    assert err.count("\n") == 1


def test_db_check_finds_a_file_that_is_no_database(file: Path, agentidp: Command) -> None:
    file.write_bytes(b"certainly not SQLite" * 1000)
    code, _, err = agentidp("db", "check", "--json")
    assert code == 1
    assert "restore a backup" in err


@pytest.mark.parametrize("arguments", [["upgrade"], ["backup", "copy.db"]], ids=["upgrade", "backup"])
def test_db_commands_say_in_one_line_that_the_file_is_no_database(file: Path, agentidp: Command, arguments: list[str], tmp_path: Path) -> None:
    file.write_bytes(b"certainly not SQLite" * 1000)
    arguments = [argument.replace("copy.db", str(tmp_path / "copy.db")) for argument in arguments]
    for _ in range(2):
        code, _out, err = agentidp("db", *arguments)
        assert code in {1, 2}
        assert "file is not a database" in err
        assert err.count("\n") == 1
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("copy")]


@pytest.mark.parametrize("command", ["upgrade", "check"])
def test_db_commands_say_in_one_line_that_postgresql_is_not_there(command: str, agentidp: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AGENTIDP_DATABASE_URL", f"postgresql://nobody:hidden-password@/none?host={tmp_path}")
    code, _, err = agentidp("db", command)
    assert code in {1, 2}
    assert "cannot be opened" in err
    assert err.count("\n") == 1
    assert "hidden-password" not in err


def test_a_backup_into_a_folder_that_is_not_there_is_refused_in_one_line(file: Path, agentidp: Command, tmp_path: Path) -> None:
    code, _, err = agentidp("db", "backup", str(tmp_path / "none" / "copy.db"))
    assert (code, err.count("\n")) == (1, 1)


def test_db_check_finds_a_broken_reference(file: Path, agentidp: Command) -> None:
    connection = sqlite3.connect(file)
    connection.execute("DELETE FROM organizations")
    connection.commit()
    connection.close()
    code, _, err = agentidp("db", "check")
    assert code == 1
    assert "damaged" in err


def test_db_backup_copies_whole_private_and_never_over_something(file: Path, agentidp: Command, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    code, out, _ = agentidp("db", "backup", str(target))
    assert code == 0
    assert str(target.stat().st_size) in out
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("copy")] == ["copy.db"]
    before = target.read_bytes()
    code, _, err = agentidp("db", "backup", str(target))
    assert code == 1
    assert "give another name" in err
    assert target.read_bytes() == before


@pytest.mark.parametrize("engine", ["postgresql"])
def test_db_backup_of_postgresql_names_its_own_tool(instance: dict[str, str], agentidp: Command, tmp_path: Path) -> None:
    code, _, err = agentidp("db", "backup", str(tmp_path / "copy"))
    assert code == 1
    assert "pg_dump" in err
