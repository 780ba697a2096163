"""The restore drill: everything is lost, a backup is put back, and what was revoked since it was made does not come back to life."""

import asyncio
import os
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
from tests.faults.own_postgres import OwnPostgres
from tests.processes import ServerProcess, environment, run, serving
from tests.tenants import registration

from agentidp.db.migrate import in_transaction
from agentidp.db.schema import usage_counters

pytestmark = pytest.mark.slow


class Site(ABC):
    """Where the database is, how it is backed up, how it is lost, and how it is put back."""

    url: str

    @abstractmethod
    def back_up(self) -> None: ...

    @abstractmethod
    def lose(self) -> None: ...

    @abstractmethod
    def put_back(self) -> None: ...


class SqliteSite(Site):
    def __init__(self, folder: Path) -> None:
        self._data, self._backup = folder / "data", folder / "backup.db"
        self.url = f"sqlite:///{self._data / 'agentidp.db'}"

    def back_up(self) -> None:
        self._agentidp("backup", str(self._backup))

    def lose(self) -> None:
        for path in self._data.glob("agentidp.db*"):
            path.unlink()

    def put_back(self) -> None:
        self._agentidp("restore", str(self._backup))

    def _agentidp(self, *arguments: str) -> None:
        result = run("db", *arguments, env={"AGENTIDP_DATA_DIR": str(self._data)})
        assert result.returncode == 0, result.stderr


class PostgresSite(Site):
    def __init__(self, folder: Path) -> None:
        self._data, self._dump, self._server = folder / "data", folder / "backup.dump", OwnPostgres()
        self._admin = self._server.url
        self.url = self._admin.replace("/postgres?", "/agentidp?")
        self._sql("CREATE DATABASE agentidp")

    def back_up(self) -> None:
        self._tool("pg_dump", "--format=custom", "--role=agentidp_system", "--enable-row-security", f"--file={self._dump}", self.url)

    def lose(self) -> None:
        self._sql("DROP DATABASE agentidp WITH (FORCE)")

    def put_back(self) -> None:
        self._sql("CREATE DATABASE agentidp")
        self._tool("pg_restore", "--no-owner", "--exit-on-error", f"--dbname={self.url}", str(self._dump))
        result = run("db", "after-restore", env={"AGENTIDP_DATA_DIR": str(self._data), "AGENTIDP_DATABASE_URL": self.url})
        assert result.returncode == 0, result.stderr

    def close(self) -> None:
        self._server.close()

    def _sql(self, statement: str) -> None:
        self._tool("psql", "--quiet", "--command", statement, self._admin)

    def _tool(self, name: str, *arguments: str) -> None:
        command = [str(self._server.bin_path / name), *arguments]
        result = subprocess.run(command, env=environment(dict(os.environ)), capture_output=True, text=True, timeout=60, check=False)
        assert result.returncode == 0, result.stderr


@pytest.fixture
def site(engine: str, tmp_path: Path) -> Iterator[Site]:
    if engine == "sqlite":
        yield SqliteSite(tmp_path)
        return
    found = PostgresSite(tmp_path)
    yield found
    found.close()


class Client:
    """Speaks as the first agent, with a fresh token each time."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server

    def token(self, **form: str) -> str:
        return str(self._server.token(**form)["access_token"])

    def call(self, method: str, path: str, *, bearer: str | None = None, **options: Any) -> httpx2.Response:
        with self._server.client(headers={"Authorization": f"Bearer {bearer or self.token()}"}) as client:
            return client.request(method, path, **options)

    def new_agent(self) -> dict[str, str]:
        """An agent with a credential: its id and secret."""
        agent = self.call("POST", "/api/v1/agents", json=registration()).json()
        credential = self.call("POST", f"/api/v1/agents/{agent['agentId']}/credentials", json={}).json()
        return {"client_id": agent["agentId"], "client_secret": credential["clientSecret"]}

    def is_active(self, token: str) -> bool:
        return bool(self.call("POST", "/api/v1/token/introspect", data={"token": token}).json()["active"])


def counters(url: str) -> list[Any]:
    def work(connection: sa.Connection) -> list[Any]:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL ROLE agentidp_system")
        return sorted(map(tuple, connection.execute(sa.select(usage_counters))))

    return asyncio.run(in_transaction(sa.make_url(url), work, readonly=True))


def test_what_was_revoked_after_the_backup_stays_dead(site: Site, tmp_path: Path) -> None:
    with serving(tmp_path, DATABASE_URL=site.url) as server:
        client = Client(server)
        kept, suspended = client.new_agent(), client.new_agent()
        tokens = {"untouched": client.token(), "revoked": client.token(), "suspended": client.token(**suspended), "kept": client.token(**kept)}
        assert all(client.is_active(token) for token in tokens.values())
        before = counters(site.url)
        site.back_up()  # while the server runs
        assert client.call("POST", "/api/v1/token/revoke", data={"token": tokens["revoked"]}).status_code == 200
        assert client.call("PATCH", f"/api/v1/agents/{suspended['client_id']}", json={"status": "suspended"}).status_code == 200
        later = client.new_agent()
        tokens["later"] = client.token(**later)
        port = server.env["AGENTIDP_PORT"]
        server.kill()

    began = time.monotonic()
    site.lose()
    site.put_back()
    assert counters(site.url) == before
    with serving(tmp_path, DATABASE_URL=site.url, PORT=port) as server:
        client = Client(server)
        assert client.is_active(client.token()), "what is issued now is good at once"
        print(f"from the loss to the first good token: {time.monotonic() - began:.1f} s")
        for name, token in tokens.items():
            assert not client.is_active(token), name
            assert client.call("GET", "/agent-info", bearer=token).status_code == 401, name
            assert client.call("GET", "/api/v1/agents", bearer=token).status_code == 401, name
        assert client.is_active(client.token(**kept))
        assert client.is_active(client.token(**suspended)), "a suspension after the backup is undone: the guide says so"
        assert client.call("GET", f"/api/v1/agents/{later['client_id']}").status_code == 404
        [event] = client.call("GET", "/api/v1/audit", params={"action": "instance.restored"}).json()["data"]
        assert event["outcome"] == "success"
        verified = client.call("GET", "/api/v1/audit/verify").json()
        assert verified["verified"] is True, verified
