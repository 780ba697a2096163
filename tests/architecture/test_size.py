"""Nothing grows beyond what one can read at a sitting: a function 70 lines, a file 400, the page of all tables 700."""

from tests.architecture.source import MIGRATIONS, PACKAGE, functions, modules

FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 400
SCHEMA_LINES_MAX = 700


def test_functions_are_short() -> None:
    long = [
        f"{module.name}:{node.lineno} {node.name}"
        for module in modules("src", "tests", "bench")
        if not module.path.is_relative_to(MIGRATIONS)  # a migration is a list
        for node in functions(module.tree)
        if (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES_MAX
    ]
    assert not long


def test_files_are_short() -> None:
    def lines_max(path: object) -> int:
        return SCHEMA_LINES_MAX if path == PACKAGE / "db" / "schema.py" else FILE_LINES_MAX

    long = [
        module.name
        for module in modules("src", "tests", "bench")
        if not module.path.is_relative_to(MIGRATIONS) and len(module.text.splitlines()) > lines_max(module.path)
    ]
    assert not long
