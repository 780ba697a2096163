"""The product's own source as syntax trees, read once for all architecture tests."""

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "agentidp"
MIGRATIONS = PACKAGE / "db" / "migrations"


@dataclass(frozen=True, slots=True)
class Module:
    """One Python file. `slice` is the folder or file directly below the package, where it is one of the product's."""

    path: Path
    text: str
    tree: ast.Module

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @property
    def slice(self) -> str:
        return self.path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@functools.cache
def modules(*folders: str) -> tuple[Module, ...]:
    """Every Python file below these folders of the repository; a folder that is not there yet is empty."""
    return tuple(_module(path) for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@dataclass(frozen=True, slots=True)
class Table:
    """A table of `db/schema.py` with the owner that the comment above it names."""

    name: str
    owner: str
    has_organization: bool


@functools.cache
def tables() -> dict[str, Table]:
    """The tables by the name that the source uses for them."""
    module = _module(PACKAGE / "db" / "schema.py")
    lines = module.text.splitlines()
    found = {}
    for node in module.tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "sa.Table":
            name = ast.unparse(node.targets[0])
            body = ast.unparse(node.value)
            found[name] = Table(name, _owner(lines, node.lineno - 1), "'organization_id', Id" in body or "_organization_key()" in body)
    return found


def table_names(module: Module) -> dict[str, str]:
    """How this module spells the tables: local name (or `schema.name`) to table."""
    names = {}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and node.module == "agentidp.db.schema":
            names |= {alias.asname or alias.name: alias.name for alias in node.names if alias.name in tables()}
        elif isinstance(node, ast.ImportFrom) and node.module == "agentidp.db":
            names |= {f"{alias.asname or alias.name}.{name}": name for alias in node.names if alias.name == "schema" for name in tables()}
    return names


def literals(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every string literal with its line, f-strings with their holes left empty; doc strings, too."""
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node) if part is not node}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.lineno, node.value


@functools.cache
def _module(path: Path) -> Module:
    text = path.read_text("utf-8")
    try:
        tree = ast.parse(text)
    except SystemError:  # Python 3.11 counts its depth for all threads together (CPython issue 106905): a test server's was parsing, too
        tree = ast.parse(text)
    return Module(path, text, tree)


def _owner(lines: list[str], index: int) -> str:
    """The owner in the comment that ends right above line `index` (from 0)."""
    while index > 0 and lines[index - 1].startswith("#"):
        index -= 1
        if match := re.match(r"# owner: (\w+)\.", lines[index]):
            return match[1]
    return ""
