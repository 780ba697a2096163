"""Every regular expression of the product takes hostile text in linear time: by its structure, which is looked at here, or by an engine that has no other."""

import importlib
import pkgutil
import re
from re import _constants as ops  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from types import ModuleType
from typing import Any

import pydantic
import pytest

import agentidp

REPEATS = {ops.MAX_REPEAT, ops.MIN_REPEAT}


def _modules() -> list[ModuleType]:
    """Every module but the migrations, which are run by alembic and never on input."""
    names = (module.name for module in pkgutil.walk_packages(agentidp.__path__, "agentidp."))
    return [importlib.import_module(name) for name in names if "migrations" not in name]


PATTERNS = {f"{module.__name__}.{name}": value for module in _modules() for name, value in vars(module).items() if isinstance(value, re.Pattern)}


def _can_begin(items: list[Any], char: str) -> bool:
    for operation, argument in items:
        match operation:
            case ops.LITERAL:
                return argument == ord(char)
            case ops.NOT_LITERAL:
                return argument != ord(char)
            case ops.ANY:
                return True
            case ops.IN:
                return _in_class(argument, char)
            case ops.BRANCH:
                return any(_can_begin(list(option), char) for option in argument[1])
            case ops.SUBPATTERN:
                if _can_begin(list(argument[3]), char):
                    return True
                if argument[3].getwidth()[0] > 0:
                    return False
            case ops.MAX_REPEAT | ops.MIN_REPEAT | ops.POSSESSIVE_REPEAT:
                if _can_begin(list(argument[2]), char):
                    return True
                if argument[0] > 0:
                    return False
    return False


def _in_class(items: list[Any], char: str) -> bool:
    negate = items[0][0] is ops.NEGATE
    inside = False
    for operation, argument in items[negate:]:
        if operation is ops.LITERAL:
            inside |= argument == ord(char)
        elif operation is ops.RANGE:
            inside |= argument[0] <= ord(char) <= argument[1]
        else:
            inside = True  # a category: be on the safe side
    return inside != negate


def ambiguities(tree: Any) -> list[str]:
    """Where one text can be taken in two ways: repeats within repeats that begin alike, and neighbours that can take the same character."""
    found: list[str] = []
    items = list(tree)
    for index, (operation, argument) in enumerate(items):
        children = []
        if operation in REPEATS:
            children = [argument[2]]
            inner = list(argument[2])
            if argument[1] is ops.MAXREPEAT and len(inner) == 1 and inner[0][0] is ops.SUBPATTERN:
                inner = list(inner[0][1][3])
            if argument[1] is ops.MAXREPEAT and inner and inner[-1][0] in REPEATS and inner[-1][1][1] is ops.MAXREPEAT:
                again = {code for code in range(256) if _can_begin(inner, chr(code))}
                taken = {code for code in range(256) if _can_begin(list(inner[-1][1][2]), chr(code))}
                if again & taken:
                    found.append(f"a repeat within a repeat at {index}")
        elif operation is ops.SUBPATTERN:
            children = [argument[3]]
        elif operation is ops.BRANCH:
            children = argument[1]
        for child in children:
            found += ambiguities(child)
    return found


@pytest.mark.parametrize("name", PATTERNS)
def test_no_repeat_within_a_repeat_is_ambiguous(name: str) -> None:
    pattern = PATTERNS[name].pattern
    assert ambiguities(parser.parse(pattern, PATTERNS[name].flags & ~re.UNICODE if isinstance(pattern, bytes) else PATTERNS[name].flags)) == []


@pytest.mark.parametrize("pattern", ["(a+)+", "(?:a*)*b", "([a-z]+)*x", "(?:-[^y]+)*(?:[a-z]+)+"])
def test_the_check_finds_the_classical_ones(pattern: str) -> None:
    assert ambiguities(parser.parse(pattern))


def test_the_product_has_the_patterns_that_this_is_about() -> None:
    for name in (
        "auth.jws._COMPACT",
        "core.strict_json._STRING",
        "credentials.rules._SECRET",
        "tokens.rules._SCOPE",
        "tokens.rules._URI",
        "tokens.clients._BASIC",
        "core.clock._RFC3339",
    ):
        assert f"agentidp.{name}" in PATTERNS


def test_patterns_of_bodies_and_queries_run_in_the_linear_engine() -> None:
    """pydantic's default engine is Rust's, which does not backtrack: no model may choose the other one."""
    models = [value for module in _modules() for value in vars(module).values() if isinstance(value, type) and issubclass(value, pydantic.BaseModel)]
    assert len(models) > 20
    for model in models:
        assert model.model_config.get("regex_engine", "rust-regex") == "rust-regex", model
