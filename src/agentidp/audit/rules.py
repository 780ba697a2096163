"""What an audit event is. Pure."""

from dataclasses import dataclass
from typing import Any

from agentidp.core.errors import NotFound


class AuditEventNotFound(NotFound):
    code = "AUDIT_EVENT_NOT_FOUND"
    title = "There is no such audit event in your organization."


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One line of history. `seq` and the hashes are null until the event is sealed into its organization's chain."""

    event_id: str
    seq: int | None
    organization_id: str
    agent_id: str | None
    action: str
    outcome: str
    target_type: str | None
    target_id: str | None
    ip_address: str | None
    user_agent: str | None
    request_id: str | None
    metadata: dict[str, Any]
    timestamp: int
    previous_hash: str | None
    hash: str | None


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """None means any. Instants are milliseconds; `from_date` inclusive, `to_date` inclusive."""

    agent_id: str | None = None
    action: str | None = None
    outcome: str | None = None
    target_id: str | None = None
    request_id: str | None = None
    from_date: int | None = None
    to_date: int | None = None
