"""Bringing a database to the schema of this release, whatever release it comes from.

A fresh database gets the schema in one go and the head's number; only an older one needs alembic, whose import costs a quarter
of the cold start. A test holds the two ways together.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa

from agentidp.core.errors import WrongSettings
from agentidp.db.schema import metadata

HEAD = "0001"
_MIGRATIONS = Path(__file__).parent / "migrations"
_VERSIONS = sa.table("alembic_version", sa.column("version_num", sa.String))
_LOCK = 0x4167_656E_7449_6450  # "AgentIdP": one migration at a time, for the length of its transaction

T = TypeVar("T")


def revision_of(connection: sa.Connection) -> str | None:
    """The revision the database is at; None for an empty database."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    row = connection.execute(sa.select(_VERSIONS.c.version_num)).first()
    return row[0] if row else None


def upgrade(connection: sa.Connection) -> str:
    """Bring the database to HEAD inside the caller's transaction. Returns `created`, `upgraded` or `current`."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    revision = revision_of(connection)
    if revision == HEAD:
        return "current"
    if revision is None:
        metadata.create_all(connection)
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
        connection.execute(sa.insert(_VERSIONS).values(version_num=HEAD))
        return "created"
    run_alembic(connection, "upgrade", "head")
    return "upgraded"


def run_alembic(connection: sa.Connection, command: str, *arguments: str) -> None:
    """`upgrade`, `downgrade`, `check` … of alembic on this connection. Raises WrongSettings for a database of a later release."""
    import alembic.command  # noqa: PLC0415 - see the module's first lines
    import alembic.config  # noqa: PLC0415
    import alembic.util.exc  # noqa: PLC0415

    config = alembic.config.Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    try:
        getattr(alembic.command, command)(config, *arguments)
    except alembic.util.exc.CommandError as error:
        if "Can't locate revision" in str(error):
            raise WrongSettings("the database was written by a later release of AgentIdP; use that release or restore a backup") from error
        raise


async def in_transaction(url: sa.URL, work: Callable[[sa.Connection], T]) -> T:
    """Run `work` in one transaction of its own on the database that the URL names."""
    if url.drivername == "sqlite":
        from agentidp.db import sqlite  # noqa: PLC0415 - only what is used is loaded

        path = Path(url.database or "")
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        engine = sqlite.connect(path)
        try:
            with engine.begin() as connection:
                return work(connection)
        finally:
            engine.dispose()
    from agentidp.db import postgres  # noqa: PLC0415

    return await postgres.run_in_connection(url.render_as_string(hide_password=False), work)
