"""Who is calling and from where, as plain data. How that is proved is `auth`'s business."""

from dataclasses import dataclass, field
from typing import Literal

import msgspec

OPERATOR_SCOPE = "admin:orgs"
Outcome = Literal["success", "failure"]


class Origin(msgspec.Struct, frozen=True):
    """What a request says of its source: already escaped and bounded, fit to be stored."""

    ip_address: str | None = None
    user_agent: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Registration:
    """The right of a trust policy's token to register one agent. Instants are milliseconds."""

    policy_id: str
    token_id: str
    issued_at: int
    expires_at: int


@dataclass(frozen=True, slots=True)
class Caller:
    """A proven agent, or nobody (`agent_id` None). `scopes` are those of the presented token, not all that the agent may ask for.

    A unit of work reaches the rows of the caller's organization only, on PostgreSQL by the database's own doing; see `SYSTEM`.
    """

    organization_id: str
    agent_id: str | None = None
    scopes: frozenset[str] = frozenset()
    credential_id: str | None = None
    token_id: str | None = None
    origin: Origin = field(default_factory=Origin)
    is_system: bool = False
    registration: Registration | None = None  # then it is no agent, and may do nothing else
    is_delegated: bool = False  # by a token that was made of another or given by a trust policy: within its scopes, and without what the agent is beyond them


# The instance itself, which looks across organizations: to find whose a secret is, and to keep house. `tests/architecture` lists who may.
SYSTEM = Caller(organization_id="", is_system=True)


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One line of history before it is written. `metadata` holds strings, integers, booleans, null, lists and objects with ASCII keys."""

    action: str
    outcome: Outcome = "success"
    target_type: str | None = None
    target_id: str | None = None
    organization_id: str | None = None  # None: the caller's
    agent_id: str | None = None  # None: the caller's
    metadata: dict[str, object] = field(default_factory=dict)
