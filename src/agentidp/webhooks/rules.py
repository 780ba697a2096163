"""What a webhook may ask for, what an answer of its receiver means, and when to try again. Pure.

Standard Webhooks 1.0 (standardwebhooks.com): any 2xx is success, 410 ends it, a redirect is a failure, an attempt is repeated under the same id.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from agentidp.core import limits
from agentidp.core.errors import Conflict, NotFound

EventType = Literal[
    "agent.created",
    "agent.updated",
    "agent.suspended",
    "agent.reactivated",
    "agent.decommissioned",
    "credential.generated",
    "credential.rotated",
    "credential.revoked",
    "token.issued",
    "token.revoked",
    "tier.upgraded",
    "tier.downgraded",
    "webhook.disabled",
]
EVENT_TYPES: Final[tuple[EventType, ...]] = EventType.__args__  # type: ignore[attr-defined]  # what Literal keeps
TEST_EVENT: Final = "webhook.test"  # sent on request, whatever the webhook has asked for
FOLLOWER: Final = "webhooks"
DeliveryStatus = Literal["pending", "delivered", "failed", "dead_letter"]
DisabledReason = Literal["by_request", "gone", "failing"]
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - the form of a secret

_SECOND, _MINUTE, _HOUR = 1000, 60_000, 3_600_000
_GONE, _RATE_LIMITED, _UNAVAILABLE = 410, 429, 503


class WebhookNotFound(NotFound):
    code = "WEBHOOK_NOT_FOUND"
    title = "There is no such webhook in your organization."


class DeliveryNotFound(NotFound):
    code = "DELIVERY_NOT_FOUND"
    title = "The webhook has no such delivery."


class TooManyWebhooks(Conflict):
    title = f"The organization has {limits.WEBHOOKS_PER_ORGANIZATION_MAX} webhooks, as many as it may have; delete one first."


class WebhookNotActive(Conflict):
    title = 'The webhook is not active; send {"active": true} first.'


class DeliveryWaiting(Conflict):
    title = "The delivery is waiting for its next attempt already."


@dataclass(frozen=True, slots=True)
class Pace:
    """How patient deliveries are, in milliseconds. There is one pace; tests have a faster one."""

    pauses: tuple[int, ...] = (5 * _SECOND, 30 * _SECOND, 2 * _MINUTE, 10 * _MINUTE, 30 * _MINUTE, _HOUR, 3 * _HOUR, 6 * _HOUR, 12 * _HOUR)
    lease: int = limits.WEBHOOK_LEASE_MS
    lease_left: int = limits.WEBHOOK_LEASE_LEFT_MS
    expires: int = limits.WEBHOOK_EXPIRES_MS
    failing_max: int = limits.WEBHOOK_FAILING_MS_MAX
    receiver_pause_max: int = limits.WEBHOOK_PAUSE_MS_MAX

    def after(self, attempts: int, jitter: float) -> int | None:
        """The pause after that many attempts, None when there is no other. `jitter` (0 to 1) spreads what failed at one moment, a tenth either way."""
        return None if attempts > len(self.pauses) else int(self.pauses[attempts - 1] * (0.9 + 0.2 * jitter))

    def receiver_pause(self, failures: int) -> int:
        """How long a receiver is left alone after so many failures in a row, whatever waits for it: at first not at all, at last a minute."""
        beyond = failures - limits.WEBHOOK_FAILURES_BEFORE_PAUSE
        return 0 if beyond < 0 else min(_SECOND << min(beyond, 10), self.receiver_pause_max)


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook with how its receiver does. Instants are milliseconds."""

    organization_id: str
    webhook_id: str
    name: str
    url: str
    events: tuple[str, ...]
    active: bool
    disabled_reason: str | None
    failure_count: int
    failing_since: int | None
    last_delivery_at: int | None
    created_at: int
    updated_at: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event on its way to a webhook. `history` has an object for each attempt, the oldest first."""

    organization_id: str
    delivery_id: str
    webhook_id: str
    event_id: str
    event_type: str
    seq: int
    body: str
    status: str
    attempts: int
    history: Sequence[Mapping[str, Any]]
    response_body: str | None
    next_attempt_at: int | None
    asked_at: int
    created_at: int
    completed_at: int | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of one request. `status_code` is None where there was no answer, and `error` then says why, in one word."""

    at: int
    latency_ms: int
    status_code: int | None = None
    error: str | None = None
    response_body: str | None = None
    retry_after_seconds: int | None = None

    @property
    def ended_at(self) -> int:
        return self.at + self.latency_ms

    @property
    def is_success(self) -> bool:
        return self.status_code is not None and 200 <= self.status_code < 300

    @property
    def is_gone(self) -> bool:
        return self.status_code == _GONE


@dataclass(frozen=True, slots=True)
class Result:
    """What an attempt makes of a delivery."""

    delivery: Delivery
    attempt: Attempt
    status: DeliveryStatus
    next_attempt_at: int | None


def result_of(delivery: Delivery, attempt: Attempt, pace: Pace, jitter: float) -> Result:
    if attempt.is_success:
        return Result(delivery, attempt, "delivered", None)
    pause = pace.after(delivery.attempts + 1, jitter)
    if pause is None or attempt.is_gone:
        return Result(delivery, attempt, "dead_letter", None)
    if attempt.status_code in {_RATE_LIMITED, _UNAVAILABLE} and attempt.retry_after_seconds is not None:
        pause = max(pause, min(attempt.retry_after_seconds, limits.WEBHOOK_RETRY_AFTER_SECONDS_MAX) * _SECOND)
    return Result(delivery, attempt, "failed", attempt.ended_at + pause)


def history_with(delivery: Delivery, attempt: Attempt) -> list[Mapping[str, Any]]:
    """The last attempts, this one included."""
    entry = {"attemptedAt": attempt.at, "latencyMs": attempt.latency_ms, "statusCode": attempt.status_code, "error": attempt.error}
    return [*delivery.history, entry][-limits.WEBHOOK_HISTORY_MAX :]


def parse_retry_after(value: str | None) -> int | None:
    """Whole seconds (RFC 9110 section 10.2.3); the form with a date is left alone, since clocks differ."""
    return int(value) if value is not None and value.isascii() and value.isdigit() and len(value) <= 9 else None


def secret_text(raw: bytes) -> str:
    """As it is shown, and as libraries of Standard Webhooks take it."""
    return SECRET_PREFIX + base64.b64encode(raw).decode()
