"""Sample values from the examples of an OpenAPI document."""

from typing import Any


def sample(document: dict[str, Any], schema: dict[str, Any]) -> Any:
    """A valid value of the schema, with the fields that it requires. Raises AssertionError where an example is missing."""
    if reference := schema.get("$ref"):
        return sample(document, document["components"]["schemas"][reference.rpartition("/")[2]])
    for name in ("examples", "enum", "anyOf"):
        if name in schema:
            return sample(document, schema[name][0]) if name == "anyOf" else schema[name][0]
    assert schema.get("type") == "object", f"the schema needs an example: {schema}"
    return {name: sample(document, schema["properties"][name]) for name in schema.get("required", ())}


def sample_body(document: dict[str, Any], method: str, path: str) -> Any:
    """A valid JSON body of the operation."""
    described = document["paths"][path][method.lower()]["requestBody"]
    return sample(document, described["content"]["application/json"]["schema"])
