"""The bytes that are hashed are those of RFC 8785, and a chain with anything wrong is broken at the first event that is."""

import hashlib
import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import msgspec
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from agentidp.core.ids import new_id
from agentidp.ledger.chain import (
    FIRST_PREVIOUS_HASH,
    INTEGER_MAX,
    ROW,
    ChainedEvent,
    Reason,
    canonical,
    decode_event,
    encode_event,
    event_hash,
    from_row,
    from_sealed_row,
    require_canonical,
    verify,
)

ORGANIZATION = "01900000-0000-7000-8000-000000000001"
NOW = 1_795_375_231_042

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ["\0\x01\b\t\n\v\f\r\x1f", "\x7f\x80", "\u2028\u2029", "😀é", '"\\/', "</s>"]
)
NAMES = st.text(st.characters(max_codepoint=127), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-INTEGER_MAX, INTEGER_MAX) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
METADATA = st.dictionaries(NAMES, VALUES, max_size=6)


def row(seq: int, **values: Any) -> tuple[Any, ...]:
    """An event as the database has it, in the order of `ROW`."""
    known = {
        "organization_id": ORGANIZATION,
        "event_id": new_id(NOW),
        "seq": seq,
        "agent_id": None,
        "action": "token.issued",
        "outcome": "success",
        "target_type": "token",
        "target_id": f"t{seq}",
        "ip_address": "192.0.2.1",
        "user_agent": None,
        "request_id": "r",
        "metadata": '{"scope": "a b", "n": [1, null, true]}',
        "timestamp": NOW,
        "previous_hash": FIRST_PREVIOUS_HASH,
        "hash": "",
    }
    return tuple((known | values)[name] for name in ROW)


def chain(length: int) -> list[ChainedEvent]:
    events, head = [], FIRST_PREVIOUS_HASH
    for seq in range(1, length + 1):
        event = from_row(row(seq, previous_hash=head))
        event.hash = head = event_hash(event)
        events.append(event)
    return events


def rehash(event: ChainedEvent) -> None:
    event.hash = event_hash(event)


@given(metadata=METADATA, text=TEXTS, other=st.none() | TEXTS, seq=st.integers(1, INTEGER_MAX))
def test_the_bytes_are_those_of_rfc_8785(metadata: dict[str, Any], text: str, other: str | None, seq: int) -> None:
    require_canonical(metadata)
    event = from_row(row(seq, metadata=json.dumps(metadata), action=text, user_agent=other, target_id=other, request_id=text))
    shown = msgspec.json.decode(encode_event(event))
    assert shown.pop("hash") == ""
    assert shown["metadata"] == metadata
    assert canonical(event) == rfc8785.dumps(shown)
    assert event_hash(event) == hashlib.sha256(b"\0" + rfc8785.dumps(shown)).hexdigest()
    sealed = from_sealed_row(row(seq, metadata=rfc8785.dumps(metadata).decode(), action=text, user_agent=other, target_id=other, request_id=text))
    sealed.event_id, sealed.hash = event.event_id, event.hash
    assert canonical(sealed) == canonical(event)


def test_the_fields_stand_in_the_order_of_their_names() -> None:
    names = [field.encode_name for field in msgspec.structs.fields(ChainedEvent)]
    assert names == [*sorted(name for name in names if name != "hash"), "hash"]


def test_a_hash_that_anybody_can_recompute() -> None:
    """What an auditor's script does, with nothing of ours."""
    line = json.loads(encode_event(chain(1)[0]))
    stored = line.pop("hash")
    text = json.dumps(line | {"v": "agentidp-audit-1"}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert stored == hashlib.sha256(b"\0" + text.encode()).hexdigest()


def test_a_line_with_or_without_hash_and_version_is_the_same_event() -> None:
    event = chain(1)[0]
    line = json.loads(encode_event(event))
    assert decode_event(json.dumps(line)) == event
    del line["v"]
    assert decode_event(json.dumps(line)) == event
    assert canonical(decode_event(json.dumps({name: value for name, value in line.items() if name != "hash"}))) == canonical(event)


@pytest.mark.parametrize("change", [{"v": "agentidp-audit-2"}, {"more": 1}, {"seq": "1"}, {"seq": 1.5}, {"action": None}, {"metadata": []}, {"hash": None}])
def test_a_line_that_is_no_event_is_refused(change: dict[str, Any]) -> None:
    line = json.loads(encode_event(chain(1)[0])) | change
    with pytest.raises(msgspec.ValidationError):
        decode_event(json.dumps(line))


@pytest.mark.parametrize(
    "value",
    [1.0, {"a": [0.5]}, float("nan"), INTEGER_MAX + 1, -INTEGER_MAX - 1, {"é": 1}, {1: 2}, {"a": {"b": {"ü": None}}}, "\ud800", {"a": b"x"}, {"a": {1, 2}}],
)
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(ValueError):
        require_canonical(value)


def test_a_whole_chain_is_followed_to_its_head() -> None:
    events = chain(9)
    assert all(later.previous_hash == earlier.hash for earlier, later in pairwise(events))
    heads = [(event.seq, str(event.hash)) for event in events]
    found = verify(ORGANIZATION, iter(events), heads=iter([*heads[2:4], *heads[3:4], heads[8]]))
    assert (found.size, found.head, found.broken) == (9, events[-1].hash, None)
    assert verify(ORGANIZATION, []).broken is None


def test_verification_begins_at_a_checkpoint_when_older_events_are_gone() -> None:
    events = chain(9)
    heads = [(event.seq, str(event.hash)) for event in events]
    assert verify(ORGANIZATION, events[4:], heads=heads, size=4, head=str(events[3].hash)).broken is None
    wrong = verify(ORGANIZATION, events[4:], heads=heads, size=4, head="ab" * 32).broken
    assert wrong is not None
    assert (wrong.event_id, wrong.seq, wrong.reason) == (None, 4, "head")
    assert verify(ORGANIZATION, events[5:], size=4, head=str(events[3].hash)).broken == _break(events[5], "gap")


def _break(event: ChainedEvent, reason: Reason) -> Any:
    from agentidp.ledger.chain import Break

    return Break(event.event_id, event.seq, reason)


@pytest.mark.parametrize("name", [name for name in ROW if name not in {"seq", "hash", "previous_hash", "organization_id"}])
def test_no_field_may_change(name: str) -> None:
    events = chain(5)
    old = getattr(events[2], name)
    setattr(events[2], name, {"scope": "a b"} if name == "metadata" else f"{old}x")
    assert verify(ORGANIZATION, events).broken == _break(events[2], "hash")
    rehash(events[2])
    assert verify(ORGANIZATION, events).broken == _break(events[3], "link")


def _swap(events: list[ChainedEvent]) -> None:
    events[2], events[3] = events[3], events[2]


def _cut(events: list[ChainedEvent]) -> None:
    del events[2]


def _repeat(events: list[ChainedEvent]) -> None:
    events.insert(3, events[2])


def _from_elsewhere(events: list[ChainedEvent]) -> None:
    events[2].organization_id = ORGANIZATION.replace("1", "2")


def _renumbered(events: list[ChainedEvent]) -> None:
    del events[2]
    for seq, event in enumerate(events, 1):
        event.seq = seq
        rehash(event)


@pytest.mark.parametrize(
    ("tamper", "place", "reason"),
    [(_swap, 2, "gap"), (_cut, 2, "gap"), (_repeat, 3, "duplicate"), (_from_elsewhere, 2, "organization"), (_renumbered, 2, "link")],
)
def test_cutting_reordering_and_inserting_are_found(tamper: Callable[[list[ChainedEvent]], None], place: int, reason: Reason) -> None:
    events = chain(6)
    tamper(events)
    assert verify(ORGANIZATION, events).broken == _break(events[place], reason)


def test_a_rewritten_end_and_a_cut_end_are_found_by_a_checkpoint() -> None:
    old = chain(6)
    heads = [(4, str(old[3].hash)), (6, str(old[5].hash))]
    rewritten = chain(6)  # other event ids
    found = verify(ORGANIZATION, rewritten, heads=heads)
    assert found.broken == _break(rewritten[3], "head")
    assert found.size == 3
    cut = verify(ORGANIZATION, old[:5], heads=heads).broken
    assert cut is not None
    assert (cut.event_id, cut.seq, cut.reason) == (None, 6, "head")


def test_events_are_read_as_a_stream() -> None:
    read = []

    def events() -> Any:
        for event in chain(50):
            read.append(event.seq)
            if event.seq == 10:
                event.outcome = "failure"
            yield event

    found = verify(ORGANIZATION, events())
    assert (found.size, read) == (9, list(range(1, 11)))
