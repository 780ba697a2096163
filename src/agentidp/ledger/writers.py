"""The ledger as the engines of `db` see it; `start` hands it to them."""

import sqlite3
from collections.abc import Sequence
from typing import Any

from agentidp.db.unit import Tx
from agentidp.ledger import postgres, sqlite
from agentidp.ledger.nudge import Nudge
from agentidp.ledger.record import record_unit


class LedgerWriters:
    """See `db.unit.Ledger`. Whatever it writes, it tells the sealer; the commit follows within the sealer's pause."""

    def __init__(self, nudge: Nudge | None = None) -> None:
        self._nudge = nudge or Nudge()

    def record(self, tx: Tx) -> None:
        record_unit(tx)
        self._nudge.give()

    def write_sqlite(self, connection: sqlite3.Connection, now: int, batch: Sequence[Any]) -> None:
        sqlite.write_batch(connection, now, batch)
        self._nudge.give()

    async def write_postgres(self, connection: Any, now: int, batch: Sequence[Any]) -> None:
        await postgres.write_batch(connection, now, batch)
        self._nudge.give()
