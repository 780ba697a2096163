"""The roles of the second wall belong to the whole PostgreSQL cluster: who may make them, and who else is in it."""

import asyncio
import uuid

import asyncpg
import pytest
import sqlalchemy as sa
from tests.db.logins import as_login, drop_login, make_login
from tests.db.test_migrations import drop_everything
from tests.db.test_walls import ROLES, on
from tests.faults.own_postgres import OwnPostgres

from agentidp.core.caller import SYSTEM
from agentidp.core.errors import WrongSettings
from agentidp.db import walls
from agentidp.db.migrate import in_transaction, upgrade
from agentidp.db.schema import metadata

pytestmark = pytest.mark.parametrize("engine", ["postgresql"])


def test_who_may_not_make_roles_is_told_what_an_administrator_must_run(database_url: str) -> None:
    login = f"login_{uuid.uuid4().hex[:8]}"
    on(database_url, upgrade)
    on(database_url, drop_everything)  # the roles are there, from this or another database, but not this login's
    on(database_url, lambda connection: make_login(connection, login, sa.make_url(database_url).database, with_roles=False))
    try:
        with pytest.raises(WrongSettings, match=f"user {login} may not make the roles of AgentIdP") as raised:
            on(as_login(database_url, login), upgrade)
        statements = [text.strip() for text in str(raised.value).partition("let an administrator run:")[2].split(";")]
        assert statements[:2] == [f"CREATE ROLE {role}" for role in ROLES]
        on(database_url, lambda connection: connection.exec_driver_sql(statements[2]))
        assert on(as_login(database_url, login), upgrade) == "created"
    finally:
        on(database_url, lambda connection: drop_login(connection, login))


def test_databases_of_one_cluster_that_start_at_once_share_the_roles(engine: str) -> None:
    """On a cluster of its own, where nobody has made them yet, by a login role that may make roles and is no superuser."""
    own = OwnPostgres()
    names = [f"d{number}" for number in range(4)]

    async def make_databases() -> None:
        connection = await asyncpg.connect(own.url)
        await connection.execute("CREATE ROLE maker LOGIN CREATEROLE")
        for name in names:
            await connection.execute(f"CREATE DATABASE {name} OWNER maker")
        await connection.close()

    async def start_all() -> list[str]:
        return await asyncio.gather(*(in_transaction(sa.make_url(own.url).set(username="maker", database=name), upgrade) for name in names))

    try:
        asyncio.run(make_databases())
        assert asyncio.run(start_all()) == ["created"] * 4
        assert asyncio.run(start_all()) == ["current"] * 4
    finally:
        own.close()


def test_a_login_of_another_database_in_the_cluster_cannot_connect(engine: str) -> None:
    """Staging and production: both logins have the roles, which are the cluster's."""
    own = OwnPostgres()
    urls = {name: sa.make_url(own.url).set(username=name, database=f"agentidp_{name}") for name in ("staging", "production")}

    async def make_databases() -> None:
        connection = await asyncpg.connect(own.url)
        for role in ROLES:
            await connection.execute(f"CREATE ROLE {role}")
        for name, url in urls.items():
            await connection.execute(f"CREATE ROLE {name} LOGIN")
            await connection.execute(f"GRANT {walls.TENANT}, {walls.SYSTEM} TO {name} WITH INHERIT FALSE")
            await connection.execute(f"CREATE DATABASE {url.database} OWNER {name}")
        await connection.close()

    def upgrade_as(name: str) -> str:
        return str(asyncio.run(in_transaction(urls[name], upgrade)))

    def peek(connection: sa.Connection) -> None:
        walls.enter(connection, SYSTEM)
        connection.execute(sa.select(metadata.tables["organizations"]))

    try:
        asyncio.run(make_databases())
        assert (upgrade_as("staging"), upgrade_as("production")) == ("created", "created")
        asyncio.run(in_transaction(urls["production"], peek))
        with pytest.raises(WrongSettings, match="permission denied for database"):
            asyncio.run(in_transaction(urls["production"].set(username="staging"), peek))

        on(own.url, lambda connection: connection.exec_driver_sql("GRANT CONNECT ON DATABASE agentidp_production TO PUBLIC"))  # as pg_restore leaves it
        assert asyncio.run(in_transaction(urls["production"], walls.missing)) == [walls.CLOSED]
        assert (upgrade_as("production"), upgrade_as("production")) == ("upgraded", "current")
        assert asyncio.run(in_transaction(urls["production"], walls.missing)) == []
    finally:
        own.close()


def test_who_may_not_close_the_database_is_told_who_can_and_starts(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    login, name = f"login_{uuid.uuid4().hex[:8]}", sa.make_url(database_url).database

    def make(connection: sa.Connection) -> None:
        owner = connection.exec_driver_sql("SELECT current_user").scalar()
        make_login(connection, login, name)
        connection.exec_driver_sql(f"ALTER DATABASE {name} OWNER TO {owner}")
        connection.exec_driver_sql(f"GRANT CREATE ON SCHEMA public TO {login}")

    on(database_url, upgrade)
    on(database_url, drop_everything)  # the roles are there
    on(database_url, lambda connection: connection.exec_driver_sql(f"GRANT CONNECT ON DATABASE {name} TO PUBLIC"))
    on(database_url, make)
    try:
        assert on(as_login(database_url, login), upgrade) == "created"
        [warning] = [record.getMessage() for record in caplog.records if record.name == "agentidp.db.walls"]
        statements = warning.partition("let its owner run: ")[2].split("; ")
        assert on(as_login(database_url, login), upgrade) == "current"
        for statement in statements:
            on(database_url, lambda connection, statement=statement: connection.exec_driver_sql(statement))
        assert on(as_login(database_url, login), upgrade) == "current", "it may still connect"
        assert on(database_url, walls.missing) == []
    finally:
        on(database_url, lambda connection: drop_login(connection, login))


def test_a_role_with_too_much_power_is_refused(engine: str) -> None:
    own = OwnPostgres()
    try:
        on(own.url, lambda connection: connection.exec_driver_sql(f"CREATE ROLE {walls.TENANT} BYPASSRLS"))
        with pytest.raises(WrongSettings, match=f"role {walls.TENANT} must not log in, be a superuser, or bypass"):
            on(own.url, upgrade)
    finally:
        own.close()
