"""Bodies that are no JSON, JSON that two parsers would read differently, and JSON of the wrong shape, sent to every operation that takes JSON."""

import json
from typing import Any

import pytest
from tests.bad_input import wire
from tests.bad_input.conftest import Target, said
from tests.bad_input.operations import DOCUMENT, JSON, WITH_JSON, Operation, is_oauth

NOT_STRICT = {
    "invalid": b"{",
    "no quotes": b"{a:1}",
    "single quotes": b"{'a':1}",
    "trailing comma": b'{"name":"x",}',
    "comment": b'{"name":"x"/**/}',
    "trailing garbage": b'{"name":"x"}x',
    "two documents": b'{"name":"x"}{"name":"y"}',
    "white space only": b" \n",
    "byte order mark": b'\xef\xbb\xbf{"name":"x"}',
    "UTF-16": '{"name":"x"}'.encode("utf-16"),
    "UTF-32": '{"name":"x"}'.encode("utf-32"),
    "duplicate names": b'{"name":"x","name":"y"}',
    "duplicate names, one escaped": b'{"name":"x","n\\u0061me":"y"}',
    "duplicate names inside": b'{"name":{"a":1,"a":2}}',
    "NaN": b'{"name":NaN}',
    "Infinity": b'{"overlapSeconds":Infinity}',
    "-Infinity": b'{"overlapSeconds":-Infinity}',
    "1e400": b'{"overlapSeconds":1e400}',
    "-1e400": b'{"overlapSeconds":-1e400}',
    "10,000 digits": b'{"overlapSeconds":' + b"9" * 10_000 + b"}",
    "leading zero": b'{"overlapSeconds":01}',
    "hexadecimal": b'{"overlapSeconds":0x10}',
    "plus sign": b'{"overlapSeconds":+1}',
    "invalid UTF-8": b'{"name":"\xff\xfe"}',
    "overlong UTF-8": b'{"name":"\xc0\xaf"}',
    "surrogate in UTF-8": b'{"name":"\xed\xa0\x80"}',
    "lone high surrogate": b'{"name":"\\ud800"}',
    "lone low surrogate": b'{"name":"\\udc00x"}',
    "surrogates in the wrong order": b'{"name":"\\udc00\\ud800"}',
    "lone surrogate in a name": b'{"\\ud800":1}',
    "control character in a string": b'{"name":"a\nb"}',
    "raw NUL in a string": b'{"name":"a\x00b"}',
    "NUL after the end": b'{"name":"x"}\x00',
    "30,000 arrays": b"[" * 30_000 + b"]" * 30_000,
    "30,000 arrays without end": b"[" * 30_000,
    "10,000 objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "depth hidden behind closing brackets in a string": b'["' + b"]" * 20_000 + b'",' + b"[" * 10_000 + b"]" * 10_001,
    "unterminated string of escapes": b'["' + b'\\"' * 30_000 + b"[" * 100,
}
WRONG_TYPES: list[Any] = [None, True, 1, -1, 1.5, 10**18, 10**400, "", "x", [], ["x"], {}, {"a": 1}]
HOSTILE = ["\x00", "a\x00b", "\x1b[31m", "\u202e", "\U0010ffff", "\ufffe", "'; DROP TABLE agents; --", "x" * 60_000]
NO_OBJECTS = [b"null", b"true", b"0", b"-0.0", b'"text"', b"[]", b"[{}]", b'[["a"]]']


def properties(operation: Operation) -> list[str]:
    """The names of the body's fields."""
    schema = operation.definition["requestBody"]["content"][JSON]["schema"]
    references = [schema.get("$ref"), *(option.get("$ref") for option in schema.get("anyOf", ()))]
    return [name for reference in references if reference for name in DOCUMENT["components"]["schemas"][reference.rpartition("/")[2]]["properties"]]


def any_text(operation: Operation) -> set[int]:
    """What an operation also answers that takes any text for a token, and says what is wrong with it."""
    return {"explainTrustPolicies": {200}, "verifyPartnerToken": {200}, "exchangeToken": {401}}.get(operation.definition["operationId"], set())


@pytest.mark.parametrize("operation", WITH_JSON, ids=str)
def test_what_is_not_strict_json_is_400(target: Target, operation: Operation) -> None:
    for name, raw in NOT_STRICT.items():
        response = target.call(operation, content=raw, headers={"Content-Type": JSON})
        code, message = said(response)
        assert (response.status_code, code) == (400, "VALIDATION_ERROR"), name
        assert message.startswith("The body "), name


@pytest.mark.parametrize("operation", WITH_JSON, ids=str)
def test_200_000_brackets_are_413(target: Target, operation: Operation) -> None:
    response = target.call(operation, content=b"[" * 200_000 + b"]" * 200_000, headers={"Content-Type": JSON})
    assert response.status_code == 413


@pytest.mark.parametrize("operation", WITH_JSON, ids=str)
def test_another_type_at_the_top_is_400(target: Target, operation: Operation) -> None:
    for raw in NO_OBJECTS:
        if raw == b"null" and not operation.definition["requestBody"].get("required"):
            continue  # the body is optional; null is none
        response = target.call(operation, content=raw, headers={"Content-Type": JSON})
        assert response.status_code == 400, raw


@pytest.mark.parametrize("operation", WITH_JSON, ids=str)
def test_unknown_and_read_only_fields_are_named(target: Target, operation: Operation) -> None:
    fields = ["organizationId", "agentId", "createdAt", "planTier", "role", "__proto__", "constructor", "x" * 1000]
    response = target.call(operation, json=dict.fromkeys(fields, "x"))
    assert response.status_code == 400
    if is_oauth(operation):
        assert "organizationId" in response.json()["error_description"]
        return
    named = {row["field"] for row in response.json()["details"]["fields"]}
    assert {field[:128] for field in fields} <= named


@pytest.mark.parametrize("operation", WITH_JSON, ids=str)
def test_a_field_of_another_type_never_fails_the_server(target: Target, operation: Operation) -> None:
    """Every field, with every type. Some are right; the path leads to nothing, so that no value can have an effect."""
    nowhere = operation.path() if operation.names else None
    names = properties(operation)
    assert names
    for name in names:
        for value in WRONG_TYPES:
            response = target.call(operation, path=nowhere, json={name: value})
            assert response.status_code in {400, 404} | any_text(operation), (name, value)


@pytest.mark.parametrize("operation", WITH_JSON, ids=str)
def test_text_of_any_kind_never_fails_the_server(target: Target, operation: Operation) -> None:
    nowhere = operation.path() if operation.names else None
    for name in properties(operation):
        for text in HOSTILE:
            value = [text] if name in {"scopes", "capabilities"} else text
            response = target.call(operation, path=nowhere, json={name: value})
            assert response.status_code in {400, 404} | any_text(operation), (name, text[:20])


def test_a_refusal_names_the_wrong_fields_and_not_the_values(target: Target) -> None:
    secret = "aidp_sk_not_to_be_repeated"
    operation = next(operation for operation in WITH_JSON if operation.definition["operationId"] == "registerAgent")
    response = target.call(operation, json={"email": secret, "owner": [secret], "scopes": secret})
    assert response.status_code == 400
    assert secret not in response.text
    assert {"email", "owner", "scopes", "version"} <= {row["field"] for row in response.json()["details"]["fields"]}


def test_an_encoded_body_is_parsed_once(target: Target) -> None:
    """JSON inside a JSON string stays a string."""
    raw = json.dumps(json.dumps({"name": "x"})).encode()
    head = wire.head("POST", "/api/v1/agents", f"Authorization: Bearer {target.token}", f"Content-Type: {JSON}", f"Content-Length: {len(raw)}")
    assert wire.exchange(target.url, head + raw).status == 400
