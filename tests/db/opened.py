"""A database of a test's own, migrated and open, and how to run units on it: only what `Database` promises is used."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import sqlalchemy as sa

from agentidp.core.caller import SYSTEM
from agentidp.core.clock import Clock, system_clock
from agentidp.db.engine import open_database
from agentidp.db.migrate import in_transaction, upgrade
from agentidp.db.schema import organizations
from agentidp.db.unit import Database, Tx
from agentidp.ledger.writers import LedgerWriters

T = TypeVar("T")
NOBODY = SYSTEM  # no tenant's


@dataclass
class Turned:
    """A clock that stands still unless it is turned."""

    now: int = field(default_factory=system_clock)

    def __call__(self) -> int:
        return self.now

    def forward(self, *, seconds: float) -> None:
        self.now += int(seconds * 1000)


@contextlib.asynccontextmanager
async def opened(url: str, clock: Clock = system_clock, observe: Callable[[str, float], None] = lambda *_: None) -> AsyncIterator[Database]:
    parsed = sa.make_url(url)
    await in_transaction(parsed, functools.partial(upgrade, clock=clock))
    database = open_database(parsed, clock, LedgerWriters(), observe)
    try:
        yield database
    finally:
        await database.close()


def with_database(url: str, work: Callable[[Database], Awaitable[T]], **options: Any) -> T:
    """Run `work` on a fresh database, in an event loop of its own."""

    async def run() -> T:
        async with opened(url, **options) as database:
            return await work(database)

    return asyncio.run(run())


def insert_organization(tx: Tx, organization_id: str, slug: str) -> None:
    """The smallest row that a test can write."""
    values = {"name": "Test", "plan_tier": "free", "status": "active", "revision": 1, "created_at": tx.now, "updated_at": tx.now}
    tx.run(sa.insert(organizations).values(organization_id=organization_id, slug=slug, **values))


def slugs(tx: Tx) -> list[str]:
    return sorted(row.slug for row in tx.all(sa.select(organizations.c.slug)))
