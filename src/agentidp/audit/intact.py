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

from agentidp.audit.queries import list_checkpoints
from agentidp.core import limits
from agentidp.core.clock import to_rfc3339
from agentidp.db.unit import Tx

_COLUMNS = ("action", "agent_id", "event_id", "ip_address", "outcome", "previous_hash", "request_id", "target_id", "target_type", "timestamp", "user_agent")


def texts_statement(sqlite_version: tuple[int, ...]) -> str:
    """Each event has its line in each of the texts. `metadata`, which is JSON already, has a text of its own: it belongs before `outcome`.

    A blob, even one that spells a text, leaves its event's line empty: every blob is greater than every text. `json_object` refuses blobs by itself, but from
    SQLite 3.45 on takes those that are JSON in its own binary form.
    """
    seen = ("metadata", "hash", *(_COLUMNS if sqlite_version >= (3, 45) else ()))
    return f"""
SELECT count(*), group_concat(seq, char(10)),
  CAST(group_concat(CASE WHEN {" OR ".join(f"{name} >= x''" for name in seen)} THEN '' ELSE json_object(
      'action', action, 'agentId', agent_id, 'eventId', event_id, 'ipAddress', ip_address, 'outcome', outcome, 'previousHash', previous_hash,
      'requestId', request_id, 'seq', seq, 'targetId', target_id, 'targetType', target_type, 'timestamp', timestamp, 'userAgent', user_agent)
    END, char(10)) AS BLOB),
  CAST(group_concat(ifnull(metadata, ''), char(10)) AS BLOB),
  CAST(group_concat(ifnull(hash, ''), char(10)) AS BLOB)
FROM audit_events WHERE organization_id = ? AND seq > ? AND seq <= ?
"""  # noqa: S608 - of names that stand above


_TEXTS = texts_statement(sqlite3.sqlite_version_info)


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
    if not all(isinstance(at, int) and isinstance(known, str) for at, known, *_ in checkpoints):
        return Intact(size, head, [])  # what nobody of ours has written
    chain = _Chain(tx.caller.organization_id, {at: known.encode() for at, known, *_ in checkpoints}, size, head.encode())
    followed: Future[bool] | None = None
    cursor = tx.connection.connection.cursor()  # the driver's: a tenth of the time would be SQLAlchemy's
    with ThreadPoolExecutor(1, "audit-hash") as executor:
        for after in range(size, end, limits.AUDIT_LINKS_MAX):
            to = min(end, after + limits.AUDIT_LINKS_MAX)
            try:
                row = cursor.execute(_TEXTS, (chain.organization_id, after, to)).fetchone()
            except sqlite3.Error:  # a blob in a column of text, or a file that cannot be read: whoever follows row by row will say which
                break
            if followed is not None and not followed.result():
                break
            followed = executor.submit(chain.follow, to, row)
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
        if count != to - self.size:
            return False  # an event is missing
        numbers, values, metadata, hashes = texts
        lines, extras = values.split(b"\n"), metadata.split(b"\n")
        if numbers != "\n".join(map(str, range(self.size + 1, to + 1))) or not len(lines) == len(extras) == count:
            return False  # a gap, or a line break where none belongs
        if not _give(self.organization_id, lines, extras, self.head, hashes):
            return False
        heads = {at: known for at, known in self.heads.items() if self.size < at <= to}
        each = hashes.split(b"\n") if heads else []
        if any(each[at - self.size - 1] != known for at, known in heads.items()):
            return False
        self.size, self.head = to, hashes[-64:]
        return True


class _Seconds(dict[bytes, bytes]):
    """How the canonical JSON begins an instant, by its seconds. Of each second it is written once."""

    def __missing__(self, seconds: bytes) -> bytes:
        self[seconds] = text = b',"timestamp":"' + to_rfc3339(1000 * int(seconds)).encode().removesuffix(b"000Z")
        return text


def _give(organization_id: str, lines: Sequence[bytes], extras: Sequence[bytes], head: bytes, hashes: bytes) -> bool:
    """Whether what the events hold gives their hashes, and each names the hash before, the first one `head`.

    Verifying spends its time here: nothing is copied twice, and what can be compared as a whole is.
    """
    between, seconds = b',"organizationId":"%b","outcome":' % organization_id.encode(), _Seconds()
    digests, links = list[bytes](), list[bytes]()
    try:
        for line, extra in zip(lines, extras, strict=True):
            before, _, after = line.partition(b',"outcome":')
            middle, _, end = after.rpartition(b',"timestamp":')
            pieces = (b"\0", before, b',"metadata":', extra, between, middle, seconds[end[:10]], end[10:13], b'Z"', end[13:-1], b',"v":"agentidp-audit-1"}')
            digests.append(sha256(b"".join(pieces)).digest())
            links.append(after[8:90])  # behind an outcome of seven letters, as both are
    except ValueError:  # no instant, or not one of ten digits and milliseconds, as from 2001 to 2286
        return False
    known = b"\n%b\n%b" % (head, hashes)
    return b"".join(digests).hex("\n", 32).encode() == hashes and b"".join(links) == known[:-65].replace(b"\n", b'","previousHash":"')
