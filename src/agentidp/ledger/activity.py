"""What analytics read: how much each agent did on a day, and how many tokens an organization was issued in an hour. See docs/decisions.

Tokens are counted in the transaction that seals their events: each event is sealed exactly once, long after its token was answered. Calls
leave no event, so the batch that records them counts them, too. Days and hours are UTC, those of what is counted.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from agentidp.core import limits
from agentidp.db.schema import agent_activity, hourly_tokens
from agentidp.db.unit import Tx
from agentidp.ledger.entries import DAY_MS, Entry, Verdict
from agentidp.ledger.entries import Counter as MeterOfDay

HOUR_MS = DAY_MS // 24
Issued = tuple[str, str, int]  # organization id, agent id, instant in milliseconds

# One statement, whatever the number of rows: on SQLite they come as one text of JSON, `json_rows`, on PostgreSQL as an array a column.
ADD_TO_AGENTS = {
    "sqlite": """
INSERT INTO agent_activity (organization_id, agent_id, day, meter, count, last_seen_at)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5 FROM json_each(?) WHERE true
ON CONFLICT (organization_id, agent_id, day, meter)
DO UPDATE SET count = count + excluded.count, last_seen_at = max(last_seen_at, excluded.last_seen_at)
""",
    "postgresql": """
INSERT INTO agent_activity AS a (organization_id, agent_id, day, meter, count, last_seen_at)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::int[], $4::text[], $5::bigint[], $6::bigint[])
ON CONFLICT (organization_id, agent_id, day, meter)
DO UPDATE SET count = a.count + excluded.count, last_seen_at = greatest(a.last_seen_at, excluded.last_seen_at)
""",
}
_ADD_TO_HOURS = {
    "sqlite": """
INSERT INTO hourly_tokens (organization_id, day, hour, count)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each(?) WHERE true
ON CONFLICT (organization_id, day, hour) DO UPDATE SET count = count + excluded.count
""",
    "postgresql": """
INSERT INTO hourly_tokens AS h (organization_id, day, hour, count)
SELECT * FROM unnest($1::uuid[], $2::int[], $3::smallint[], $4::bigint[])
ON CONFLICT (organization_id, day, hour) DO UPDATE SET count = h.count + excluded.count
""",
}


def calls(counted: Mapping[MeterOfDay, Sequence[Entry]], now: int) -> list[tuple[Any, ...]]:
    """The rows that a batch adds to `agent_activity` for its calls, in the order in which they are locked; tokens are counted elsewhere."""
    by_agent = Counter(
        (entry.snapshot.organization_id, entry.snapshot.agent_id)
        for (_, _, meter), entries in counted.items()
        if meter == "apiCalls"
        for entry in entries
        if entry.verdict is Verdict.RECORDED
    )
    return [(*agent, now // DAY_MS, "apiCalls", count, now) for agent, count in sorted(by_agent.items())]


def add_tokens(tx: Tx, issued: Iterable[Issued]) -> None:
    """Count tokens whose events are sealed in this transaction."""
    agents: dict[tuple[str, str, int], tuple[int, int]] = {}
    hours: Counter[tuple[str, int, int]] = Counter()
    for organization_id, agent_id, instant in issued:
        day, hour = divmod(instant // HOUR_MS, 24)
        count, last_seen_at = agents.get((organization_id, agent_id, day), (0, 0))
        agents[organization_id, agent_id, day] = count + 1, max(last_seen_at, instant)
        hours[organization_id, day, hour] += 1
    _run(tx, ADD_TO_AGENTS, [(*key, "tokensIssued", *values) for key, values in sorted(agents.items())])
    _run(tx, _ADD_TO_HOURS, [(*key, count) for key, count in sorted(hours.items())])


def sweep_activity(tx: Tx) -> int:
    """Forget what is older than anybody can ask for. Returns how many rows; call it until it returns less than one transaction may hold."""
    first = tx.now // DAY_MS - limits.ACTIVITY_DAYS_KEPT
    old_days = sa.select(*agent_activity.primary_key).where(agent_activity.c.day < first).limit(limits.SWEEP_ROWS_MAX)
    old_hours = sa.select(*hourly_tokens.primary_key).where(hourly_tokens.c.day < first).limit(limits.SWEEP_ROWS_MAX)
    return max(
        tx.run(sa.delete(agent_activity).where(sa.tuple_(*agent_activity.primary_key).in_(old_days))).rowcount,
        tx.run(sa.delete(hourly_tokens).where(sa.tuple_(*hourly_tokens.primary_key).in_(old_hours))).rowcount,
    )


def json_rows(rows: Sequence[tuple[Any, ...]]) -> str:
    return msgspec.json.encode(rows).decode()


def _run(tx: Tx, statements: Mapping[str, str], rows: Sequence[tuple[Any, ...]]) -> None:
    if rows:
        dialect = tx.connection.dialect.name
        values = tuple(list(column) for column in zip(*rows, strict=True)) if dialect == "postgresql" else (json_rows(rows),)
        tx.connection.exec_driver_sql(statements[dialect], values)
