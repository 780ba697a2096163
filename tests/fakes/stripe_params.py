"""Parameters as Stripe takes them: `a[b][0]=c` read into JSON and held against the types that the real library declares for each call."""

import functools
import operator
import re
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin
from urllib.parse import parse_qsl

import stripe.params
import typing_extensions
from stripe._request_options import RequestOptions
from tests.fakes.stripe_shapes import Json, wrong


def read_form(text: str) -> Json:
    """Nested objects with text in the leaves; lists are still objects with numbers for names, but `a[]` is a list.

    Raises StripeFault where one name is text in one place and an object in another.
    """
    found: Json = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        *path, last = [name.partition("[")[0], *re.findall(r"\[([^\]]*)\]", name)]
        place: Any = found
        try:
            for part, following in zip(path, [*path, last][1:], strict=True):
                place = place.setdefault(part, [] if following == "" else {})
            place.append(value) if isinstance(place, list) else place.update({last: value})
        except AttributeError:
            raise wrong(f"Invalid parameters: {name} is given in two forms.", name) from None
    return found


def checked(params: Json, name: str) -> Json:
    """The parameters with the types of the library's class `name`. Raises StripeFault for what is unknown, missing or of another type."""
    return _object(params, _class(name), "")


@functools.cache
def _class(name: str) -> Any:
    return operator.attrgetter(name)(stripe.params)


@functools.cache
def _fields(of: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """The fields of a TypedDict with their types, and the required ones; what the library itself consumes is left out."""
    own = set(RequestOptions.__annotations__)
    names = {"StripeContext": object, "Mapping": Mapping}  # in the library's own options, which are not imported where they are inherited
    hints = {name: hint for name, hint in typing_extensions.get_type_hints(of, localns=names).items() if name not in own}
    return hints, frozenset(of.__required_keys__) - own


def _object(value: Json, of: Any, path: str) -> Json:
    hints, required = _fields(of)
    for name in value:
        if name not in hints:
            raise wrong(f"Received unknown parameter: {_inside(path, name)}", _inside(path, name), "parameter_unknown")
    for name in sorted(required):
        if name not in value:
            raise wrong(f"Missing required param: {_inside(path, name)}.", _inside(path, name), "parameter_missing")
    return {name: _value(inner, hints[name], _inside(path, name)) for name, inner in value.items()}


def _value(value: Any, hint: Any, path: str) -> Any:
    origin = get_origin(hint)
    if origin in {Union, types.UnionType}:
        return _either(value, get_args(hint), path)
    if typing_extensions.is_typeddict(hint) and isinstance(value, dict):
        return _object(value, hint, path)
    if origin is list and isinstance(value, dict | list):
        parts = [value[key] for key in sorted(value, key=int)] if isinstance(value, dict) else value
        return [_value(part, get_args(hint)[0], f"{path}[{index}]") for index, part in enumerate(parts)]
    if origin is dict and isinstance(value, dict):
        return {name: _value(inner, get_args(hint)[1], _inside(path, name)) for name, inner in value.items()}
    if hint is bool and value in {"true", "false"}:
        return value == "true"
    if hint is int and isinstance(value, str) and re.fullmatch(r"-?[0-9]+", value):
        return int(value)
    if hint is str and isinstance(value, str):
        return value
    if origin is Literal and value in get_args(hint):
        return value
    kind = {int: "integer", bool: "boolean", str: "string"}.get(hint, "object" if typing_extensions.is_typeddict(hint) or origin is dict else "array")
    raise wrong(f"Invalid {kind}: {value if isinstance(value, str) else path}", path, f"parameter_invalid_{kind}")


def _either(value: Any, hints: tuple[Any, ...], path: str) -> Any:
    """The library says `Literal[…] | str` for what is an enumeration today, and `Literal[''] | …` for what can be unset."""
    words = [word for hint in hints if get_origin(hint) is Literal for word in get_args(hint)]
    others = [hint for hint in hints if get_origin(hint) is not Literal]
    if isinstance(value, str) and value in words:
        return value
    if others == [str] and any(words):
        raise wrong(f"Invalid {path}: must be one of {', '.join(word for word in words if word)}", path)
    for hint in others[:-1]:
        try:
            return _value(value, hint, path)
        except Exception:  # noqa: BLE001 - the last one says what is wrong
            continue
    return _value(value, others[-1], path)


def _inside(path: str, name: str) -> str:
    return f"{path}[{name}]" if path else name
