"""Databases that stop answering for a while, without a word: the write lock of SQLite held from outside, a gate in front of PostgreSQL."""

import asyncio
import contextlib
import socket
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import sqlalchemy as sa

_SOCKET_NAME = ".s.PGSQL.5432"


class SqliteStall:
    """Another program that holds the file's write lock."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._path = sa.make_url(url).database or ""

    @contextlib.contextmanager
    def stalled(self) -> Iterator[None]:
        connection = sqlite3.connect(self._path, timeout=10, isolation_level=None)
        try:
            connection.execute("BEGIN EXCLUSIVE")
            yield
            connection.execute("ROLLBACK")
        finally:
            connection.close()

    def close(self) -> None:
        pass


class PostgresGate:
    """A proxy between a server and its PostgreSQL (`url` leads through it). While `stalled`, bytes stay where they are and no connection is cut."""

    def __init__(self, url: str, folder: Path) -> None:
        upstream = parse_qs(urlsplit(url).query)["host"][0]
        self.url = url.replace(upstream, str(folder))
        self._upstream = str(Path(upstream) / _SOCKET_NAME)
        self._open = threading.Event()
        self._open.set()
        self._sockets: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / _SOCKET_NAME))
        self._listener.listen(64)
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @contextlib.contextmanager
    def stalled(self) -> Iterator[None]:
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    def close(self) -> None:
        self._open.set()
        for one in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join(10)
        for one in (self._listener, *self._sockets):
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._upstream)
            self._sockets += [client, server]
            for source, target in ((client, server), (server, client)):
                thread = threading.Thread(target=self._pump, args=(source, target), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._open.wait()
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def writes_held(url: str) -> Iterator[None]:
    """Another program that keeps every write waiting for a moment, as a schema change would, and lets it go on after."""
    if url.startswith("sqlite"):
        with SqliteStall(url).stalled():
            yield
        return

    loop = asyncio.new_event_loop()

    async def lock() -> asyncpg.Connection:
        connection = await asyncpg.connect(url)
        await connection.execute("BEGIN; LOCK TABLE credentials, audit_events IN ACCESS EXCLUSIVE MODE")
        return connection

    try:
        connection = loop.run_until_complete(lock())
        try:
            yield
        finally:
            loop.run_until_complete(connection.close())
    finally:
        loop.close()
