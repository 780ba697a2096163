"""Holds a response against the served OpenAPI document: known operation, documented status, media type, schema and headers."""

import re
from typing import Any

import httpx2
import jsonschema_rs


class OpenApiCheck:
    """A response hook for httpx2 clients. Raises AssertionError."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self._paths = [(re.compile(re.sub(r"\{[^}]+\}", "[^/]+", path)), path) for path in sorted(document["paths"], key=lambda path: "{" in path)]
        self._validators: dict[tuple[str, str, str, str], Any] = {}
        self.seen: set[tuple[str, str]] = set()

    def operation(self, method: str, path: str) -> tuple[str, dict[str, Any]] | None:
        """The path template and the operation, None where the document has none."""
        for pattern, template in self._paths:
            if pattern.fullmatch(path) and method.lower() in self.document["paths"][template]:
                return template, self.document["paths"][template][method.lower()]
        return None

    def __call__(self, response: httpx2.Response) -> None:
        response.read()
        where = f"{response.request.method} {response.request.url.path} -> {response.status_code} {response.text[:400]}"
        assert response.headers.get("x-request-id"), f"no request id: {where}"
        assert response.status_code != 500, where
        found = self.operation(response.request.method, response.request.url.path)
        if found is None or response.status_code == 405:
            assert response.status_code in {404, 405, 414, 431, 200}, where
            if response.status_code == 405:
                assert response.headers.get("allow"), where
            return
        template, operation = found
        self.seen.add((response.request.method, template))
        documented = operation["responses"].get(str(response.status_code))
        assert documented is not None, f"undocumented status: {where}"
        for name, header in documented.get("headers", {}).items():
            assert name in response.headers or not header.get("required"), f"header {name} is missing: {where}"
        content = documented.get("content")
        if not content or response.status_code == 304:
            assert not response.content, f"undocumented body: {where}"
            return
        media_type = response.headers.get("content-type", "").partition(";")[0]
        assert media_type in content, f"undocumented media type {media_type}: {where}"
        if media_type == "application/json":
            key = (response.request.method, template, str(response.status_code), media_type)
            if key not in self._validators:
                schema = {"components": self.document["components"], **content[media_type].get("schema", {})}
                self._validators[key] = jsonschema_rs.Draft202012Validator(schema, validate_formats=True)
            errors = [f"{error.instance_path}: {error.message}" for error in self._validators[key].iter_errors(response.json())]
            assert not errors, f"{errors}: {where}"
