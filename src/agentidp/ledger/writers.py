"""The ledger as the engines of `db` see it; `start` hands it to them."""

import sqlite3
from collections.abc import Sequence
from typing import Any

from agentidp.db.unit import Tx
from agentidp.ledger import postgres, sqlite
from agentidp.ledger.record import record_unit


class LedgerWriters:
    """See `db.unit.Ledger`."""

    def record(self, tx: Tx) -> None:
        record_unit(tx)

    def write_sqlite(self, connection: sqlite3.Connection, now: int, batch: Sequence[Any]) -> None:
        sqlite.write_batch(connection, now, batch)

    async def write_postgres(self, connection: Any, now: int, batch: Sequence[Any]) -> None:
        await postgres.write_batch(connection, now, batch)
