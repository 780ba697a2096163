"""What an audit event is. Pure."""

from dataclasses import dataclass
from typing import Any

from agentidp.core.errors import NotFound
from agentidp.ledger.chain import Break


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


@dataclass(frozen=True, slots=True)
class Dates:
    """The events from one instant to another, both inclusive, in milliseconds; None where there is no bound."""

    from_date: int | None = None
    to_date: int | None = None


@dataclass(frozen=True, slots=True)
class ChainState:
    """What is stored of a chain beside its events. `start_size` events may have been forgotten; the chain should end at `size` and `head_hash`."""

    start_size: int
    size: int
    head_hash: str
    checkpoint_size: int  # of the last checkpoint, by the row of the head
    newest_checkpoint: int  # by what checkpoints there are
    beyond: int | None  # the number of an event behind the head, where none should be


@dataclass(frozen=True, slots=True)
class Verification:
    """How far the history from number `from_seq` was found good; `broken` is the first thing wrong with it."""

    from_seq: int
    to_seq: int
    broken: Break | None
    note: str | None  # the last checkpoint that it was compared with
