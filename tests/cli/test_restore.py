"""`db backup`, `db restore` and `db after-restore`: what they leave, and that they leave everything alone when something is wrong."""

import asyncio
import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from tests.cli.conftest import Command
from tests.processes import COMMAND, environment
from tests.serving import RunningServer

from agentidp.core.clock import system_clock
from agentidp.core.secrets import new_master_key
from agentidp.db import schema
from agentidp.db.migrate import in_transaction
from agentidp.db.schema import audit_events, metadata
from agentidp.db.sqlite import lock_file

# what may stand where a backup should, and what is said of it
SPOILED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda path: path.unlink(), "there is no file"),
    "a folder": (lambda path: path.unlink() or path.mkdir(), "there is no file"),
    "empty": (lambda path: path.write_bytes(b""), "not a database of AgentIdP"),
    "text": (lambda path: path.write_bytes(b"certainly not SQLite" * 1000), "file is not a database"),
    "truncated": (lambda path: os.truncate(path, path.stat().st_size // 2), "malformed"),
    "cut by a byte": (lambda path: os.truncate(path, path.stat().st_size - 1), "damaged"),
    "a damaged page": (lambda path: overwrite(path, 5 * 4096), "damaged"),
    "another program's": (lambda path: path.unlink() or statement(path, "CREATE TABLE notes (text)"), "not a database of AgentIdP"),
    "a later release's": (lambda path: statement(path, "UPDATE alembic_version SET version_num = '9999'"), "later release"),
    "changed by hand": (lambda path: statement(path, "ALTER TABLE agents ADD COLUMN surprise"), "changed by hand"),
    "without its instance": (lambda path: statement(path, "DELETE FROM instance"), "holds no instance"),
    "of the future": (lambda path: statement(path, "UPDATE audit_events SET timestamp = timestamp + 3600000"), "the clock of this machine is wrong"),
    "with a moved secret": (
        lambda path: statement(path, "UPDATE signing_keys SET sealed_private_key = (SELECT min(sealed_private_key) FROM signing_keys)"),
        "changed or moved",
    ),
}


def statement(path: Path, text: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(text)


def overwrite(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\xa5" * 64)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file there. The lock is nobody's data."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith(".lock")}


def one_line(err: str) -> str:
    assert err.startswith("agentidp: ")
    assert err.count("\n") == 1
    return err


def ask(url: str, query: sa.Executable) -> list[Any]:
    def work(connection: sa.Connection) -> list[Any]:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL ROLE agentidp_system")
        return list(connection.execute(query))

    return asyncio.run(in_transaction(sa.make_url(url), work))


@pytest.fixture
def backup(file: Path, agentidp: Command, tmp_path: Path) -> Path:
    """A backup of `file`."""
    path = tmp_path / "backup.db"
    assert agentidp("db", "backup", str(path))[0] == 0
    return path


def test_a_backup_says_loudly_that_the_master_key_is_not_in_it(file: Path, agentidp: Command, tmp_path: Path) -> None:
    code, out, err = agentidp("db", "backup", str(tmp_path / "copy.db"))
    assert code == 0
    assert "bytes" in out
    assert "MASTER KEY" in one_line(err)
    assert (file.parent / "master.key").read_text().strip() not in (tmp_path / "copy.db").read_bytes().decode("latin-1")


def test_a_restored_database_is_the_backup_with_a_floor_and_an_event(file: Path, backup: Path, agentidp: Command) -> None:
    statement(file, "UPDATE organizations SET name = 'changed since'")
    lost = file.read_bytes()
    began = system_clock()
    code, out, err = agentidp("db", "restore", "--force", str(backup))
    assert (code, err) == (0, "")
    [(floor, operator)] = ask(f"sqlite:///{file}", sa.select(schema.instance.c.tokens_not_before, schema.instance.c.operator_organization_id))
    assert began < floor <= system_clock(), "it waits until tokens may be issued again"
    assert floor % 1000 == 0
    [event] = ask(f"sqlite:///{file}", sa.select(audit_events).where(audit_events.c.action == "instance.restored"))
    assert (event.organization_id, event.target_id, event.outcome) == (operator, operator, "success")
    assert event.metadata["tokensNotBefore"] in out
    assert event.metadata["newestEventAt"] in out
    assert agentidp("db", "check")[0] == 0
    assert ask(f"sqlite:///{file}", sa.text("SELECT name FROM organizations")) == [("Default organization",)]
    [aside] = file.parent.glob("agentidp.db.before-*Z")
    assert aside.read_bytes() == lost
    assert str(aside) in out


def test_restoring_twice_raises_the_floor_twice_and_keeps_both_that_were_there(file: Path, backup: Path, agentidp: Command) -> None:
    floors = []
    for _ in range(2):
        assert agentidp("db", "restore", "--force", str(backup))[0] == 0
        floors += ask(f"sqlite:///{file}", sa.select(schema.instance.c.tokens_not_before))
    assert floors[0] < floors[1]
    assert len([path for path in file.parent.glob("agentidp.db.before-*") if path.name.endswith("Z")]) == 2


def test_where_everything_is_lost_it_is_put_back(file: Path, backup: Path, agentidp: Command) -> None:
    key = (file.parent / "master.key").read_bytes()
    shutil.rmtree(file.parent)
    code, _, err = agentidp("db", "restore", str(backup))
    assert code == 2
    assert "master.key" in one_line(err)
    assert not file.parent.exists(), "no other key is made"
    file.parent.mkdir()
    (file.parent / "master.key").write_bytes(key)
    (file.parent / "master.key").chmod(0o600)
    file.with_name("agentidp.db-wal").write_bytes(b"the log of what was lost")
    assert agentidp("db", "restore", str(backup))[0] == 0
    assert agentidp("db", "check")[0] == 0
    assert next(file.parent.glob("agentidp.db.before-*-wal")).read_bytes() == b"the log of what was lost"


@pytest.mark.parametrize("what", SPOILED)
def test_what_is_no_sound_backup_changes_nothing(what: str, file: Path, backup: Path, agentidp: Command) -> None:
    spoil, said = SPOILED[what]
    spoil(backup)
    before = contents(file.parent)
    code, out, err = agentidp("db", "restore", "--force", str(backup))
    assert code in {1, 2}
    assert out == ""
    assert said in one_line(err)
    assert contents(file.parent) == before


def test_a_database_is_not_replaced_unasked_nor_by_itself(file: Path, backup: Path, agentidp: Command) -> None:
    before = contents(file.parent)
    for arguments, said in (([str(backup)], "--force"), (["--force", str(file)], "is the database itself")):
        code, out, err = agentidp("db", "restore", *arguments)
        assert (code, out) == (1, "")
        assert said in one_line(err)
    assert contents(file.parent) == before


def test_another_master_key_changes_nothing(file: Path, backup: Path, agentidp: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(file.parent)
    monkeypatch.setenv("AGENTIDP_MASTER_KEY", new_master_key())
    code, _, err = agentidp("db", "restore", "--force", str(backup))
    assert code == 2
    assert "master key" in one_line(err)
    assert contents(file.parent) == before


def test_a_backup_from_before_a_rotation_opens_under_the_previous_master_key(
    file: Path, backup: Path, agentidp: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTIDP_MASTER_KEY_PREVIOUS", (file.parent / "master.key").read_text().strip())
    monkeypatch.setenv("AGENTIDP_MASTER_KEY", new_master_key())
    assert agentidp("db", "restore", "--force", str(backup))[0] == 0


def test_a_server_that_runs_keeps_its_database(file: Path, agentidp: Command, tmp_path: Path) -> None:
    lock = lock_file(file)  # as a server does
    assert agentidp("db", "backup", str(tmp_path / "copy.db"))[0] == 0, "a backup may be made meanwhile"
    before = contents(file.parent)
    for arguments in (["restore", "--force", str(tmp_path / "copy.db")], ["after-restore"], ["copy", "--to", "postgresql://127.0.0.1:1/none"]):
        code, _, err = agentidp("db", *arguments)
        assert code == 2
        assert "in use by process" in one_line(err)
    os.close(lock)
    assert contents(file.parent) == before


def test_a_failure_after_the_database_was_set_aside_says_where_it_is(file: Path, backup: Path) -> None:
    """Another program takes its name right before the restored one gets it."""
    lost = file.read_bytes()
    program = """
import os, sys
from agentidp.cli import main
def step(frame, event, argument):
    if event == "c_call" and argument is os.link and not os.path.exists(sys.argv[1]):
        open(sys.argv[1], "x").close()
sys.setprofile(step)
main(["db", "restore", "--force", sys.argv[2]])
"""
    arguments, settings = [sys.executable, "-c", program, str(file), str(backup)], environment({"AGENTIDP_DATA_DIR": str(file.parent)})
    result = subprocess.run(arguments, env=settings, capture_output=True, text=True, timeout=60, check=False)
    [aside] = file.parent.glob("agentidp.db.before-*Z")
    assert result.returncode == 1
    assert f"the database that was there is now {aside}" in one_line(result.stderr)
    assert aside.read_bytes() == lost


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_a_disk_that_is_full_changes_nothing(command: str, file: Path, backup: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for it."""
    before, target = contents(file.parent), tmp_path / "second.db"
    arguments = ["backup", str(target)] if command == "backup" else ["restore", "--force", str(backup)]
    kilobytes = file.stat().st_size // 2048
    result = subprocess.run(
        ["bash", "-c", f'ulimit -f {kilobytes}; exec "$@"', "bash", COMMAND, "db", *arguments],
        env=environment({"AGENTIDP_DATA_DIR": str(file.parent)}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 1
    assert "full" in one_line(result.stderr) or "I/O error" in result.stderr
    assert contents(file.parent) == before
    assert not list(tmp_path.glob("second*"))


@pytest.mark.parametrize("engine", ["postgresql"])
def test_restore_of_postgresql_names_its_own_tool(instance: dict[str, str], agentidp: Command, tmp_path: Path) -> None:
    code, _, err = agentidp("db", "restore", str(tmp_path / "copy"))
    assert code == 1
    assert "pg_restore" in one_line(err)


def test_after_restore_raises_the_floor(instance: dict[str, str], database_url: str, agentidp: Command) -> None:
    code, out, err = agentidp("db", "after-restore")
    assert (code, err) == (0, "")
    [(event,)] = ask(database_url, sa.select(audit_events.c.metadata).where(audit_events.c.action == "instance.restored"))
    assert event["tokensNotBefore"] in out
    [(floor,)] = ask(database_url, sa.select(schema.instance.c.tokens_not_before))
    assert floor <= system_clock()


def test_after_restore_makes_nothing_of_an_empty_database(database_url: str, data: Path, agentidp: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTIDP_DATABASE_URL", database_url)
    monkeypatch.setenv("AGENTIDP_MASTER_KEY", new_master_key())
    asyncio.run(in_transaction(sa.make_url(database_url), lambda _: None))
    code, _, err = agentidp("db", "after-restore")
    assert code == 1
    assert "not a database of AgentIdP" in one_line(err)
    tables = asyncio.run(in_transaction(sa.make_url(database_url), lambda connection: sa.inspect(connection).get_table_names()))
    assert not set(tables) & set(metadata.tables)


def test_after_restore_wants_every_server_stopped(own_server: RunningServer, database_url: str, agentidp: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTIDP_DATABASE_URL", database_url)
    monkeypatch.setenv("AGENTIDP_DATA_DIR", str(own_server.settings.data_dir))
    code, _, err = agentidp("db", "after-restore")
    assert code in {1, 2}
    assert "in use by process" in err or "stop every one first" in err
    own_server.stop()
    assert agentidp("db", "after-restore")[0] == 0
