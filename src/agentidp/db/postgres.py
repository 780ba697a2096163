"""PostgreSQL through asyncpg: a pool of connections, retries after serialization failures and deadlocks, and time limits on all of it."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import asyncpg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from agentidp.core import limits
from agentidp.core.caller import SYSTEM, Caller
from agentidp.core.clock import Clock
from agentidp.core.errors import OutcomeUnknown, Unavailable
from agentidp.db import walls
from agentidp.db.unit import Ledger, Observer, Tx, refusal, run_unit

P = ParamSpec("P")
T = TypeVar("T")
log = logging.getLogger(__name__)

_AGAIN = frozenset({"40001", "40P01"})  # serialization_failure, deadlock_detected: nothing was done


class _Connection(asyncpg.Connection):
    """Says whose a transaction is in the message that begins it, for which the driver has no place: no round trip of its own.

    Each transaction needs an `identity` of its own; one without is the login role's, which sees nothing.
    """

    identity = ""

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:  # noqa: ASYNC109 - the driver's signature
        if not query.startswith("BEGIN"):
            return await super().execute(query, *args, timeout=timeout)
        identity, self.identity = self.identity, ""
        try:
            return await super().execute(query + identity, timeout=timeout)
        except asyncpg.PostgresError:
            self.terminate()  # it has begun, but is nobody's
            raise


def connect(url: str, *, statement_ms: int = limits.POSTGRES_STATEMENT_MS) -> AsyncEngine:
    """An engine for a `postgresql://` URL. `statement_ms` 0: a statement may take as long as it takes."""
    return create_async_engine(
        sa.make_url(url).set(drivername="postgresql+asyncpg"),
        pool_size=limits.POSTGRES_POOL_SIZE + 1,  # one of them is the ledger's
        max_overflow=0,
        pool_timeout=limits.POSTGRES_POOL_WAIT_SECONDS,
        hide_parameters=True,  # they may be hashes and sealed values, and errors are logged
        pool_pre_ping=False,  # a round trip per unit; a broken connection is answered with a second attempt instead
        connect_args={
            "connection_class": _Connection,
            "timeout": limits.POSTGRES_CONNECT_SECONDS,
            "server_settings": {
                "application_name": "agentidp",
                "statement_timeout": str(statement_ms),
                "idle_in_transaction_session_timeout": str(limits.UNIT_SECONDS_MAX * 1000),
            },
        },
    )


class PostgresDatabase:
    """A pool of this process. Writers run at READ COMMITTED; actions lock the rows that they decide on (`SELECT … FOR UPDATE`)."""

    dialect = "postgresql"

    def __init__(self, url: str, clock: Clock, ledger: Ledger, observe: Observer = lambda *_: None) -> None:
        self._engine = connect(url)
        self._clock, self._ledger, self._observe = clock, ledger, observe
        self._running = 0
        self._pending: list[tuple[Any, asyncio.Future[None]]] = []
        self._flusher: asyncio.Task[None] | None = None
        self._ledger_connection: AsyncConnection | None = None
        self._closed = False

    async def write(self, action: Callable[Concatenate[Tx, P], T], caller: Caller, /, *args: P.args, **kwargs: P.kwargs) -> T:
        def unit(connection: sa.Connection) -> T:
            _identify(connection, caller)
            return run_unit(Tx(connection, self._clock(), caller), self._ledger, lambda tx: action(tx, *args, **kwargs))

        return await self._attempt("write", unit)

    async def read(self, query: Callable[Concatenate[Tx, P], T], caller: Caller, /, *args: P.args, **kwargs: P.kwargs) -> T:
        def unit(connection: sa.Connection) -> T:
            _identify(connection, caller)
            return query(Tx(connection, self._clock(), caller), *args, **kwargs)

        return await self._attempt("read", unit)

    def append(self, entry: Any) -> asyncio.Future[None]:
        if self._closed or len(self._pending) >= limits.WRITE_QUEUE_MAX:
            raise Unavailable("The database has more to do than it can take on right now; nothing was done.")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append((entry, future))
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush())
        return future

    def waiting(self) -> int:
        return len(self._pending) + max(0, self._running - limits.POSTGRES_POOL_SIZE)

    def active(self) -> int:
        return min(self._running, limits.POSTGRES_POOL_SIZE)

    def version(self) -> str:
        return "PostgreSQL"

    async def close(self) -> None:
        self._closed = True
        for _ in range(limits.UNIT_SECONDS_MAX * 100):  # no unit takes longer
            if not self._running:
                break
            await asyncio.sleep(0.01)
        if self._flusher is not None:
            await asyncio.wait([self._flusher])
        if self._ledger_connection is not None:
            await self._ledger_connection.close()
        await self._engine.dispose()

    async def _flush(self) -> None:
        """While entries wait: everything that waits becomes one transaction. While it commits, the next batch gathers."""
        while self._pending:
            batch = self._pending[: limits.WRITE_BATCH_MAX]
            del self._pending[: len(batch)]
            deadline = asyncio.get_running_loop().time() + limits.UNIT_SECONDS_MAX
            try:
                async with asyncio.timeout_at(deadline):
                    await self._write_batch([entry for entry, _ in batch])
            except Exception as error:
                log.exception("a commit failed", extra={"units": len(batch)})
                await self._drop_ledger_connection()
                _refuse(batch, OutcomeUnknown if isinstance(error, OutcomeUnknown) else Unavailable, error)
                if asyncio.get_running_loop().time() >= deadline:  # a silent database: those who came meanwhile are not to wait as long again
                    _refuse(self._pending, Unavailable, error)
                    self._pending.clear()
            else:
                for _, future in batch:
                    if not future.done():  # else the caller is gone
                        future.set_result(None)
        self._flusher = None

    async def _write_batch(self, entries: list[Any]) -> None:
        """One transaction straight through the driver, on a connection that is kept. Again while nothing was done, as `_until_settled`."""
        for attempt in range(limits.WRITE_ATTEMPTS_MAX):
            try:
                driver = await self._ledger_driver()
                driver.identity = walls.identity(SYSTEM)
                transaction = driver.transaction()
                await transaction.start()
                await self._ledger.write_postgres(driver, self._clock(), entries)
                with _committing():
                    await transaction.commit()
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                lost = not isinstance(error, asyncpg.PostgresError) or isinstance(error, asyncpg.PostgresConnectionError | asyncpg.AdminShutdownError)
                again = _state(error) in _AGAIN or lost
                await self._drop_ledger_connection()
                if not again or attempt == limits.WRITE_ATTEMPTS_MAX - 1:
                    raise
                await asyncio.sleep(0.005 * 2**attempt)
            else:
                return

    async def _ledger_driver(self) -> Any:
        if self._ledger_connection is None:
            self._ledger_connection = await self._engine.connect()
        return (await self._ledger_connection.get_raw_connection()).driver_connection

    async def _drop_ledger_connection(self) -> None:
        """After a failure its state is anybody's guess."""
        connection, self._ledger_connection = self._ledger_connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                await connection.invalidate()
                await connection.close()

    async def _attempt(self, kind: str, unit: Callable[[sa.Connection], T]) -> T:
        if self._closed or self._running >= limits.WRITE_QUEUE_MAX:
            raise Unavailable("The database has more to do than it can take on right now; nothing was done.")
        started = time.perf_counter()
        self._running += 1
        try:
            async with asyncio.timeout(limits.UNIT_SECONDS_MAX):
                return await self._until_settled(unit, readonly=kind == "read")
        except (TimeoutError, OSError, sa.exc.TimeoutError) as error:
            log.warning("the database did not answer", extra={"error": repr(error)})
            raise Unavailable from error
        except OutcomeUnknown as error:
            if (task := asyncio.current_task()) is not None and task.cancelling():  # whoever is to end must not go on
                raise asyncio.CancelledError from error
            raise
        except sa.exc.IntegrityError:
            raise  # an action that expects one catches it; anything else is a fault of ours
        except sa.exc.DBAPIError as error:
            log.exception("a unit of work failed in the database")
            raise Unavailable from error
        finally:
            self._running -= 1
            self._observe(kind, time.perf_counter() - started)

    async def _until_settled(self, unit: Callable[[sa.Connection], T], *, readonly: bool) -> T:
        """Try again while nothing was done: after a serialization failure, a deadlock, or a connection lost before the commit was sent."""
        for attempt in range(limits.WRITE_ATTEMPTS_MAX):
            try:
                async with self._engine.connect() as connection:
                    if readonly:
                        await connection.execution_options(postgresql_readonly=True)
                    result = await connection.run_sync(unit)
                    with contextlib.nullcontext() if readonly else _committing():
                        await connection.commit()
                    return result
            except sa.exc.DBAPIError as error:
                if not (_state(error) in _AGAIN or error.connection_invalidated) or attempt == limits.WRITE_ATTEMPTS_MAX - 1:
                    raise
                await asyncio.sleep(0.005 * 2**attempt)
        raise AssertionError("the loop returns or raises")


def _identify(connection: sa.Connection, caller: Caller) -> None:
    """Before the first statement of a transaction."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, _Connection)
    driver.identity = walls.identity(caller)


def _refuse(batch: Sequence[tuple[Any, asyncio.Future[None]]], kind: type[Unavailable], error: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(refusal(kind, error))


def _state(error: BaseException) -> str:
    return getattr(getattr(error, "orig", error), "sqlstate", None) or ""


@contextlib.contextmanager
def _committing() -> Iterator[None]:
    """Raises OutcomeUnknown whatever goes wrong while the commit is under way, a time limit included, unless the server says that it refused."""
    try:
        yield
    except (Exception, asyncio.CancelledError) as error:
        if _state(error)[:2] in {"23", "40"}:  # integrity violation, transaction rollback
            raise
        raise OutcomeUnknown from error


async def run_in_connection(url: str, work: Callable[[sa.Connection], T]) -> T:
    """One transaction outside any pool, for migrations, which may wait for each other and rewrite tables."""
    engine = connect(url, statement_ms=0)
    try:
        async with engine.begin() as connection:
            return await _run(connection, work)
    finally:
        await engine.dispose()


async def _run(connection: AsyncConnection, work: Callable[[sa.Connection], T]) -> T:
    return await connection.run_sync(work)
