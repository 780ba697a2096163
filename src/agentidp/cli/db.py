"""`agentidp db upgrade|check|backup`"""

import asyncio
import contextlib
import json as json_module
import os
import sqlite3
from pathlib import Path

import sqlalchemy as sa
from cyclopts import App

from agentidp.cli.settings import Config, Json
from agentidp.core.config import load
from agentidp.core.errors import Problem, WrongSettings
from agentidp.db.engine import database_url
from agentidp.db.migrate import HEAD, in_transaction, revision_of, run_alembic
from agentidp.db.migrate import upgrade as upgrade_schema

app = App(name="db", help="Database: upgrade, check, backup.")


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
    asyncio.run(in_transaction(url, lambda connection: run_alembic(connection, "check"), readonly=True))


@app.command
def backup(target: Path, *, config: Config = None) -> None:
    """Copy a live SQLite database to TARGET, complete and consistent; a server may run meanwhile. The file is made readable for its owner only.

    Keep the master key elsewhere: without it the copy is of no use to anybody, you included. On PostgreSQL use pg_dump.

    For example:

        agentidp db backup /var/backups/agentidp.db
    """
    url = database_url(load(config))
    if url.drivername != "sqlite":
        raise Problem("this is for SQLite; back PostgreSQL up with: pg_dump --format=custom --file=TARGET DATABASE_URL")
    require_file(url)
    if target.exists():
        raise Problem(f"{target} exists; give another name")
    partial = target.with_name(target.name + ".partial")
    os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
    try:
        _copy(Path(url.database or ""), partial)
        partial.rename(target)
    except sqlite3.Error as error:
        raise Problem(f"the database cannot be copied: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    print(f"{target}: {target.stat().st_size} bytes")


def _copy(original: Path, partial: Path) -> None:
    with contextlib.closing(sqlite3.connect(f"file:{original}?mode=ro", uri=True)) as source, contextlib.closing(sqlite3.connect(partial)) as copy:
        source.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE")
    with partial.open("rb") as file:
        os.fsync(file.fileno())


def require_file(url: sa.URL) -> None:
    """Raises Problem when the database would have to be made first."""
    if url.drivername == "sqlite" and not Path(url.database or "").exists():
        raise Problem(f"there is no database at {url.database}; `agentidp init` makes one")
