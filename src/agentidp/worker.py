"""What has to happen now and then, in the background of a server: fresh keys, due rotations, forgotten revocations, the audit chains, and who follows them."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import sqlalchemy as sa

from agentidp.auth.instance import Instance
from agentidp.auth.keys import ensure_keys, is_rotation_due, rotate_keys
from agentidp.billing.applying import Biller
from agentidp.billing.stripe import Stripe
from agentidp.core import limits
from agentidp.core.caller import SYSTEM, Caller
from agentidp.core.errors import Problem, Unavailable
from agentidp.db import partitions
from agentidp.db.schema import credentials
from agentidp.db.unit import Tx
from agentidp.events.nats import Publisher
from agentidp.ledger.activity import sweep_activity
from agentidp.ledger.heads import organizations_to_sign, sign_heads
from agentidp.ledger.one_time import sweep_one_time_values
from agentidp.ledger.retention import Cut, begin_at, drop, find_cuts, find_forgotten, purge
from agentidp.ledger.sealer import ChainSealer
from agentidp.ledger.sealing import FIRST_ID
from agentidp.tokens.actions import sweep_revoked_tokens
from agentidp.webhooks import queues
from agentidp.webhooks.dispatch import Dispatcher

log = logging.getLogger(__name__)
_WEEK_MS = 7 * 24 * 3600 * 1000


@contextlib.asynccontextmanager
async def running(instance: Instance) -> AsyncIterator[None]:
    """Keep house and seal until the block ends."""
    metrics = instance.metrics
    observe = (metrics.unsealed_seconds.set, lambda: metrics.chain_integrity.set(0))
    sealer = ChainSealer(instance.database, instance.clock, instance.nudge, *observe, instance.sealed.tell)
    tasks = [asyncio.create_task(_every(seconds, work, instance)) for seconds, work in _ROUNDS]
    tasks.append(asyncio.create_task(sealer.run()))
    tasks.append(asyncio.create_task(Dispatcher(instance).run()))
    if isinstance(instance.stripe, Stripe):
        biller = Biller(instance, instance.stripe)
        tasks += [asyncio.create_task(biller.run()), asyncio.create_task(_every(limits.BILLING_INTERVAL_SECONDS, lambda _: biller.keep_books(), instance))]
    if isinstance(instance.nats, Publisher):
        tasks.append(asyncio.create_task(instance.nats.run()))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _every(seconds: float, work: Callable[[Instance], Awaitable[None]], instance: Instance) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await work(instance)
        except Problem as problem:
            log.warning("housekeeping has to wait", extra={"reason": problem.detail})
        except Exception:
            log.exception("housekeeping failed")


async def _reload_keys(instance: Instance) -> None:
    await instance.keys.reload()


async def keep_house(instance: Instance) -> None:
    """One round: a key for the configured algorithm, expired revocations and one-time values away, the gauge of expiring credentials."""
    tokens = instance.settings.tokens
    algorithm = tokens.algorithm
    system = Caller(instance.operator_organization_id, is_system=True)  # what it does is in the operator's history
    await instance.database.write(ensure_keys, system, instance.sealer, algorithm)
    if await instance.database.read(is_rotation_due, system, algorithm, rotation_days=tokens.rotation_days):
        await instance.database.write(rotate_keys, system, instance.sealer, algorithm, lifetime_seconds=tokens.lifetime_seconds)
        await instance.keys.reload()
    for sweep in (sweep_revoked_tokens, sweep_one_time_values):
        while await instance.database.write(sweep, system) >= limits.SWEEP_ROWS_MAX:
            pass
    instance.metrics.credentials_expiring.set(await instance.database.read(_count_expiring, system))


async def sign_chains(instance: Instance) -> None:
    """A checkpoint of every chain that grew; and a look at its last event, so that whoever tampers with it is noticed within a minute."""
    while found := await instance.database.read(organizations_to_sign, SYSTEM):
        if changed := await instance.database.write(sign_heads, SYSTEM, instance.audit_key, found):
            instance.metrics.chain_integrity.set(0)
            log.error("the last audit event is not the one that was sealed; run a verification", extra={"organizations": changed})


async def forget_history(instance: Instance) -> None:
    """Audit events that are older than their organization's plan keeps, whole months where that is possible; and what agents did too long ago to be asked for."""
    async for cuts in _cuts(instance):
        await instance.database.write(begin_at, SYSTEM, cuts)
    for month in await instance.database.read(find_forgotten, SYSTEM):
        with contextlib.suppress(Unavailable):  # somebody reads for long: its rows can be forgotten all the same
            if await instance.database.write(drop, SYSTEM, month):
                log.info("a month of history is forgotten", extra={"partition": month.name})
    async for cuts in _cuts(instance):
        for cut in cuts:
            while await instance.database.write(purge, SYSTEM, cut) >= limits.SWEEP_ROWS_MAX:
                pass
    while await instance.database.write(sweep_activity, SYSTEM) >= limits.SWEEP_ROWS_MAX:
        pass


async def _cuts(instance: Instance) -> AsyncIterator[Sequence[Cut]]:
    after: str | None = FIRST_ID
    while after is not None:
        cuts, after = await instance.database.read(find_cuts, SYSTEM, after, instance.plans)
        yield cuts


async def watch_webhooks(instance: Instance) -> None:
    """How far deliveries are behind, and how many were given up; old ones are forgotten."""
    metrics, oldest = instance.metrics, await instance.database.read(queues.oldest_due, SYSTEM)
    metrics.webhook_lag_seconds.set(0 if oldest is None else (instance.clock() - oldest) / 1000)
    metrics.webhook_dead_letters.set(await instance.database.read(queues.count_dead_letters, SYSTEM))
    while await instance.database.write(queues.sweep, SYSTEM) >= limits.SWEEP_ROWS_MAX:
        pass


async def prepare_months(instance: Instance) -> None:
    """The partitions of the history that will be needed next."""
    await instance.database.write(partitions.prepare_months, SYSTEM)


_ROUNDS: tuple[tuple[float, Callable[[Instance], Awaitable[None]]], ...] = (
    (limits.KEYS_REFRESH_SECONDS, _reload_keys),
    (limits.SWEEP_INTERVAL_SECONDS, keep_house),
    (limits.CHECKPOINT_INTERVAL_SECONDS, sign_chains),
    (limits.RETENTION_INTERVAL_SECONDS, forget_history),
    (limits.WEBHOOK_WATCH_SECONDS, watch_webhooks),
    (limits.PARTITIONS_INTERVAL_SECONDS, prepare_months),
)


def _count_expiring(tx: Tx) -> int:
    """All tenants together: a number for the operator's dashboard."""
    soon = sa.and_(credentials.c.revoked_at.is_(None), credentials.c.expires_at > tx.now, credentials.c.expires_at <= tx.now + _WEEK_MS)
    return tx.connection.scalar(sa.select(sa.func.count()).select_from(credentials).where(soon)) or 0
