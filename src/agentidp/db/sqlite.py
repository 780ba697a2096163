"""SQLite: one connection that writes, shared by everything that waits, and a few reader threads.

That connection both writes and checkpoints: SQLite before 3.51.3 can lose a commit when two do so at once (the WAL-reset fault).
A unit of work runs in its own savepoint, in the writer thread. Ledger entries are written in the event loop, where a statement takes
microseconds, because in a thread each would first fight the loop for the interpreter lock; their commit, which waits for the disk, is the
thread's. A batch is one transaction, synced once, and nobody is answered before that sync.
"""

import asyncio
import contextlib
import fcntl
import functools
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import msgspec
import sqlalchemy as sa

from agentidp.core import limits
from agentidp.core.caller import Caller
from agentidp.core.clock import Clock
from agentidp.core.errors import OutcomeUnknown, Problem, Unavailable, WrongSettings
from agentidp.db.unit import Ledger, Observer, Tx, refusal, run_unit

P = ParamSpec("P")
T = TypeVar("T")
log = logging.getLogger(__name__)

_NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "afs", "ceph", "glusterfs"})


@dataclass(slots=True)
class _Unit:
    run: Callable[[Tx], Any]
    caller: Caller


@dataclass(slots=True)
class _Job:
    """A unit of work or a ledger entry on its way through the writer."""

    work: Any
    future: asyncio.Future[Any]
    submitted_at: float  # by the loop's clock


_Answer = tuple[Any, BaseException | None]


def connect(path: Path, *, readonly: bool = False) -> sa.Engine:
    """An engine on the file, with the pragmas that the durability promise rests on."""
    engine = sa.create_engine(
        f"sqlite:///{path}",
        pool_size=limits.SQLITE_READERS,
        max_overflow=0,
        hide_parameters=True,  # they may be hashes and sealed values, and errors are logged
        connect_args={"timeout": limits.SQLITE_BUSY_MS / 1000, "check_same_thread": False},
        json_serializer=_canonical_json,
    )

    @sa.event.listens_for(engine, "connect")
    def _(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # the driver's own BEGIN would be deferred; ours is below
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA temp_store=MEMORY")
        connection.execute(f"PRAGMA cache_size=-{limits.SQLITE_CACHE_KIB}")
        connection.execute(f"PRAGMA query_only={'ON' if readonly else 'OFF'}")

    @sa.event.listens_for(engine, "begin")
    def _(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN" if readonly else "BEGIN IMMEDIATE")

    return engine


def _canonical_json(value: object) -> str:
    """The form in which the audit chain hashes it (RFC 8785): an event is verified without encoding it again."""
    return msgspec.json.encode(value, order="sorted").decode()


class SqliteDatabase:
    """One process's hold on one database file. Raises WrongSettings when another process has it or the folder is on a network."""

    dialect = "sqlite"

    def __init__(self, path: Path, clock: Clock, ledger: Ledger, observe: Observer = lambda *_: None) -> None:
        self._lock = lock_file(path)
        self._clock, self._ledger, self._observe = clock, ledger, observe
        self._writer_engine, self._reader_engine = connect(path), connect(path, readonly=True)
        self._waiting: list[_Job] = []
        self._batch: list[_Job] = []  # whose transaction is under way
        self._flusher: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._watch: asyncio.TimerHandle | None = None
        self._reading = 0
        self._closed = False
        self._readers = ThreadPoolExecutor(limits.SQLITE_READERS, thread_name_prefix="sqlite-reader")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="sqlite-writer")

    async def write(self, action: Callable[Concatenate[Tx, P], T], caller: Caller, /, *args: P.args, **kwargs: P.kwargs) -> T:
        started = time.perf_counter()
        try:
            # shielded: when the caller goes away, the writer may already be at it
            return cast("T", await asyncio.shield(self._submit(_Unit(lambda tx: action(tx, *args, **kwargs), caller))))
        finally:
            self._observe("write", time.perf_counter() - started)

    def append(self, entry: Any) -> asyncio.Future[None]:
        return self._submit(entry)

    async def read(self, query: Callable[Concatenate[Tx, P], T], caller: Caller, /, *args: P.args, **kwargs: P.kwargs) -> T:
        if self._closed or self._reading >= limits.READ_QUEUE_MAX:
            raise Unavailable
        started = time.perf_counter()
        self._reading += 1
        try:
            work = self._loop.run_in_executor(self._readers, functools.partial(self._read, lambda tx: query(tx, *args, **kwargs), caller))
            async with asyncio.timeout(limits.UNIT_SECONDS_MAX):  # not `wait_for`, which in Python 3.11 may forget that it was cancelled
                return await work
        except TimeoutError as error:
            raise Unavailable from error
        finally:
            self._reading -= 1
            self._observe("read", time.perf_counter() - started)

    def waiting(self) -> int:
        return len(self._batch) + len(self._waiting)

    def active(self) -> int:
        return self._reading

    def version(self) -> str:
        return f"SQLite {sqlite3.sqlite_version}"

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._flusher is not None:
            await asyncio.wait([self._flusher])
        await asyncio.to_thread(self._writer.shutdown)
        await asyncio.to_thread(self._readers.shutdown)
        if self._watch is not None:
            self._watch.cancel()
        self._reader_engine.dispose()
        self._writer_engine.dispose()
        os.close(self._lock)

    def _submit(self, work: Any) -> asyncio.Future[Any]:
        if self._closed or self.waiting() >= limits.WRITE_QUEUE_MAX:
            raise Unavailable("The database has more to do than it can take on right now; nothing was done.")
        job = _Job(work, self._loop.create_future(), self._loop.time())
        self._waiting.append(job)
        if self._watch is None:
            self._watch = self._loop.call_later(limits.UNIT_SECONDS_MAX, self._give_up)
        if self._flusher is None:  # begins at the end of the loop's turn: everything that arrives in it shares one commit
            self._flusher = self._loop.create_task(self._flush())
        return job.future

    def _give_up(self) -> None:
        """Answer what has waited too long. One timer watches the whole queue: a timer for each job would cost more than the job."""
        self._watch = None
        latest = self._loop.time() - limits.UNIT_SECONDS_MAX
        for jobs, failure in ((self._batch, OutcomeUnknown), (self._waiting, Unavailable)):
            for job in jobs:
                if job.submitted_at <= latest and not job.future.done():
                    job.future.set_exception(failure())
        left = [job.submitted_at for job in (*self._batch, *self._waiting) if not job.future.done()]
        if left:
            self._watch = self._loop.call_later(max(0.05, min(left) - latest), self._give_up)

    async def _flush(self) -> None:
        """While jobs wait: everything that waits becomes one transaction. While it commits, the next batch gathers."""
        while self._waiting:
            taken, self._waiting = self._waiting[: limits.WRITE_BATCH_MAX], self._waiting[limits.WRITE_BATCH_MAX :]
            self._batch = [job for job in taken if not job.future.done()]  # else given up, or the caller is gone
            for job, (result, failure) in zip(self._batch, await self._write_batch(), strict=True):
                if job.future.done():  # as above; what was done is done
                    continue
                if failure is None:
                    job.future.set_result(result)
                else:
                    job.future.set_exception(failure)
            self._batch = []
        self._flusher = None

    async def _write_batch(self) -> Sequence[_Answer]:
        """One transaction: the units of work in the order they came, then all entries together. Returns the answers, in the batch's order."""
        entries = [job.work for job in self._batch if not isinstance(job.work, _Unit)]
        if len(entries) < len(self._batch):
            return await self._loop.run_in_executor(self._writer, self._write_units, self._batch, entries)
        kind = Unavailable
        try:
            with contextlib.closing(self._writer_engine.raw_connection()) as connection:
                driver = connection.driver_connection
                assert isinstance(driver, sqlite3.Connection)
                try:
                    driver.execute("PRAGMA busy_timeout=0")
                    driver.execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError:  # another program is writing: wait for it, but not in the loop
                    await self._loop.run_in_executor(self._writer, _begin, driver)
                self._ledger.write_sqlite(driver, self._clock(), entries)
                kind = OutcomeUnknown  # what a failed sync left in the log is replayed if the machine stops right now
                await self._loop.run_in_executor(self._writer, driver.commit)
        except Exception as error:  # noqa: BLE001 - logged there
            return self._refused(kind, error)
        return [(None, None)] * len(entries)

    def _write_units(self, batch: list[_Job], entries: list[Any]) -> Sequence[_Answer]:
        """The same in the writer thread."""
        kind = Unavailable
        try:
            with self._writer_engine.connect() as connection:
                driver = connection.connection.driver_connection
                assert isinstance(driver, sqlite3.Connection)
                driver.execute(f"PRAGMA busy_timeout={limits.SQLITE_BUSY_MS}")
                with connection.begin():
                    answers = [self._in_savepoint(connection, job.work) if isinstance(job.work, _Unit) else (None, None) for job in batch]
                    if entries:
                        self._ledger.write_sqlite(driver, self._clock(), entries)
                    kind = OutcomeUnknown  # as above
        except Exception as error:  # noqa: BLE001 - logged there
            return self._refused(kind, error)
        return answers

    def _refused(self, kind: type[Unavailable], error: Exception) -> Sequence[_Answer]:
        """Call it while handling the exception."""
        log.exception("a commit failed", extra={"units": len(self._batch)})  # noqa: LOG004 - callers are in their except block
        return [(None, refusal(kind, error)) for _ in self._batch]

    def _read(self, unit: Callable[[Tx], T], caller: Caller) -> T:
        try:
            with self._reader_engine.connect() as connection:
                return unit(Tx(connection, self._clock(), caller))
        except (sa.exc.DBAPIError, sqlite3.Error) as error:
            log.exception("a read failed")
            raise Unavailable from error

    def _in_savepoint(self, connection: sa.Connection, work: _Unit) -> _Answer:
        savepoint = connection.begin_nested()
        try:
            result = run_unit(Tx(connection, self._clock(), work.caller), self._ledger, work.run)
        except sa.exc.OperationalError:
            raise  # the disk or the file: the whole batch is in doubt
        except Exception as error:  # noqa: BLE001 - whatever a unit raises belongs to its caller, not to the batch
            savepoint.rollback()
            if not isinstance(error, Problem):
                log.debug("a unit of work raised %s", type(error).__name__)
            return None, error
        savepoint.commit()
        return result, None


def _begin(driver: sqlite3.Connection) -> None:
    driver.execute(f"PRAGMA busy_timeout={limits.SQLITE_BUSY_MS}")
    driver.execute("BEGIN IMMEDIATE")


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
