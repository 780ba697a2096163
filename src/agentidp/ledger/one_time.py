"""Values from outside that may be used once, such as the `jti` of a client assertion: claimed by callers that write rows, and forgotten when they are over.

What is decided on a snapshot carries its values in its entry instead: see `entries.Entry.once`. Claimed is used: both commit together.
"""

import sqlalchemy as sa

from agentidp.core import limits
from agentidp.db.schema import instance, one_time_values
from agentidp.db.unit import Tx
from agentidp.ledger.entries import OneTime


def claim_once(tx: Tx, value: OneTime) -> bool:
    """Use the value up in the caller's organization, unless it was used before; returns whether it was not. Raise to give it back.

    Another unit of work that is claiming it is waited for, so claim before anything else is locked.
    """
    floor = tx.one(sa.select(instance.c.tokens_not_before))
    if floor is not None and value.issued_at < (floor.tokens_not_before or 0):
        return False  # the restored database may not know that it was used
    return tx.insert_new(one_time_values, organization_id=tx.caller.organization_id, kind=value.kind, digest=value.digest, expires_at=value.expires_at)


def was_used(tx: Tx, value: OneTime) -> bool:
    """Whether the value was used up in the caller's organization; `claim_once` decides."""
    mine = sa.and_(one_time_values.c.organization_id == tx.caller.organization_id, one_time_values.c.kind == value.kind)
    return tx.one(sa.select(one_time_values.c.digest).where(mine, one_time_values.c.digest == value.digest)) is not None


def sweep_one_time_values(tx: Tx) -> int:
    """Forget values that nobody takes any longer, by whatever clock. Returns how many; call it until it returns less than one transaction may hold."""
    key = one_time_values.primary_key
    is_over = one_time_values.c.expires_at <= tx.now - limits.ONE_TIME_MARGIN_SECONDS * 1000
    over = sa.select(*key).where(is_over).limit(limits.SWEEP_ROWS_MAX)
    return tx.run(sa.delete(one_time_values).where(sa.tuple_(*key).in_(over))).rowcount
