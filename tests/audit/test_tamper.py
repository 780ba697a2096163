"""The history changed behind the product's back, in every way and at every kind of event: verification fails and names the right event.

`make docs` writes the table in docs/audit-tampering.md anew.
"""

import asyncio
import json
import random
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.audit.tampering import COLUMNS, KEY, Hands, Refused, Sealed, actions_of_the_product, checkpoint_sizes, run, sealed_history

from agentidp.audit.exports import Checked, check_export
from agentidp.audit.history import export_history
from agentidp.audit.rules import Dates
from agentidp.core.caller import Caller
from agentidp.core.clock import system_clock
from agentidp.core.ids import new_id
from agentidp.db.unit import Tx
from agentidp.ledger.chain import Break
from agentidp.ledger.checkpoint import Checkpoint, origin, parse_note, verifier_key
from agentidp.ledger.heads import sign_head
from agentidp.ledger.nudge import Nudge
from agentidp.ledger.sealer import ChainSealer

ACTIONS = actions_of_the_product()
FRAME = ["org.created"] * 3  # before and after, so that each event has neighbours
PAGE = Path(__file__).parents[2] / "docs" / "audit-tampering.md"
SEED = 20_261_122
SAMPLED = 120  # of all ways, on PostgreSQL


@dataclass(frozen=True)
class Way:
    """What is done to the event with this number. `column` is empty where the whole row is concerned."""

    seq: int
    what: str
    column: str = ""


def ways() -> list[Way]:
    found = []
    for seq in range(len(FRAME) + 1, len(FRAME) + len(ACTIONS) + 1):
        found += [Way(seq, what, column) for what in ("change", "null", "swap") for column in COLUMNS]
        found += [Way(seq, what) for what in ("delete", "insert", "insert behind the end", "duplicate")]
    return found


_OTHER = {"outcome": "CASE outcome WHEN 'success' THEN 'failure' ELSE 'success' END", "metadata": "'{\"number\": 0}'", "seq": "seq + 1000"}
_OTHER |= {"timestamp": "timestamp + 1", "hash": "previous_hash", "previous_hash": "hash"}
_MINE = "WHERE organization_id = ? AND event_id = ?"


async def tamper(sealed: Sealed, way: Way) -> str | None:
    """Do it. Returns the id of an event that was put in. Raises Refused."""
    mine, event_id, next_id = sealed.caller.organization_id, sealed.ids[way.seq - 1], sealed.ids[way.seq]
    if way.what == "change":
        ids = {"event_id": new_id(0), "agent_id": new_id(0), "organization_id": sealed.other_organization}
        value = f"'{ids[way.column]}'" if way.column in ids else _OTHER.get(way.column, f"{way.column} || 'x'")
        await sealed.hands.run((f"UPDATE audit_events SET {way.column} = {value} {_MINE}", (mine, event_id)))
        return ids.get(way.column) if way.column == "event_id" else None
    if way.what == "null":
        await sealed.hands.run((f"UPDATE audit_events SET {way.column} = NULL {_MINE}", (mine, event_id)))
    elif way.what == "swap":
        await _swap(sealed, way.column, event_id, next_id)
    elif way.what == "delete":
        await sealed.hands.run((f"DELETE FROM audit_events {_MINE}", (mine, event_id)))
    else:
        return await _copy(sealed.hands, way, mine, event_id, sealed.size)
    return None


async def _swap(sealed: Sealed, column: str, event_id: str, next_id: str) -> None:
    """With the event after it. What must be unique goes through a third value."""
    mine, cast = sealed.caller.organization_id, "" if sealed.hands.is_sqlite else "::uuid"
    if column == "event_id":
        third = new_id(0)
        steps = [(event_id, third), (next_id, event_id), (third, next_id)]
        await sealed.hands.run(*((f"UPDATE audit_events SET event_id = ?{cast} {_MINE}", (new, mine, old)) for old, new in steps))
        return
    rows = [(await sealed.hands.rows(f"SELECT {column} FROM audit_events {_MINE}", mine, one))[0][0] for one in (event_id, next_id)]
    if rows[0] == rows[1]:
        raise Unchanged
    changes = [(rows[1], event_id), (rows[0], next_id)]
    first = [(f"UPDATE audit_events SET seq = NULL {_MINE}", (mine, next_id))] if column == "seq" else []
    await sealed.hands.run(*first, *((f"UPDATE audit_events SET {column} = ? {_MINE}", (value, mine, one)) for value, one in changes))


class Unchanged(Exception):
    """Both neighbours have the same value."""


async def _copy(hands: Hands, way: Way, mine: str, event_id: str, size: int) -> str:
    made = event_id if way.what == "duplicate" else new_id(0)
    seq = str(size + 1) if way.what == "insert behind the end" else "seq"
    new = {"event_id": f"'{made}'", "seq": seq}
    values = ", ".join(new.get(column, column) for column in COLUMNS)
    cast = values if hands.is_sqlite else values.replace(f"'{made}'", f"'{made}'::uuid")
    await hands.run((f"INSERT INTO audit_events ({', '.join(COLUMNS)}) SELECT {cast} FROM audit_events {_MINE}", (mine, event_id)))
    return made


def expected(sealed: Sealed, way: Way, made: str | None) -> Break:
    """The first event that is wrong after it, and why."""
    event_id, next_id = sealed.ids[way.seq - 1], sealed.ids[way.seq]
    if way.what == "delete" or (way.column in {"seq", "organization_id"} and way.what in {"change", "null"}):
        return Break(next_id, way.seq + 1, "gap")
    if way.what == "insert behind the end":
        return Break(made, sealed.size + 1, "head")
    if way.column == "seq":
        return Break(next_id, way.seq, "link")
    if way.column == "event_id":
        return Break(made or next_id, way.seq, "hash")
    return Break(event_id, way.seq, "link" if way.column == "previous_hash" else "hash")


async def sweep(url: str, chosen: list[Way]) -> Counter[tuple[str, str]]:
    """Try each way on a fresh copy. Returns how many were found, refused, or changed nothing, by what was done."""
    counts: Counter[tuple[str, str]] = Counter()
    async with sealed_history(url, [*FRAME, *ACTIONS, *FRAME]) as sealed:
        assert (await sealed.verify()).broken is None
        for way in chosen:
            try:
                made = await tamper(sealed, way)
            except Refused:
                counts[way.what, "refused"] += 1
                continue
            except Unchanged:
                counts[way.what, "unchanged"] += 1
                continue
            found = await sealed.verify()
            assert found.broken == expected(sealed, way, made), way
            counts[way.what, "found"] += 1
            await sealed.hands.restore()
        assert (await sealed.verify()).broken is None
    return counts


def page(counts: Counter[tuple[str, str]]) -> str:
    rows = "".join(
        f"| {what} | {sum(counts[what, one] for one in ('found', 'refused', 'unchanged'))} | {counts[what, 'found']} "
        f"| {counts[what, 'refused']} | {counts[what, 'unchanged']} |\n"
        for what in dict.fromkeys(way.what for way in ways())
    )
    return f"""<!-- Written by `make docs`; `make test` does the same and compares. -->

# Tampering with the audit trail

Behind the product's back, in the database itself, an event of each of the {len(ACTIONS)} actions that the product records was changed in each of its
{len(COLUMNS)} columns, set to null there, swapped with its neighbour, deleted, put in and doubled, one after the other, each time on an intact
history of {len(ACTIONS) + 2 * len(FRAME)} events. After each, `verify` had to fail, and to name the right event and the right reason. All of it on SQLite; a sample of
{SAMPLED}, the same each time, on PostgreSQL.

| What was done | Tried | Found | Refused by the database | Changed nothing |
|---|---:|---:|---:|---:|
{rows}
"Refused" is what a constraint does not allow, and "changed nothing" where both neighbours hold the same value: neither counts as found.

Beside these, each on both engines: the head's row edited or deleted, a checkpoint's row edited, the last checkpoint deleted, the tail cut
with and without its head, a roll-back to an older copy, and all hashes made anew. What a database cannot tell of itself, because all of it was
changed consistently, is found by `agentidp audit verify` with a checkpoint that was kept elsewhere.

What is not found: a made-up event that waits, unsealed, to be sealed, for whoever can write to the database can append to the history; the
deletion of a checkpoint that is not the last one, which takes nothing away while a later one stands; another spelling of the same JSON in
`metadata`, which says the same.
"""


@pytest.mark.slow
def test_every_way_is_found_or_refused(engine: str, database_url: str) -> None:
    everything = ways()
    if engine == "postgresql":
        counts = asyncio.run(sweep(database_url, random.Random(SEED).sample(everything, SAMPLED)))
        assert counts.total() == SAMPLED
        assert sum(number for (_, outcome), number in counts.items() if outcome == "found") > SAMPLED / 2
        return
    counts = asyncio.run(sweep(database_url, everything))
    assert counts.total() == len(everything)
    assert PAGE.read_text("utf-8") == page(counts), "run make docs"


def test_actions_are_derived_from_the_source() -> None:
    assert {"agent.created", "token.issued", "auth.failed", "access.denied", "key.rotated", "org.created"} <= set(ACTIONS)


async def _set(sealed: Sealed, table: str, assignment: str, *values: object, where: str = "") -> None:
    await sealed.hands.run((f"UPDATE {table} SET {assignment} WHERE organization_id = ? {where}", (*values, sealed.caller.organization_id)))


async def _export(sealed: Sealed, dates: Dates = Dates()) -> list[bytes]:  # noqa: B008 - frozen
    pieces = [piece async for piece in export_history(sealed.database, sealed.caller, KEY, dates, now=10**12)]
    return b"".join(pieces).splitlines(keepends=True)


def test_the_head_edited_or_deleted(database_url: str) -> None:
    async def work() -> None:
        async with sealed_history(database_url, ACTIONS) as sealed:
            size = sealed.size
            for assignment, found in (
                ("head_hash = '" + "ab" * 32 + "'", Break(sealed.ids[-1], size, "head")),
                (f"size = {size - 3}", Break(sealed.ids[size - 4], size - 3, "head")),
                (f"size = {size + 3}", Break(None, size + 1, "head")),
                ("start_size = 7", Break(None, 7, "checkpoint")),
            ):
                await _set(sealed, "audit_heads", assignment)
                assert (await sealed.verify()).broken == found
                await sealed.hands.restore()
            await sealed.hands.run(("DELETE FROM audit_heads", ()))
            assert (await sealed.verify()).broken == Break(sealed.ids[0], 1, "head")

    run(work())


def test_a_checkpoint_edited_or_deleted(database_url: str) -> None:
    async def work() -> None:
        async with sealed_history(database_url, ACTIONS) as sealed:
            sizes = checkpoint_sizes(sealed)
            one, last = sizes[1], sizes[-1]
            other = sealed.notes[0].replace("'", "''")
            for assignment in ("head_hash = '" + "ab" * 32 + "'", "signed_at = signed_at + 1", "note = 'x'", "note = note || 'x'", f"note = '{other}'"):
                await _set(sealed, "audit_checkpoints", assignment, where=f"AND size = {one}")
                found = await sealed.verify()
                assert found.broken == Break(None, one, "checkpoint"), assignment
                await sealed.hands.restore()
            await _set(sealed, "audit_checkpoints", f"size = {one + 1}", where=f"AND size = {one}")
            assert (await sealed.verify()).broken == Break(None, one + 1, "checkpoint")
            await sealed.hands.restore()
            await sealed.hands.run((f"DELETE FROM audit_checkpoints WHERE size = {last}", ()))
            assert (await sealed.verify()).broken == Break(None, last, "checkpoint")

    run(work())


def test_a_tail_that_was_cut(database_url: str) -> None:
    """Events only; with the head, which the checkpoints contradict; with both, which only a kept checkpoint contradicts."""

    async def work() -> None:
        async with sealed_history(database_url, ACTIONS) as sealed:
            kept, (first, *_, last) = sealed.notes[-1], checkpoint_sizes(sealed)
            await sealed.hands.run((f"DELETE FROM audit_events WHERE seq > {first}", ()))
            assert (await sealed.verify()).broken == Break(None, first + 1, "head")
            head = (await sealed.hands.rows(f"SELECT hash FROM audit_events WHERE seq = {first}"))[0][0]
            await _set(sealed, "audit_heads", f"size = {first}, head_hash = ?, checkpoint_size = {first}", head)
            assert (await sealed.verify()).broken == Break(None, first + 1, "head")
            await sealed.hands.run((f"DELETE FROM audit_checkpoints WHERE size > {first}", ()))
            assert (await sealed.verify()).broken is None
            assert check_export(await _export(sealed), kept=[sealed.notes[0]]).broken is None
            assert check_export(await _export(sealed), kept=[kept]).broken == Break(None, last, "head")

    run(work())


def test_all_hashes_made_anew(database_url: str) -> None:
    """By somebody who can write to the database and run the product's own sealer, but has not the key of old checkpoints' keepers."""

    async def work() -> None:
        async with sealed_history(database_url, ACTIONS) as sealed:
            kept, size = sealed.notes[0], checkpoint_sizes(sealed)[0]
            mine = sealed.caller.organization_id
            await sealed.hands.run(
                ("UPDATE audit_events SET action = 'agent.updated' WHERE organization_id = ? AND seq = 2", (mine,)),
                ("UPDATE audit_events SET seq = NULL, previous_hash = NULL, hash = NULL", ()),
                ("DELETE FROM audit_heads", ()),
            )
            await _seal_again(sealed)
            assert (await sealed.verify()).broken == Break(sealed.ids[size - 1], size, "head")  # the checkpoints that are stored here say otherwise
            await sealed.hands.run(("DELETE FROM audit_checkpoints", ()))
            assert (await sealed.verify()).broken is None
            lines = await _export(sealed)
            key = verifier_key(KEY.seed, origin(KEY.issuer, mine))
            assert check_export(lines, key=key).broken is None
            assert check_export(lines, key=key, kept=[kept]).broken == Break(sealed.ids[size - 1], size, "head")

    run(work())


async def _seal_again(sealed: Sealed) -> None:
    await sealed.hands.run(("UPDATE audit_heads SET lease_owner = NULL", ()))
    await ChainSealer(sealed.database, system_clock, Nudge()).seal_all()


def test_no_part_is_signed_whose_end_was_changed(database_url: str) -> None:
    """Such an export ends with the checkpoint of the whole, and whoever verifies it is told."""

    async def work() -> None:
        async with sealed_history(database_url, ACTIONS) as sealed:
            (until,) = (await sealed.hands.rows("SELECT timestamp FROM audit_events WHERE seq = 4"))[0]
            for what, found in (
                ("UPDATE audit_events SET action = 'x' WHERE seq = 4", Break(sealed.ids[3], 4, "hash")),
                ("UPDATE audit_events SET hash = previous_hash WHERE seq = 4", Break(sealed.ids[3], 4, "hash")),
            ):
                good = await _export(sealed, Dates(to_date=until))
                assert check_export(good, is_part=True) == Checked(sealed.caller.organization_id, 1, 4, None, checkpoint_of(good))
                assert checkpoint_of(good).is_part
                await sealed.hands.run((what, ()))
                lines = await _export(sealed, Dates(to_date=until))
                assert not checkpoint_of(lines).is_part
                assert check_export(lines, is_part=True).broken == found
                await sealed.hands.restore()

    run(work())


def checkpoint_of(lines: list[bytes]) -> Checkpoint:
    return parse_note(json.loads(lines[-1])["checkpoint"])[0]


def test_an_older_copy_of_everything(database_url: str) -> None:
    """A roll-back is consistent in itself; the checkpoint that was kept is of more events than there are now."""

    async def work() -> None:
        async with sealed_history(database_url, ACTIONS) as sealed:
            caller = Caller(sealed.caller.organization_id)
            await sealed.database.write(_one_more, caller)
            await _seal_again(sealed)
            kept = await sealed.database.write(sign_head, caller, KEY, caller.organization_id)
            await sealed.hands.restore()
            assert (await sealed.verify()).broken is None
            assert check_export(await _export(sealed), kept=[kept]).broken == Break(None, sealed.size + 1, "head")

    run(work())


def _one_more(tx: Tx) -> None:
    tx.record("agent.updated")


def test_what_lies_outside_the_dates_is_not_looked_at(database_url: str) -> None:
    async def work() -> None:
        async with sealed_history(database_url, [*FRAME, *ACTIONS]) as sealed:
            rows = await sealed.hands.rows("SELECT timestamp FROM audit_events ORDER BY seq")
            instants = [row[0] for row in rows]
            whole = await sealed.verify(Dates(instants[4], instants[-3]))
            assert (whole.from_seq, whole.to_seq, whole.broken) == (5, sealed.size - 2, None)
            await tamper(sealed, Way(3, "change", "action"))
            assert (await sealed.verify(Dates(instants[3], None))).broken is None
            found = await sealed.verify(Dates(None, instants[5]))
            assert (found.from_seq, found.to_seq, found.broken) == (1, 2, Break(sealed.ids[2], 3, "hash"))
            nothing = await sealed.verify(Dates(instants[-1] + 1, None))
            assert nothing.broken is None
            assert nothing.to_seq < nothing.from_seq
            part = await _export(sealed, Dates(instants[3], instants[-2]))
            good = check_export(part, is_part=True)
            assert (good.from_seq, good.to_seq, good.broken) == (4, sealed.size - 1, None)

    run(work())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        PAGE.write_text(page(asyncio.run(sweep(f"sqlite:///{folder}/sweep.db", ways()))), "utf-8")
