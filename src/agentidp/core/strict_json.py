"""JSON that means one thing only: no duplicate names, no NaN, no lone surrogates, bounded depth (RFC 8259, I-JSON RFC 7493)."""

import json
from typing import NoReturn

from agentidp.core import limits


class NotStrictJson(ValueError):
    """The text is not JSON, or is JSON that two parsers may read differently."""


def parse(raw: bytes) -> object:
    """The value. Raises NotStrictJson, with a message for the client, for anything else; bounded in time by the size of `raw`."""
    if _deepest(raw) > limits.JSON_DEPTH_MAX:
        raise NotStrictJson(f"is nested deeper than {limits.JSON_DEPTH_MAX} levels")
    try:
        text = raw.decode()
        value = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # lone surrogates have no UTF-8 form
    except NotStrictJson:
        raise
    except (UnicodeError, ValueError, RecursionError) as error:
        raise NotStrictJson("is not valid JSON in UTF-8") from error
    return value


def _deepest(raw: bytes) -> int:
    """An upper bound of the nesting depth, brackets inside strings included."""
    if raw.count(b"[") + raw.count(b"{") <= limits.JSON_DEPTH_MAX:
        return 0
    depth = deepest = 0
    for byte in raw:
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
