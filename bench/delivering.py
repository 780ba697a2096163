"""How fast one process delivers webhooks, and how late: the product's own sealer and dispatcher, in a process of its own.

    python -m bench.delivering prepare FOLDER URL RECEIVERS DEAD WAITING
    python -m bench.delivering throughput FOLDER URL COUNT
    python -m bench.delivering delay FOLDER URL SECONDS

RECEIVERS are ports on loopback, separated by commas, DEAD is one more, or 0. How late: from the act to the whole answer, as the delivery log has it.
"""

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import uvloop

from agentidp.auth.instance import Instance
from agentidp.core.caller import SYSTEM, Caller
from agentidp.core.config import load
from agentidp.core.ids import new_id
from agentidp.db.schema import webhook_deliveries, webhook_queues, webhooks
from agentidp.db.unit import Tx
from agentidp.ledger.following import SealedEvent
from agentidp.ledger.sealer import ChainSealer
from agentidp.organizations.actions import create_organization
from agentidp.start import start
from agentidp.webhooks.actions import create_webhook, new_delivery
from agentidp.webhooks.dispatch import Dispatcher

RATE = 50  # acts a second while delays are measured, each of one event to one receiver
_TENANTS = 20
_UNIT_EVENTS = 500
_DEAD = "dead"  # the name of that webhook
_SECONDS_MAX = 120


async def prepare(instance: Instance, receivers: Sequence[str], dead: int, waiting: int) -> None:
    database = instance.database
    for number in range(_TENANTS):
        caller = await _tenant(instance, f"alive-{number}")
        await database.write(create_webhook, caller, instance.sealer, name="alive", url=_url(receivers[number % len(receivers)]), events=("agent.updated",))
    if dead:
        caller = await _tenant(instance, _DEAD)
        made = await database.write(create_webhook, caller, instance.sealer, name=_DEAD, url=_url(dead), events=("agent.updated",))
        for begin in range(0, waiting, _UNIT_EVENTS):
            await database.write(_let_wait, caller, made.webhook.webhook_id, begin)


async def throughput(instance: Instance, count: int) -> dict[str, float]:
    """Everything is sealed before; from there to the last result that is durable."""
    callers = await instance.database.read(_callers, SYSTEM)
    for number in range(0, count, _UNIT_EVENTS):
        await instance.database.write(_record, callers[number // _UNIT_EVENTS % len(callers)], _UNIT_EVENTS)
    await ChainSealer(instance.database, instance.clock, instance.nudge).seal_all()
    since, begun, cpu = instance.clock(), time.perf_counter(), time.process_time()
    task = asyncio.create_task(Dispatcher(instance).run())
    await _all_delivered(instance, since, count)
    taken, used = time.perf_counter() - begun, time.process_time() - cpu
    await _end(task)
    latencies = [entry["latencyMs"] for entry, _ in await instance.database.read(_ended, SYSTEM, since)]
    return _row(latencies, count / taken, used / count)


async def delay(instance: Instance, seconds: float) -> dict[str, float]:
    """An open loop of acts, all tenants in turn. The dead receiver, if there is one, begins anew."""
    database = instance.database
    await database.write(_begin_anew, SYSTEM)
    callers = await database.read(_callers, SYSTEM)
    sealer = ChainSealer(database, instance.clock, instance.nudge, on_sealed=instance.sealed.tell)
    tasks = [asyncio.create_task(Dispatcher(instance).run()), asyncio.create_task(sealer.run())]
    await asyncio.sleep(1)
    since, begun, cpu, count = instance.clock(), time.perf_counter(), time.process_time(), int(seconds * RATE)
    acts = set()
    for number in range(count):
        await asyncio.sleep(max(0.0, begun + number / RATE - time.perf_counter()))
        acts.add(asyncio.create_task(database.write(_record, callers[number % len(callers)], 1)))
    await asyncio.gather(*acts)
    await _all_delivered(instance, since, count)
    used = time.process_time() - cpu
    await _end(*tasks)
    delays = [entry["attemptedAt"] + entry["latencyMs"] - _instant(body) for entry, body in await database.read(_ended, SYSTEM, since)]
    return _row(delays, RATE, used / count)


def _row(milliseconds: list[int], rate: float, cpu_seconds: float) -> dict[str, float]:
    cuts = statistics.quantiles(milliseconds, n=100)
    return {"rate": rate, "p50_ms": cuts[49], "p99_ms": cuts[98], "requests": len(milliseconds), "cpu_us": cpu_seconds * 1e6}


async def _all_delivered(instance: Instance, since: int, count: int) -> None:
    async with asyncio.timeout(_SECONDS_MAX):
        while await instance.database.read(_count, SYSTEM, since) < count:  # noqa: ASYNC110 - the database tells nobody
            await asyncio.sleep(0.05)


async def _end(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _tenant(instance: Instance, slug: str) -> Caller:
    caller = Caller(new_id(instance.clock()))

    def make(tx: Tx) -> None:
        create_organization(tx, caller.organization_id, name="Bench", slug=slug, plan_tier="enterprise")

    await instance.database.write(make, caller)
    return caller


def _url(port: int | str) -> str:
    return f"http://127.0.0.1:{port}/hook"


def _record(tx: Tx, count: int) -> None:
    for _ in range(count):
        tx.record("agent.updated", "agent", new_id(tx.now))


def _let_wait(tx: Tx, webhook_id: str, begin: int) -> None:
    rows = []
    for seq in range(begin, begin + _UNIT_EVENTS):
        event = SealedEvent(tx.caller.organization_id, new_id(tx.now), seq, None, "agent.updated", "success", None, None, None, {}, tx.now)
        rows.append(new_delivery(event, webhook_id, "x" * 500, new_id(tx.now), now=tx.now, due_at=tx.now))
    tx.connection.execute(sa.insert(webhook_deliveries), rows)


def _begin_anew(tx: Tx) -> None:
    of, dead = webhook_queues.c, sa.select(webhooks.c.webhook_id).where(webhooks.c.name == _DEAD)
    tx.run(sa.update(webhook_queues).where(of.webhook_id.in_(dead)).values(due_at=tx.now, failures=0, failing_since=None, paused_until=0, lease_until=0))


def _callers(tx: Tx) -> list[Caller]:
    return [Caller(row.organization_id) for row in tx.all(sa.select(webhooks.c.organization_id).where(webhooks.c.name != _DEAD))]


def _count(tx: Tx, since: int) -> int:
    return tx.connection.scalar(sa.select(sa.func.count()).where(webhook_deliveries.c.completed_at >= since)) or 0


def _ended(tx: Tx, since: int) -> list[tuple[dict[str, Any], str]]:
    of = webhook_deliveries.c
    return [(row.history[-1], row.body) for row in tx.all(sa.select(of.history, of.body).where(of.completed_at >= since, of.status == "delivered"))]


def _instant(body: str) -> int:
    return round(datetime.fromisoformat(json.loads(body)["timestamp"]).timestamp() * 1000)


async def main(what: str, folder: str, url: str, *more: str) -> None:
    settings = load(data_dir=Path(folder), database_url=url, webhooks={"allow_loopback": True}, log_level="error")
    instance = (await start(settings)).instance
    try:
        if what == "prepare":
            await prepare(instance, more[0].split(","), int(more[1]), int(more[2]))
        else:
            print(json.dumps(await (throughput(instance, int(more[0])) if what == "throughput" else delay(instance, float(more[0])))))
    finally:
        await instance.outgoing.close()
        await instance.database.close()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
