"""Names, first lines, bounds: what every file owes to its reader."""

import ast
import re

from tests.architecture.source import PACKAGE, functions, modules

# Names that say nothing about what is inside.
EMPTY_NAMES = frozenset({"utils", "util", "helpers", "helper", "common", "base", "manager", "service", "repository", "misc"})


def test_every_module_says_what_it_is_for() -> None:
    silent = [module.name for module in modules("src", "tests", "bench") if not ast.get_docstring(module.tree)]
    assert not silent


def test_no_file_or_folder_has_an_empty_name() -> None:
    empty = [module.name for module in modules("src", "tests", "bench") if EMPTY_NAMES & {*module.path.parts, module.path.stem}]
    assert not empty


def test_only_the_command_line_prints() -> None:
    printing = [
        f"{module.name}:{node.lineno}"
        for module in modules("src")
        if module.slice != "cli"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
    ]
    assert not printing


def test_every_bound_is_used() -> None:
    page = PACKAGE / "core" / "limits.py"
    bounds = {ast.unparse(node.target) for module in modules("src") if module.path == page for node in module.tree.body if isinstance(node, ast.AnnAssign)}
    assert len(bounds) > 30
    used = {name for module in modules("src") if module.path != page for name in re.findall(r"\blimits\.([A-Z0-9_]+)", module.text)}
    assert not bounds - used


def test_actions_queries_and_rules_say_what_they_raise() -> None:
    """A public function names the errors that it raises itself, or the function whose errors it shares (``what `x` does``)."""
    unsaid = []
    for module in modules("src"):
        if module.path.stem not in {"actions", "queries", "rules"}:
            continue
        for node in functions(module.tree):
            raised = {match[1] for child in ast.walk(node) if isinstance(child, ast.Raise) and (match := re.match(r"raise ([A-Z]\w+)", ast.unparse(child)))}
            said = ast.get_docstring(node) or ""
            if not node.name.startswith("_") and "Raises what" not in said:
                unsaid += [f"{module.name}:{node.lineno} {node.name} raises {name}" for name in sorted(raised) if name not in said]
    assert not unsaid
