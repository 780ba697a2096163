"""The unit of work: what actions and queries are given, and what both engines promise about running it."""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from agentidp.core.caller import AuditEntry, Caller, Outcome
from agentidp.core.errors import Unavailable

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class Tx:
    """One transaction as an action sees it. Only the engine commits; an action that raises leaves nothing behind.

    An action may be called again after a serialization failure: it has no effect outside `connection`.
    """

    connection: sa.Connection
    now: int
    caller: Caller
    entries: list[AuditEntry] = field(default_factory=list)
    meters: dict[str, int] = field(default_factory=dict)

    def run(self, statement: sa.Executable) -> sa.CursorResult[Any]:
        return self.connection.execute(statement)

    def one(self, statement: sa.Executable) -> sa.Row[Any] | None:
        """The first row, or None."""
        return self.connection.execute(statement).first()

    def all(self, statement: sa.Executable) -> list[sa.Row[Any]]:
        return list(self.connection.execute(statement))

    def insert_new(self, table: sa.Table, **values: object) -> bool:
        """Insert a row unless its key is taken; returns whether it was inserted."""
        insert = postgresql.insert if self.connection.dialect.name == "postgresql" else sqlite.insert
        return self.run(insert(table).values(values).on_conflict_do_nothing()).rowcount == 1

    def count(self, meter: str) -> None:
        """Add one to the organization's counter of today, in this transaction."""
        self.meters[meter] = self.meters.get(meter, 0) + 1

    def record(
        self,
        action: str,
        target_type: str | None = None,
        target_id: str | None = None,
        *,
        outcome: Outcome = "success",
        organization_id: str | None = None,
        agent_id: str | None = None,
        **metadata: object,
    ) -> None:
        """Leave an audit event in this transaction."""
        self.entries.append(AuditEntry(action, outcome, target_type, target_id, organization_id, agent_id, metadata))


class Ledger(Protocol):
    """What the ledger gives to the engines, which know nothing of what it writes."""

    def record(self, tx: Tx) -> None:
        """Write the audit events and counts of one unit of work, as its last statements."""
        ...

    def write_sqlite(self, connection: sqlite3.Connection, now: int, batch: Sequence[Any]) -> None:
        """Write a batch of entries in the transaction that is open on the connection."""
        ...

    async def write_postgres(self, connection: Any, now: int, batch: Sequence[Any]) -> None:
        """The same on asyncpg; may be called again after a serialization failure."""
        ...


Observer = Callable[[str, float], None]  # ("read" or "write", seconds)


class Database(Protocol):
    """Runs units of work. Every method raises `errors.Unavailable` when the database cannot answer in time; nothing was done then."""

    dialect: str

    async def read(self, query: Callable[Concatenate[Tx, P], T], caller: Caller, /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a query in a read-only transaction."""
        ...

    async def write(self, action: Callable[Concatenate[Tx, P], T], caller: Caller, /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run an action; when this returns, its effect and its audit events are durable."""
        ...

    def append(self, entry: Any) -> "asyncio.Future[None]":
        """Give an entry to the ledger's next batch; it is durable, and has its verdict, when the future is done.

        Raises Unavailable at once when too much waits; the future raises it when the commit fails.
        """
        ...

    def waiting(self) -> int:
        """Units of work that wait for a connection or for the writer."""
        ...

    def active(self) -> int:
        """Connections in use."""
        ...

    def version(self) -> str: ...

    async def close(self) -> None:
        """Finish what was accepted, then let go of the database."""
        ...


def refusal(kind: type[Unavailable], error: Exception) -> Unavailable:
    """A fresh one for each who waited for the same commit: whoever raises it writes its own traceback into it."""
    fresh = kind()
    fresh.__cause__ = error
    return fresh


def run_unit(tx: Tx, ledger: Ledger, unit: Callable[[Tx], T]) -> T:
    """The unit itself, then its audit events: the last statement before the commit, the same on both engines."""
    result = unit(tx)
    if tx.entries or tx.meters:
        ledger.record(tx)
    return result
