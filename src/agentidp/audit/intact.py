"""How far a sealed history on SQLite is as it was sealed: quickly, and without a word about what is wrong where it is not.

SQLite itself writes the canonical JSON of the events (RFC 8785), a thousand in one long text. A thread hashes them while it writes the next, for
which it needs no interpreter lock. Why nothing can be moved from one column to another unseen is in docs/decisions/0030.
"""

import sqlite3
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import sqlalchemy as sa

from agentidp.audit.queries import list_checkpoints
from agentidp.core import limits
from agentidp.core.clock import to_rfc3339
from agentidp.db.unit import Tx

_COLUMNS = ("action", "agent_id", "event_id", "ip_address", "outcome", "previous_hash", "request_id", "target_id", "target_type", "user_agent")
# A blob, even one that spells a text, leaves its event's line empty: every blob is greater than every text. `json_object` refuses blobs by itself, but from
# SQLite 3.45 on takes those that are JSON in its own binary form.
_SEEN = ("metadata", "hash", *(_COLUMNS if sqlite3.sqlite_version_info >= (3, 45) else ()))
# Each event has its line in each of the texts. `metadata`, which is JSON already, has a text of its own: it belongs before `outcome`.
_TEXTS = f"""
SELECT count(*),
  CAST(group_concat(CASE WHEN {" OR ".join(f"{name} >= x''" for name in _SEEN)} THEN '' ELSE json_object(
      'action', action, 'agentId', agent_id, 'eventId', event_id, 'ipAddress', ip_address, 'outcome', outcome, 'previousHash', previous_hash,
      'requestId', request_id, 'seq', seq, 'targetId', target_id, 'targetType', target_type, 'timestamp', timestamp, 'userAgent', user_agent)
    END, char(10)) AS BLOB),
  CAST(group_concat(ifnull(metadata, ''), char(10)) AS BLOB),
  CAST(group_concat(seq, char(10)) AS BLOB),
  CAST(group_concat(ifnull(previous_hash, ''), char(10)) AS BLOB),
  CAST(group_concat(ifnull(hash, ''), char(10)) AS BLOB)
FROM audit_events WHERE organization_id = ? AND seq > ? AND seq <= ?
"""  # noqa: S608 - of names that stand above


@dataclass(frozen=True, slots=True)
class Intact:
    """Up to the event number `size`, whose hash is `head`, nothing was changed. So far `checkpoints` fit; their signatures are not checked."""

    size: int
    head: str
    checkpoints: Sequence[tuple[int, str, int, str]]  # (size, head, instant, note)


def follow_intact(tx: Tx, size: int, head: str, to_seq: int) -> Intact:
    """Follow the chain behind its event number `size` for a stretch, or until something seems wrong."""
    end = min(to_seq, size + limits.AUDIT_STRETCH_MAX)
    checkpoints = list_checkpoints(tx, size, end)
    chain = _Chain(tx.caller.organization_id, {at: known.encode() for at, known, *_ in checkpoints}, size, head.encode())
    followed: Future[bool] | None = None
    with ThreadPoolExecutor(1, "audit-hash") as executor:
        for after in range(size, end, limits.AUDIT_LINKS_MAX):
            to = min(end, after + limits.AUDIT_LINKS_MAX)
            try:
                row = tx.connection.exec_driver_sql(_TEXTS, (chain.organization_id, after, to)).one()
            except sa.exc.OperationalError:  # a blob in a column of text, such as none of ours
                break
            if followed is not None and not followed.result():
                break
            followed = executor.submit(chain.follow, to, tuple(row))
    return Intact(chain.size, chain.head.decode(), [known for known in checkpoints if known[0] <= chain.size])


@dataclass(slots=True)
class _Chain:
    organization_id: str
    heads: dict[int, bytes]  # of the checkpoints, by size
    size: int
    head: bytes

    def follow(self, to: int, row: tuple[Any, ...]) -> bool:
        """To the event number `to`, or not at all."""
        count, *texts = row
        values, metadata, numbers, links, hashes = (text.split(b"\n") if text is not None else [] for text in texts)
        if not len(values) == len(metadata) == len(numbers) == len(links) == len(hashes) == count == to - self.size:
            return False  # a line break where none belongs, or an event that is missing
        if numbers != [b"%d" % seq for seq in range(self.size + 1, to + 1)]:
            return False
        if links != [self.head, *hashes[:-1]] or not _gives(self.organization_id, values, metadata, hashes):
            return False
        if any(hashes[at - self.size - 1] != known for at, known in self.heads.items() if self.size < at <= to):
            return False
        self.size, self.head = to, hashes[-1]
        return True


def _gives(organization_id: str, values: Sequence[bytes], metadata: Sequence[bytes], hashes: Sequence[bytes]) -> bool:
    """Whether what each event holds gives its hash. Verifying spends its time here: nothing is copied twice, and of each second only the milliseconds are new."""
    between, seconds = b',"organizationId":"%b","outcome":' % organization_id.encode(), dict[bytes, bytes]()
    for value, extra, stored in zip(values, metadata, hashes, strict=True):
        before, _, after = value.partition(b',"outcome":')
        middle, _, end = after.rpartition(b',"timestamp":')
        instant, _, user_agent = end.partition(b",")
        second = seconds.get(instant[:-3])
        if second is None:
            try:
                second = b',"timestamp":"' + to_rfc3339(1000 * int(instant[:-3])).encode().removesuffix(b"000Z")
            except (ValueError, OverflowError, OSError):  # no instant, or one of the first second of 1970
                return False
            seconds[instant[:-3]] = second
        pieces = (b"\0", before, b',"metadata":', extra, between, middle, second, instant[-3:], b'Z",', user_agent[:-1], b',"v":"agentidp-audit-1"}')
        if sha256(b"".join(pieces)).hexdigest().encode() != stored:
            return False
    return True
