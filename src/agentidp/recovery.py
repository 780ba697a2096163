"""After a restore: what was revoked since the backup was made must not come back to life.

A backup knows nothing of later revocations. So every token issued before the restore is refused; credentials, agents and keys are as they
were, which only a person can judge. Works on a connection and does not know where the database came from.
"""

from dataclasses import dataclass

import sqlalchemy as sa

from agentidp.auth.data_keys import SEALED_COLUMNS, list_data_keys
from agentidp.auth.master_keys import MasterKeys
from agentidp.bootstrap import raise_token_floor
from agentidp.core import limits
from agentidp.core.caller import SYSTEM
from agentidp.core.clock import to_rfc3339
from agentidp.core.errors import Conflict, WrongSettings
from agentidp.core.secrets import Sealer
from agentidp.db import walls
from agentidp.db.migrate import revision_of, run_alembic, upgrade
from agentidp.db.schema import audit_events
from agentidp.db.unit import Tx, run_unit
from agentidp.ledger.writers import LedgerWriters


@dataclass(frozen=True, slots=True)
class Recovered:
    """`newest_event_at`: how far the restored history reaches. Tokens issued from `tokens_not_before` on are good. Milliseconds."""

    newest_event_at: int | None
    tokens_not_before: int


def recover(connection: sa.Connection, master_keys: MasterKeys, now: int) -> Recovered:
    """Bring a restored database to this release, open all that is sealed in it, and raise the floor under its tokens.

    Tokens carry whole seconds, so the floor is the next one: let no server issue before that. Runs inside the caller's transaction.
    Raises Conflict for what is no database of ours, and WrongSettings for one of a later release or of another master key.
    """
    if revision_of(connection) is None:
        raise Conflict("this is not a database of AgentIdP")
    upgrade(connection)
    run_alembic(connection, "check")
    walls.enter(connection, SYSTEM)
    tx = Tx(connection, now, SYSTEM)
    open_all(tx, master_keys)
    newest = find_newest_event_at(tx)
    if newest is not None and newest > now + limits.ISSUED_AT_LEEWAY_SECONDS * 1000:
        raise Conflict(f"the clock of this machine is wrong: it says {to_rfc3339(now)}, but an event in the database is of {to_rfc3339(newest)}")
    floor = (max(now, newest or 0) // 1000 + 1) * 1000
    run_unit(tx, LedgerWriters(), lambda tx: raise_token_floor(tx, floor, newest_event_at=newest))
    return Recovered(newest, floor)


def open_all(tx: Tx, master_keys: MasterKeys) -> None:
    """Open every sealed value. Raises WrongSettings when one does not open under these master keys."""
    keys = [*(master_keys.unwrap(wrapped) for wrapped in list_data_keys(tx)), *master_keys.local()]
    if not keys:
        raise WrongSettings(f"master_key: the database was sealed before there were data keys, and {master_keys.current.name} opens none of it")
    sealer = Sealer(*keys)
    for column in SEALED_COLUMNS:
        for row in tx.all(sa.select(column, *column.table.primary_key).where(column.is_not(None))):
            sealer.unseal(row[0], column.table.name, column.name, *map(str, row[1:]))


def find_newest_event_at(tx: Tx) -> int | None:
    """The instant of the newest audit event of the whole instance; None when there is none."""
    row = tx.one(sa.select(sa.func.max(audit_events.c.timestamp)))
    return row[0] if row else None
