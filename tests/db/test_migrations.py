"""Migrations and the schema page say the same on both engines, up and down."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory

from agentidp.core.errors import Conflict, WrongSettings
from agentidp.db import migrate, walls
from agentidp.db.migrate import HEAD, in_transaction, revision_of, run_alembic, upgrade
from agentidp.db.schema import metadata

T = TypeVar("T")


def on(url: str, work: Callable[[sa.Connection], T]) -> T:
    return asyncio.run(in_transaction(sa.make_url(url), work))


def reflected(connection: sa.Connection) -> dict[str, Any]:
    """Everything that the database knows about each table, in a form that can be compared. Partitions are there as time goes by."""
    inspector = sa.inspect(connection)
    found = {}
    for table in sorted(set(inspector.get_table_names()) - set(walls.partitions(connection))):
        columns = [
            {"name": one["name"], "type": one["type"].compile(connection.dialect), "nullable": one["nullable"], "default": one["default"]}
            for one in inspector.get_columns(table)
        ]
        found[table] = {
            "columns": columns,
            "primary key": inspector.get_pk_constraint(table),
            "foreign keys": _sorted(inspector.get_foreign_keys(table)),
            "unique": _sorted(inspector.get_unique_constraints(table)),
            "checks": _sorted(inspector.get_check_constraints(table)),
            "indexes": _sorted(inspector.get_indexes(table)),
        }
    return found


def _sorted(rows: Any) -> list[str]:
    return sorted(_text(row) for row in rows)


def _text(value: Any) -> str:
    """Conditions of partial indexes are objects: what they say is compared."""
    if isinstance(value, dict):
        return str({name: _text(one) for name, one in sorted(value.items())})
    return str(value)


def drop_everything(connection: sa.Connection) -> None:
    metadata.drop_all(connection)
    connection.exec_driver_sql("DROP TABLE alembic_version")


def test_the_migrations_build_what_the_schema_page_says(database_url: str) -> None:
    assert on(database_url, upgrade) == "created"
    directly = on(database_url, reflected)
    on(database_url, drop_everything)
    assert on(database_url, reflected) == {}
    on(database_url, lambda connection: run_alembic(connection, "upgrade", "head"))
    step_by_step = on(database_url, reflected)
    assert step_by_step == directly
    assert set(directly) == set(metadata.tables) | {"alembic_version"}
    assert any(table["checks"] for table in directly.values())
    assert any(table["indexes"] for table in directly.values())
    assert all(table["primary key"]["constrained_columns"] for table in directly.values())


def test_all_the_way_down_and_up_again(database_url: str) -> None:
    on(database_url, lambda connection: run_alembic(connection, "upgrade", "head"))
    before = on(database_url, reflected)
    on(database_url, lambda connection: run_alembic(connection, "downgrade", "base"))
    assert set(on(database_url, reflected)) == {"alembic_version"}
    on(database_url, lambda connection: run_alembic(connection, "upgrade", "head"))
    assert on(database_url, reflected) == before
    assert [on(database_url, upgrade) for _ in range(2)][1] == "current"  # on PostgreSQL the first raises the walls


def test_alembic_finds_nothing_to_add_and_prints_nothing(database_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    on(database_url, upgrade)
    on(database_url, lambda connection: run_alembic(connection, "check"))
    assert capsys.readouterr() == ("", "")


def test_a_table_changed_by_hand_is_found(database_url: str) -> None:
    on(database_url, upgrade)
    on(database_url, lambda connection: connection.exec_driver_sql("ALTER TABLE agents ADD COLUMN surprise INTEGER"))
    with pytest.raises(Conflict, match="changed by hand"):
        on(database_url, lambda connection: run_alembic(connection, "check"))


def test_the_constant_is_the_head_of_the_scripts_and_there_is_one_line_of_them() -> None:
    config = Config()
    config.set_main_option("script_location", str(migrate._MIGRATIONS))
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_heads() == [HEAD]
    assert [script.revision for script in scripts.walk_revisions()][-1] == "0001"


def test_an_empty_database_has_no_revision_and_is_created_once(database_url: str) -> None:
    assert on(database_url, revision_of) is None
    assert [on(database_url, upgrade) for _ in range(2)] == ["created", "current"]
    assert on(database_url, revision_of) == HEAD


def test_a_database_of_a_later_release_is_left_alone_with_one_clear_line(database_url: str) -> None:
    on(database_url, upgrade)
    on(database_url, lambda connection: connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'"))
    before = on(database_url, reflected)
    with pytest.raises(WrongSettings, match=r"^the database was written by a later release of AgentIdP; .*$"):
        on(database_url, upgrade)
    assert on(database_url, revision_of) == "9999"
    assert on(database_url, reflected) == before


def test_a_migration_that_fails_leaves_nothing(database_url: str) -> None:
    def fails(connection: sa.Connection) -> None:
        run_alembic(connection, "upgrade", "head")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        on(database_url, fails)
    assert on(database_url, revision_of) is None
    assert on(database_url, upgrade) == "created"


def test_processes_that_start_at_once_migrate_once(database_url: str, engine: str) -> None:
    async def both() -> list[str]:
        url = sa.make_url(database_url)
        return await asyncio.gather(*(in_transaction(url, upgrade) for _ in range(4)))

    assert sorted(asyncio.run(both())) == ["created", "current", "current", "current"]
