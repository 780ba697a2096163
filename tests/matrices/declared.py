"""What every operation declares about itself, read from the routes: the one table from which the matrices derive their expected answers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentidp.app import ROUTES, methods_of
from agentidp.auth.guard import ANY_TOKEN, PUBLIC
from agentidp.core.caller import OPERATOR_SCOPE

CLIENT = "client"


@dataclass(frozen=True)
class Operation:
    """`scope`, `otherwise` and `administrators` are the route's `x-scope`, `x-scope-otherwise` and `x-administrators`; `codes` the error codes that it declares by status."""

    method: str
    path: str
    scope: str
    otherwise: str | None
    administrators: bool
    codes: Mapping[int, frozenset[str]]
    success: int
    reads_body: bool

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def parameters(self) -> tuple[str, ...]:
        return tuple(re.findall(r"\{(\w+)\}", self.path))

    @property
    def needed(self) -> str | None:
        """The scope without which this operation cannot touch what belongs to somebody else; None for what anybody may do."""
        return self.otherwise if self.scope in {ANY_TOKEN, PUBLIC, CLIENT} else self.scope

    def not_found(self, parameter: str) -> str:
        """The code for an unknown value of the path parameter, by the naming convention `{thingId}` → `…THING_NOT_FOUND`."""
        ending = f"{parameter.removesuffix('Id').upper()}_NOT_FOUND"
        (code,) = (code for code in self.codes.get(404, ()) if code.endswith(ending))
        return code


def _operations() -> tuple[Operation, ...]:
    found = []
    for route in ROUTES:
        extra: dict[str, Any] = route.openapi_extra or {}
        for method in methods_of(route):
            codes = {
                int(status): frozenset(response.get("content", {}).get("application/json", {}).get("examples", {}))
                for status, response in route.responses.items()
                if str(status).isdecimal()
            }
            reads_body = route.body_field is not None
            scopes = extra["x-scope"], extra.get("x-scope-otherwise"), "x-administrators" in extra
            found.append(Operation(method, route.path, *scopes, codes, route.status_code or 200, reads_body))
    return tuple(found)


OPERATIONS = _operations()
_BEARER = tuple(one for one in OPERATIONS if one.scope not in {PUBLIC, CLIENT})
OF_THE_OPERATOR = tuple(one for one in _BEARER if one.needed == OPERATOR_SCOPE)  # these may cross tenants
GUARDED = tuple(one for one in _BEARER if one not in OF_THE_OPERATOR)
WITH_CLIENT = tuple(one for one in OPERATIONS if one.scope == CLIENT)
OPEN = tuple(one for one in OPERATIONS if one.scope == PUBLIC)
