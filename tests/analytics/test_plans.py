"""How the engines answer: by primary keys, from the counters, and never from the history. EXPLAIN says so."""

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from tests.audit.tampering import Hands
from tests.audit.test_plans import _plan, _without_index
from tests.db.opened import Turned, insert_organization, opened
from tests.db.test_walls import plausible

from agentidp.analytics.queries import get_daily_tokens, get_heat_map, get_usage_summary, list_agents
from agentidp.core.caller import SYSTEM, Caller
from agentidp.core.ids import first_id
from agentidp.db.paging import PageRequest
from agentidp.db.schema import agent_activity, agents, hourly_tokens, metadata, usage_counters
from agentidp.db.unit import Tx
from agentidp.ledger.activity import sweep_activity
from agentidp.ledger.entries import DAY_MS

DAY = 20_000
ORGANIZATIONS = [first_id(number) for number in range(20)]
AGENTS = [first_id(1_000 + number) for number in range(50)]
TABLE = re.compile("|".join(metadata.tables))
READER = Caller(ORGANIZATIONS[7], AGENTS[0], frozenset({"analytics:read"}))
QUERIES: dict[str, tuple[Caller, Callable[[Tx], Any]]] = {
    "tokens": (READER, lambda tx: get_daily_tokens(tx, 90)),
    "heat map": (READER, lambda tx: get_heat_map(tx, 90)),
    "agents": (READER, lambda tx: list_agents(tx, 90, PageRequest(100, page=1))),
    "agents by cursor": (READER, lambda tx: list_agents(tx, 90, PageRequest(100, after=AGENTS[20]))),
    "summary": (READER, lambda tx: get_usage_summary(tx, DAY - 365, DAY)),
    "sweep": (SYSTEM, sweep_activity),
}


def _fill(tx: Tx) -> None:
    for number, organization_id in enumerate(ORGANIZATIONS):
        insert_organization(tx, organization_id, f"o-{number}")
    named = [plausible(agents, READER.organization_id) | {"agent_id": agent, "email": f"{agent}@acme.example"} for agent in AGENTS]
    tx.connection.execute(sa.insert(agents), named)
    days = range(DAY - 60, DAY)
    counted = [
        {"organization_id": one, "day": day, "meter": meter, "count": 1} for one in ORGANIZATIONS for day in days for meter in ("apiCalls", "tokensIssued")
    ]
    tx.connection.execute(sa.insert(usage_counters), counted)
    tx.connection.execute(sa.insert(hourly_tokens), [{"organization_id": one, "day": day, "hour": 7, "count": 1} for one in ORGANIZATIONS for day in days])
    done = [
        {"organization_id": one, "agent_id": agent, "day": day, "meter": "apiCalls", "count": 1, "last_seen_at": 1}
        for one in ORGANIZATIONS[5:10]
        for agent in AGENTS
        for day in days
    ]
    tx.connection.execute(sa.insert(agent_activity), done)


def _statements(tx: Tx, query: Callable[[Tx], Any]) -> list[tuple[str, Any]]:
    sent: list[tuple[str, Any]] = []
    sa.event.listen(tx.connection, "before_cursor_execute", lambda _connection, _cursor, statement, values, *_: sent.append((statement, values)))
    query(tx)
    return sent


@pytest.mark.parametrize("engine", ["postgresql"])
@pytest.mark.parametrize("name", ["agents", "agents by cursor"])
def test_a_plan_made_for_any_values_does_not_read_all_agents(engine: str, database_url: str, name: str) -> None:
    """PostgreSQL makes such a plan for a statement that a connection has sent a few times."""

    async def work() -> None:
        caller, query = QUERIES[name]
        async with opened(database_url, Turned(DAY * DAY_MS)) as database, Hands(database_url) as hands:
            await database.write(_fill, SYSTEM)
            await hands.run(("ANALYZE", ()))
            (statement, values) = (await database.write(_statements, caller, query))[-1]
            await hands._connection.execute(f"SET plan_cache_mode = force_generic_plan; PREPARE asked AS {statement}")
            listed = ", ".join(f"'{value}'" for value in values)
            plan = "\n".join(row[0] for row in await hands._connection.fetch(f"EXPLAIN EXECUTE asked ({listed})"))
            assert "$1" in plan
            assert "pk_agent_activity" in plan
            assert "ix_agent_activity_day" not in plan

    asyncio.run(work())


@pytest.mark.parametrize("name", QUERIES)
def test_nothing_is_read_but_by_an_index(engine: str, database_url: str, name: str) -> None:
    async def work() -> None:
        caller, query = QUERIES[name]
        async with opened(database_url, Turned(DAY * DAY_MS)) as database, Hands(database_url) as hands:
            await database.write(_fill, SYSTEM)
            await hands.run(("ANALYZE", ()))
            statements = await database.write(_statements, caller, query)
            assert statements
            for statement, values in statements:
                plan = await _plan(hands, statement, values)
                assert not TABLE.search(_without_index(plan)), f"{statement}\n{plan}"
                assert "audit_" not in plan

    asyncio.run(work())
