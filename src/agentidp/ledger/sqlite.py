"""A batch of entries in SQLite, inside the writer's transaction and straight through the driver: one statement a step, whatever the size."""

import sqlite3
from collections.abc import Sequence

import msgspec

from agentidp.ledger.activity import ADD_TO_AGENTS, calls, json_rows
from agentidp.ledger.entries import Entry, Facts, Verdict, claims, counters, events, judge, refuse_over_limit, refuse_replayed, unused

_REVISIONS = """
SELECT json_group_array(json_array(c.credential_id, o.revision, a.revision, c.revision))
FROM json_each(?) AS wanted
JOIN credentials AS c ON c.organization_id = wanted.value ->> 0 AND c.credential_id = wanted.value ->> 1
JOIN agents AS a ON a.organization_id = c.organization_id AND a.agent_id = c.agent_id
JOIN organizations AS o ON o.organization_id = c.organization_id
"""
_REVOKED = """
SELECT r.token_id FROM json_each(?) AS wanted
JOIN revoked_tokens AS r ON r.organization_id = wanted.value ->> 0 AND r.token_id = wanted.value ->> 1
"""
_WITHDRAWN = """
SELECT key_id, NULL FROM signing_keys WHERE published_until <= ?
UNION ALL SELECT NULL, tokens_not_before FROM instance WHERE tokens_not_before IS NOT NULL
"""  # keys, and the floor: one statement, because each costs a change of the interpreter lock
_CLAIM = """
INSERT INTO one_time_values (organization_id, kind, digest, expires_at)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each(?) WHERE true
ON CONFLICT DO NOTHING RETURNING organization_id, kind, digest
"""
_GIVE_BACK = "DELETE FROM one_time_values WHERE organization_id = ? AND kind = ? AND digest = ?"
_COUNT = """
INSERT INTO usage_counters (organization_id, day, meter, count) VALUES (?, ?, ?, ?)
ON CONFLICT (organization_id, day, meter) DO UPDATE SET count = count + excluded.count RETURNING count
"""
_RECORD = """
INSERT INTO audit_events (organization_id, event_id, agent_id, action, outcome, target_type, target_id,
                          ip_address, user_agent, request_id, metadata, timestamp) VALUES """
_ROW = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_USED = """
INSERT INTO credential_uses (organization_id, credential_id, last_used_at) VALUES (?, ?, ?)
ON CONFLICT (organization_id, credential_id) DO UPDATE SET last_used_at = excluded.last_used_at
"""

_ROWS_MAX = 256  # rows of one statement: 3,072 variables, well below any limit of SQLite


def write_batch(connection: sqlite3.Connection, now: int, batch: Sequence[Entry]) -> None:
    """Re-validate, claim, count, record: sets the verdict of every entry. Raises sqlite3.Error, and then nothing of it happened."""
    judge(batch, _facts(connection, now, batch))
    if claimed := claims(batch):
        refuse_replayed(batch, set(connection.execute(_CLAIM, (json_rows([(*claim, expires_at) for claim, expires_at in claimed]),))))
    by_counter = counters(batch, now)
    for counter, counted in by_counter.items():
        total = connection.execute(_COUNT, (*counter, len(counted))).fetchone()[0]
        if over := refuse_over_limit(counted, total):
            connection.execute(_COUNT, (*counter, -over)).fetchone()
            connection.executemany(_GIVE_BACK, unused(counted))
    _record(connection, now, batch)
    if called := calls(by_counter, now):
        connection.execute(ADD_TO_AGENTS["sqlite"], (json_rows(called),))
    used = {(entry.snapshot.organization_id, entry.snapshot.credential_id, now) for entry in batch if entry.used and entry.verdict is Verdict.RECORDED}
    if used:
        connection.executemany(_USED, sorted(used))


def _record(connection: sqlite3.Connection, now: int, batch: Sequence[Entry]) -> None:
    """Insert the events, 256, 128, … 1 rows at a time.

    In the writer thread every statement hands the interpreter lock to the loop and waits for it: row by row, a batch would wait for most of
    its time. Powers of two keep the number of different statements small, so that all stay prepared.
    """
    rows = events(batch)
    begin = 0
    while begin < len(rows):
        size = min(1 << (len(rows) - begin).bit_length() - 1, _ROWS_MAX)
        values: list[object] = []
        for organization_id, event in rows[begin : begin + size]:
            origin = event.origin
            values += (organization_id, event.event_id, event.agent_id, event.action, event.outcome, event.target_type, event.target_id)
            values += (origin.ip_address, origin.user_agent, origin.request_id, event.metadata, now)
        connection.execute(_RECORD + ", ".join([_ROW] * size), values)
        begin += size


def _facts(connection: sqlite3.Connection, now: int, batch: Sequence[Entry]) -> Facts:
    wanted = {(entry.snapshot.organization_id, entry.snapshot.credential_id) for entry in batch}
    tokens = {(entry.snapshot.organization_id, entry.token_id) for entry in batch if entry.token_id is not None}
    rows = msgspec.json.decode(connection.execute(_REVISIONS, (msgspec.json.encode(list(wanted)).decode(),)).fetchone()[0])
    revoked = connection.execute(_REVOKED, (msgspec.json.encode(list(tokens)).decode(),)).fetchall() if tokens else []
    withdrawn = connection.execute(_WITHDRAWN, (now,)).fetchall() if tokens or any(entry.once for entry in batch) else []
    return Facts(
        {credential_id: (organization, agent, credential) for credential_id, organization, agent, credential in rows},
        frozenset(row[0] for row in revoked),
        frozenset(key_id for key_id, _ in withdrawn if key_id is not None),
        max((floor for _, floor in withdrawn if floor is not None), default=0),
    )
