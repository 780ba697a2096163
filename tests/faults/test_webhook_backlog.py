"""A dead receiver for which very much waits: to everybody else it is one row, and what is asked about it has an index. EXPLAIN says so."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from tests.audit.tampering import Hands
from tests.fakes.fake_receiver import receiving
from tests.ledger.made import make_known
from tests.webhooks.desk import Desk, open_desk

from agentidp.core.caller import SYSTEM
from agentidp.core.ids import new_id
from agentidp.db.schema import webhook_deliveries, webhook_queues
from agentidp.db.unit import Tx
from agentidp.ledger.following import SealedEvent
from agentidp.webhooks import queues
from agentidp.webhooks.actions import new_delivery
from agentidp.webhooks.queues import Lane
from agentidp.webhooks.rules import Pace

_BODY = "x" * 400


class _Undone(Exception):
    """What was found out; nothing of what was done for it stays."""

    def __init__(self, plans: list[str]) -> None:
        super().__init__()
        self.plans = plans


def test_what_waits_for_a_dead_receiver_is_one_row_to_others(database_url: str, tmp_path: Path, amount: Callable[[int, int], int], table: Any) -> None:
    waiting = amount(10_000, 100_000)
    plans = asyncio.run(_deliver_beside(database_url, tmp_path, waiting))
    table(waiting=waiting, plans=len(plans))


async def _deliver_beside(url: str, folder: Path, waiting: int) -> list[str]:
    with receiving() as well, receiving() as dead:
        dead.close_port()
        async with open_desk(folder, url) as desk:
            ill, healthy = desk.known, await make_known(desk.instance.database)
            webhook_id = (await desk.webhook(dead.url)).webhook.webhook_id
            await desk.webhook(well.url, known=healthy)
            for begin in range(0, waiting, 1000):
                await desk.write(_let_wait, webhook_id, begin, 1000)
            if not url.startswith("sqlite"):
                async with Hands(url) as hands:
                    await hands.run(("ANALYZE", ()))  # as its autovacuum does
            plans = await _plans(desk, Lane(ill.organization_id, webhook_id, new_id(0), 0))
            await desk.act(known=healthy)
            assert await desk.dispatcher.put_down() == 1
            assert await desk.dispatcher.begin_lanes() == 2
            await desk.dispatcher.idle()
            assert len(well.received) == 1
            return plans


def _let_wait(tx: Tx, webhook_id: str, begin: int, count: int) -> None:
    """Deliveries that nobody has tried, as `put_down` would have written them."""
    rows = []
    for seq in range(begin, begin + count):
        event = SealedEvent(tx.caller.organization_id, new_id(tx.now), seq + 1, None, "agent.updated", "success", None, None, None, {}, tx.now)
        rows.append(new_delivery(event, webhook_id, _BODY, new_id(tx.now), now=tx.now, due_at=tx.now))
    tx.connection.execute(sa.insert(webhook_deliveries), rows)
    tx.run(sa.update(webhook_queues).where(webhook_queues.c.webhook_id == webhook_id).values(due_at=tx.now))


async def _plans(desk: Desk, lane: Lane) -> list[str]:
    """How the engine reads for each thing that a dispatcher does over and over. None reads a whole table, or sorts what waits."""
    try:
        await desk.instance.database.write(_explain, SYSTEM, desk, lane)
    except _Undone as undone:
        for plan in undone.plans:
            assert not [line for line in plan.splitlines() if line.strip().startswith("SCAN webhook") or "Seq Scan on webhook" in line], plan
            assert "webhook_deliveries" not in plan or not ("TEMP B-TREE" in plan or "Sort  (" in plan), plan
        return undone.plans
    raise AssertionError


def _explain(tx: Tx, desk: Desk, lane: Lane) -> None:
    sent: list[tuple[str, Any]] = []

    def remember(_connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        if statement.startswith("SELECT") and "webhook_" in statement:
            sent.append((statement, values))

    sa.event.listen(tx.connection, "before_cursor_execute", remember)
    assert queues.is_due(tx)
    assert len(queues.claim(tx, lane.lease_owner, Pace(), {}, healthy=10, failing=10)) == 1
    assert queues.look(tx, lane, desk.instance.sealer).due
    queues.release(tx, lane)
    queues.oldest_due(tx)
    sa.event.remove(tx.connection, "before_cursor_execute", remember)
    explain = "EXPLAIN"
    if tx.connection.dialect.name == "sqlite":
        explain = "EXPLAIN QUERY PLAN"
    else:  # reading a table of two rows costs less than any index
        tx.run(sa.text("SET LOCAL enable_seqscan = off"))
    raise _Undone(["\n".join(str(row[-1]) for row in tx.connection.exec_driver_sql(f"{explain} {statement}", values)) for statement, values in sent])
