"""After a restore: what was revoked since the backup was made must not come back to life.

A backup knows nothing of later revocations. So every token issued before the restore is refused; credentials, agents and keys are as they
were, which only a person can judge. Works on a connection and does not know where the database came from.
"""

from dataclasses import dataclass

import sqlalchemy as sa

from agentidp.auth.keys import list_keys
from agentidp.auth.server_secrets import open_server_secrets
from agentidp.bootstrap import NOBODY, raise_token_floor
from agentidp.core import limits
from agentidp.core.clock import to_rfc3339
from agentidp.core.errors import Conflict
from agentidp.core.secrets import Sealer
from agentidp.db.migrate import revision_of, run_alembic, upgrade
from agentidp.db.schema import audit_events
from agentidp.db.unit import Tx, run_unit
from agentidp.ledger.writers import LedgerWriters


@dataclass(frozen=True, slots=True)
class Recovered:
    """`newest_event_at`: how far the restored history reaches. Tokens issued from `tokens_not_before` on are good. Milliseconds."""

    newest_event_at: int | None
    tokens_not_before: int


def recover(connection: sa.Connection, sealer: Sealer, now: int) -> Recovered:
    """Bring a restored database to this release, open all that is sealed in it, and raise the floor under its tokens.

    Tokens carry whole seconds, so the floor is the next one: let no server issue before that. Runs inside the caller's transaction.
    Raises Conflict for what is no database of ours, and WrongSettings for one of a later release or of another master key.
    """
    if revision_of(connection) is None:
        raise Conflict("this is not a database of AgentIdP")
    upgrade(connection)
    run_alembic(connection, "check")
    tx = Tx(connection, now, NOBODY)
    open_server_secrets(tx, sealer)
    list_keys(tx, sealer, include_unpublished=True)
    newest = find_newest_event_at(tx)
    if newest is not None and newest > now + limits.ISSUED_AT_LEEWAY_SECONDS * 1000:
        raise Conflict(f"the clock of this machine is wrong: it says {to_rfc3339(now)}, but an event in the database is of {to_rfc3339(newest)}")
    floor = (max(now, newest or 0) // 1000 + 1) * 1000
    run_unit(tx, LedgerWriters(), lambda tx: raise_token_floor(tx, floor, newest_event_at=newest))
    return Recovered(newest, floor)


def find_newest_event_at(tx: Tx) -> int | None:
    """The instant of the newest audit event of the whole instance; None when there is none."""
    row = tx.one(sa.select(sa.func.max(audit_events.c.timestamp)))
    return row[0] if row else None
