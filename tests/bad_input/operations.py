"""Every operation of the OpenAPI document that the product serves, ready to be called: a new endpoint is under these tests the day it appears."""

import json
import re
from dataclasses import dataclass
from typing import Any

from tests.samples import sample_body

from agentidp.app import ROUTES, methods_of
from agentidp.core.ids import new_id
from agentidp.documents import build_openapi

JSON, FORM = "application/json", "application/x-www-form-urlencoded"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
DOCUMENT: dict[str, Any] = json.loads(build_openapi(list(ROUTES), "http://localhost"))
_PARAMETER = re.compile(r"\{([^}]+)\}")


@dataclass(frozen=True)
class Operation:
    """One operation. `body` is its media type, empty where it has none; `scope` as in `x-scope`."""

    method: str
    template: str
    body: str
    scope: str
    query: dict[str, dict[str, Any]]
    definition: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.method} {self.template}"

    @property
    def names(self) -> list[str]:
        """The parameters of the path."""
        return _PARAMETER.findall(self.template)

    @property
    def sample(self) -> bytes:
        """A valid body, where every required field has its example."""
        return json.dumps(sample_body(DOCUMENT, self.method, self.template)).encode()

    @property
    def is_guarded(self) -> bool:
        """Whether an access token is the only way in."""
        return self.definition.get("security") == [{"bearer": []}, {"dpop": []}]

    def path(self, ids: dict[str, str] | None = None) -> str:
        """The path with these ids; an id that is not given is one that nothing has."""
        return _PARAMETER.sub(lambda match: (ids or {}).get(match[1]) or new_id(0), self.template)


def _operation(method: str, template: str, definition: dict[str, Any]) -> Operation:
    body = next(iter(definition.get("requestBody", {}).get("content", {})), "")
    query = {parameter["name"]: parameter["schema"] for parameter in definition.get("parameters", ()) if parameter["in"] == "query"}
    return Operation(method.upper(), template, body, definition["x-scope"], query, definition)


OPERATIONS = [_operation(method, template, definition) for template, methods in DOCUMENT["paths"].items() for method, definition in methods.items()]
WITH_BODY = [operation for operation in OPERATIONS if operation.body]
SIGNED = [operation for operation in OPERATIONS if "Stripe-Signature" in {parameter["name"] for parameter in operation.definition.get("parameters", ())}]
WITH_JSON = [operation for operation in OPERATIONS if operation.body == JSON and operation not in SIGNED]  # what is signed is not read before it is verified
WITH_FORM = [operation for operation in OPERATIONS if operation.body == FORM]
WITH_IDS = [operation for operation in OPERATIONS if operation.names]
LISTS = [operation for operation in OPERATIONS if "cursor" in operation.query]
GUARDED = [operation for operation in OPERATIONS if operation.is_guarded]
PATHS = {template: sorted(method.upper() for method in methods) for template, methods in DOCUMENT["paths"].items()}
# every method that is served there, also as another operation's: `explain` might be an id
SERVED = {
    template: sorted({method for route in ROUTES if route.path_regex.match(_PARAMETER.sub(new_id(0), template)) for method in methods_of(route)})
    for template in DOCUMENT["paths"]
}


def is_oauth(operation: Operation) -> bool:
    """Whether its refusals have the shape of RFC 6749: a code and a sentence, no fields."""
    return "OAuthErrorResponse" in json.dumps(operation.definition["responses"]["400"])
