"""What an operation declares beside its path: its scope and its errors, for the guard and for the OpenAPI document alike."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from agentidp.core.errors import (
    Forbidden,
    HeadersTooLarge,
    Invalid,
    OverLimit,
    PayloadTooLarge,
    Problem,
    TooManyCalls,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
    UriTooLong,
)
from agentidp.core.resources import ErrorResponse, OAuthErrorResponse

ALWAYS: tuple[type[Problem], ...] = (Invalid, UriTooLong, HeadersTooLarge, Problem, Unavailable)
_WITH_BODY: tuple[type[Problem], ...] = (PayloadTooLarge, UnsupportedMediaType)
_CHALLENGE = {"WWW-Authenticate": {"description": "RFC 6750 challenge", "required": True, "schema": {"type": "string"}}}
_RETRY = {"Retry-After": {"description": "Seconds to wait", "required": True, "schema": {"type": "integer"}}}


def secured(
    scope: str,
    *errors: type[Problem],
    body: bool = False,
    otherwise: str | None = None,
    scope_note: str | None = None,
    essential: bool = False,
    once: str | None = None,
    administrators: bool = False,
) -> dict[str, Any]:
    """Keyword arguments of a route that needs a bearer token.

    `otherwise` is the scope that is needed where `scope` is not enough: for another agent than the token's. `scope_note` says it in words.
    `essential`: answered also when the organization has used up its calls of the day, because it is the way to more. `once`: the scope of a
    token that is good for one such call, and for nothing else. `administrators`: the scope is not enough, the organization's own administrators and
    the operator only; the action looks at that.
    """
    known = (*ALWAYS, Unauthenticated, Forbidden, TooManyRequests, *(() if essential else (TooManyCalls,)), *errors, *(_WITH_BODY if body else ()))
    extra: dict[str, Any] = {"x-scope": scope, "security": [{"bearer": []}]}
    if essential:
        extra["x-essential"] = True
    if otherwise:
        extra["x-scope-otherwise"] = otherwise
    if scope_note:
        extra["x-scope-note"] = scope_note
    if administrators:
        extra["x-administrators"] = True
    if once:
        extra["x-scope-once"] = once
    return {"responses": error_responses(known), "openapi_extra": extra}


def public(*errors: type[Problem], is_limited: bool = True, body: bool = False, oauth: bool = False) -> dict[str, Any]:
    """Keyword arguments of a route that anybody may call, as often as a source may unless it is not limited. `oauth`: it refuses in OAuth's shape."""
    extra: dict[str, Any] = {"x-scope": "public", "security": []}
    if is_limited:
        errors, extra["x-rate-limit"] = (TooManyRequests, *errors), "source"
    return {"responses": error_responses((*ALWAYS, *errors, *(_WITH_BODY if body else ())), oauth=oauth), "openapi_extra": extra}


def oauth(
    form: type[BaseModel], *errors: type[Problem], security: Sequence[dict[str, list[str]]], answer: str = "", otherwise: str | None = None
) -> dict[str, Any]:
    """Keyword arguments of an OAuth endpoint that reads the form by itself. `otherwise`: what a bearer token must hold to ask about another's token."""
    schema = form.model_json_schema()
    extra: dict[str, Any] = {
        "x-scope": "client",
        "security": list(security),
        "requestBody": {"required": True, "content": {"application/x-www-form-urlencoded": {"schema": schema}}},
    }
    if otherwise:
        extra["x-scope-otherwise"] = otherwise
    responses = error_responses((*ALWAYS, Unauthenticated, TooManyRequests, *_WITH_BODY, *errors), oauth=True)
    if answer:
        responses[200] = {"description": answer}
    return {"responses": responses, "openapi_extra": extra}


def error_responses(errors: Sequence[type[Problem]], *, oauth: bool = False) -> dict[int | str, dict[str, Any]]:
    """One entry a status, with an example for each code."""
    responses: dict[int | str, dict[str, Any]] = {}
    for error in errors:
        entry = responses.setdefault(
            error.status,
            {"model": OAuthErrorResponse if oauth else ErrorResponse, "description": error.title, "content": {"application/json": {"examples": {}}}},
        )
        value = {"error": error.oauth_error, "error_description": error.title} if oauth else {"code": error.code, "message": error.title}
        if oauth and error.shows_code:
            name, value = f"{error.oauth_error} {error.code}", value | {"code": error.code}
        else:
            name = error.oauth_error if oauth else error.code
        entry["content"]["application/json"]["examples"][name] = {"value": value}
        if error.status == Unauthenticated.status or issubclass(error, Forbidden):
            entry["headers"] = _CHALLENGE
        if error.status in {429, 503}:
            entry["headers"] = _RETRY
    if OverLimit in errors:  # a plan's limit is no question of authority: its 403 has no challenge
        del responses[403]["headers"]
    return responses
