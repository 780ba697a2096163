"""`db copy`: everything arrives on the other engine, or nothing does."""

import asyncio
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from tests.cli.conftest import Command
from tests.cli.test_restore import ask, one_line
from tests.conftest import fresh_postgres_database
from tests.serving import RunningServer, settings_for
from tests.tenants import make_tenant

from agentidp.core import limits
from agentidp.db.migrate import in_transaction, upgrade
from agentidp.db.schema import metadata
from agentidp.db.unit import Tx

ODD = {"z": [None, True, -1, 2**53 - 1, {"e": "\u00e9\u2028\U0001f600", "": ""}], "a": {"b": {}, "a": []}, "quote": 'a "b" \\ c\n', "n": None}


@pytest.fixture
def other_url(engine: str, postgres: str, tmp_path: Path) -> Iterator[str]:
    """An empty database of the engine that `database_url` is not of."""
    if engine == "postgresql":
        yield f"sqlite:///{tmp_path / 'other' / 'copy.db'}"
        return
    with fresh_postgres_database(postgres) as url:
        yield url


def rows(url: str) -> dict[str, list[str]]:
    """Every row of every table, JSON in one form."""
    return {
        name: sorted(json.dumps(list(row), sort_keys=True, default=bytes.hex) for row in ask(url, sa.select(table))) for name, table in metadata.tables.items()
    }


def record_many(tx: Tx, count: int) -> None:
    """More events than are copied at once."""
    for _ in range(count):
        tx.record("test.done", odd=ODD)


def is_active(server: RunningServer, tenant: Any, token: str) -> bool:
    with server.client() as client:
        answer = client.post("/api/v1/token/introspect", data={"token": token}, auth=(tenant.admin.agent_id, tenant.admin.client_secret))
    return bool(answer.json()["active"])


def test_the_same_instance_goes_on_on_the_other_engine(
    own_server: RunningServer, database_url: str, other_url: str, agentidp: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = make_tenant(own_server)
    alive, revoked = tenant.admin.token(), tenant.admin.token()
    with tenant.admin.client() as client:
        assert client.post("/api/v1/token/revoke", data={"token": revoked}).status_code == 200
    own_server.write(record_many, tenant.admin.caller, limits.COPY_ROWS + 1)
    own_server.stop()
    before = rows(database_url)
    data = own_server.settings.data_dir
    with monkeypatch.context() as environment:
        environment.setenv("AGENTIDP_DATABASE_URL", database_url)
        environment.setenv("AGENTIDP_DATA_DIR", str(data))
        code, out, err = agentidp("db", "copy", "--to", other_url)
        assert (code, err) == (0, "")
        total = sum(len(found) for found in before.values())
        assert f"{total} rows copied and compared" in out
        assert rows(other_url) == before == rows(database_url)
        code, _, err = agentidp("db", "copy", "--to", other_url)
        assert code == 1
        assert "holds rows already" in one_line(err)
    same = {"port": own_server.settings.port, "issuer": own_server.settings.issuer}
    running = RunningServer(settings_for(data, other_url).model_copy(update=same))
    try:
        tenant.admin.server = running
        assert is_active(running, tenant, alive)
        assert not is_active(running, tenant, revoked)
        assert is_active(running, tenant, tenant.admin.token())
    finally:
        running.stop()


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_what_arrives_otherwise_is_found_and_nothing_is_kept(instance: dict[str, str], other_url: str, agentidp: Command, engine: str) -> None:
    to_postgres = engine == "sqlite"
    change = ["CREATE TRIGGER spoil AFTER INSERT ON agents BEGIN UPDATE agents SET owner = 'somebody else'; END"]
    if to_postgres:
        change = [
            "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.owner = 'somebody else'; RETURN NEW; END $$",
            "CREATE TRIGGER spoil BEFORE INSERT ON agents FOR EACH ROW EXECUTE FUNCTION spoil()",
        ]

    def prepare(connection: sa.Connection) -> None:
        upgrade(connection)
        for statement in change:
            connection.exec_driver_sql(statement)

    asyncio.run(in_transaction(sa.make_url(other_url), prepare))
    code, out, err = agentidp("db", "copy", "--to", other_url)
    assert (code, out) == (1, "")
    assert "agents: 1 rows were copied, but what arrived is not the same" in one_line(err)
    assert not any(rows(other_url).values())


def test_a_database_of_another_release_is_not_copied(instance: dict[str, str], database_url: str, other_url: str, agentidp: Command) -> None:
    asyncio.run(in_transaction(sa.make_url(database_url), lambda connection: connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")))
    code, _, err = agentidp("db", "copy", "--to", other_url)
    assert code == 1
    assert "agentidp db upgrade" in one_line(err)


@pytest.mark.parametrize("engine", ["postgresql"])
def test_a_server_on_the_original_must_be_stopped(
    own_server: RunningServer, database_url: str, other_url: str, agentidp: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTIDP_DATABASE_URL", database_url)
    code, _, err = agentidp("db", "copy", "--to", other_url)
    assert code == 1
    assert "stop every one first" in one_line(err)


@pytest.mark.parametrize("to", ["sqlite:////nowhere/copy.db", "mysql://x/y", "nonsense", "postgresql://127.0.0.1:1/none?password=hidden-password"])
def test_a_target_that_will_not_do_is_refused_in_one_line(to: str, file: Path, agentidp: Command) -> None:
    code, _, err = agentidp("db", "copy", "--to", to)
    assert code in {1, 2}
    assert "hidden-password" not in one_line(err)


def test_nothing_is_copied_from_where_nothing_is(data: Path, agentidp: Command, postgres: str) -> None:
    code, _, err = agentidp("db", "copy", "--to", postgres.replace("/postgres?", f"/none{uuid.uuid4().hex[:8]}?"))
    assert code == 1
    assert "there is no database at" in one_line(err)
    assert not data.exists()
