"""A batch of entries in PostgreSQL, on the ledger's own connection: one statement a step, whatever the size.

Locks nothing but one-time values and counters, in order. Whatever was revoked before a request arrived is seen by its batch; a token whose entry commits
while its agent is being stopped carries the old epoch or the revoked credential, and is dead.
"""

from collections.abc import Sequence
from typing import Any

from agentidp.ledger.activity import ADD_TO_AGENTS, calls
from agentidp.ledger.entries import Entry, Facts, Verdict, claims, counters, events, judge, refuse_over_limit, refuse_replayed, unused

_REVISIONS = """
SELECT c.credential_id::text, o.revision, a.revision, c.revision
FROM unnest($1::uuid[], $2::uuid[]) AS wanted (organization_id, credential_id)
JOIN credentials AS c USING (organization_id, credential_id)
JOIN agents AS a ON a.organization_id = c.organization_id AND a.agent_id = c.agent_id
JOIN organizations AS o ON o.organization_id = c.organization_id
"""
_REVOKED = """
SELECT token_id::text FROM unnest($1::uuid[], $2::uuid[]) AS wanted (organization_id, token_id)
JOIN revoked_tokens USING (organization_id, token_id)
"""
_WITHDRAWN = """
SELECT key_id, NULL::bigint FROM signing_keys WHERE published_until <= $1
UNION ALL SELECT NULL, tokens_not_before FROM instance WHERE tokens_not_before IS NOT NULL
"""  # keys, and the floor, in one round trip
_CLAIM = """
INSERT INTO one_time_values (organization_id, kind, digest, expires_at)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[])
ON CONFLICT DO NOTHING RETURNING organization_id::text, kind, digest
"""  # a value that another transaction is claiming is waited for: it decides
_GIVE_BACK = "DELETE FROM one_time_values WHERE organization_id = $1::uuid AND kind = $2 AND digest = $3"
_COUNT = """
INSERT INTO usage_counters AS u (organization_id, day, meter, count) VALUES ($1::uuid, $2, $3, $4)
ON CONFLICT (organization_id, day, meter) DO UPDATE SET count = u.count + excluded.count RETURNING count
"""
_RECORD = """
INSERT INTO audit_events (organization_id, event_id, agent_id, action, outcome, target_type, target_id,
                          ip_address, user_agent, request_id, metadata, timestamp)
SELECT organization_id, event_id, agent_id, action, outcome, target_type, target_id, ip_address, user_agent, request_id, metadata::jsonb, $12
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[])
  AS new (organization_id, event_id, agent_id, action, outcome, target_type, target_id, ip_address, user_agent, request_id, metadata)
"""
_USED = """
INSERT INTO credential_uses (organization_id, credential_id, last_used_at) VALUES ($1::uuid, $2::uuid, $3)
ON CONFLICT (organization_id, credential_id) DO UPDATE SET last_used_at = excluded.last_used_at
"""


async def write_batch(connection: Any, now: int, batch: Sequence[Entry]) -> None:
    """Re-validate, claim, count, record: sets the verdict of every entry, inside the caller's transaction. Raises asyncpg's errors."""
    judge(batch, await _facts(connection, now, batch))
    if claimed := claims(batch):
        columns = zip(*((*claim, expires_at) for claim, expires_at in claimed), strict=True)
        refuse_replayed(batch, {tuple(row) for row in await connection.fetch(_CLAIM, *map(list, columns))})
    by_counter = counters(batch, now)
    for counter, counted in by_counter.items():
        total = await connection.fetchval(_COUNT, *counter, len(counted))
        if over := refuse_over_limit(counted, total):
            await connection.fetchval(_COUNT, *counter, -over)
            await connection.executemany(_GIVE_BACK, unused(counted))
    rows = [
        (
            organization_id,
            event.event_id,
            event.agent_id,
            event.action,
            event.outcome,
            event.target_type,
            event.target_id,
            event.origin.ip_address,
            event.origin.user_agent,
            event.origin.request_id,
            event.metadata,
        )
        for organization_id, event in events(batch)
    ]
    if rows:
        await connection.execute(_RECORD, *(list(column) for column in zip(*rows, strict=True)), now)
    if called := calls(by_counter, now):
        await connection.execute(ADD_TO_AGENTS["postgresql"], *(list(column) for column in zip(*called, strict=True)))
    used = {(entry.snapshot.organization_id, entry.snapshot.credential_id, now) for entry in batch if entry.used and entry.verdict is Verdict.RECORDED}
    if used:
        await connection.executemany(_USED, sorted(used))


async def _facts(connection: Any, now: int, batch: Sequence[Entry]) -> Facts:
    wanted = sorted({(entry.snapshot.organization_id, entry.snapshot.credential_id) for entry in batch})
    tokens = sorted({(entry.snapshot.organization_id, entry.token_id) for entry in batch if entry.token_id is not None})
    rows = await connection.fetch(_REVISIONS, *(list(column) for column in zip(*wanted, strict=True)))
    revoked = await connection.fetch(_REVOKED, *(list(column) for column in zip(*tokens, strict=True))) if tokens else []
    withdrawn = await connection.fetch(_WITHDRAWN, now) if tokens or any(entry.once for entry in batch) else []
    return Facts(
        {row[0]: (row[1], row[2], row[3]) for row in rows},
        frozenset(row[0] for row in revoked),
        frozenset(key_id for key_id, _ in withdrawn if key_id is not None),
        max((floor for _, floor in withdrawn if floor is not None), default=0),
    )
