"""A sealed history in a real database, and hands that change it behind the product's back: plain `sqlite3` and `asyncpg`."""

import asyncio
import contextlib
import re
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.db.opened import insert_organization, opened

import agentidp
from agentidp.audit.history import verify_history
from agentidp.audit.rules import Dates, Verification
from agentidp.core.caller import Caller, Origin
from agentidp.core.clock import system_clock
from agentidp.core.ids import new_id
from agentidp.db.schema import audit_events
from agentidp.db.unit import Database, Tx
from agentidp.ledger.checkpoint import parse_note
from agentidp.ledger.heads import AuditKey, sign_head
from agentidp.ledger.nudge import Nudge
from agentidp.ledger.sealer import ChainSealer

KEY = AuditKey("https://id.example.com", bytes(range(32)))
COLUMNS = tuple(column.name for column in audit_events.c)
TABLES = ("audit_events", "audit_heads", "audit_checkpoints")
_KINDS = "agent|credential|token|auth|access|org|key|policy|delegation|federation|webhook|tier|billing|bootstrap"


def actions_of_the_product() -> list[str]:
    """Every text in the source that reads like an action."""
    source = "".join(path.read_text("utf-8") for path in Path(agentidp.__file__).parent.rglob("*.py"))
    return sorted(set(re.findall(rf'"((?:{_KINDS})\.[a-z_]+)"', source)))


class Refused(Exception):
    """A constraint of the database does not allow the change."""


class Hands:
    """One connection to the database, as its owner has it. `run` raises Refused; `?` stands for a parameter on both engines."""

    def __init__(self, url: str) -> None:
        self._url, self.is_sqlite = url, url.startswith("sqlite")
        self._connection: Any = None

    async def __aenter__(self) -> Self:
        if self.is_sqlite:
            self._connection = sqlite3.connect(self._url.removeprefix("sqlite:///"), isolation_level=None)
            self._connection.execute("PRAGMA synchronous=OFF")
        else:
            import asyncpg

            self._connection = await asyncpg.connect(self._url)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.is_sqlite:
            self._connection.close()
        else:
            await self._connection.close()

    async def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        if self.is_sqlite:
            return list(self._connection.execute(statement, values))
        return [tuple(row) for row in await self._connection.fetch(_numbered(statement), *values)]

    async def run(self, *statements: tuple[str, tuple[Any, ...]]) -> None:
        """All in one transaction."""
        try:
            if self.is_sqlite:
                self._connection.execute("BEGIN IMMEDIATE")
                for statement, values in statements:
                    self._connection.execute(statement, values)
                self._connection.execute("COMMIT")
                return
            async with self._connection.transaction():
                for statement, values in statements:
                    await self._connection.execute(_numbered(statement), *values)
        except Exception as error:
            if self.is_sqlite:
                self._connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.IntegrityError) or type(error).__name__.endswith("ViolationError"):
                raise Refused from error
            raise

    async def keep(self) -> None:
        """Copy everything aside."""
        for table in TABLES:
            await self.run((f"CREATE TABLE kept_{table} AS SELECT * FROM {table}", ()))

    async def restore(self) -> None:
        await self.run(*((text, ()) for table in TABLES for text in (f"DELETE FROM {table}", f"INSERT INTO {table} SELECT * FROM kept_{table}")))


def _numbered(statement: str) -> str:
    parts = statement.split("?")
    return "".join(f"{part}${number}" for number, part in enumerate(parts[:-1], 1)) + parts[-1]


@dataclass
class Sealed:
    """A database with one organization's sealed history in it; `ids` are its events in order."""

    database: Database
    hands: Hands
    caller: Caller
    other_organization: str
    ids: list[str]
    notes: list[str]

    async def verify(self, dates: Dates = Dates()) -> Verification:  # noqa: B008 - frozen
        return await verify_history(self.database, self.caller, KEY, dates, _always)

    @property
    def size(self) -> int:
        return len(self.ids)


async def _always() -> bool:
    return True


@contextlib.asynccontextmanager
async def sealed_history(url: str, actions: list[str]) -> AsyncIterator[Sealed]:
    """An event of each action, all of their columns filled, each in a commit of its own; a checkpoint now and then."""
    clock = iter(range(system_clock() - 10**6, system_clock() + 10**6, 7))
    now = next(clock)
    async with opened(url, lambda: now) as database, Hands(url) as hands:
        caller, other = Caller(new_id(now)), new_id(now)
        notes = []
        await database.write(insert_organization, caller, caller.organization_id, "sealed")
        sealer = ChainSealer(database, lambda: now, Nudge())
        for number, action in enumerate(actions, 1):
            now = next(clock)
            origin = Origin(f"192.0.2.{number % 250}", f"tests/{number}", f"request-{number}")
            await database.write(_record, Caller(caller.organization_id, new_id(now), origin=origin), action, number)
            if number % 5 == 0:
                await sealer.seal_all()
                notes.append(await database.write(sign_head, caller, KEY, caller.organization_id))
        await sealer.seal_all()
        query = "SELECT CAST(event_id AS TEXT), seq FROM audit_events WHERE organization_id = ? ORDER BY seq"
        rows = await hands.rows(query, caller.organization_id)
        assert [row[1] for row in rows] == list(range(1, len(actions) + 1))
        await hands.keep()
        yield Sealed(database, hands, caller, other, [row[0] for row in rows], notes)


def _record(tx: Tx, action: str, number: int) -> None:
    outcome = "failure" if action in {"auth.failed", "access.denied"} else "success"
    tx.record(action, f"kind-{number}", new_id(tx.now), outcome=outcome, number=number, changed=["a", f"b{number}"], nested={"name": "\u00e4"})  # type: ignore[arg-type]


def checkpoint_sizes(sealed: Sealed) -> list[int]:
    return [parse_note(note)[0].size for note in sealed.notes]


def run(coroutine: Any) -> Any:
    return asyncio.run(coroutine)
