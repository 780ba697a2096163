"""An organization's history as a file, and checking it without the server: one event a line, oldest first. Pure.

The last line is `{"checkpoint": "…"}`, the signed head that the events lead up to: a file that was cut on its way has none. A part that ends before
the head has a checkpoint that says so, which is never taken for a head. What a
checkpoint cannot show is that events were cut together with a newer checkpoint; an older one that was kept elsewhere can.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from agentidp.core import strict_json
from agentidp.ledger.chain import FIRST_PREVIOUS_HASH, Break, ChainedEvent, decode_event, encode_event, verify
from agentidp.ledger.checkpoint import BadCheckpoint, Checkpoint, VerifierKey, open_note, parse_note

_LAST_LINE: Final = b'{"checkpoint":'

MEANINGS: Final = {
    "hash": "it was changed: its content does not give its hash",
    "link": "it does not follow the event before it: it names another hash",
    "gap": "events before it are missing",
    "duplicate": "an event with its number, or a later one, came before it",
    "organization": "it belongs to another organization",
    "head": "a checkpoint was signed for another history",
}


class BadExport(ValueError):
    """The file is not a whole export; the message says which line."""


class _Last(msgspec.Struct, forbid_unknown_fields=True):
    checkpoint: str


_decode_last = msgspec.json.Decoder(_Last).decode


@dataclass(frozen=True, slots=True)
class Checked:
    """What a file holds: the events `from_seq` to `to_seq` are good. `broken` is what is wrong with the next; without it the file is whole."""

    organization_id: str | None
    from_seq: int
    to_seq: int
    broken: Break | None
    checkpoint: Checkpoint | None = None  # the one at the end of the file, where it was reached


def event_line(event: ChainedEvent) -> bytes:
    return encode_event(event) + b"\n"


def last_line(note: str) -> bytes:
    return msgspec.json.encode(_Last(note)) + b"\n"


def check_export(lines: Iterable[bytes], *, key: VerifierKey | None = None, kept: Sequence[str] = (), is_part: bool = False) -> Checked:
    """Follow the chain through the lines of an export, in constant memory, and hold it against `kept`, notes of the same chain.

    Without `key` no signature is checked. A file begins with the first event or right behind a kept checkpoint, and reaches every kept
    checkpoint, unless `is_part`. Raises BadExport, and BadCheckpoint for a note that is not of this chain.
    """
    known = sorted((_open(note, key) for note in kept), key=lambda checkpoint: checkpoint.size)
    if any(checkpoint.is_part for checkpoint in known):
        raise BadCheckpoint("the checkpoint is of a part of the history, from the end of an export, and proves nothing of what came before it")
    reader = _Reader(lines)
    first = next(reader, None)
    if first is None:
        return _check_empty(_open(reader.note, key), known, is_part=is_part)
    _require_one_chain(known, first.organization_id)
    before, head = (first.seq - 1, first.previous_hash) if first.seq > 1 else (0, FIRST_PREVIOUS_HASH)
    if before and not is_part and before not in {checkpoint.size for checkpoint in known}:
        return Checked(first.organization_id, first.seq, before, Break(first.event_id, first.seq, "gap"))
    heads = [(checkpoint.size, checkpoint.head) for checkpoint in known]
    followed = verify(first.organization_id, itertools.chain([first], reader), heads=heads, size=before, head=head)
    broken, last = followed.broken, None
    if reader.note and (broken is None or broken.event_id is None):  # every line was read
        last = _open(reader.note, key)
        _require_one_chain([*known, last], first.organization_id)
        if last.is_part and not is_part:
            raise BadExport("the file is a part of the history, of some dates, and has to be verified as one")
        if is_part and broken is not None and broken.seq > last.size:
            broken = None
        if broken is None and (last.size, last.head) != (followed.size, followed.head):
            broken = Break(None, last.size, "head")
    return Checked(first.organization_id, before + 1, followed.size, broken, last)


def _check_empty(last: Checkpoint, known: Sequence[Checkpoint], *, is_part: bool) -> Checked:
    """A file of nothing but its checkpoint."""
    _require_one_chain([*known, last], None)
    size = max(checkpoint.size for checkpoint in (*known, last))
    return Checked(None, 1, 0, Break(None, size, "head") if size and (last.is_part or not is_part) else None, last)


def _open(note: str, key: VerifierKey | None) -> Checkpoint:
    return parse_note(note)[0] if key is None else open_note(note, key)


def _require_one_chain(checkpoints: Sequence[Checkpoint], organization_id: str | None) -> None:
    for checkpoint in checkpoints:
        if checkpoint.origin != checkpoints[0].origin:
            raise BadCheckpoint(f"the checkpoints are of two chains: {checkpoints[0].origin} and {checkpoint.origin}")
        if organization_id is not None and checkpoint.origin.rpartition("/")[2] != organization_id:
            raise BadCheckpoint(f"the checkpoint is of another organization, {checkpoint.origin}; the events are of {organization_id}")


class _Reader(Iterator[ChainedEvent]):
    """The events of a file; when they end, `note` is what its last line holds."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines, self._number, self.note = iter(lines), 0, ""

    def __next__(self) -> ChainedEvent:
        line = next(self._lines, b"")
        self._number += 1
        if not line.endswith(b"\n"):
            raise BadExport(f"the file is cut: line {self._number}, its checkpoint, is missing or not whole")
        if line.startswith(_LAST_LINE):
            if next(self._lines, None) is not None:
                raise BadExport(f"line {self._number + 1} comes after the checkpoint, which ends a file")
            try:
                self.note = _decode_last(line).checkpoint
            except msgspec.MsgspecError as error:
                raise BadExport(f"line {self._number} is not a checkpoint: {error}") from error
            raise StopIteration
        try:
            event = decode_event(line)
            if encode_event(event) != line[:-1]:  # written otherwise: then it must at least mean one thing only
                strict_json.parse(line)
        except (msgspec.MsgspecError, ValueError) as error:
            raise BadExport(f"line {self._number} is not an audit event: {error}") from error
        return event
