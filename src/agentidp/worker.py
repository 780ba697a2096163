"""What has to happen now and then, in the background of a server: fresh keys, due rotations, forgotten revocations."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import sqlalchemy as sa

from agentidp.auth.instance import Instance
from agentidp.auth.keys import ensure_keys, is_rotation_due, rotate_keys
from agentidp.core import limits
from agentidp.core.caller import Caller
from agentidp.core.errors import Problem
from agentidp.db.schema import credentials
from agentidp.db.unit import Tx
from agentidp.tokens.actions import sweep_revoked_tokens

log = logging.getLogger(__name__)
_WEEK_MS = 7 * 24 * 3600 * 1000


@contextlib.asynccontextmanager
async def running(instance: Instance) -> AsyncIterator[None]:
    """Keep house until the block ends."""
    task = asyncio.create_task(_loop(instance))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _loop(instance: Instance) -> None:
    elapsed = 0.0
    while True:
        await asyncio.sleep(limits.KEYS_REFRESH_SECONDS)
        elapsed += limits.KEYS_REFRESH_SECONDS
        try:
            await instance.keys.reload()
            if elapsed >= limits.SWEEP_INTERVAL_SECONDS:
                elapsed = 0.0
                await keep_house(instance)
        except Problem as problem:
            log.warning("housekeeping has to wait", extra={"reason": problem.detail})
        except Exception:
            log.exception("housekeeping failed")


async def keep_house(instance: Instance) -> None:
    """One round: a key for the configured algorithm, expired revocations away, the gauge of expiring credentials."""
    tokens = instance.settings.tokens
    algorithm = tokens.algorithm
    system = Caller(instance.operator_organization_id, is_system=True)  # what it does is in the operator's history
    await instance.database.write(ensure_keys, system, instance.sealer, algorithm)
    if await instance.database.read(is_rotation_due, system, algorithm, rotation_days=tokens.rotation_days):
        await instance.database.write(rotate_keys, system, instance.sealer, algorithm, lifetime_seconds=tokens.lifetime_seconds)
        await instance.keys.reload()
    while await instance.database.write(sweep_revoked_tokens, system) >= limits.SWEEP_ROWS_MAX:
        pass
    instance.metrics.credentials_expiring.set(await instance.database.read(_count_expiring, system))


def _count_expiring(tx: Tx) -> int:
    """All tenants together: a number for the operator's dashboard."""
    soon = sa.and_(credentials.c.revoked_at.is_(None), credentials.c.expires_at > tx.now, credentials.c.expires_at <= tx.now + _WEEK_MS)
    return tx.connection.scalar(sa.select(sa.func.count()).select_from(credentials).where(soon)) or 0
