"""SQLite: one writer thread that shares its commits among everything that waits, and a few reader threads.

One connection both writes and checkpoints: SQLite before 3.51.3 can lose a commit when two do so at once (the WAL-reset fault).
A unit of work runs in its own savepoint; a batch is one transaction, synced once, and nobody is answered before that sync.
"""

import asyncio
import fcntl
import functools
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa

from agentidp.core import limits
from agentidp.core.caller import Caller
from agentidp.core.clock import Clock
from agentidp.core.errors import Problem, Unavailable, WrongSettings
from agentidp.db.unit import Observer, Recorder, Tx, run_unit

P = ParamSpec("P")
T = TypeVar("T")
log = logging.getLogger(__name__)

_NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "afs", "ceph", "glusterfs"})


@dataclass(slots=True)
class _Job:
    unit: Callable[[Tx], Any]
    caller: Caller
    future: Future[Any]


def connect(path: Path, *, readonly: bool = False) -> sa.Engine:
    """An engine on the file, with the pragmas that the durability promise rests on."""
    engine = sa.create_engine(
        f"sqlite:///{path}",
        pool_size=limits.SQLITE_READERS,
        max_overflow=0,
        hide_parameters=True,  # they may be hashes and sealed values, and errors are logged
        connect_args={"timeout": limits.SQLITE_BUSY_MS / 1000, "check_same_thread": False},
    )

    @sa.event.listens_for(engine, "connect")
    def _(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # the driver's own BEGIN would be deferred; ours is below
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA temp_store=MEMORY")
        connection.execute(f"PRAGMA query_only={'ON' if readonly else 'OFF'}")

    @sa.event.listens_for(engine, "begin")
    def _(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN" if readonly else "BEGIN IMMEDIATE")

    return engine


class SqliteDatabase:
    """One process's hold on one database file. Raises WrongSettings when another process has it or the folder is on a network."""

    dialect = "sqlite"

    def __init__(self, path: Path, clock: Clock, recorder: Recorder, observe: Observer = lambda *_: None) -> None:
        self._lock = lock_file(path)
        self._clock, self._recorder, self._observe = clock, recorder, observe
        self._writer_engine, self._reader_engine = connect(path), connect(path, readonly=True)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._reading = 0
        self._closed = False
        self._readers = ThreadPoolExecutor(limits.SQLITE_READERS, thread_name_prefix="sqlite-reader")
        self._writer = threading.Thread(target=self._write_batches, name="sqlite-writer", daemon=True)
        self._writer.start()

    async def write(self, action: Callable[Concatenate[Tx, P], T], caller: Caller, /, *args: P.args, **kwargs: P.kwargs) -> T:
        if self._closed or self._jobs.qsize() >= limits.WRITE_QUEUE_MAX:
            raise Unavailable("The database has more to do than it can take on right now; nothing was done.")
        started = time.perf_counter()
        future: Future[T] = Future()
        self._jobs.put(_Job(lambda tx: action(tx, *args, **kwargs), caller, future))
        try:
            # shielded: the writer may already be at it, and its answer must find a live future
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(future)), limits.UNIT_SECONDS_MAX)
        except TimeoutError as error:
            if future.cancel():  # still in the queue: it will never run
                raise Unavailable from error
            raise Unavailable("The database did not answer in time; the outcome is unknown.") from error
        finally:
            self._observe("write", time.perf_counter() - started)

    async def read(self, query: Callable[Concatenate[Tx, P], T], caller: Caller, /, *args: P.args, **kwargs: P.kwargs) -> T:
        if self._closed or self._reading >= limits.READ_QUEUE_MAX:
            raise Unavailable
        started = time.perf_counter()
        self._reading += 1
        try:
            work = asyncio.get_running_loop().run_in_executor(self._readers, functools.partial(self._read, lambda tx: query(tx, *args, **kwargs), caller))
            return await asyncio.wait_for(work, limits.UNIT_SECONDS_MAX)
        except TimeoutError as error:
            raise Unavailable from error
        finally:
            self._reading -= 1
            self._observe("read", time.perf_counter() - started)

    def waiting(self) -> int:
        return self._jobs.qsize()

    def active(self) -> int:
        return self._reading

    def version(self) -> str:
        return f"SQLite {sqlite3.sqlite_version}"

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._jobs.put(None)
        await asyncio.to_thread(self._writer.join)
        await asyncio.to_thread(self._readers.shutdown)
        self._reader_engine.dispose()
        self._writer_engine.dispose()
        os.close(self._lock)

    def _read(self, unit: Callable[[Tx], T], caller: Caller) -> T:
        try:
            with self._reader_engine.connect() as connection:
                return unit(Tx(connection, self._clock(), caller))
        except sa.exc.DBAPIError as error:
            log.exception("a read failed")
            raise Unavailable from error

    def _write_batches(self) -> None:
        """The writer thread: everything that waits becomes one transaction. Ends at the None that `close` puts in the queue."""
        last = False
        while not last:
            batch: list[_Job] = []
            job = self._jobs.get()
            while True:
                if job is None:
                    last = True
                    break
                if job.future.set_running_or_notify_cancel():
                    batch.append(job)
                if len(batch) >= limits.WRITE_BATCH_MAX:
                    break
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    break
            if batch:
                self._write_batch(batch)

    def _write_batch(self, batch: list[_Job]) -> None:
        answers: list[tuple[_Job, Any, BaseException | None]]
        try:
            with self._writer_engine.begin() as connection:
                answers = [(job, *self._in_savepoint(connection, job)) for job in batch]
        except Exception as error:  # the commit failed: nothing of the batch happened
            log.exception("a commit failed", extra={"units": len(batch)})
            refusal = Unavailable()
            refusal.__cause__ = error
            answers = [(job, None, refusal) for job in batch]
        for job, result, failure in answers:
            try:
                if failure is None:
                    job.future.set_result(result)
                else:
                    job.future.set_exception(failure)
            except InvalidStateError:  # the caller is gone; what was done is done
                pass

    def _in_savepoint(self, connection: sa.Connection, job: _Job) -> tuple[Any, BaseException | None]:
        savepoint = connection.begin_nested()
        try:
            result = run_unit(Tx(connection, self._clock(), job.caller), self._recorder, job.unit)
        except sa.exc.OperationalError:
            raise  # the disk or the file: the whole batch is in doubt
        except Exception as error:  # noqa: BLE001 - whatever a unit raises belongs to its caller, not to the batch
            savepoint.rollback()
            if not isinstance(error, Problem):
                log.debug("a unit of work raised %s", type(error).__name__)
            return None, error
        savepoint.commit()
        return result, None


def lock_file(path: Path) -> int:
    """Hold `PATH.lock` for this process until the descriptor is closed. Raises WrongSettings."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    kind = file_system_of(path.parent.resolve(), _mounts())
    if kind in _NETWORK_FILE_SYSTEMS:
        raise WrongSettings(f"database_url: {path.parent} is on a network file system ({kind}), where SQLite loses data; use a local folder or PostgreSQL")
    descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(descriptor, 20).decode(errors="replace").strip()
        os.close(descriptor)
        raise WrongSettings(
            f"{path} is in use by process {holder or '?'}; an SQLite database serves one process: stop that one first, or use PostgreSQL"
        ) from error
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def _mounts() -> str:
    """The mount table as the kernel writes it; empty where there is none."""
    try:
        return Path("/proc/self/mounts").read_text("utf-8", errors="replace")
    except OSError:
        return ""


def file_system_of(folder: Path, mounts: str) -> str:
    """The type of the file system that the folder is on, from the longest mount point above it; empty where that cannot be told."""
    best, kind = "", ""
    for line in mounts.splitlines():
        _, point, line_kind, *_ = line.split(" ")
        if len(point) >= len(best) and folder.is_relative_to(point.replace("\\040", " ")):
            best, kind = point, line_kind
    return kind
