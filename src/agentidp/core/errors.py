"""Every error a client may see: a class with a status and a code, raised where it is known, rendered once in `core.http`.

Problem ─┬─ Invalid 400 · PayloadTooLarge 413 · UnsupportedMediaType 415 · HeadersTooLarge 431 · UriTooLong 414
         ├─ Unauthenticated 401 · Forbidden 403 · NotFound 404 · MethodNotAllowed 405 · Conflict 409
         ├─ OverLimit 403 · TooManyRequests 429
         └─ Unavailable 503
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from agentidp.core import limits
from agentidp.core.caller import AuditEntry
from agentidp.core.clock import seconds_to_midnight


class Problem(Exception):
    """A refusal. `oauth_error` is the same refusal in the words of RFC 6749 section 5.2, for the OAuth endpoints."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "INTERNAL_SERVER_ERROR"
    title: ClassVar[str] = "An unexpected error occurred. Please try again later."
    oauth_error: ClassVar[str] = "server_error"
    plan_limit: ClassVar[str | None] = None  # which limit of an organization's plan is reached; such refusals come in great numbers
    is_failed_login: ClassVar[bool] = False  # somebody has not proven who it is; who does so too often is made to wait
    shows_code: ClassVar[bool] = False  # whether an OAuth endpoint says `code` beside an error that has many reasons
    is_final = False  # nothing that is read anew could change it
    shown_code: str | None = None  # what an OAuth endpoint says beside an error that has many reasons

    def __init__(
        self,
        detail: str | None = None,
        *,
        details: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        audit: Sequence[AuditEntry] = (),
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.details = details
        self.headers = dict(headers or {})
        self.audit = tuple(audit)


class Invalid(Problem):
    status, code, oauth_error = 400, "VALIDATION_ERROR", "invalid_request"
    title = "The request is not valid."


class InvalidFields(Invalid):
    """All wrong fields at once."""

    def __init__(self, fields: Sequence[tuple[str, str]]) -> None:
        rows = [{"field": name, "message": message} for name, message in fields]
        super().__init__("; ".join(f"{name}: {message}" for name, message in fields[:3]), details={"fields": rows})


class InvalidAddress(Invalid):
    """An address that this server may not call. `reason` is one of `core.addresses`, for machines."""

    def __init__(self, field: str, message: str, reason: str) -> None:
        super().__init__(f"{field}: {message}", details={"fields": [{"field": field, "message": message}], "reason": reason})


class InvalidScopes(Invalid):
    code, oauth_error = "INVALID_SCOPES", "invalid_scope"
    title = "A scope is unknown or is not yours to grant."


class InvalidDateRange(Invalid):
    code = "INVALID_DATE_RANGE"
    title = "fromDate must not be after toDate."


class Unauthenticated(Problem):
    status, code, oauth_error = 401, "UNAUTHORIZED", "invalid_token"
    title = "A valid Bearer token is required to access this resource."
    is_failed_login = True


class Forbidden(Problem):
    """`scope` is what a token would have to hold (RFC 6750 section 3)."""

    status, code, oauth_error = 403, "FORBIDDEN", "insufficient_scope"
    title = "You do not have permission to perform this action."

    def __init__(self, detail: str | None = None, *, scope: str | None = None, audit: Sequence[AuditEntry] = ()) -> None:
        super().__init__(detail, audit=audit)
        self.scope = scope


class NotFound(Problem):
    status, code, oauth_error = 404, "NOT_FOUND", "invalid_request"
    title = "There is nothing here."


class MethodNotAllowed(Problem):
    status, code, oauth_error = 405, "METHOD_NOT_ALLOWED", "invalid_request"
    title = "This path does not know that method; the Allow header lists those it knows."


class Conflict(Problem):
    status, code, oauth_error = 409, "CONFLICT", "invalid_request"
    title = "The request conflicts with the current state."


class PayloadTooLarge(Problem):
    status, code, oauth_error = 413, "PAYLOAD_TOO_LARGE", "invalid_request"
    title = f"The body may have at most {limits.BODY_BYTES_MAX} bytes."


class UriTooLong(Problem):
    status, code, oauth_error = 414, "VALIDATION_ERROR", "invalid_request"
    title = f"The path may have at most {limits.PATH_BYTES_MAX} bytes, the query {limits.QUERY_BYTES_MAX}."


class UnsupportedMediaType(Problem):
    status, code, oauth_error = 415, "UNSUPPORTED_MEDIA_TYPE", "invalid_request"
    title = "The body must be sent as application/json, uncompressed."


class HeadersTooLarge(Problem):
    status, code, oauth_error = 431, "VALIDATION_ERROR", "invalid_request"
    title = "The request has too many or too long headers."


class OverLimit(Problem):
    status, code, oauth_error = 403, "TIER_LIMIT_EXCEEDED", "invalid_request"
    title = "The organization has as many agents as it may have."
    plan_limit = "agents"


class TooManyRequests(Problem):
    status, code, oauth_error = 429, "RATE_LIMIT_EXCEEDED", "slow_down"
    title = "Too many requests; wait and try again."


class DayUsedUp(TooManyRequests):
    """What an organization may use in a UTC day."""

    code = "TIER_LIMIT_EXCEEDED"
    title = "What the organization may use in a day is used up; more at midnight UTC."

    def __init__(self, now: int, audit: Sequence[AuditEntry] = ()) -> None:
        # a second later than midnight: whoever is refused at the end of a day may be told so when the next has begun
        super().__init__(headers={"Retry-After": str(seconds_to_midnight(now - 1000))}, audit=audit)


class TooManyCalls(DayUsedUp):
    title = "The organization has used up its calls of today; more at midnight UTC."
    plan_limit = "calls"


class Unavailable(Problem):
    """Nothing was done; the same request may be sent again."""

    status, code, oauth_error = 503, "SERVICE_UNAVAILABLE", "temporarily_unavailable"
    title = "The service cannot answer right now; nothing was done. Please try again."

    def __init__(self, detail: str | None = None) -> None:
        super().__init__(detail, headers={"Retry-After": str(limits.RETRY_AFTER_SECONDS)})


class OutcomeUnknown(Unavailable):
    """The commit was sent and not confirmed: it may be done or not."""

    title = "The database has not confirmed it; the outcome is unknown."


class WrongSettings(Exception):
    """The program cannot start as it is configured. The text is one line for a person; the exit code is 2."""
