"""Walking an organization's sealed history from one end to the other, in short reads: verifying it, and writing it out.

Between two reads nothing is held, and what is sealed does not change; hashing happens outside the event loop.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from agentidp.audit.exports import event_line, last_line
from agentidp.audit.intact import follow_intact
from agentidp.audit.queries import find_range, get_chain_state, list_links
from agentidp.audit.rules import ChainState, Dates, Verification
from agentidp.core.caller import Caller
from agentidp.db.unit import Database
from agentidp.ledger.chain import FIRST_PREVIOUS_HASH, ROW, Break, ChainedEvent, Verified, event_hash, from_row, from_sealed_row, verify
from agentidp.ledger.checkpoint import BadCheckpoint, Checkpoint, open_note, parse_note, sign, verifier_key
from agentidp.ledger.heads import AuditKey, sign_head

_EVENT_ID, _SEQ, _PREVIOUS, _HASH = (ROW.index(name) for name in ("event_id", "seq", "previous_hash", "hash"))


async def verify_history(database: Database, caller: Caller, key: AuditKey, dates: Dates, goes_on: Callable[[], Awaitable[bool]]) -> Verification:
    """Recompute the chain, compare it with its head and with every stored checkpoint, whose signatures are checked, too.

    With `dates`, only what lies between the first and the last event of them. Ends early when `goes_on` says so. Raises Unavailable.
    """
    while True:
        state = await database.read(get_chain_state, caller)
        found = await _verify(database, caller, key, state, dates, goes_on)
        if found.broken is None or (await database.read(get_chain_state, caller)).start_size == state.start_size:
            return found  # else events were forgotten on the way


async def _verify(database: Database, caller: Caller, key: AuditKey, state: ChainState, dates: Dates, goes_on: Callable[[], Awaitable[bool]]) -> Verification:
    found = await _range(database, caller, state, dates)
    if found is None:
        return Verification(state.start_size + 1, state.start_size, None, None)
    from_seq, to_seq = found
    size, head, note = from_seq - 1, FIRST_PREVIOUS_HASH if from_seq == 1 else "", None
    while size < to_seq and await goes_on():
        if head and database.dialect == "sqlite":
            intact = await database.read(follow_intact, caller, size, head, to_seq)
            if intact.size > size and await asyncio.to_thread(_are_signed, intact.checkpoints, caller.organization_id, key):
                size, head, note = intact.size, intact.head, intact.checkpoints[-1][3] if intact.checkpoints else note
                continue
        rows, checkpoints = await database.read(list_links, caller, size, to_seq)
        if size == state.start_size > 0 and (not checkpoints or checkpoints[0][0] != size):
            return Verification(from_seq, size, Break(None, size, "checkpoint"), None)  # what was forgotten ended at a checkpoint
        if not rows:
            return Verification(from_seq, size, Break(None, size + 1, "head"), note)
        # in the middle, the chain is taken up where it is, and held against a checkpoint if there is one
        followed = await asyncio.to_thread(_follow, caller.organization_id, rows, checkpoints, key, size, head or rows[0][_PREVIOUS])
        if followed.broken is not None:
            return Verification(from_seq, followed.size, followed.broken, note)
        size, head = followed.size, followed.head
        note = checkpoints[-1][3] if checkpoints else note
    broken = await _wrong_end(database, caller, state, head) if size == state.size else None
    return Verification(from_seq, size, broken, note)


async def _range(database: Database, caller: Caller, state: ChainState, dates: Dates) -> tuple[int, int] | None:
    """The first and the last number to look at; None where there is nothing. What was sealed since `state` was read is left out."""
    if dates == Dates():
        return state.start_size + 1, state.size
    found = await database.read(find_range, caller, dates)
    return None if found is None or found[0] > state.size else (max(found[0], state.start_size + 1), min(found[1], state.size))


def _follow(
    organization_id: str, rows: Sequence[tuple[Any, ...]], checkpoints: Iterable[tuple[int, str, int, str]], key: AuditKey, size: int, head: str
) -> Verified:
    """One piece of the chain with the checkpoints that lie in it."""
    events, unreadable = _readable(rows)
    end = events[-1].seq if events else size
    heads, wrong = [], None
    for checkpoint in checkpoints:
        if not _is_signed(checkpoint, organization_id, key):
            wrong = Break(None, checkpoint[0], "checkpoint")
            break
        heads.append(checkpoint[:2])
    found = verify(organization_id, events, heads=[known for known in heads if known[0] <= end], size=size, head=head)
    return found if found.broken else Verified(found.size, found.head, unreadable or wrong)


def _readable(rows: Iterable[tuple[Any, ...]]) -> tuple[list[ChainedEvent], Break | None]:
    """The events up to the first that holds what the product never writes, such as a timestamp that is no number."""
    events: list[ChainedEvent] = []
    for row in rows:
        try:
            events.append(from_sealed_row(row))
        except (TypeError, ValueError, OverflowError, OSError):
            return events, Break(row[_EVENT_ID], row[_SEQ], "hash")
    return events, None


def _are_signed(checkpoints: Iterable[tuple[int, str, int, str]], organization_id: str, key: AuditKey) -> bool:
    return all(_is_signed(checkpoint, organization_id, key) for checkpoint in checkpoints)


def _is_signed(stored: tuple[int, str, int, str], organization_id: str, key: AuditKey) -> bool:
    """Whether the note is a checkpoint of the organization by this instance, whatever its address was, and the row says what the note does."""
    size, head, signed_at, note = stored
    try:
        name = parse_note(note)[0].origin
        found = open_note(note, verifier_key(key.seed, name))
    except (BadCheckpoint, TypeError):
        return False
    return found == Checkpoint(name, size, head, signed_at) and name.endswith(f"/organizations/{organization_id}")


async def _wrong_end(database: Database, caller: Caller, state: ChainState, head: str) -> Break | None:
    """What is wrong with the end of the chain, all of whose events are good."""
    wrong = state.size if state.size and head != state.head_hash else state.beyond
    if wrong is not None:
        rows, _ = await database.read(list_links, caller, wrong - 1, wrong)
        return Break(rows[0][_EVENT_ID] if rows else None, wrong, "head")
    if state.newest_checkpoint > state.size:
        return Break(None, state.size + 1, "head")
    if state.newest_checkpoint < state.checkpoint_size:
        return Break(None, state.checkpoint_size, "checkpoint")
    return None


async def export_history(database: Database, caller: Caller, key: AuditKey, dates: Dates, *, now: int) -> AsyncIterator[bytes]:
    """The lines of `exports`, a few hundred at a time: every sealed event, oldest first, or those from the first to the last of the dates.

    A part that ends before the head has a checkpoint that says so. Begins with nothing, once everything is known that can be refused. Raises Unavailable; what was written until then is no whole export.
    """
    note = await database.write(sign_head, caller, key, caller.organization_id)
    state, head = await database.read(get_chain_state, caller), parse_note(note)[0]
    found = await _range(database, caller, replace(state, size=head.size), dates)
    yield b""
    size, to_seq = (found[0] - 1, found[1]) if found else (0, 0)
    last = None
    while size < to_seq:
        rows, _ = await database.read(list_links, caller, size, to_seq)
        if not rows:
            break  # missing: the checkpoint below does not fit, and whoever verifies the file is told
        yield await asyncio.to_thread(_lines, rows)
        size, last = rows[-1][_SEQ], from_row(rows[-1])
    if last is not None and size == to_seq < head.size and event_hash(last) == last.hash:  # else it would be signed that what was changed is as it was
        note = sign(replace(head, size=size, head=last.hash, signed_at=now, is_part=True), key.seed)
    yield last_line(note)


def _lines(rows: Iterable[tuple[Any, ...]]) -> bytes:
    return b"".join(event_line(from_row(row)) for row in rows)
