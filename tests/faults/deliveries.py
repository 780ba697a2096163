"""What a database really holds of deliveries, read without any code of the product, against what receivers saw."""

import asyncio
import json
import sqlite3
from collections import Counter
from collections.abc import Mapping
from urllib.parse import urlsplit

import asyncpg
from tests.fakes.fake_receiver import FakeReceiver
from tests.faults import oracle

_EVENTS = "SELECT organization_id, event_id, action FROM audit_events WHERE action IN ('agent.updated', 'agent.suspended')"
_HOOKS = "SELECT organization_id, webhook_id, url, events, is_active FROM webhooks"
_DELIVERIES = "SELECT webhook_id, event_id, status, attempts, CAST(history AS text), next_attempt_at, completed_at FROM webhook_deliveries"
_UNDONE = f"""
SELECT (SELECT count(*) FROM ({_EVENTS}) AS made), (SELECT count(*) FROM audit_events WHERE seq IS NULL),
  (SELECT count(*) FROM audit_followers AS f JOIN audit_heads AS h ON h.organization_id = f.organization_id WHERE f.seq < h.size),
  (SELECT count(*) FROM webhook_deliveries WHERE next_attempt_at IS NOT NULL)
"""
_ATTEMPTS = 10


def progress(url: str) -> tuple[int, int, int, int]:
    """Events that were made, those not sealed, organizations whose events are not all put down, deliveries that wait; at one moment."""
    if not url.startswith("sqlite"):
        return asyncio.run(_progress(url))
    connection = sqlite3.connect(urlsplit(url).path)
    try:
        found: tuple[int, int, int, int] = connection.execute(_UNDONE).fetchone()
        return found
    finally:
        connection.close()


def require_exact(url: str, receivers: Mapping[str, FakeReceiver]) -> Counter[str]:
    """Every event has exactly one delivery to each webhook that wants it, ended, with its history; what is delivered was answered by its receiver.

    `receivers` by URL, one for each webhook. Returns how many ended how, how many answers of receivers were repeated ("duplicates"), and how many
    different events they have answered ("answered").
    """
    events, hooks, deliveries = oracle.select(url, _EVENTS, _HOOKS, _DELIVERIES)
    found = {(str(row[0]), str(row[1])): row for row in deliveries}
    assert len(found) == len(deliveries), "an event was put down twice for a webhook"
    wanted = set()
    for organization_id, webhook_id, _, wants, is_active in hooks:
        mine = {(str(webhook_id), str(event_id)) for owner, event_id, action in events if owner == organization_id and action in wants.split()}
        there = {key for key in found if key[0] == str(webhook_id)}
        assert there == mine if is_active else there <= mine, f"{len(mine ^ there)} events of a webhook have no delivery, or one too many"
        wanted |= there
    assert wanted == found.keys()
    by_webhook = {str(webhook_id): receivers[target] for _, webhook_id, target, *_ in hooks}
    counts: Counter[str] = Counter(events=len(events), deliveries=len(deliveries))
    for (webhook_id, event_id), (_, _, status, attempts, history, next_attempt_at, completed_at) in found.items():
        _require_ended(status, attempts, json.loads(history))
        assert (next_attempt_at, completed_at is None) == (None, False)
        if status == "delivered":
            assert by_webhook[webhook_id].answered[event_id], f"{event_id} is delivered, but its receiver has not answered it"
        counts[status] += 1
    for receiver in receivers.values():
        counts["answered"] += len(+receiver.answered)
        counts["duplicates"] += receiver.answered.total() - len(+receiver.answered)
    return counts


def _require_ended(status: str, attempts: int, history: list[dict[str, object]]) -> None:
    """Its history says how it ended: by a 2xx; or by a tenth failure, a receiver that is gone, or one that was given up."""
    last = history[-1]
    code = last["statusCode"]
    is_success = isinstance(code, int) and 200 <= code < 300
    if status == "delivered":
        assert is_success
    else:
        assert status == "dead_letter"
        assert not is_success
        assert attempts == _ATTEMPTS or code == 410 or last["error"] in {"disabled", "expired"}
    assert len(history) == attempts + (last["error"] == "disabled")


async def _progress(url: str) -> tuple[int, int, int, int]:
    connection = await asyncpg.connect(url)
    try:
        return tuple(await connection.fetchrow(_UNDONE))  # type: ignore[return-value]  # four numbers
    finally:
        await connection.close()
