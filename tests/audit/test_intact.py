"""What SQLite writes is what was sealed, whatever the events hold; and what it could be deceived with is found."""

import json
import random
from collections.abc import Callable
from typing import Any

import apsw
import pytest
from tests.audit.chains import BEGUN, ORGANIZATION, event
from tests.audit.sealed_rows import FILLED, put, sealed_rows
from tests.audit.tampering import KEY, Hands, Refused, run
from tests.db.opened import opened

from agentidp.audit.history import verify_history
from agentidp.audit.intact import Intact, _Chain, follow_intact, texts_statement
from agentidp.audit.rules import Dates, Verification
from agentidp.core import limits
from agentidp.core.caller import Caller
from agentidp.db.unit import Database
from agentidp.ledger.chain import FIRST_PREVIOUS_HASH, ROW, Break, Reason
from agentidp.ledger.checkpoint import Checkpoint, origin, sign

CALLER = Caller(ORGANIZATION)
pytestmark = pytest.mark.parametrize("engine", ["sqlite"])

TEXTS = [
    *(chr(code) for code in range(0x100)),
    *(
        "",
        "null",
        '"',
        '\\"',
        "\\u0041",
        '","agentId":"x',
        '},"outcome":"success"',
        "\u2028\u2029\ufeff\ufffd\uffff",
        "é😀",
        "a\nb",
        "%s%b",
        "'; --",
        "1",
        "1.0",
        "true",
    ),
]
DAY = 24 * 3600 * 1000
# Of thirteen digits, the quick way's, with leap days; and others.
INSTANTS = [10**12, 1_709_164_799_999, 1_709_164_800_000, 1_709_251_199_999, 4_107_542_399_999, 10**13 - 1]
LONG_AGO = [1000, 59_999, DAY - 1, DAY, 951_782_399_999, 951_782_400_000, 10**12 - 1, 10**13, limits.TIMESTAMP_MS_MAX]


async def _verify(database: Database, dates: Dates = Dates()) -> Verification:  # noqa: B008 - frozen
    return await verify_history(database, CALLER, KEY, dates, _always)


async def _always() -> bool:
    return True


async def _whole(database: Database, length: int) -> Intact:
    return await database.read(follow_intact, CALLER, 0, FIRST_PREVIOUS_HASH, length)


def test_sqlite_writes_what_was_sealed_whatever_it_holds(database_url: str) -> None:
    chosen = random.Random(20_261_128)

    def values(seq: int) -> dict[str, Any]:
        texts = iter(chosen.choices(TEXTS, k=20))
        found: dict[str, Any] = {name: None if chosen.random() < 0.2 else next(texts) for name in FILLED}
        found |= {"action": next(texts), "outcome": chosen.choice(["success", "failure"])}
        found["metadata"] = {json.dumps(next(texts)): [next(texts), seq, None, {"organizationId": next(texts), "outcome": "success", "seq": 1}]}
        return found | {"timestamp": chosen.choice([*INSTANTS, chosen.randrange(10**12, 10**13)])}

    async def work() -> None:
        async with opened(database_url) as database, Hands(database_url) as hands:
            length = 2 * limits.AUDIT_LINKS_MAX + 1
            rows = await put(hands, length, values)
            assert await _whole(database, length) == Intact(length, rows[-1][-1], [])
            assert (await _verify(database)).broken is None

    run(work())


def test_instants_that_the_quick_way_does_not_know_are_no_fault(database_url: str) -> None:
    async def work() -> None:
        async with opened(database_url) as database, Hands(database_url) as hands:
            await put(hands, len(LONG_AGO), lambda seq: {"timestamp": LONG_AGO[seq - 1]})
            assert (await _whole(database, len(LONG_AGO))).size == 0
            assert (await _verify(database)).broken is None

    run(work())


def _forged(column: str, value: Any) -> list[Any]:
    """What reads like the value somewhere on the way, but is not what the product wrote."""
    if column == "timestamp":
        return [f"{value}x", value + 0.4, value - 0.4, str(value).encode(), value + 1, -value, None]
    if column == "seq":
        return [value + 0.5, str(value).encode(), f"{value}x"]
    if value is None:
        return ["null", "", "\0", b"", b"null"]
    moved = [
        f'{value}","x":"y',
        f'{value}"',
        f"{value}\n",
        f"\n{value}",
        f"{value}\n{value}",
        f"{value}\0",
        f"{value}\0x",
        f" {value}",
        value.upper() + "x",
        None,
    ]
    if column in {"event_id", "agent_id", "metadata"}:  # which are read as text, whatever their type is
        return moved
    binary = bytes([len(value) << 4 | 7]) if len(value) < 12 else bytes([0xC7, len(value)])  # the head of a text in SQLite's own JSONB
    return [*moved, value.encode(), binary + value.encode()]


def test_what_only_reads_like_the_value_is_found(database_url: str) -> None:
    async def work() -> None:
        async with opened(database_url) as database, Hands(database_url) as hands:
            rows = await put(hands, 5, lambda seq: {"user_agent": None} if seq == 2 else {})
            assert (await _whole(database, 5)).size == 5
            for column in (name for name in ROW if name != "organization_id"):
                for seq in (2, 3):
                    value = rows[seq - 1][ROW.index(column)]
                    for forged in _forged(column, value):
                        tried = await _change(hands, column, seq, forged)
                        if tried:
                            assert (await _whole(database, 5)).size == 0, (column, forged)
                            same = column == "metadata" and forged.strip() == value  # the same JSON in another spelling
                            assert ((await _verify(database)).broken is None) == same, (column, forged)
                            await _change(hands, column, seq, value, hash_=rows[seq - 1][-1])
            assert (await _whole(database, 5)).size == 5

    run(work())


async def _change(hands: Hands, column: str, seq: int, value: Any, hash_: str = "") -> bool:
    """Whether the database allows it."""
    where = ("hash = ?", hash_) if hash_ and column != "hash" else ("event_id = ?", event(seq, "").event_id)
    try:
        await hands.run((f"UPDATE audit_events SET {column} = ? WHERE {where[0]}", (value, where[1])))
    except Refused:
        return False
    return True


def test_content_moved_over_the_border_of_a_column_is_found(database_url: str) -> None:
    """The pieces of the sealed text are put into other columns such that the plain text would stay the same."""

    async def work() -> None:
        async with opened(database_url) as database, Hands(database_url) as hands:
            nested = {"a": "1", "organizationId": ORGANIZATION, "outcome": "success"}
            rows = await put(hands, 3, lambda _: {"metadata": nested})
            mine = dict(zip(ROW, rows[1], strict=True))
            moves: list[dict[str, Any]] = [
                {"action": f'{mine["action"]}","agentId":"{mine["agent_id"]}', "agent_id": None},
                {"target_type": f'{mine["target_type"]}","timestamp":"x', "user_agent": None},
                {"metadata": f'{mine["metadata"]},"organizationId":"{ORGANIZATION}"'},
                {"metadata": mine["metadata"].partition(',"organizationId"')[0]},
                {"metadata": mine["metadata"].partition(',"outcome"')[0]},
                {"metadata": mine["metadata"][:-1]},
                {"ip_address": f'{mine["ip_address"]}","metadata":{mine["metadata"]}', "metadata": ""},
                {"hash": f"{mine['hash']}\n{rows[2][-1]}"},
                {"metadata": mine["metadata"].replace(":", ":\n", 1)},
            ]
            for move in moves:
                names = ", ".join(f"{name} = ?" for name in move)
                await hands.run((f"UPDATE audit_events SET {names} WHERE seq = 2", tuple(move.values())))
                assert (await _whole(database, 3)).size == 0, move
                same = "\n" in move.get("metadata", "")  # the same JSON in another spelling
                assert (await _verify(database)).broken == (None if same else Break(mine["event_id"], 2, "hash")), move
                old = tuple(mine[name] for name in move)
                await hands.run((f"UPDATE audit_events SET {names} WHERE seq = 2", old))
            assert (await _whole(database, 3)).size == 3

    run(work())


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        (lambda seq: {"seq": seq + (seq > 2)}, (4, "gap")),
        (lambda seq: {"seq": seq * 3}, (3, "gap")),
        (lambda seq: {"previous_hash": "ab" * 32} if seq == 3 else {}, (3, "link")),
        (lambda seq: {"previous_hash": None} if seq == 3 else {}, (3, "link")),
    ],
)
def test_a_chain_that_was_sealed_wrong_is_found(database_url: str, changed: Callable[[int], dict[str, Any]], found: tuple[int, Reason]) -> None:
    """Every hash fits its own event."""

    async def work() -> None:
        async with opened(database_url) as database, Hands(database_url) as hands:
            await put(hands, 5, changed)
            await hands.run(("UPDATE audit_heads SET size = (SELECT max(seq) FROM audit_events)", ()))
            assert (await _whole(database, 15)).size == 0
            broken = (await _verify(database)).broken
            assert broken is not None
            assert (broken.seq, broken.reason) == found

    run(work())


def test_one_event_never_stands_in_for_its_neighbour(database_url: str) -> None:
    """A hash that spells two, while the next event has none."""

    async def work() -> None:
        async with opened(database_url) as database, Hands(database_url) as hands:
            rows = await put(hands, 4)
            two = f"{rows[1][-1]}\n{rows[2][-1]}"
            await hands.run(("UPDATE audit_events SET hash = ? WHERE seq = 2", (two,)), ("UPDATE audit_events SET hash = NULL WHERE seq = 3", ()))
            assert (await _whole(database, 4)).size == 0
            assert (await _verify(database)).broken == Break(rows[1][ROW.index("event_id")], 2, "hash")

    run(work())


def test_what_is_wrong_far_behind_is_named(database_url: str) -> None:
    """Behind pieces and stretches that are intact: events, and checkpoints that say something else."""
    length = limits.AUDIT_STRETCH_MAX + limits.AUDIT_LINKS_MAX + 7

    async def work() -> None:
        async with opened(database_url) as database, Hands(database_url) as hands:
            rows = await put(hands, length)
            name, ids = origin(KEY.issuer, ORGANIZATION), [row[ROW.index("event_id")] for row in rows]
            sizes = (1, limits.AUDIT_LINKS_MAX, limits.AUDIT_LINKS_MAX + 1, limits.AUDIT_STRETCH_MAX, length)
            notes = {size: sign(Checkpoint(name, size, rows[size - 1][-1], BEGUN), KEY.seed) for size in sizes}
            await hands.run(*(("INSERT INTO audit_checkpoints VALUES (?, ?, ?, ?, ?)", (ORGANIZATION, at, rows[at - 1][-1], BEGUN, notes[at])) for at in sizes))
            assert await _verify(database) == Verification(1, length, None, notes[length])
            middle = await _verify(database, Dates(BEGUN + 500, BEGUN + length - 10))
            assert (middle.from_seq, middle.to_seq, middle.broken) == (500, length - 10, None)
            for seq in (limits.AUDIT_LINKS_MAX, limits.AUDIT_LINKS_MAX + 2, limits.AUDIT_STRETCH_MAX + 1, length - 1):
                await hands.run(("UPDATE audit_events SET outcome = 'failure' WHERE seq = ?", (seq,)))
                found = await _verify(database)
                assert (found.to_seq, found.broken) == (seq - 1, Break(ids[seq - 1], seq, "hash"))
                await hands.run(("UPDATE audit_events SET outcome = 'success' WHERE seq = ?", (seq,)))
            for at, what, found_there in (
                (limits.AUDIT_LINKS_MAX + 1, "signed_at = signed_at + 1", Break(None, limits.AUDIT_LINKS_MAX + 1, "checkpoint")),
                (limits.AUDIT_STRETCH_MAX, "note = x''", Break(None, limits.AUDIT_STRETCH_MAX, "checkpoint")),
            ):
                await hands.run(
                    ("CREATE TEMP TABLE kept AS SELECT * FROM audit_checkpoints", ()), (f"UPDATE audit_checkpoints SET {what} WHERE size = ?", (at,))
                )
                assert (await _verify(database)).broken == found_there
                await hands.run(("DELETE FROM audit_checkpoints", ()), ("INSERT INTO audit_checkpoints SELECT * FROM kept", ()), ("DROP TABLE kept", ()))
            other = sign(Checkpoint(name, 2, rows[2][-1], BEGUN), KEY.seed)
            await hands.run(("INSERT INTO audit_checkpoints VALUES (?, 2, ?, ?, ?)", (ORGANIZATION, rows[2][-1], BEGUN, other)))
            assert (await _whole(database, length)).size == 0
            assert (await _verify(database)).broken == Break(ids[1], 2, "head")

    run(work())


def test_what_was_sealed_in_another_spelling_is_followed_all_the_same(database_url: str) -> None:
    async def work() -> None:
        async with opened(database_url) as database, Hands(database_url) as hands:
            await put(hands, 3 * limits.AUDIT_LINKS_MAX)
            await hands.run(("UPDATE audit_events SET metadata = replace(metadata, ':', ': ') WHERE seq % 1500 = 7", ()))
            assert (await _whole(database, 3 * limits.AUDIT_LINKS_MAX)).size == 0
            assert await _verify(database) == Verification(1, 3 * limits.AUDIT_LINKS_MAX, None, None)

    run(work())


@pytest.mark.parametrize("column", ["user_agent", "agent_id", "metadata", "previous_hash"])
def test_bytes_that_are_no_text_are_found(database_url: str, column: str) -> None:
    """SQLite takes them; its driver cannot even read them."""

    async def work() -> None:
        async with opened(database_url) as database, Hands(database_url) as hands:
            await put(hands, 5)
            await hands.run((f"UPDATE audit_events SET {column} = CAST(x'ff' AS TEXT) WHERE seq = 3", ()))
            broken = (await _verify(database)).broken
            assert broken is not None
            assert broken.seq == 3

    run(work())


def test_a_newer_sqlite_takes_no_blob_for_what_it_spells(engine: str) -> None:
    """From 3.45 on `json_object` takes JSON in a binary form, in which a number may be spelled in any way, line breaks included."""
    version = tuple(map(int, apsw.sqlite_lib_version().split(".")))
    assert version >= (3, 45)
    statement, connection, rows = texts_statement(version), apsw.Connection(":memory:"), list(sealed_rows(3, lambda _: {}))
    connection.execute(f"CREATE TABLE audit_events ({', '.join(name if name in {'seq', 'timestamp'} else f'{name} TEXT' for name in ROW)})")
    for sealed in rows:
        connection.execute(f"INSERT INTO audit_events VALUES ({', '.join('?' * len(ROW))})", sealed)

    def is_intact() -> bool:
        found = next(connection.execute(statement, (ORGANIZATION, 0, 3)))
        return _Chain(ORGANIZATION, {}, 0, FIRST_PREVIOUS_HASH.encode()).follow(3, found)

    assert is_intact()
    for column, value in zip(ROW, rows[1], strict=True):
        if column not in {"organization_id", "seq"}:
            text = str(value).encode()
            heads = [bytes([len(text) << 4 | kind]) if len(text) < 12 else bytes([0xC0 | kind, len(text)]) for kind in (3, 4, 5, 6, 7, 8, 9, 10)]
            for forged in (text, *(head + text for head in heads), b"\x00", None if value is not None else "null"):
                connection.execute(f"UPDATE audit_events SET {column} = ? WHERE seq = 2", (forged,))
                assert not is_intact(), (column, forged)
            connection.execute(f"UPDATE audit_events SET {column} = ? WHERE seq = 2", (value,))
    assert is_intact()


@pytest.mark.parametrize(("column", "value"), [("head_hash", b"blob"), ("size", 3.5)])
def test_a_checkpoint_of_another_type_is_found(database_url: str, column: str, value: object) -> None:
    async def work() -> None:
        async with opened(database_url) as database, Hands(database_url) as hands:
            rows = await put(hands, 5)
            note = sign(Checkpoint(origin(KEY.issuer, ORGANIZATION), 3, rows[2][-1], BEGUN), KEY.seed)
            insert = "INSERT INTO audit_checkpoints (organization_id, size, head_hash, signed_at, note) VALUES (?, 3, ?, ?, ?)"
            await hands.run((insert, (ORGANIZATION, rows[2][-1], BEGUN, note)))
            await hands.run((f"UPDATE audit_checkpoints SET {column} = ?", (value,)))
            assert (await _verify(database)).broken is not None

    run(work())
