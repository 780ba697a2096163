"""Logins of a PostgreSQL cluster that are no superusers, for the tests of the second wall."""

import sqlalchemy as sa

from agentidp.db import walls


def as_login(url: str, login: str) -> str:
    return sa.make_url(url).set(username=login).render_as_string(hide_password=False)


def make_login(connection: sa.Connection, login: str, database_name: str | None, *, with_roles: bool = True) -> None:
    """A login role as an administrator makes it: no superuser, the owner of the database and of all that is in it."""
    connection.exec_driver_sql(f"CREATE ROLE {login} LOGIN")
    connection.exec_driver_sql(f"ALTER DATABASE {database_name} OWNER TO {login}")
    for table in sa.inspect(connection).get_table_names():
        connection.exec_driver_sql(f"ALTER TABLE {table} OWNER TO {login}")
    if with_roles:
        connection.exec_driver_sql(f"GRANT {walls.TENANT}, {walls.SYSTEM} TO {login} WITH INHERIT FALSE")


def drop_login(connection: sa.Connection, login: str) -> None:
    connection.exec_driver_sql(f"REASSIGN OWNED BY {login} TO CURRENT_USER")
    connection.exec_driver_sql(f"DROP OWNED BY {login}")
    connection.exec_driver_sql(f"DROP ROLE {login}")
