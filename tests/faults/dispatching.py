"""A process that makes events, seals them, and delivers them to webhooks, until it is killed: `python -m tests.faults.dispatching FOLDER URL EVENTS PAUSE`."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import uvloop
from tests.serving import settings_for

from agentidp.auth.instance import Instance
from agentidp.core.caller import SYSTEM, Caller
from agentidp.core.ids import new_id
from agentidp.core.outgoing import Bounds, Outgoing
from agentidp.db.schema import audit_events, webhooks
from agentidp.db.unit import Tx
from agentidp.ledger.sealer import ChainSealer
from agentidp.start import start
from agentidp.webhooks.dispatch import Dispatcher
from agentidp.webhooks.rules import Pace

ACTIONS = ("agent.updated", "agent.suspended")
# Ten attempts within seconds, a dead process's webhooks free after three, a receiver that only fails given up after ten.
PACE = Pace(pauses=(50, 100, 200, 400, 800, 800, 800, 800, 800), lease=3000, lease_left=2500, expires=600_000, failing_max=10_000, receiver_pause_max=50)
BOUNDS = Bounds(turn_seconds=0.5, seconds=1.5)
_UNIT_EVENTS = 50  # recorded by one act
_UNITS = 20  # between two looks at how many there are


async def dispatch(folder: Path, url: str, events: int, pause_seconds: float) -> None:
    instance = (await start(settings_for(folder, url))).instance
    instance.outgoing = Outgoing(allow_loopback=True, bounds=BOUNDS)
    sealer = ChainSealer(instance.database, instance.clock, instance.nudge, on_sealed=instance.sealed.tell)
    async with asyncio.TaskGroup() as group:
        group.create_task(sealer.run())
        group.create_task(Dispatcher(instance, PACE).run())
        group.create_task(_act(instance, events, pause_seconds))


async def _act(instance: Instance, events: int, pause_seconds: float) -> None:
    """Acts of all organizations in turn until there are so many events; what another process, or the one before this, has made counts."""
    organizations = await instance.database.read(_organizations, SYSTEM)
    while (missing := events - await instance.database.read(_count, SYSTEM)) > 0:
        for number in range(min(_UNITS, -(-missing // _UNIT_EVENTS))):
            await instance.database.write(_record, Caller(organizations[number % len(organizations)]))
            await asyncio.sleep(pause_seconds)  # so that receivers keep up, but for a while after each kill


def _record(tx: Tx) -> None:
    for number in range(_UNIT_EVENTS):
        tx.record(ACTIONS[number % len(ACTIONS)], "agent", new_id(tx.now), number=number)


def _organizations(tx: Tx) -> list[Any]:
    return [row.organization_id for row in tx.all(sa.select(webhooks.c.organization_id).distinct().order_by(webhooks.c.organization_id))]


def _count(tx: Tx) -> int:
    return tx.connection.scalar(sa.select(sa.func.count()).select_from(audit_events).where(audit_events.c.action.in_(ACTIONS))) or 0


if __name__ == "__main__":
    uvloop.run(dispatch(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
