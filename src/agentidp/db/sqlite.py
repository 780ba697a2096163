"""SQLite: one writer thread that shares its commits among everything that waits, and a few reader threads.

One connection both writes and checkpoints: SQLite before 3.51.3 can lose a commit when two do so at once (the WAL-reset fault).
A unit of work runs in its own savepoint; a batch is one transaction, synced once, and nobody is answered before that sync.
"""

import asyncio
import collections
import fcntl
import functools
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

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


class _Job:
    """A unit of work or a ledger entry on its way through the writer thread. `take` succeeds once: for the writer, or for whoever gives up."""

    __slots__ = ("_claim", "future", "submitted_at", "work")

    def __init__(self, work: Any, future: asyncio.Future[Any], submitted_at: float) -> None:
        self.work, self.future, self.submitted_at = work, future, submitted_at
        self._claim = [True]

    def take(self) -> bool:
        try:
            return self._claim.pop()  # atomic under the interpreter lock
        except IndexError:
            return False


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

    def __init__(self, path: Path, clock: Clock, ledger: Ledger, observe: Observer = lambda *_: None) -> None:
        self._lock = lock_file(path)
        self._clock, self._ledger, self._observe = clock, ledger, observe
        self._writer_engine, self._reader_engine = connect(path), connect(path, readonly=True)
        self._gathering: list[_Job] = []  # what this turn of the event loop has submitted
        self._queue: queue.SimpleQueue[list[_Job] | None] = queue.SimpleQueue()
        self._outstanding: collections.deque[_Job] = collections.deque()  # in the order in which the writer answers
        self._loop = asyncio.get_running_loop()
        self._watch: asyncio.TimerHandle | None = None
        self._reading = 0
        self._closed = False
        self._readers = ThreadPoolExecutor(limits.SQLITE_READERS, thread_name_prefix="sqlite-reader")
        self._writer = threading.Thread(target=self._write_batches, name="sqlite-writer", daemon=True)
        self._writer.start()

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
            return await asyncio.wait_for(work, limits.UNIT_SECONDS_MAX)
        except TimeoutError as error:
            raise Unavailable from error
        finally:
            self._reading -= 1
            self._observe("read", time.perf_counter() - started)

    def waiting(self) -> int:
        return len(self._outstanding)

    def active(self) -> int:
        return self._reading

    def version(self) -> str:
        return f"SQLite {sqlite3.sqlite_version}"

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._hand_over()
        self._queue.put(None)
        await asyncio.to_thread(self._writer.join)
        await asyncio.sleep(0)  # the writer's last answers
        await asyncio.to_thread(self._readers.shutdown)
        if self._watch is not None:
            self._watch.cancel()
        self._reader_engine.dispose()
        self._writer_engine.dispose()
        os.close(self._lock)

    def _submit(self, work: Any) -> asyncio.Future[Any]:
        if self._closed or len(self._outstanding) >= limits.WRITE_QUEUE_MAX:
            raise Unavailable("The database has more to do than it can take on right now; nothing was done.")
        job = _Job(work, self._loop.create_future(), self._loop.time())
        self._outstanding.append(job)
        if self._watch is None:
            self._watch = self._loop.call_later(limits.UNIT_SECONDS_MAX, self._give_up)
        if not self._gathering:
            # Handed over at the end of the loop's turn: everything that arrived in it shares one commit, and one waking of the thread.
            self._loop.call_soon(self._hand_over)
        self._gathering.append(job)
        return job.future

    def _hand_over(self) -> None:
        for begin in range(0, len(self._gathering), limits.WRITE_BATCH_MAX):
            self._queue.put(self._gathering[begin : begin + limits.WRITE_BATCH_MAX])
        self._gathering = []

    def _give_up(self) -> None:
        """Answer what has waited too long. One timer watches the whole queue: a timer for each job would cost more than the job."""
        self._watch = None
        now = self._loop.time()
        for job in self._outstanding:
            if now - job.submitted_at < limits.UNIT_SECONDS_MAX:
                break
            if not job.future.done():
                taken = not job.take()
                job.future.set_exception(OutcomeUnknown() if taken else Unavailable())
        if self._outstanding:
            wait = max(0.05, self._outstanding[0].submitted_at + limits.UNIT_SECONDS_MAX - now)
            self._watch = self._loop.call_later(wait, self._give_up)

    def _answer(self, answers: list[tuple[_Job, Any, BaseException | None]]) -> None:
        """In the event loop: wake everybody who waited for a batch."""
        for job, result, failure in answers:
            self._outstanding.popleft()
            if job.future.done():  # given up, or the caller is gone; what was done is done
                continue
            if failure is None:
                job.future.set_result(result)
            else:
                job.future.set_exception(failure)

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
            jobs = self._queue.get()
            while True:
                if jobs is None:
                    last = True
                    break
                batch += jobs
                if len(batch) >= limits.WRITE_BATCH_MAX:
                    break
                try:
                    jobs = self._queue.get_nowait()
                except queue.Empty:
                    break
            if batch:
                answers = self._write_batch(batch)
                self._loop.call_soon_threadsafe(self._answer, answers)

    def _write_batch(self, batch: list[_Job]) -> list[tuple[_Job, Any, BaseException | None]]:
        """One transaction: the units of work in the order they came, then all entries together. Returns the answers, in the batch's order."""
        taken = [job for job in batch if job.take()]
        failure = Unavailable
        try:
            with self._writer_engine.begin() as connection:
                answers = {id(job): self._in_savepoint(connection, job.work) for job in taken if isinstance(job.work, _Unit)}
                entries = [job.work for job in taken if not isinstance(job.work, _Unit)]
                if entries:
                    driver = connection.connection.driver_connection
                    assert isinstance(driver, sqlite3.Connection)
                    self._ledger.write_sqlite(driver, self._clock(), entries)
                failure = OutcomeUnknown  # what a failed sync left in the log is replayed if the machine stops right now
        except Exception as error:
            log.exception("a commit failed", extra={"units": len(taken)})
            return [(job, None, refusal(failure, error)) for job in batch]
        nothing = (None, None)
        return [(job, *answers.get(id(job), nothing)) for job in batch]

    def _in_savepoint(self, connection: sa.Connection, work: _Unit) -> tuple[Any, BaseException | None]:
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
