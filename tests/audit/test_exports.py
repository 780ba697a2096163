"""Checking an export without the server: every way of changing the file is found, and the first event concerned is named."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.audit.chains import OTHER_ORGANIZATION, SEED, chain, key, note

from agentidp.audit.exports import MEANINGS, BadExport, Checked, check_export, event_line, last_line
from agentidp.ledger.chain import Break, ChainedEvent, event_hash
from agentidp.ledger.checkpoint import BadCheckpoint, open_note, parse_note, sign

LENGTH = 12
EVENTS = chain(LENGTH)
NOTE = note(EVENTS)
LINES = [*map(event_line, EVENTS), last_line(NOTE)]
FIELDS = sorted(json.loads(LINES[0]))


def check(lines: list[bytes], **options: Any) -> Checked:
    return check_export(lines, **({"key": key()} | options))


def written(event: dict[str, Any]) -> bytes:
    return json.dumps(event, ensure_ascii=False).encode() + b"\n"


def test_a_whole_file_is_good() -> None:
    kept = [note(EVENTS[:size]) for size in (0, 1, 5, LENGTH)]
    for notes in ([], kept, kept[::-1]):
        found = check(LINES, kept=notes)
        assert (found.from_seq, found.to_seq, found.broken) == (1, LENGTH, None)
        assert found.checkpoint == parse_note(NOTE)[0]
    assert check(LINES, key=None).broken is None


def test_it_may_be_written_in_another_way() -> None:
    """As by a tool that reads JSON and writes it again."""
    lines = [written(dict(reversed(json.loads(line).items()))) for line in LINES[:-1]]
    assert check([*lines, LINES[-1]]).broken is None
    without_version = [written({name: value for name, value in json.loads(line).items() if name != "v"}) for line in LINES[:-1]]
    assert check([*without_version, LINES[-1]]).broken is None


def test_an_empty_history() -> None:
    assert check([last_line(note([]))]).broken is None
    assert check([LINES[-1]]).broken == Break(None, LENGTH, "head")
    assert check([last_line(note([]))], kept=[NOTE]).broken == Break(None, LENGTH, "head")


@pytest.mark.parametrize("at", [0, 5, LENGTH - 1])
@pytest.mark.parametrize("field", FIELDS)
def test_an_edited_field_is_found(at: int, field: str) -> None:
    event = json.loads(LINES[at])
    neighbour = json.loads(LINES[at - 1 if at else 1])
    different = {"organizationId": OTHER_ORGANIZATION, "v": "agentidp-audit-2"}
    event[field] = different.get(field, neighbour[field])
    lines = [*LINES[:at], written(event), *LINES[at + 1 :]]
    if field == "v":
        with pytest.raises(BadExport, match=f"line {at + 1} "):
            check(lines)
        return
    found = check(lines)
    assert found.broken is not None
    expected = {"seq": "duplicate", "previousHash": "link", "organizationId": "organization"} if at else {"seq": "gap", "previousHash": "link"}
    assert found.broken.reason == expected.get(field, "hash")
    assert found.broken.event_id == event["eventId"]
    assert found.to_seq == at or (field, at) == ("seq", 0)


def cut(lines: list[bytes], at: int) -> list[bytes]:
    return lines[:at] + lines[at + 1 :]


def double(lines: list[bytes], at: int) -> list[bytes]:
    return [*lines[: at + 1], *lines[at:]]


def swap(lines: list[bytes], at: int) -> list[bytes]:
    return [*lines[:at], lines[at + 1], lines[at], *lines[at + 2 :]]


def make_up(lines: list[bytes], at: int) -> list[bytes]:
    event = json.loads(lines[at])
    made_up = json.loads(event_line(forged(EVENTS[at], action="agent.updated")))
    assert event["seq"] == made_up["seq"]
    return [*lines[:at], written(made_up), *lines[at:]]


def forged(event: ChainedEvent, **changed: Any) -> ChainedEvent:
    """With a hash that fits."""
    made = ChainedEvent(**{name: getattr(event, name) for name in event.__struct_fields__} | changed)
    made.hash = event_hash(made)
    return made


@pytest.mark.parametrize(
    ("change", "broken_at", "reason"),
    [(cut, 1, "gap"), (double, 0, "duplicate"), (swap, 1, "gap"), (make_up, 0, "duplicate")],
    ids=["missing", "doubled", "reordered", "made up"],
)
@pytest.mark.parametrize("at", [1, 5, LENGTH - 2])
def test_lines_missing_doubled_reordered_or_made_up_are_found(change: Callable[[list[bytes], int], list[bytes]], broken_at: int, reason: str, at: int) -> None:
    found = check(change(LINES, at))
    broken = EVENTS[at + broken_at]
    assert found.broken == Break(broken.event_id, broken.seq, reason)  # type: ignore[arg-type]
    assert MEANINGS[reason]


def test_a_missing_first_line_is_found() -> None:
    assert check(LINES[1:]).broken == Break(EVENTS[1].event_id, 2, "gap")


@pytest.mark.parametrize("at", range(LENGTH + 1))
def test_a_file_that_was_cut_on_its_way_is_found(at: int) -> None:
    for lines in (LINES[:at], [*LINES[:at], LINES[at][:-1]], [*LINES[:at], LINES[at][: len(LINES[at]) // 2]]):
        with pytest.raises(BadExport, match=f"line {at + 1}, "):
            check(lines)


def test_a_tail_that_was_cut_is_found() -> None:
    """The last line left as it was; the last line of an older export, which only a kept checkpoint can tell."""
    assert check([*LINES[:9], LINES[-1]]).broken == Break(None, LENGTH, "head")
    older = [*LINES[:9], last_line(note(EVENTS[:9]))]
    assert check(older).broken is None
    assert check(older, kept=[NOTE]).broken == Break(None, LENGTH, "head")


def test_a_history_made_anew_is_found_by_a_kept_checkpoint() -> None:
    """All hashes fit, the last checkpoint is signed by the server's key; the agent of event 5 was exchanged."""
    events = EVENTS[:4]
    for event in EVENTS[4:]:
        events = [*events, forged(event, previous_hash=str(events[-1].hash), **({"action": "x"} if event.seq == 5 else {}))]
    lines = [*map(event_line, events), last_line(note(events))]
    assert check(lines).broken is None
    assert check(lines, kept=[note(EVENTS[:4])]).broken is None
    assert check(lines, kept=[note(EVENTS[:4]), note(EVENTS[:7])]).broken == Break(events[6].event_id, 7, "head")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{}\n", "line 3 is not an audit event"),
        (b"\n", "line 3 is not an audit event"),
        (LINES[2].replace(b"{", b'{"action":"other",', 1), "line 3 is not an audit event"),  # twice in one object: two readers, two events
        (LINES[2].replace(b'"seq":3', b'"seq":3,"more":1'), "line 3 is not an audit event"),
        (LINES[2].replace(b'"seq":3', b'"seq":"3"'), "line 3 is not an audit event"),
        (LINES[2].replace(b"tests/3", b"tests/\xff"), "line 3 is not an audit event"),
        (b'{"checkpoint":1}\n', "line 3 is not a checkpoint|line 4 comes after"),
        (LINES[-1], "line 4 comes after the checkpoint"),
    ],
)
def test_what_is_no_event_is_refused_with_its_line(line: bytes, said: str) -> None:
    with pytest.raises(BadExport, match=said):
        check([*LINES[:2], line, *LINES[3:]])


def test_a_part_has_to_be_asked_for_or_follow_a_kept_checkpoint() -> None:
    part = [*LINES[4:9], last_line(note(EVENTS[:9]))]
    assert check(part).broken == Break(EVENTS[4].event_id, 5, "gap")
    good = check(part, is_part=True)
    assert (good.from_seq, good.to_seq, good.broken) == (5, 9, None)
    assert check(part, is_part=True, kept=[note(EVENTS[:2]), NOTE]).broken is None
    assert check(part, kept=[note(EVENTS[:4])]).broken is None
    assert check(part, is_part=True, kept=[note(EVENTS[:6])]).broken is None
    other = note(chain(6, action="x"))
    assert check(part, is_part=True, kept=[other]).broken == Break(EVENTS[5].event_id, 6, "head")
    assert check(part, kept=[note(chain(4, action="x"))]).broken == Break(None, 4, "head")
    assert check([*cut(LINES, 6)[4:8], part[-1]], is_part=True).broken == Break(EVENTS[7].event_id, 8, "gap")


def part_note(events: list[ChainedEvent]) -> str:
    return sign(replace(parse_note(note(events))[0], is_part=True), SEED)


def test_the_note_of_a_part_is_taken_for_nothing_else() -> None:
    of_part = part_note(EVENTS[:9])
    assert open_note(of_part, key()) == replace(parse_note(note(EVENTS[:9]))[0], is_part=True)
    part = [*LINES[4:9], last_line(of_part)]
    good = check(part, is_part=True)
    assert (good.from_seq, good.to_seq, good.broken) == (5, 9, None)
    for lines in (part, [*LINES[:9], part[-1]]):
        with pytest.raises(BadExport, match="part of the history"):
            check(lines, kept=[note(EVENTS[:4])])
    for kept in (of_part, part_note(EVENTS)):
        with pytest.raises(BadCheckpoint, match="part of the history"):
            check(LINES, kept=[kept])
    assert check([*LINES[4:8], part[-1]], is_part=True).broken == Break(None, 9, "head")
    assert check([part[-1]], is_part=True).broken == Break(None, 9, "head")
    for changed in (of_part.replace("part\n", "", 1), note(EVENTS[:9]).replace("\n\n", "\npart\n\n", 1)):
        with pytest.raises(BadCheckpoint, match="signature does not belong"):
            check([*LINES[:9], last_line(changed)], is_part=True)
    for malformed in ("Part", "part\npart", "part ", "part\n"):
        with pytest.raises(BadCheckpoint, match="malformed"):
            parse_note(of_part.replace("part", malformed, 1))


def test_checkpoints_of_others_are_refused_with_the_reason() -> None:
    strange = {
        "another organization": note(EVENTS[:5], organization_id=OTHER_ORGANIZATION),
        "another instance": note(EVENTS[:5], issuer="https://other.example.com"),
        "not signed by the key": note(EVENTS[:5], seed=bytes(32)),
        "signature does not belong": note(EVENTS[:5]).replace("\n5\n", "\n4\n"),
        "malformed": "5\n",
    }
    for reason, kept in strange.items():
        with pytest.raises(BadCheckpoint, match=reason):
            check(LINES, kept=[kept])
    for reason in ("another organization", "another instance", "not signed by the key"):
        with pytest.raises(BadCheckpoint, match=reason):
            check([*LINES[:5], last_line(strange[reason])])


def test_without_a_key_checkpoints_must_still_be_of_one_chain() -> None:
    with pytest.raises(BadCheckpoint, match="two chains"):
        check(LINES, key=None, kept=[note(EVENTS[:5], issuer="https://other.example.com")])
    foreign = note(EVENTS, organization_id=OTHER_ORGANIZATION)
    with pytest.raises(BadCheckpoint, match="another organization"):
        check([*LINES[:-1], last_line(foreign)], key=None)
    assert check(LINES, key=None, kept=[note(EVENTS[:5], seed=bytes(32))]).broken is None  # nobody looked at the signature
