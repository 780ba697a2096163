"""Checkpoints as signed notes: the examples of c2sp.org, the way there and back, and every text that is not one."""

import base64

import pytest

from agentidp.ledger.checkpoint import (
    NOTE_CHARACTERS_MAX,
    BadCheckpoint,
    Checkpoint,
    VerifierKey,
    open_note,
    origin,
    parse_note,
    parse_verifier_key,
    sign,
    verifier_key,
)

SEED = bytes(range(32))
ORGANIZATION = "01900000-0000-7000-8000-000000000001"
ORIGIN = f"id.example.com/organizations/{ORGANIZATION}"
CHECKPOINT = Checkpoint(ORIGIN, 1042, "ab" * 32, 1_795_375_231_042)
KEY = verifier_key(SEED, ORIGIN)
NOTE = sign(CHECKPOINT, SEED)


def test_the_key_of_the_published_example_has_the_published_id() -> None:
    """Key and note from the examples of the C2SP reference implementations."""
    text = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
    key = parse_verifier_key(text)
    assert (key.name, key.key_id.hex(), str(key)) == ("example.com/foo", "530d903a", text)


def test_the_note_has_the_lines_of_the_specification() -> None:
    first, size, head, time, empty, signature, end = NOTE.split("\n")
    assert (first, size, time, empty, end) == (ORIGIN, "1042", "time 2026-11-22T19:20:31.042Z", "", "")
    assert base64.b64decode(head).hex() == CHECKPOINT.head
    dash, name, encoded = signature.split(" ")
    assert (dash, name) == ("—", ORIGIN)
    assert base64.b64decode(encoded)[:4] == KEY.key_id
    assert len(base64.b64decode(encoded)) == 4 + 64


def test_there_and_back() -> None:
    assert open_note(NOTE, KEY) == CHECKPOINT
    assert open_note(NOTE, parse_verifier_key(str(KEY))) == CHECKPOINT
    empty = Checkpoint(ORIGIN, 0, "00" * 32, 0)
    assert open_note(sign(empty, SEED), KEY) == empty


def test_the_origin_is_the_issuer_without_its_scheme_and_the_organization() -> None:
    assert origin("https://id.example.com", ORGANIZATION) == ORIGIN
    assert origin("http://127.0.0.1:3000", "o") == "127.0.0.1:3000/organizations/o"


def test_signatures_of_others_are_passed_over() -> None:
    witness = base64.b64encode(b"\0\0\0\1" + bytes(64)).decode()
    ours = NOTE.split("\n\n")[1]
    assert open_note(NOTE + f"— witness.example/w {witness}\n", KEY) == CHECKPOINT
    assert open_note(f"{CHECKPOINT.text}\n— {ORIGIN} {witness}\n{ours}", KEY) == CHECKPOINT


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (verifier_key(SEED, ORIGIN.replace("0001", "0002")), "another organization"),
        (verifier_key(SEED, ORIGIN.replace("id.", "eu.")), "another instance"),
        (verifier_key(bytes(32), ORIGIN), "not signed by the key"),
    ],
)
def test_a_checkpoint_of_somebody_else_is_refused_with_the_reason(key: VerifierKey, says: str) -> None:
    with pytest.raises(BadCheckpoint, match=says):
        open_note(NOTE, key)


def test_no_byte_of_a_note_may_change() -> None:
    for place in range(len(NOTE.encode())):
        raw = bytearray(NOTE.encode())
        raw[place] ^= 1
        with pytest.raises((BadCheckpoint, UnicodeDecodeError)):
            open_note(raw.decode(), KEY)


def test_a_changed_checkpoint_with_the_old_signature_is_refused() -> None:
    for old, new in (("1042", "1041"), (":31.042Z", ":31.043Z")):
        with pytest.raises(BadCheckpoint, match="does not belong"):
            open_note(NOTE.replace(old, new), KEY)


HEAD_LINE, SIGNATURE_LINE = NOTE.split("\n")[2], NOTE.split("\n")[5]


@pytest.mark.parametrize(
    ("note", "says"),
    [
        ("", "four lines"),
        (NOTE.rstrip("\n"), "four lines"),
        (NOTE.replace("\n", "\r\n"), "four lines"),
        (CHECKPOINT.text, "four lines"),
        (NOTE.replace("time ", "more\ntime "), "four lines"),
        (NOTE.replace("id.example.com", "id example.com"), "origin"),
        (NOTE.replace("id.example.com", "id+example.com"), "origin"),
        (NOTE.replace("id.example.com", "id\x00example.com"), "origin"),
        (NOTE.replace(f"{ORIGIN}\n1042", "\n1042"), "origin"),
        (NOTE.replace("1042", "01042"), "size"),
        (NOTE.replace("1042", "-1"), "size"),
        (NOTE.replace("1042", "1e3"), "size"),
        (NOTE.replace("1042", "١"), "size"),
        (NOTE.replace("1042", "9" * 19), "size"),
        (NOTE.replace("1042", "0"), "head"),
        (NOTE.replace(HEAD_LINE, base64.b64encode(bytes(32)).decode()), "head"),
        (NOTE.replace(HEAD_LINE, base64.b64encode(bytes(31)).decode()), "head"),
        (NOTE.replace(HEAD_LINE, HEAD_LINE.rstrip("=")), "third line must be base64"),
        (NOTE.replace(HEAD_LINE, "q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6t="), "loose bits"),
        (NOTE.replace("time ", "date "), "fourth line"),
        (NOTE.replace("time ", ""), "fourth line"),
        (NOTE.replace("31.042Z", "31.042+00:00"), "UTC with milliseconds"),
        (NOTE.replace("— id", "-- id"), "signature line"),
        (NOTE.replace(SIGNATURE_LINE, f"— {ORIGIN} AAAA"), "key id and a signature"),
        (NOTE + "\n", "four lines"),
        (NOTE + f"— x {'A' * NOTE_CHARACTERS_MAX}\n", "characters"),
    ],
)
def test_what_is_not_a_checkpoint_is_refused_with_the_reason(note: str, says: str) -> None:
    assert note != NOTE
    with pytest.raises(BadCheckpoint, match=says):
        parse_note(note)


@pytest.mark.parametrize("text", ["", "a", "a+b", "a+530d903a+AekyeRrm", str(KEY).replace("+", "+0", 1), str(KEY)[:-4], "+" + str(KEY).partition("+")[2]])
def test_what_is_not_a_verifier_key_is_refused(text: str) -> None:
    with pytest.raises(BadCheckpoint, match="verifier key"):
        parse_verifier_key(text)
