"""Strict JSON: what it takes, what it refuses, and that its bounds hold for any text."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentidp.core import limits
from agentidp.core.strict_json import NotStrictJson, parse

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)
GOOD: dict[bytes, Any] = {
    b"{}": {},
    b" [1, 2.5, -0, 1e3] ": [1, 2.5, 0, 1000.0],
    b"null": None,
    b'"\\u00e9\\ud83d\\ude00"': "é😀",
    '"é"'.encode(): "é",
    b'{"a":{"a":1}}': {"a": {"a": 1}},
    b'"\\u0000"': "\x00",
    b'"' + b"[" * 1000 + b'"': "[" * 1000,
    b'"\\"[[' + b"{" * 100 + b'"': '"[[' + "{" * 100,
}
BAD = {
    b"": "not valid JSON",
    b"{": "not valid JSON",
    b"1 2": "not valid JSON",
    b"\xff": "not valid JSON",
    b"\xef\xbb\xbf1": "not valid JSON",
    b"9" * 5000: "not valid JSON",
    b'"\\ud800"': "not valid JSON",
    b'{"\\udfff":1}': "not valid JSON",
    b'"\xed\xa0\x80"': "not valid JSON",
    b'{"a":1,"a":1}': "twice",
    b'{"a":1,"\\u0061":1}': "twice",
    b"NaN": "NaN",
    b"[Infinity]": "Infinity",
    b"[-Infinity]": "Infinity",
    b"1e400": "too large",
    b"-1e400": "too large",
    b'["]]]]",' + b"[" * 40 + b"]" * 41: "deeper",
    b'["' + b"]" * 50 + b'",' + b"[" * 32 + b"]" * 33: "deeper",
}


@pytest.mark.parametrize("raw", GOOD)
def test_takes(raw: bytes) -> None:
    assert parse(raw) == GOOD[raw]


@pytest.mark.parametrize("raw", BAD, ids=range(len(BAD)))
def test_refuses(raw: bytes) -> None:
    with pytest.raises(NotStrictJson, match=BAD[raw]):
        parse(raw)


@pytest.mark.parametrize("pair", [(b"[", b"]"), (b'{"a":', b"}")])
def test_the_depth_is_bounded_exactly(pair: tuple[bytes, bytes]) -> None:
    opening, closing = pair
    most = limits.JSON_DEPTH_MAX
    assert parse(opening * most + b"1" + closing * most) is not None
    with pytest.raises(NotStrictJson, match="deeper"):
        parse(opening * (most + 1) + b"1" + closing * (most + 1))
    siblings = b"[" + b",".join([b"[]"] * 100) + b"]"
    assert parse(siblings) == [[]] * 100, "many brackets are not deep"


@given(VALUES)
@settings(derandomize=True, max_examples=100)
def test_what_was_written_is_read(value: object) -> None:
    assert parse(json.dumps(value).encode()) == value
    assert parse(json.dumps(value, ensure_ascii=False).encode()) == value


@given(st.binary(max_size=200) | st.text('[]{}",:\\u019eE+-. dDfnaN', max_size=200).map(str.encode))
@settings(derandomize=True, max_examples=200)
def test_any_bytes_are_read_as_by_the_standard_library_or_refused(raw: bytes) -> None:
    try:
        value = parse(raw)
    except NotStrictJson:
        return
    assert json.dumps(value) == json.dumps(json.loads(raw))
