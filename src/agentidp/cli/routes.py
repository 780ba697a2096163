"""`agentidp routes`"""

import inspect
import json as json_module
from pathlib import Path

from agentidp.cli.settings import Json


def routes(word: str = "", *, json: Json = False) -> None:
    """Print METHOD PATH file:line scope of every operation, or of those that contain WORD."""
    rows = [row for row in route_rows() if word.lower() in " ".join(row.values()).lower()]
    if json:
        print(json_module.dumps(rows))
        return
    for row in rows:
        print(f"{row['method']:<7} {row['path']:<60} {row['source']:<28} {row['scope']}")


def route_rows() -> list[dict[str, str]]:
    """One row an operation, in the order of the routers: method, path, operation, source, scope."""
    from agentidp.app import ROUTES, methods_of

    package = Path(__file__).parents[1]
    rows = []
    for route in ROUTES:
        if not route.include_in_schema:
            continue
        code = inspect.unwrap(route.endpoint).__code__
        source = f"{Path(code.co_filename).relative_to(package)}:{code.co_firstlineno}"
        scope = str((route.openapi_extra or {})["x-scope"])
        rows += [{"method": method, "path": route.path, "operation": str(route.operation_id), "source": source, "scope": scope} for method in methods_of(route)]
    return rows
