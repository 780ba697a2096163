"""The second wall between organizations, on PostgreSQL: row-level security. The first is that every statement names its organization.

Each transaction of the application takes one of two roles, until it ends. `agentidp_tenant` sees and writes the rows of the organization
that the transaction names, and none where it names none; `agentidp_system` sees those of all. The login role owns the tables and sees no
row of its own accord. All of it follows from `schema.metadata`, so a new table is behind the wall from its first day; other rights for an old one
need a migration, be it empty, after which everything here is built anew.

Holds against a statement that forgets its organization. Whoever can run SQL of his own takes what role he likes: that is not what it is for.

The roles belong to the cluster: another database's login role has them, too. So the database lets nobody connect who is not meant to.
"""

import logging

import sqlalchemy as sa

from agentidp.core.caller import Caller
from agentidp.core.errors import WrongSettings
from agentidp.core.ids import is_id
from agentidp.db.schema import metadata

log = logging.getLogger(__name__)

TENANT = "agentidp_tenant"
SYSTEM = "agentidp_system"
CLOSED = "the database's CONNECT"  # how `missing` names that PUBLIC has it

# Without an organization the setting is null or, later in a session, empty: both are equal to nothing.
_POLICIES = {TENANT: "organization_id = NULLIF(current_setting('agentidp.organization_id', true), '')::uuid", SYSTEM: "true"}
_ALL_ROWS = "SELECT, INSERT, UPDATE, DELETE"
# What differs: of an organization's tables a tenant has all rights on its own rows, of the instance's none.
_TENANT_RIGHTS = {
    "organizations": "SELECT, INSERT, UPDATE",
    "agents": "SELECT, INSERT, UPDATE",
    "credentials": "SELECT, INSERT, UPDATE",
    "credential_keys": "SELECT, INSERT",
    "credential_uses": "SELECT",
    "one_time_values": "SELECT, INSERT",
    "usage_counters": "SELECT, INSERT, UPDATE",
    "agent_activity": "SELECT",
    "hourly_tokens": "SELECT",
    "audit_events": "SELECT, INSERT",
    "audit_heads": "SELECT, UPDATE (checkpoint_size, checkpoint_at)",
    "audit_checkpoints": "SELECT, INSERT",
    "audit_followers": "SELECT, INSERT, DELETE",
    "instance": "SELECT (operator_organization_id, tokens_not_before)",
}
_SYSTEM_RIGHTS = {
    "audit_events": "SELECT, INSERT, DELETE, UPDATE (seq, previous_hash, hash)",  # history is sealed, and forgotten when it is old; never rewritten
    "audit_checkpoints": "SELECT, INSERT",
    "alembic_version": "SELECT",  # for pg_dump in this role
}


def identity(caller: Caller) -> str:
    """What begins a transaction of the caller, beside BEGIN. An organization that is no id is none."""
    if caller.is_system:
        return f"SET LOCAL ROLE {SYSTEM}"
    organization_id = caller.organization_id if is_id(caller.organization_id) else ""
    return f"SET LOCAL ROLE {TENANT}; SET LOCAL agentidp.organization_id = '{organization_id}'"


def enter(connection: sa.Connection, caller: Caller) -> None:
    """Take the caller's role in a transaction that has begun, outside of the application's units of work."""
    if connection.dialect.name == "postgresql":
        for statement in identity(caller).split("; "):
            connection.exec_driver_sql(statement)


def missing(connection: sa.Connection) -> list[str]:
    """The tables that are not behind the wall, the roles that the login role cannot take, and `CLOSED` where it could close the database; by name."""
    if connection.dialect.name != "postgresql":
        return []
    standing = sa.text("""
        SELECT relname FROM pg_class JOIN pg_policy ON polrelid = pg_class.oid
        WHERE relnamespace = current_schema()::regnamespace AND relrowsecurity AND relforcerowsecurity AND polname IN (:tenant, :system)
        GROUP BY relname, relispartition HAVING CASE WHEN relispartition THEN bool_and(polname = :system) ELSE count(*) = 2 END
        UNION ALL SELECT rolname FROM pg_roles WHERE rolname IN (:tenant, :system) AND pg_has_role(rolname, 'SET')
        UNION ALL SELECT :closed FROM pg_database WHERE datname = current_database()
            AND NOT (has_database_privilege('public', oid, 'CONNECT, TEMPORARY') AND pg_has_role(datdba, 'USAGE'))""")
    found = connection.execute(standing, {"tenant": TENANT, "system": SYSTEM, "closed": CLOSED}).scalars()
    needed = {TENANT, SYSTEM, CLOSED, *(table.name for table in metadata.tables.values() if _is_owned(table)), *partitions(connection)}
    return sorted(needed - set(found))


def partitions(connection: sa.Connection) -> dict[str, str]:
    """The bounds of every partition of the schema's tables, by name; none on SQLite."""
    if connection.dialect.name != "postgresql":
        return {}
    query = "SELECT relname, pg_get_expr(relpartbound, oid) AS bounds FROM pg_class WHERE relispartition AND relkind = 'r' AND relnamespace = current_schema()::regnamespace"
    return {row.relname: row.bounds for row in connection.exec_driver_sql(query)}


def lower(connection: sa.Connection) -> None:
    """Let the owner of the tables see their rows until `build`, in this transaction: else a migration would find nothing to change."""
    if connection.dialect.name == "postgresql":
        forced = connection.exec_driver_sql(
            "SELECT quote_ident(relname) FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relforcerowsecurity ORDER BY relname"
        )
        for name in list(forced.scalars()):
            connection.exec_driver_sql(f"ALTER TABLE {name} NO FORCE ROW LEVEL SECURITY")


def build(connection: sa.Connection) -> None:
    """Make the roles, and put every table of the schema behind the wall; may be repeated. Does nothing on SQLite.

    Raises WrongSettings when an administrator must make the roles, with what to run.
    """
    if connection.dialect.name != "postgresql":
        return
    for role in (TENANT, SYSTEM):
        _make_role(connection, role)
    _close_database(connection)
    schema = connection.exec_driver_sql("SELECT quote_ident(current_schema())").scalar()
    connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA {schema} TO {TENANT}, {SYSTEM}")
    for table in metadata.sorted_tables:
        rights = {TENANT: _TENANT_RIGHTS.get(table.name, _ALL_ROWS if _is_owned(table) else ""), SYSTEM: _SYSTEM_RIGHTS.get(table.name, _ALL_ROWS)}
        _grant(connection, table.name, rights)
        if _is_owned(table):
            _protect(connection, table.name)
    for partition in partitions(connection):
        close(connection, partition)
    _grant(connection, "alembic_version", {SYSTEM: _SYSTEM_RIGHTS["alembic_version"]})


def close(connection: sa.Connection, partition: str) -> None:
    """Rows come and go through the partition's table, by the rights and policies there. By its own name, nobody reads it but pg_dump."""
    _grant(connection, partition, {SYSTEM: "SELECT"})
    connection.exec_driver_sql(f"ALTER TABLE {partition} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    for role in _POLICIES:  # a partition that was a table has those of a table
        connection.exec_driver_sql(f"DROP POLICY IF EXISTS {role} ON {partition}")
    connection.exec_driver_sql(f"CREATE POLICY {SYSTEM} ON {partition} FOR SELECT TO {SYSTEM} USING ({_POLICIES[SYSTEM]})")


def _close_database(connection: sa.Connection) -> None:
    """By default everybody may connect. Who does not own the database cannot change that, and PostgreSQL need not call it an error."""
    name, user, is_owner = connection.exec_driver_sql(
        "SELECT quote_ident(datname), quote_ident(session_user), pg_has_role(datdba, 'USAGE') FROM pg_database WHERE datname = current_database()"
    ).one()
    statements = (f"GRANT CONNECT ON DATABASE {name} TO {user}", f"REVOKE CONNECT, TEMPORARY ON DATABASE {name} FROM PUBLIC")
    if is_owner:
        for statement in statements:
            connection.exec_driver_sql(statement)
    else:
        log.warning("every user of the PostgreSQL cluster may connect to the database; let its owner run: %s", "; ".join(statements))


def _is_owned(table: sa.Table) -> bool:
    return "organization_id" in table.columns


def _grant(connection: sa.Connection, table: str, rights: dict[str, str]) -> None:
    connection.exec_driver_sql(f"REVOKE ALL ON {table} FROM {TENANT}, {SYSTEM}")
    for role, right in rights.items():
        if right:
            connection.exec_driver_sql(f"GRANT {right} ON {table} TO {role}")


def _protect(connection: sa.Connection, table: str) -> None:
    connection.exec_driver_sql(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    for role, condition in _POLICIES.items():
        connection.exec_driver_sql(f"DROP POLICY IF EXISTS {role} ON {table}")
        connection.exec_driver_sql(f"CREATE POLICY {role} ON {table} TO {role} USING ({condition}) WITH CHECK ({condition})")


def _make_role(connection: sa.Connection, role: str) -> None:
    """Roles belong to the whole cluster: another database's process may be making them at this moment."""
    user = connection.exec_driver_sql("SELECT quote_ident(session_user)").scalar()
    find = sa.text("SELECT rolsuper OR rolbypassrls OR rolcanlogin AS is_wrong FROM pg_roles WHERE rolname = :role")
    try:
        if connection.execute(find, {"role": role}).first() is None:
            _unless_it_exists(connection, f"CREATE ROLE {role} NOLOGIN")
        if connection.execute(find, {"role": role}).scalar():
            raise WrongSettings(f"database_url: PostgreSQL's role {role} must not log in, be a superuser, or bypass row-level security")
        if not connection.execute(sa.text("SELECT pg_has_role(:role, 'SET')"), {"role": role}).scalar():
            # not to inherit: the login role would see every row without taking a role
            connection.exec_driver_sql(f"GRANT {role} TO CURRENT_USER WITH INHERIT FALSE, SET TRUE")
    except sa.exc.ProgrammingError as error:
        if getattr(error.orig, "sqlstate", None) != "42501":  # insufficient_privilege
            raise
        raise WrongSettings(
            f"database_url: PostgreSQL's user {user} may not make the roles of AgentIdP; let an administrator run: "
            f"CREATE ROLE {TENANT}; CREATE ROLE {SYSTEM}; GRANT {TENANT}, {SYSTEM} TO {user} WITH INHERIT FALSE"
        ) from error


def _unless_it_exists(connection: sa.Connection, statement: str) -> None:
    try:
        with connection.begin_nested():
            connection.exec_driver_sql(statement)
    except sa.exc.DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) not in {"42710", "23505"}:  # duplicate_object; unique_violation, when both are at it
            raise
