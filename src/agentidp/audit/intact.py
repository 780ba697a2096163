"""How far a sealed history on SQLite is as it was sealed: quickly, and without a word about what is wrong where it is not.

SQLite itself writes the canonical JSON of the events (RFC 8785), a thousand in one long text. A thread hashes them while it writes the next, for
which it needs no interpreter lock. Why nothing can be moved from one column to another unseen is in docs/decisions/0030.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from agentidp.audit.queries import list_checkpoints
from agentidp.core import limits
from agentidp.db.unit import Tx
from agentidp.ledger.chain import hash_text

# Each event has its line in each of the texts. `metadata`, which is JSON already, has a text of its own: it belongs before `outcome`. What holds a
# blob, even one that spells a text, or a timestamp that would be rounded leaves its line empty: every blob is greater than every text, so `>= x''`.
_TEXTS = """
SELECT count(*),
  CAST(group_concat(CASE
    WHEN timestamp <> CAST(timestamp AS INTEGER) OR action >= x'' OR agent_id >= x'' OR event_id >= x'' OR ip_address >= x'' OR metadata >= x''
      OR outcome >= x'' OR previous_hash >= x'' OR request_id >= x'' OR target_id >= x'' OR target_type >= x'' OR user_agent >= x'' OR hash >= x'' THEN ''
    ELSE json_object(
      'action', action, 'agentId', agent_id, 'eventId', event_id, 'ipAddress', ip_address, 'outcome', outcome, 'previousHash', previous_hash,
      'requestId', request_id, 'seq', seq, 'targetId', target_id, 'targetType', target_type,
      'timestamp', strftime('%Y-%m-%dT%H:%M:%fZ', timestamp / 1000.0, 'unixepoch'), 'userAgent', user_agent) END, char(10)) AS BLOB),
  CAST(group_concat(ifnull(metadata, ''), char(10)) AS BLOB),
  CAST(group_concat(seq, char(10)) AS BLOB),
  CAST(group_concat(ifnull(previous_hash, ''), char(10)) AS BLOB),
  CAST(group_concat(ifnull(hash, ''), char(10)) AS BLOB)
FROM audit_events WHERE organization_id = ? AND seq > ? AND seq <= ?
"""


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
    chain = _Chain(tx.caller.organization_id, {at: known for at, known, *_ in checkpoints}, size, head)
    followed: Future[bool] | None = None
    with ThreadPoolExecutor(1, "audit-hash") as executor:
        for after in range(size, end, limits.AUDIT_LINKS_MAX):
            row = tx.connection.exec_driver_sql(_TEXTS, (chain.organization_id, after, min(end, after + limits.AUDIT_LINKS_MAX))).one()
            if followed is not None and not followed.result():
                break
            followed = executor.submit(chain.follow, tuple(row))
    return Intact(chain.size, chain.head, [known for known in checkpoints if known[0] <= chain.size])


@dataclass(slots=True)
class _Chain:
    organization_id: str
    heads: dict[int, str]  # of the checkpoints, by size
    size: int
    head: str

    def follow(self, row: tuple[Any, ...]) -> bool:
        """To the last of these events, or not at all."""
        count, *texts = row
        values, metadata, numbers, links, hashes = (text.split(b"\n") if text is not None else [] for text in texts)
        if not len(values) == len(metadata) == len(numbers) == len(links) == len(hashes) == count > 0:
            return False  # a line break where none belongs, or no events
        if numbers != [b"%d" % seq for seq in range(self.size + 1, self.size + count + 1)] or links != [self.head.encode(), *hashes[:-1]]:
            return False
        form = b'%%b,"metadata":%%b,"organizationId":"%b","outcome":%%b,"v":"agentidp-audit-1"}' % self.organization_id.encode()
        for value, extra, stored in zip(values, metadata, hashes, strict=True):
            before, _, after = value.partition(b',"outcome":')
            if hash_text(form % (before, extra, after[:-1])).encode() != stored:
                return False
        if any(hashes[at - self.size - 1].decode() != known for at, known in self.heads.items() if self.size < at <= self.size + count):
            return False
        self.size, self.head = self.size + count, hashes[-1].decode()
        return True
