"""What is sealed is found again: every sealed column is known to the rotation of the master key, and nothing is sealed anywhere else."""

import ast
import re

from tests.architecture.source import PACKAGE, modules

from agentidp.auth.data_keys import SEALED_COLUMNS

KNOWN = {(column.table.name, column.name) for column in SEALED_COLUMNS}


def test_every_sealed_column_of_the_schema_is_rotated() -> None:
    """Read from the text of the page, not through its tables."""
    page = (PACKAGE / "db" / "schema.py").read_text("utf-8")
    written = {
        (table[1], column)
        for table in re.finditer(r"sa\.Table\(\s*\"(\w+)\"(.*?)^\)", page, re.MULTILINE | re.DOTALL)
        for column in re.findall(r"sa\.Column\(\s*\"(sealed_\w+)\",\s*sa\.(?:Text|String|LargeBinary)", table[2])
    }
    assert len(written) >= 2
    assert written == KNOWN


def test_every_value_is_sealed_for_a_column_that_is_rotated() -> None:
    """`seal(value, table, column, primary key…)`: what is sealed for another place would be lost with the old key."""
    places = {
        (argument[0], argument[1]): f"{module.name}:{node.lineno}"
        for module in modules("src")
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "seal" and ast.unparse(node.func.value).endswith("sealer")
        if len(argument := [part.value if isinstance(part, ast.Constant) else None for part in node.args[1:3]]) == 2
    }
    assert places.keys() - {("data_keys", "wrapped_key")} == KNOWN, places


def test_the_place_ends_with_the_whole_primary_key() -> None:
    """The rotation finds the place by itself, so every `seal` and `unseal` must name as many parts as the table's key has."""
    keys = {(column.table.name, column.name): len(column.table.primary_key) for column in SEALED_COLUMNS}
    wrong = [
        f"{module.name}:{node.lineno}"
        for module in modules("src")
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in {"seal", "unseal"} and len(node.args) > 2
        for place in [tuple(part.value for part in node.args[1:3] if isinstance(part, ast.Constant))]
        if place in keys and len(node.args) - 3 != keys[place]
    ]
    assert not wrong
