"""What an agent is, and which changes of state exist. Pure."""

from dataclasses import dataclass, field
from typing import Literal

from agentidp.core.caller import AuditEntry
from agentidp.core.errors import Conflict, NotFound, OverLimit

AgentType = Literal["screener", "classifier", "orchestrator", "extractor", "summarizer", "router", "monitor", "custom"]
DeploymentEnv = Literal["development", "staging", "production"]
AgentStatus = Literal["active", "suspended", "decommissioned"]


class AgentNotFound(NotFound):
    code = "AGENT_NOT_FOUND"
    title = "There is no such agent in your organization."


class AgentAlreadyExists(Conflict):
    code = "AGENT_ALREADY_EXISTS"
    title = "An agent with this email already exists in your organization."


class AgentAlreadyDecommissioned(Conflict):
    code = "AGENT_ALREADY_DECOMMISSIONED"
    title = "The agent is decommissioned, which is final; register a new one."


class AgentNotActive(Conflict):
    code = "AGENT_NOT_ACTIVE"
    title = "The agent is not active."


class OrganizationNotActive(Conflict):
    title = "The organization is not active."


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent as stored, except that one past its `expires_at` reads suspended. Instants are milliseconds."""

    organization_id: str
    agent_id: str
    email: str
    name: str
    description: str
    agent_type: str
    version: str
    capabilities: tuple[str, ...]
    owner: str
    deployment_env: str
    scopes: tuple[str, ...]
    is_public: bool
    status: str
    expires_at: int | None
    created_at: int
    updated_at: int
    did: str | None = None


@dataclass(frozen=True, slots=True)
class NewAgent:
    """What a registration says. `name` defaults to the local part of the email."""

    email: str
    agent_type: str
    version: str
    capabilities: tuple[str, ...]
    owner: str
    deployment_env: str
    scopes: frozenset[str]
    name: str | None = None
    description: str = ""
    is_public: bool = False
    expires_at: int | None = None


@dataclass(frozen=True, slots=True)
class AgentFilter:
    """None means any. `text` is looked for in name, email and description."""

    owner: str | None = None
    agent_type: str | None = None
    status: str | None = None
    deployment_env: str | None = None
    capability: str | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Tier:
    """What decides whether the organization may have one more agent. `agents_max` None: there is no limit."""

    status: str
    plan_tier: str
    agents_max: int | None


@dataclass(frozen=True, slots=True)
class Change:
    """The columns that a patch changes, and the audit actions that it leaves."""

    columns: dict[str, object] = field(default_factory=dict)
    actions: tuple[str, ...] = ()
    kills_tokens: bool = False


_STATUS_ACTIONS = {"suspended": "agent.suspended", "active": "agent.reactivated", "decommissioned": "agent.decommissioned"}


def changes(stored: dict[str, object], patch: dict[str, object]) -> Change:
    """What of `patch` differs from `stored` (column names). Raises AgentAlreadyDecommissioned: nothing of such an agent changes."""
    if stored["status"] == "decommissioned":
        raise AgentAlreadyDecommissioned
    columns = {name: value for name, value in patch.items() if stored[name] != value}
    actions = ["agent.updated"] if columns.keys() - {"status"} else []
    status = columns.get("status")
    if isinstance(status, str):
        actions.append(_STATUS_ACTIONS[status])
    return Change(columns, tuple(actions), kills_tokens=status in {"suspended", "decommissioned"})


def require_place(used: int, limit: int, tier: str, organization_id: str) -> None:
    """Raises OverLimit, with its audit event, when the organization has as many agents as it may have."""
    if used >= limit:
        raise OverLimit(
            f"The organization may have {limit} agents; decommission one first.",
            details={"limit": limit, "used": used, "tier": tier},
            audit=[AuditEntry("access.denied", "failure", "organization", organization_id, organization_id, metadata={"reason": OverLimit.title})],
        )


def is_active(status: str, expires_at: int | None, now: int) -> bool:
    """An agent past its expiry counts as suspended."""
    return status == "active" and (expires_at is None or expires_at > now)
