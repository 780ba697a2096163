"""`agentidp --help` answers at once because it loads nothing that it does not need. What is loaded is asserted; how long it takes is printed."""

import json
import subprocess
import sys

import pytest

HEAVY = {"sqlalchemy", "fastapi", "starlette", "pydantic", "pydantic_settings", "alembic", "uvicorn", "uvloop", "asyncpg", "cryptography", "httpx2"}

PROGRAM = """
import json, sys, time
started = time.perf_counter()
import agentidp.cli
imported = time.perf_counter() - started
if sys.argv[1:]:
    try:
        agentidp.cli.main(sys.argv[1:])
    except SystemExit as left:
        assert not left.code, left.code
print(json.dumps([imported, time.perf_counter() - started, sorted(sys.modules)]), file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"]], ids=["import", "--help", "--version"])
def test_loads_no_database_no_web_framework_and_no_validation(arguments: list[str]) -> None:
    result = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], text=True, capture_output=True, timeout=60, check=True)
    imported, seconds, modules = json.loads(result.stderr)
    assert HEAVY.isdisjoint(name.partition(".")[0] for name in modules)
    print(f"agentidp {' '.join(arguments)}: {imported:.3f} s to import, {seconds:.3f} s in all")


def test_the_server_does_not_load_what_only_some_need() -> None:
    """alembic costs a quarter of the cold start, stripe as much, asyncpg is an extra: a start on SQLite touches none of them."""
    program = "import json, sys\nimport agentidp.app, agentidp.server, agentidp.db.sqlite\nprint(json.dumps(sorted(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], text=True, capture_output=True, timeout=60, check=True)
    assert {"alembic", "asyncpg", "rich", "cyclopts", "stripe", "redis", "httpx2", "h11"}.isdisjoint(
        name.partition(".")[0] for name in json.loads(result.stdout)
    )
