"""Ids in other spellings, numbers that are none, cursors and dates that are not ours, parameters that nobody knows."""

from typing import Any

import pytest
from tests.bad_input import wire
from tests.bad_input.conftest import Target, said
from tests.bad_input.operations import JSON, LISTS, OPERATIONS, WITH_IDS, Operation

from agentidp.core.ids import new_id

NUMBERS = [
    "0",
    "-1",
    "1.5",
    "1e1",
    "1_000",
    "+1",
    " 1",
    "1 ",
    "1\t",
    "0x10",
    "½",
    "²",
    "１",
    "١",
    "१",
    "1000000000000",
    "9" * 5000,
    "",
    "null",
    "NaN",
    "inf",
    "true",
    "[1]",
    "1,2",
    "1;2",
    "1\x00",
]
CURSORS = ["", "x", "A" * 21, "A" * 23, "A" * 5000, "!" * 22, "é" * 22, "A" * 21 + "=", "A" * 21 + "/", "A" * 21 + "+", "A" * 21 + "\x00", "'" * 22]
DATES = [
    "",
    "x",
    "2026-01-01",
    "2026-01-01T00:00:00",
    "2026-13-01T00:00:00Z",
    "2026-02-30T00:00:00Z",
    "2026-01-01T24:00:01Z",
    "2026-01-01 00:00:00Z",
    "1767225600",
    "1767225600000",
]
DATES += [
    "0000-01-01T00:00:00Z",
    "1969-12-31T23:59:59Z",
    "9999-12-31T23:59:59-01:00",
    "10000-01-01T00:00:00Z",
    "２０２６-01-01T00:00:00Z",
    "2026-01-01T00:00:00+99:00",
    "2026-W01-1T00:00:00Z",
    "now",
    "2026-01-01T00:00:00Z\x00",
]
DATES += ["2026-01-01T00:00:00.Z", "2026-01-01T00:00:00." + "0" * 5000 + "Z", "-2026-01-01T00:00:00Z"]


def spellings(known: str) -> list[str]:
    """The id of a thing that is there, as only our own spelling may name it."""
    return [
        known.upper(),
        known.replace("-", ""),
        f"{{{known}}}",
        f"urn:uuid:{known}",
        f" {known}",
        f"{known}0",
        known[:-1],
        known.replace("-", "_"),
        f"0x{known}",
    ]


OTHERS = [
    "0",
    "-1",
    "x",
    "null",
    "undefined",
    "*",
    "'",
    "' OR '1'='1",
    "x" * 2000,
    "é",
    "１",
    "00000000-0000-0000-0000-000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
]


def nowhere(operation: Operation, target: Target, name: str, value: str) -> str:
    """The path with this one id wrong; the others are right where reading, and nobody's where a mistake would change something."""
    return operation.path((target.ids if operation.method == "GET" else {}) | {name: value})


@pytest.mark.parametrize("operation", WITH_IDS, ids=str)
def test_an_id_that_is_none_is_404(target: Target, operation: Operation) -> None:
    body = {"content": operation.sample, "headers": {"Content-Type": JSON}} if operation.body else {}
    for name in operation.names:
        for value in [*spellings(target.ids.get(name, new_id(1))), *OTHERS]:
            response = target.call(operation, path=nowhere(operation, target, name, value), **body)
            assert response.status_code == 404, (name, value)
            assert response.json()["code"].endswith("NOT_FOUND"), (name, value)


@pytest.mark.parametrize("operation", WITH_IDS, ids=str)
def test_an_encoded_path_names_nothing(target: Target, operation: Operation) -> None:
    """Not even where decoding would give the id of a thing that is there: a proxy in front may have read it differently."""
    lines = [f"{name}: {value}" for name, value in target.headers(operation).items()]
    for name in operation.names:
        known = target.ids.get(name, new_id(1))
        for value in (
            f"%{ord(known[0]):02x}{known[1:]}",
            f"{known}%00",
            f"{known}%2F",
            f"%2e%2e%2F{known}",
            f"..%2f{known}",
            f"{known}%2Fcredentials",
            f"{known}%5c",
            f"{known}%0d%0aX-Injected:1",
            "%ff",
            "%",
        ):
            answer = wire.exchange(target.url, wire.head(operation.method, nowhere(operation, target, name, value), *lines))
            assert (answer.status, answer.json()["code"]) == (404, "NOT_FOUND"), value
            assert "x-injected" not in answer.headers


@pytest.mark.parametrize("operation", LISTS, ids=str)
def test_a_number_that_is_none_is_400_and_named(target: Target, operation: Operation) -> None:
    for name in ("limit", "page"):
        for value in NUMBERS:
            assert_wrong(target, operation, name, value)
        highest = next(option["maximum"] for option in (operation.query[name], *operation.query[name].get("anyOf", ())) if "maximum" in option)
        assert_wrong(target, operation, name, str(highest + 1))
        assert target.call(operation, params={name: "1"}).status_code == 200
        assert target.call(operation, params={name: str(highest)}).status_code == 200


@pytest.mark.parametrize("operation", LISTS, ids=str)
def test_a_page_beyond_10_000_rows_is_400(target: Target, operation: Operation) -> None:
    highest = {
        name: next(option["maximum"] for option in (operation.query[name], *operation.query[name].get("anyOf", ())) if "maximum" in option)
        for name in ("limit", "page")
    }
    at_the_end = target.call(operation, params=highest)
    assert at_the_end.status_code == (200 if highest["limit"] * highest["page"] <= 10_000 else 400)
    both = target.call(operation, params={"page": 1, "cursor": "A" * 22})
    assert both.status_code == 400


@pytest.mark.parametrize("operation", LISTS, ids=str)
def test_a_cursor_that_is_none_is_400(target: Target, operation: Operation) -> None:
    for value in CURSORS:
        assert_wrong(target, operation, "cursor", value)
    beyond = target.call(operation, params={"cursor": "A" * 22})
    assert (beyond.status_code, beyond.json()["data"]) == (200, []), "before the first of all ids"


@pytest.mark.parametrize("operation", LISTS, ids=str)
def test_a_date_that_is_none_is_400(target: Target, operation: Operation) -> None:
    dates = [name for name, schema in operation.query.items() if "date-time" in str(schema)]
    for name in dates:
        for value in DATES:
            assert_wrong(target, operation, name, value)
    if {"fromDate", "toDate"} <= set(dates):
        backwards = target.call(operation, params={"fromDate": "2026-01-02T00:00:00Z", "toDate": "2026-01-01T00:00:00Z"})
        assert (backwards.status_code, backwards.json()["code"]) == (400, "INVALID_DATE_RANGE")
    assert dates or operation.template != "/api/v1/audit"


@pytest.mark.parametrize("operation", LISTS, ids=str)
def test_filters_take_any_text_as_text(target: Target, operation: Operation) -> None:
    """Nothing matches, and nothing is a pattern."""
    for name, schema in operation.query.items():
        if name in {"limit", "page", "cursor"} or "enum" in str(schema) or "format" in str(schema):
            continue
        for value in ("%", "_", "\\", "' OR '1'='1", "*", "\u202e", "\U0010ffff", "[", "x" * 254):
            response = target.call(operation, params={name: value})
            assert response.status_code in {200, 400}, (name, value)
            assert name == "q" or response.json().get("data", []) == [], (name, value)
        for value in ("", "x" * 255, "a\nb", "\x00", "\x7f"):
            assert_wrong(target, operation, name, value)


@pytest.mark.parametrize("operation", [operation for operation in OPERATIONS if operation.scope != "client"], ids=str)
def test_unknown_and_repeated_parameters_are_named(target: Target, operation: Operation) -> None:
    if operation.template == "/.well-known/jwks.json":
        return_on_parameters = target.call(operation, params={"x": "y"})
        assert return_on_parameters.status_code == 200, "the key set is served ahead of the framework, and ignores them"
        return
    for name in ("unknown", "LIMIT", "limit[]", "__proto__", "é", "x" * 1000):
        response = target.call(operation, path=target.path(operation), params={name: "1"}, **body_of(operation))
        assert response.status_code == 400, name
        assert "is not a parameter of this operation" in said(response)[1]
    for name in operation.query:
        response = target.call(operation, params=[(name, "1"), (name, "1")])
        assert response.status_code == 400
        assert {"field": name, "message": "is given more than once"} in response.json()["details"]["fields"]


@pytest.mark.parametrize("operation", LISTS, ids=str)
def test_a_query_that_is_no_text_is_400(target: Target, operation: Operation) -> None:
    lines = [f"{name}: {value}" for name, value in target.headers(operation).items()]
    for query in ("limit=%ff", "%ff=1", "limit=1&" + "&".join(f"x{number}" for number in range(200)), "limit=\xe9", "limit=%ed%a0%80"):
        answer = wire.exchange(target.url, wire.head("GET", f"{target.path(operation)}?{query}", *lines))
        assert answer.status == 400, query


def body_of(operation: Operation) -> dict[str, Any]:
    """A body that the operation parses, where it has one."""
    return {"content": b"{}", "headers": {"Content-Type": JSON}} if operation.body else {}


def assert_wrong(target: Target, operation: Operation, name: str, value: str) -> None:
    response = target.call(operation, params={name: value})
    assert (response.status_code, response.json()["code"]) == (400, "VALIDATION_ERROR"), (name, value[:40])
    assert [row["field"] for row in response.json()["details"]["fields"]] == [name], (name, value[:40])
