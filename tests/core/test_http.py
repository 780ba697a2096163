"""Bodies, forms, addresses and texts as `core.http` reads them, and the two shapes of a refusal."""

import asyncio
import json
from collections.abc import Iterable
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.types import Message

from agentidp.core import http, limits
from agentidp.core.errors import Conflict, Invalid, InvalidFields, PayloadTooLarge, Unavailable, UnsupportedMediaType

PROXIES = [ip_network("10.0.0.0/8"), ip_network("::1/128")]


def request(*headers: tuple[str, str], body: Iterable[bytes] = (), client: str | None = "203.0.113.9", ends: str = "complete") -> Request:
    """A request whose body comes in these pieces and then is `complete`, the client is `gone`, or nothing comes any more (`silent`)."""
    messages: list[Message] = [{"type": "http.request", "body": piece, "more_body": True} for piece in body]

    async def receive() -> Message:
        if messages:
            return messages.pop(0)
        if ends == "silent":
            await asyncio.sleep(3600)
        return {"type": "http.disconnect"} if ends == "gone" else {"type": "http.request", "body": b"", "more_body": False}

    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": raw, "client": (client, 1) if client else None}, receive)


def body_of(request: Request) -> bytes:
    return asyncio.run(http.read_body(request))


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], ""), (["Application/JSON"], "application/json"), (["application/json ; charset=utf-8"], "application/json"), (["a/b", "a/b"], ""), ([";"], "")],
)
def test_media_type(values: list[str], expected: str) -> None:
    assert http.media_type(request(*(("Content-Type", value) for value in values))) == expected


def test_a_body_is_read_whole_up_to_its_bound() -> None:
    assert body_of(request(body=[b"a", b"", b"bc"])) == b"abc"
    largest = b"x" * limits.BODY_BYTES_MAX
    assert body_of(request(("Content-Length", str(len(largest))), body=[largest])) == largest
    for too_large in (request(body=[largest, b"x"]), request(("Content-Length", str(limits.BODY_BYTES_MAX + 1)))):
        with pytest.raises(PayloadTooLarge):
            body_of(too_large)
    assert body_of(request(("Content-Length", "x"), body=[b"a"])) == b"a", "what is no length is the parser's business"


@pytest.mark.parametrize("values", [["gzip"], ["identity", "gzip"], ["identity, identity"], [""]])
def test_a_compressed_body_is_refused(values: list[str]) -> None:
    with pytest.raises(UnsupportedMediaType):
        body_of(request(*(("Content-Encoding", value) for value in values)))
    assert body_of(request(("Content-Encoding", "Identity"), body=[b"a"])) == b"a"


def test_a_body_that_does_not_come_is_refused() -> None:
    with pytest.raises(Invalid, match="closed before"):
        body_of(request(body=[b"a"], ends="gone"))
    with pytest.raises(Invalid, match="in time"):
        asyncio.run(http.read_body(request(body=[b"a"], ends="silent"), seconds_max=0.01))


def test_json() -> None:
    assert http.parse_json(b'{"a":1}') == {"a": 1}
    with pytest.raises(Invalid, match="The body is not valid JSON"):
        http.parse_json(b"{")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", []),
        (b"a=b", [("a", "b")]),
        (b"a=1&a=2", [("a", "1"), ("a", "2")]),
        (b"a;b=c;d", [("a;b", "c;d")]),
        (b"a&=b&&c=", [("a", ""), ("", "b"), ("c", "")]),
        (b"a+b=c%20d%2B&%C3%A9=%F0%9F%98%80", [("a b", "c d+"), ("é", "😀")]),
        (b"a=b=c&d=%zz%", [("a", "b=c"), ("d", "%zz%")]),
    ],
)
def test_form(raw: bytes, expected: list[tuple[str, str]]) -> None:
    assert http.parse_form(raw) == expected


@pytest.mark.parametrize("raw", [b"a=\xff", b"a=%ff", b"%ff", b"a=%ed%a0%80", b"&" * limits.FORM_PARAMETERS_MAX])
def test_what_is_no_form_is_refused(raw: bytes) -> None:
    with pytest.raises(Invalid):
        http.parse_form(raw)


@pytest.mark.parametrize(
    ("client", "forwarded", "expected"),
    [
        ("203.0.113.9", ["1.1.1.1"], "203.0.113.9"),
        ("10.0.0.1", ["1.1.1.1, 2.2.2.2"], "2.2.2.2"),
        ("10.0.0.1", ["1.1.1.1", "2.2.2.2, 10.9.9.9"], "2.2.2.2"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["1.1.1.1, x"], "10.0.0.1"),
        ("::1", ["2001:DB8::1"], "2001:db8::1"),
        ("::ffff:10.0.0.1", ["::ffff:1.2.3.4"], "1.2.3.4"),
        ("fe80::1%eth0", [], "fe80::1"),
        ("testclient", ["1.1.1.1"], None),
        (None, ["1.1.1.1"], None),
    ],
)
def test_client_address(client: str | None, forwarded: list[str], expected: str | None) -> None:
    headers = [("X-Forwarded-For", value) for value in forwarded]
    assert http.client_address(request(*headers, client=client), PROXIES) == expected
    alone = http.client_address(request(*headers, client=client), [])
    assert alone == http.client_address(request(client=client), []), "without proxies the header says nothing"


def test_origin() -> None:
    found = http.origin_of(request(("User-Agent", "a\x85b")), "id", [])
    assert (found.ip_address, found.user_agent, found.request_id) == ("203.0.113.9", "a\\x85b", "id")


@pytest.mark.parametrize(
    ("client", "expected"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("::ffff:127.0.0.1", True), ("10.0.0.1", False), (None, False), ("x", False)],
)
def test_is_local(client: str | None, expected: bool) -> None:  # noqa: FBT001 - a table
    assert http.is_local(request(client=client)) is expected
    for name in ("X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"):
        assert not http.is_local(request((name, ""), client=client))


@given(st.text(), st.integers(0, 40))
@settings(derandomize=True, max_examples=200)
def test_printable_text_is_bounded_and_printable(text: str, length: int) -> None:
    shown = http.printable(text, length)
    assert shown.isprintable()
    assert len(shown) <= length
    assert not (text.isprintable() and len(text) <= length) or shown == text


def body_json(response: Any) -> Any:
    return json.loads(response.body)


def test_the_two_shapes_of_a_refusal() -> None:
    problem = InvalidFields([("a", 'is "wrong"\\é\n'), ("b", "x"), ("c", "y"), ("d", "z")])
    plain, oauth = http.render(problem, oauth=False), http.render(problem, oauth=True, headers={"X-A": "b"})
    assert body_json(plain)["code"] == "VALIDATION_ERROR"
    assert [row["field"] for row in body_json(plain)["details"]["fields"]] == ["a", "b", "c", "d"]
    assert body_json(oauth) == {"error": "invalid_request", "error_description": "a: is 'wrong''''; b: x; c: y"}
    assert (oauth.status_code, oauth.headers["x-a"], oauth.headers["cache-control"]) == (400, "b", "no-store")
    assert "details" not in body_json(http.render(Conflict(), oauth=False))
    assert http.render(Unavailable(), oauth=False).headers["retry-after"] == str(limits.RETRY_AFTER_SECONDS)
