"""`agentidp db upgrade|check|backup|restore|after-restore|copy`"""

import asyncio
import json as json_module
import os
import sys
import time
from pathlib import Path
from typing import Annotated

import sqlalchemy as sa
from cyclopts import App, Parameter

from agentidp.auth.master_keys import MasterKeys, load_master_keys
from agentidp.cli.progress import Progress
from agentidp.cli.settings import Config, Json
from agentidp.core.clock import system_clock, to_rfc3339
from agentidp.core.config import MASTER_KEY_FILE, Settings, load
from agentidp.core.errors import Problem, WrongSettings
from agentidp.db import walls
from agentidp.db.backup import bring_in_log, new_copy, set_aside
from agentidp.db.copy import Content, copy_rows
from agentidp.db.engine import database_url
from agentidp.db.migrate import HEAD, in_transaction, revision_of, run_alembic
from agentidp.db.migrate import upgrade as upgrade_schema
from agentidp.db.sqlite import connect, lock_file
from agentidp.recovery import Recovered, recover

app = App(name="db", help="Database: upgrade, check, backup, restore, copy.")


@app.command
def upgrade(*, config: Config = None) -> None:
    """Bring the schema to this release; `serve` does the same when it starts.

    For example:

        agentidp db upgrade
    """
    print(f"{asyncio.run(in_transaction(database_url(load(config)), upgrade_schema))}: revision {HEAD}")


@app.command
def check(*, config: Config = None, json: Json = False) -> None:
    """Check that the schema is this release's and that the file is sound. Exit code 1 if not.

    For example:

        agentidp db check --json
    """

    def work(connection: sa.Connection) -> dict[str, object]:
        found: dict[str, object] = {"engine": connection.dialect.name, "revision": revision_of(connection), "expected": HEAD}
        if connection.dialect.name == "sqlite":
            found["integrity"] = connection.exec_driver_sql("PRAGMA integrity_check").scalar()
            found["brokenReferences"] = len(connection.exec_driver_sql("PRAGMA foreign_key_check").all())
        else:
            found["withoutWall"] = walls.missing(connection)
        return found

    url = database_url(load(config))
    require_file(url)
    try:
        found = asyncio.run(in_transaction(url, work, readonly=True))
    except WrongSettings as error:
        raise Problem(f"{error}; restore a backup if it is damaged") from error
    print(json_module.dumps(found) if json else "\n".join(f"{name:<17} {value}" for name, value in found.items()))
    if found["revision"] != HEAD:
        raise Problem("the schema is not this release's; run: agentidp db upgrade")
    if found.get("integrity", "ok") != "ok" or found.get("brokenReferences", 0):
        raise Problem("the database is damaged; restore a backup")
    if found.get("withoutWall"):
        raise Problem("row-level security is not what it should be; run: agentidp db upgrade")
    asyncio.run(in_transaction(url, lambda connection: run_alembic(connection, "check"), readonly=True))


@app.command
def backup(target: Path, *, config: Config = None) -> None:
    """Copy a live SQLite database to TARGET, complete, consistent and checked; a server may run meanwhile. Only the owner may read the file.

    It does not hold the master key: keep that elsewhere, too. On PostgreSQL use pg_dump; see docs/guides/backup-and-restore.md.

    For example:

        agentidp db backup /var/backups/agentidp.db
    """
    url = database_url(load(config))
    if url.drivername != "sqlite":
        raise Problem(
            "this is for SQLite; back PostgreSQL up with: pg_dump --format=custom --role=agentidp_system --enable-row-security --file=TARGET DATABASE_URL"
        )
    require_file(url)
    if target.exists():
        raise Problem(f"{target} exists; give another name")
    with new_copy(Path(url.database or ""), target, Progress("copying")):
        pass
    print(f"{target}: {target.stat().st_size} bytes")
    print("agentidp: without the MASTER KEY this file is of no use to anybody, you included: keep the key, too, and NOT beside it", file=sys.stderr)


@app.command
def restore(
    source: Path, *, config: Config = None, force: Annotated[bool, Parameter(negative="", help="Even where there is a database; it is kept aside.")] = False
) -> None:
    """Put the SQLite database of a backup in place: checked, brought to this release, and with every token refused that was issued before now.

    Stop the server first. If anything is wrong with the backup or the master key, nothing is changed. On PostgreSQL use pg_restore, then
    `agentidp db after-restore`.

    For example:

        agentidp db restore /var/backups/agentidp.db
    """
    settings = load(config)
    url = database_url(settings)
    if url.drivername != "sqlite":
        raise Problem("this is for SQLite; on PostgreSQL use pg_restore, then: agentidp db after-restore")
    target = Path(url.database or "")
    if not source.is_file():
        raise Problem(f"there is no file {source}")
    if target.exists() and target.samefile(source):
        raise Problem(f"{source} is the database itself")
    if not force and target.exists() and target.stat().st_size:
        raise Problem(f"there is a database at {target}; with --force it is kept aside and replaced")
    master_keys = _master_keys(settings)
    lock, aside = lock_file(target), None
    try:
        with new_copy(source, target, Progress("restoring")) as copy:
            recovered = _recover_file(copy, master_keys)
            aside = set_aside(target, f"before-{to_rfc3339(recovered.tokens_not_before)}")
    except OSError as error:
        if aside is None:
            raise
        raise Problem(f"{error}; the database that was there is now {aside}, and nothing is in its place") from error
    finally:
        os.close(lock)
    _tell(recovered)
    if aside is not None:
        print(f"The database that was there is now {aside}")


def _recover_file(copy: Path, master_keys: MasterKeys) -> Recovered:
    engine = connect(copy)
    try:
        with engine.begin() as connection:
            recovered = recover(connection, master_keys, system_clock())
    except sa.exc.DBAPIError as error:
        raise Problem(f"the backup cannot be used: {error.orig}") from error
    finally:
        engine.dispose()
    bring_in_log(copy)
    _wait_for(recovered)
    return recovered


@app.command
def after_restore(*, config: Config = None) -> None:
    """Make a database safe that another program has restored, pg_restore for one: every token issued before now is refused.

    Otherwise tokens that were revoked after the backup would be good again. Stop every server first. `db restore` does this by itself.

    For example:

        agentidp db after-restore
    """
    settings = load(config)
    url = database_url(settings)
    require_file(url)
    master_keys = _master_keys(settings)

    def work(connection: sa.Connection) -> Recovered:
        _require_alone(connection)
        return recover(connection, master_keys, system_clock())

    recovered = asyncio.run(in_transaction(url, work))
    _wait_for(recovered)
    _tell(recovered)


@app.command
def copy(*, to: Annotated[str, Parameter(help="URL of the other database; a password may come from PGPASSWORD instead.")], config: Config = None) -> None:
    """Copy everything to an empty database of the other engine, in one transaction, and compare every row that arrived.

    Stop every server first. Afterwards the two are the same instance: start servers on the new one only, with the same master key.

    For example:

        agentidp db copy --to postgresql://agentidp:secret@127.0.0.1/agentidp
    """
    source, target = database_url(load(config)), database_url(load(config, database_url=to))
    require_file(source)
    if source.drivername == target.drivername:
        raise Problem("this copies from one engine to the other; within one use its own backup")
    sqlite_url, postgres_url = (source, target) if source.drivername == "sqlite" else (target, source)
    file = Path(sqlite_url.database or "")

    def work(postgres: sa.Connection) -> dict[str, Content]:
        try:
            with engine.begin() as sqlite:
                if postgres_url == source:
                    postgres.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                _require_alone(postgres)
                postgres.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")  # it has nothing to do while SQLite is read back
                return copy_rows(*((sqlite, postgres) if postgres_url == target else (postgres, sqlite)), Progress("copying"))
        except sa.exc.DBAPIError as error:
            raise Problem(f"the copy failed, nothing was kept: {str(error.orig).splitlines()[0]}") from error

    lock = lock_file(file)
    os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))  # SQLite would let others read what it makes
    engine = connect(file, readonly=postgres_url == target)
    try:
        copied = asyncio.run(in_transaction(postgres_url, work))
    finally:
        engine.dispose()
        os.close(lock)
    print("\n".join(f"{name:<20} {content.rows}" for name, content in copied.items()))
    print(f"{sum(content.rows for content in copied.values())} rows copied and compared")


def _master_keys(settings: Settings) -> MasterKeys:
    """Those of the settings; none is made here."""
    path = settings.data_dir / MASTER_KEY_FILE
    if settings.master_key is None and not settings.is_vault_current and not path.exists():
        raise WrongSettings(f"master_key: not set, and there is no {path}: put back the one that the backup was made under")
    return load_master_keys(settings)


def _require_alone(connection: sa.Connection) -> None:
    """A server remembers what it has read, and goes on writing. An SQLite file is held by `lock_file` instead."""
    if connection.dialect.name == "postgresql":
        others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'agentidp' AND pid <> pg_backend_pid()"
        if connection.exec_driver_sql(others).scalar():
            raise Problem("a server uses the database; stop every one first")


def _wait_for(recovered: Recovered) -> None:
    """Until tokens may be issued again: they carry whole seconds."""
    time.sleep(max(0, recovered.tokens_not_before - system_clock()) / 1000)


def _tell(recovered: Recovered) -> None:
    newest = to_rfc3339(recovered.newest_event_at) if recovered.newest_event_at is not None else "never"
    print(f"Restored; the last event in it is of {newest}")
    print(f"Tokens issued before {to_rfc3339(recovered.tokens_not_before)} are refused")
    print("What was revoked, suspended, rotated or retired after that last event is as it was before: do it again at once")


def require_file(url: sa.URL) -> None:
    """Raises Problem when the database would have to be made first."""
    if url.drivername == "sqlite" and not Path(url.database or "").exists():
        raise Problem(f"there is no database at {url.database}; `agentidp init` makes one")
