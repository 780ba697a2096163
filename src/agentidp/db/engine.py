"""Which database the settings name, and how to open it."""

from pathlib import Path

import sqlalchemy as sa

from agentidp.core.clock import Clock
from agentidp.core.config import DATABASE_FILE, Settings
from agentidp.core.errors import WrongSettings
from agentidp.db.unit import Database, Ledger, Observer


def database_url(settings: Settings) -> sa.URL:
    """The URL in the settings, or the SQLite file in the data folder. Raises WrongSettings for a database that we do not serve."""
    if settings.database_url is None:
        return sa.URL.create("sqlite", database=str(settings.data_dir / DATABASE_FILE))
    try:
        url = sa.make_url(settings.database_url.get_secret_value())
    except sa.exc.ArgumentError as error:
        raise WrongSettings("database_url: is not a URL") from error
    if url.drivername == "sqlite" and url.database and url.database != ":memory:":
        return url
    if url.drivername in {"postgresql", "postgres"} and url.database:
        return url.set(drivername="postgresql")
    raise WrongSettings("database_url: must be sqlite:///PATH or postgresql://USER:PASSWORD@HOST/DATABASE")


def open_database(url: sa.URL, clock: Clock, ledger: Ledger, observe: Observer = lambda *_: None) -> Database:
    """The database that the URL names. The driver of the other one is not imported."""
    if url.drivername == "sqlite":
        from agentidp.db.sqlite import SqliteDatabase  # noqa: PLC0415 - only what is used is loaded: cold start

        return SqliteDatabase(Path(url.database or ""), clock, ledger, observe)
    try:
        from agentidp.db.postgres import PostgresDatabase  # noqa: PLC0415 - see above
    except ImportError as error:
        raise WrongSettings("database_url: PostgreSQL needs the extra: pip install 'agentidp[postgres]'") from error
    return PostgresDatabase(url.render_as_string(hide_password=False), clock, ledger, observe)
