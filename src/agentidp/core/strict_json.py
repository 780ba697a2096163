"""JSON that means one thing only: no duplicate names, no NaN, no infinite numbers, no lone surrogates, bounded depth (RFC 8259, I-JSON RFC 7493)."""

import json
import math
import re
from typing import NoReturn

from agentidp.core import limits

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)


class NotStrictJson(ValueError):
    """The text is not JSON, or is JSON that two parsers may read differently."""


def parse(raw: bytes) -> object:
    """The value. Raises NotStrictJson, with a message for the client, for anything else; bounded in time by the size of `raw`."""
    if _deepest(raw) > limits.JSON_DEPTH_MAX:
        raise NotStrictJson(f"is nested deeper than {limits.JSON_DEPTH_MAX} levels")
    try:
        text = raw.decode()
        value = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant, parse_float=_finite)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # lone surrogates have no UTF-8 form
    except NotStrictJson:
        raise
    except (UnicodeError, ValueError, RecursionError) as error:
        raise NotStrictJson("is not valid JSON in UTF-8") from error
    return value


def _deepest(raw: bytes) -> int:
    """The nesting depth, or an upper bound where that is small; of what is not JSON, anything."""
    if (brackets := raw.count(b"[") + raw.count(b"{")) <= limits.JSON_DEPTH_MAX:
        return brackets
    depth = deepest = 0
    for byte in _STRING.sub(b"", raw):
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise NotStrictJson("has a name twice in one object")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise NotStrictJson(f"holds {name}, which is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise NotStrictJson("holds a number that is too large")
    return value
