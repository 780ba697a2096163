"""The second wall between organizations, on PostgreSQL: what the database itself hides and refuses, whatever a statement says."""

import asyncio
import contextlib
import re
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import sqlalchemy as sa
from tests.db.logins import as_login, drop_login, make_login
from tests.db.opened import opened, with_database

from agentidp.core.caller import SYSTEM, Caller
from agentidp.core.errors import Conflict, Unavailable
from agentidp.db import walls
from agentidp.db.migrate import in_transaction, run_alembic, upgrade
from agentidp.db.schema import metadata
from agentidp.db.unit import Database, Tx

pytestmark = pytest.mark.parametrize("engine", ["postgresql"])

OWNED = [table for table in metadata.sorted_tables if "organization_id" in table.columns]
ROLES = (walls.TENANT, walls.SYSTEM)
OURS, THEIRS, NEW = (str(uuid.UUID(int=number)) for number in (1, 2, 3))
A_ROLE_MAY_NOT = "42501"  # insufficient_privilege: no right to the statement, or a row that the policy does not let in


def plausible(table: sa.Table, organization_id: str) -> dict[str, Any]:
    """A row of the organization that the table's constraints let in; every id in it is the organization's, so that foreign keys are met."""
    return {column.name: _value(column, organization_id) for column in table.columns}


def _value(column: sa.Column[Any], organization_id: str) -> Any:
    kind = column.type
    words = [str(check.sqltext) for check in (*column.constraints, *column.table.constraints) if isinstance(check, sa.CheckConstraint)]
    if allowed := [match[1] for text in words if (match := re.match(rf"{column.name} IN \('(\w+)'", text))]:
        return allowed[0]
    if isinstance(kind, sa.String) and kind.length == 36:
        return organization_id
    if isinstance(kind, sa.String):
        return organization_id[-(kind.length or 36) :]
    values: dict[type[Any], Any] = {sa.JSON: {}, sa.LargeBinary: b"x" * 32, sa.Boolean: False, sa.Integer: 1}
    return next(value for python_type, value in values.items() if isinstance(kind, python_type))


def on(url: str, work: Callable[[sa.Connection], Any]) -> Any:
    """As the tests' login role, a superuser, whom no wall holds."""
    return asyncio.run(in_transaction(sa.make_url(url), work))


def every_row(connection: sa.Connection) -> dict[str, list[str]]:
    return {table.name: sorted(str(row) for row in connection.execute(sa.select(table))) for table in OWNED}


@pytest.fixture
def filled_url(database_url: str) -> str:
    """A database with one row of ours and one of theirs in every table that belongs to organizations."""

    def fill(connection: sa.Connection) -> None:
        upgrade(connection)
        for table in OWNED:
            connection.execute(sa.insert(table), [plausible(table, OURS), plausible(table, THEIRS)])

    on(database_url, fill)
    return database_url


def act(database: Database, statement: sa.Executable, caller: Caller) -> Awaitable[int]:
    return database.write(lambda tx: tx.run(statement).rowcount, caller)


async def refused(unit: Awaitable[Any]) -> None:
    with pytest.raises(Unavailable) as raised:
        await unit
    assert getattr(getattr(raised.value.__cause__, "orig", None), "sqlstate", None) == A_ROLE_MAY_NOT


def is_granted(connection: sa.Connection, role: str, table: sa.Table, right: str) -> bool:
    return bool(connection.execute(sa.text("SELECT has_table_privilege(:role, :table, :right)"), {"role": role, "table": table.name, "right": right}).scalar())


# how a database comes to this release


def _step_by_step(connection: sa.Connection) -> None:
    run_alembic(connection, "upgrade", "head")


def _first_release(connection: sa.Connection) -> None:
    run_alembic(connection, "upgrade", "0001")


def _taken_down(connection: sa.Connection) -> None:
    upgrade(connection)
    connection.exec_driver_sql("ALTER TABLE agents DISABLE ROW LEVEL SECURITY")
    connection.exec_driver_sql(f"DROP POLICY {walls.TENANT} ON credentials")
    assert walls.missing(connection) == ["agents", "credentials"]


@pytest.mark.parametrize("before", [None, _step_by_step, _first_release, _taken_down], ids=["fresh", "step-by-step", "first-release", "taken-down"])
def test_every_table_of_organizations_is_behind_the_wall(database_url: str, before: Callable[[sa.Connection], None] | None) -> None:
    def look(connection: sa.Connection) -> dict[str, Any]:
        tables = connection.exec_driver_sql("""
            SELECT relname, relrowsecurity, relforcerowsecurity FROM pg_class
            WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace
              AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = pg_class.oid AND attname = 'organization_id')""")
        found = {name: {"enabled": enabled, "forced": forced} for name, enabled, forced in tables}
        policies = connection.exec_driver_sql("SELECT tablename, policyname, roles, permissive, cmd, qual, with_check FROM pg_policies").all()
        for name, policy, roles, *rest in policies:
            assert roles == [policy]
            found[name][policy] = rest
        return found

    if before is not None:
        on(database_url, before)
    on(database_url, upgrade)
    own = "(organization_id = (NULLIF(current_setting('agentidp.organization_id'::text, true), ''::text))::uuid)"
    both = {walls.TENANT: ["PERMISSIVE", "ALL", own, own], walls.SYSTEM: ["PERMISSIVE", "ALL", "true", "true"]}
    names = on(database_url, walls.partitions)
    assert len(names) == 4
    partitions = {name: {walls.SYSTEM: ["PERMISSIVE", "SELECT", "true", None]} for name in names}
    policies = {table.name: both for table in OWNED} | partitions
    assert on(database_url, look) == {name: {"enabled": True, "forced": True} | those for name, those in policies.items()}
    assert on(database_url, walls.missing) == []
    assert on(database_url, upgrade) == "current"


def test_the_roles_own_nothing_and_may_nothing_by_themselves(filled_url: str) -> None:
    def look(connection: sa.Connection) -> None:
        attributes = "SELECT rolsuper, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls FROM pg_roles WHERE rolname = :role"
        for role in ROLES:
            assert set(connection.execute(sa.text(attributes), {"role": role}).one()) == {False}
            owned = "SELECT count(*) FROM pg_shdepend WHERE refobjid = CAST(:role AS regrole) AND deptype = 'o'"
            assert connection.execute(sa.text(owned), {"role": role}).scalar() == 0
            memberships = "SELECT count(*) FROM pg_auth_members WHERE member = CAST(:role AS regrole)"
            assert connection.execute(sa.text(memberships), {"role": role}).scalar() == 0

    on(filled_url, look)


def test_rights_are_the_least(filled_url: str) -> None:
    def look(connection: sa.Connection) -> None:
        assert set(walls._TENANT_RIGHTS) | set(walls._SYSTEM_RIGHTS) <= {*metadata.tables, "alembic_version"}
        for table in (*metadata.sorted_tables, sa.table("alembic_version")):
            for role in (*ROLES, "public"):
                assert not any(is_granted(connection, role, table, right) for right in ("TRUNCATE", "REFERENCES", "TRIGGER"))
            assert not any(is_granted(connection, "public", table, right) for right in ("SELECT", "INSERT", "UPDATE", "DELETE"))
        of_the_instance = [table for table in metadata.sorted_tables if table not in OWNED]
        assert len(of_the_instance) >= 4
        for table in of_the_instance:
            assert not any(is_granted(connection, walls.TENANT, table, right) for right in ("SELECT", "INSERT", "UPDATE", "DELETE"))
        assert is_granted(connection, walls.SYSTEM, metadata.tables["signing_keys"], "UPDATE")

    on(filled_url, look)


# what a tenant can do


@pytest.mark.parametrize("table", OWNED, ids=lambda table: table.name)
def test_another_tenants_rows_are_not_there(filled_url: str, table: sa.Table) -> None:
    ours, theirs = table.c.organization_id == OURS, table.c.organization_id == THEIRS
    rights = on(filled_url, lambda connection: {right for right in ("UPDATE", "DELETE") if is_granted(connection, walls.TENANT, table, right)})
    before = on(filled_url, every_row)

    async def work(database: Database) -> None:
        us = Caller(OURS)
        assert len(await database.read(lambda tx: tx.all(sa.select(table).where(ours)), us)) == 1
        assert await database.read(lambda tx: tx.all(sa.select(table).where(theirs)), us) == []
        unscoped = await database.read(lambda tx: tx.all(sa.text(f"SELECT * FROM {table.name}")), us)
        assert [str(row.organization_id) for row in unscoped] == [OURS]
        assert [row.organization_id for row in await database.read(lambda tx: tx.all(sa.select(table)), Caller(THEIRS))] == [THEIRS]
        for nobody in (Caller(""), Caller(f"{OURS}'; RESET ROLE; --"), Caller("*")):
            assert await database.read(lambda tx: tx.all(sa.select(table)), nobody) == []

        update, delete = sa.update(table).values(organization_id=table.c.organization_id), sa.delete(table)
        for statement, right in ((update, "UPDATE"), (delete, "DELETE")):
            if right in rights:
                assert await act(database, statement.where(theirs), us) == 0
            else:
                await refused(act(database, statement.where(theirs), us))
                await refused(act(database, statement.where(ours), us))
        await refused(act(database, sa.update(table).where(ours).values(organization_id=THEIRS), us))
        await refused(act(database, sa.insert(table).values(plausible(table, NEW)), us))
        await refused(act(database, sa.insert(table).values(plausible(table, NEW)), Caller("")))

    with_database(filled_url, work)
    assert on(filled_url, every_row) == before


def test_a_tenant_can_write_its_own_rows(filled_url: str) -> None:
    """Else the refusals above would prove little."""
    allowed = on(filled_url, lambda connection: [table for table in OWNED if is_granted(connection, walls.TENANT, table, "INSERT")])
    assert len(allowed) >= 8

    async def work(database: Database) -> None:
        for table in allowed:
            assert await act(database, sa.insert(table).values(plausible(table, NEW)), Caller(NEW)) == 1
        for table in (metadata.tables["agents"], metadata.tables["revoked_tokens"]):
            assert await act(database, sa.update(table).values(organization_id=table.c.organization_id), Caller(NEW)) == 1, "a statement without WHERE"
        assert await act(database, sa.delete(metadata.tables["revoked_tokens"]), Caller(NEW)) == 1
        assert len(await database.read(lambda tx: tx.all(sa.select(metadata.tables["revoked_tokens"])), SYSTEM)) == 2

    with_database(filled_url, work)


def test_history_is_not_rewritten_by_anybody(filled_url: str) -> None:
    events = metadata.tables["audit_events"]

    async def work(database: Database) -> None:
        await refused(act(database, sa.update(events).values(action="another"), Caller(OURS)))
        await refused(act(database, sa.update(events).values(seq=None), Caller(OURS)))
        await refused(act(database, sa.delete(events), Caller(OURS)))
        await refused(act(database, sa.update(events).values(action="another"), SYSTEM))
        assert await act(database, sa.update(events).values(seq=7, previous_hash="x", hash="y"), SYSTEM) == 2

    with_database(filled_url, work)


# what a pooled connection carries from one to the next


def _who(tx: Tx) -> tuple[str, str | None, list[str], int]:
    """The role, the organization, what is visible, and the connection."""
    role, setting, pid = tx.connection.execute(sa.text("SELECT current_user, current_setting('agentidp.organization_id', true), pg_backend_pid()")).one()
    return role, setting or None, sorted(tx.connection.execute(sa.text("SELECT organization_id::text FROM organizations")).scalars()), pid


async def _sleep_until_cancelled(database: Database) -> None:
    sleeping = asyncio.create_task(database.write(lambda tx: tx.run(sa.text("SELECT pg_sleep(30)")), Caller(OURS)))
    await asyncio.sleep(0.2)
    sleeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeping


def test_a_connection_carries_nothing_to_the_next_tenant(filled_url: str) -> None:
    def conflict(tx: Tx) -> None:
        _who(tx)
        raise Conflict

    async def work(database: Database) -> None:
        us, them = (walls.TENANT, OURS, [OURS]), (walls.TENANT, THEIRS, [THEIRS])
        *found, first_pid = await database.read(_who, Caller(OURS))
        assert tuple(found) == us
        for disturb, same_connection in (
            (lambda: database.write(conflict, Caller(OURS)), True),
            (lambda: database.write(lambda tx: tx.run(sa.text("SELECT 1 / 0")), Caller(OURS)), True),
            (lambda: database.write(lambda tx: tx.run(sa.text("SELECT set_config('agentidp.organization_id', 'x', false)")), Caller(OURS)), True),
            (lambda: database.write(lambda tx: tx.now, Caller(OURS)), True),  # says whose it is, and begins nothing
            (lambda: _sleep_until_cancelled(database), False),
        ):
            with contextlib.suppress(Conflict, Unavailable):
                await disturb()
            *found, pid = await database.write(_who, Caller(THEIRS))
            assert tuple(found) == them
            assert not same_connection or pid == first_pid, "the pool is not one connection: the test proves nothing"
        assert (await database.read(_who, Caller("")))[:3] == (walls.TENANT, None, [])
        assert (await database.read(_who, SYSTEM))[:3] == (walls.SYSTEM, None, [OURS, THEIRS])
        assert (await database.read(_who, Caller(OURS)))[:3] == us

    with_database(filled_url, work)


def test_a_role_that_is_gone_ends_the_transaction_before_it_begins(filled_url: str) -> None:
    """Revoked by hand: what began as nobody's is refused, and nothing runs as the owner of the tables."""
    login = f"login_{uuid.uuid4().hex[:8]}"
    database_name = sa.make_url(filled_url).database

    async def work() -> None:
        async with opened(as_login(filled_url, login)) as database:
            assert (await database.read(_who, Caller(OURS)))[2] == [OURS]
            await in_transaction(sa.make_url(filled_url), lambda connection: connection.exec_driver_sql(f"REVOKE {walls.TENANT} FROM {login}"))
            for _ in range(3):
                await refused(database.read(_who, Caller(OURS)))
            assert (await database.read(_who, SYSTEM))[2] == [OURS, THEIRS]

    on(filled_url, lambda connection: make_login(connection, login, database_name))
    try:
        asyncio.run(work())
    finally:
        on(filled_url, lambda connection: drop_login(connection, login))


# a login role that is no superuser


def test_the_owner_of_the_tables_sees_nothing_without_a_role_and_migrations_see_all(filled_url: str) -> None:
    login = f"login_{uuid.uuid4().hex[:8]}"
    agents = metadata.tables["agents"]

    def as_owner(connection: sa.Connection) -> None:
        assert not any(every_row(connection).values())
        assert connection.execute(sa.update(agents).values(name="changed")).rowcount == 0
        walls.lower(connection)
        assert connection.execute(sa.update(agents).values(name="changed")).rowcount == 2
        walls.build(connection)
        assert not any(every_row(connection).values())
        walls.enter(connection, Caller(THEIRS))
        assert list(connection.execute(sa.select(agents.c.organization_id)).scalars()) == [THEIRS]

    on(filled_url, lambda connection: make_login(connection, login, sa.make_url(filled_url).database))
    try:
        on(as_login(filled_url, login), as_owner)
        assert on(as_login(filled_url, login), upgrade) == "current"
    finally:
        on(filled_url, lambda connection: drop_login(connection, login))
