"""Forgetting history on both engines: what the plan says, up to a checkpoint, and not at once after a change of plan."""

import sqlalchemy as sa
from tests.db.opened import Turned, with_database
from tests.ledger.made import PLANS, Known, make_known
from tests.ledger.test_sealer import KEY, checkpoints, events, followed, head, issue, sealer_of

from agentidp.core.caller import OPERATOR_SCOPE, SYSTEM, Caller
from agentidp.db.schema import organizations
from agentidp.db.unit import Database, Tx
from agentidp.ledger.entries import DAY_MS
from agentidp.ledger.heads import sign_heads
from agentidp.ledger.retention import Cut, find_cuts, purge
from agentidp.ledger.sealing import FIRST_ID
from agentidp.organizations.actions import set_plan, update_organization


def test_history_is_forgotten_up_to_a_checkpoint_when_the_plan_says_so(database_url: str) -> None:
    clock = Turned()

    async def work(database: Database) -> None:
        free, enterprise = await make_known(database), await make_known(database)
        await database.write(_set_plan, SYSTEM, free, "free")
        for _ in range(3):
            for known in (free, enterprise):
                await issue(database, known, 4, clock)
            await sealer_of(database, clock).seal_all()
            await database.write(sign_heads, SYSTEM, KEY, [free.organization_id, enterprise.organization_id])
            clock.forward(seconds=40 * DAY_MS / 1000)
        whole, signed = await database.read(events, SYSTEM, free), await database.read(checkpoints, SYSTEM, free)
        cuts, after = await database.read(find_cuts, SYSTEM, FIRST_ID, PLANS)  # 120, 80 and 40 days old
        assert (cuts, after) == ([Cut(free.organization_id, signed[0][0])], None)
        assert await database.write(purge, SYSTEM, cuts[0]) == signed[0][0]
        assert await database.write(purge, SYSTEM, cuts[0]) == 0
        assert await database.read(events, SYSTEM, free) == whole[signed[0][0] :]
        assert await database.read(checkpoints, SYSTEM, free) == signed
        row = await database.read(head, SYSTEM, free)
        assert row.start_size == signed[0][0]
        found = await followed(database, free, heads=signed, size=row.start_size, head=signed[0][1])
        assert found.broken is None
        assert (await followed(database, enterprise)).broken is None

    with_database(database_url, work, clock=clock)


def test_nothing_is_forgotten_for_a_month_after_a_change_of_plan(database_url: str) -> None:
    clock = Turned()

    async def work(database: Database) -> None:
        known = await make_known(database)
        operator = Caller(known.organization_id, scopes=frozenset({OPERATOR_SCOPE}))
        await sealer_of(database, clock).seal_all()
        await database.write(sign_heads, SYSTEM, KEY, [known.organization_id])
        clock.forward(seconds=400 * DAY_MS / 1000)
        await database.write(lambda tx: update_organization(tx, {"plan_tier": "free"}), operator)  # by mistake
        assert await database.read(find_cuts, SYSTEM, FIRST_ID, PLANS) == ([], None)
        clock.forward(seconds=29 * DAY_MS / 1000)
        await database.write(lambda tx: update_organization(tx, {"name": "Renamed"}), operator)  # a tenant may do that every month
        assert await database.read(find_cuts, SYSTEM, FIRST_ID, PLANS) == ([], None)
        clock.forward(seconds=DAY_MS / 1000)
        (signed,) = await database.read(checkpoints, SYSTEM, known)
        assert await database.read(find_cuts, SYSTEM, FIRST_ID, PLANS) == ([Cut(known.organization_id, signed[0])], None)
        await database.write(lambda tx: set_plan(tx, "pro", subscription=None), operator)
        assert await database.read(find_cuts, SYSTEM, FIRST_ID, PLANS) == ([], None)

    with_database(database_url, work, clock=clock)


def _set_plan(tx: Tx, known: Known, plan: str) -> None:
    tx.run(sa.update(organizations).where(organizations.c.organization_id == known.organization_id).values(plan_tier=plan))
