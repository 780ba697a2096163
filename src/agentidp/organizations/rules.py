"""What an organization is, who may act in one, and which changes of it exist. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from agentidp.core.caller import OPERATOR_SCOPE, AuditEntry, Caller
from agentidp.core.errors import Conflict, Forbidden, NotFound
from agentidp.core.ids import is_id

OrganizationStatus = Literal["active", "suspended", "deleted"]
Role = Literal["member", "admin"]

# What an organization's own administrator may change; the rest is between the operator and the tenant.
OWN_FIELDS: Final = frozenset({"name", "slug"})


class OrganizationNotFound(NotFound):
    code = "ORG_NOT_FOUND"
    title = "There is no such organization."


class SlugTaken(Conflict):
    code = "ORG_SLUG_TAKEN"
    title = "Another organization has this slug."


class HasActiveAgents(Conflict):
    code = "ORG_HAS_ACTIVE_AGENTS"
    title = "The organization has active agents; suspend or decommission them first."


class OrganizationDeleted(Conflict):
    title = "The organization is deleted, which is final."


class OperatorsOrganization(Conflict):
    title = "This is the operator's own organization: without it nobody could bring it back."


class AlreadyMember(Conflict):
    code = "ALREADY_MEMBER"
    title = "The agent is a member of the organization already; remove it first to change its role."


class LastAdministrator(Conflict):
    title = "This is the organization's last administrator; only the operator may remove it."


@dataclass(frozen=True, slots=True)
class Organization:
    """A tenant as stored. A limit that is None is not set. Instants are milliseconds."""

    organization_id: str
    name: str
    slug: str
    plan_tier: str
    max_agents: int | None
    max_tokens_per_day: int | None
    status: str
    created_at: int
    updated_at: int


@dataclass(frozen=True, slots=True)
class Member:
    """An agent with a role in its own organization."""

    organization_id: str
    agent_id: str
    role: str
    created_at: int


@dataclass(frozen=True, slots=True)
class Change:
    """The columns that a patch changes, and what the audit event says of it."""

    columns: dict[str, object] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)


def acting_in(caller: Caller, organization_id: str) -> Caller:
    """The caller of a unit of work on that organization: the operator crosses tenants, everybody else stays at home. Raises OrganizationNotFound.

    What is done is then found, and recorded, through the organization acted upon; agent and origin stay those of whoever acts.
    """
    if not is_id(organization_id) or (organization_id != caller.organization_id and not is_operator(caller)):
        raise OrganizationNotFound
    return replace(caller, organization_id=organization_id)


def is_operator(caller: Caller) -> bool:
    return OPERATOR_SCOPE in caller.scopes


def require_administrator(caller: Caller, role: str | None) -> None:
    """Raises Forbidden unless the caller is the operator or, by its role in the caller's organization, an administrator."""
    if not is_operator(caller) and role != "admin":
        raise _denied("Only the organization's administrators and the operator may do this.", caller)


def changes(caller: Caller, stored: Mapping[str, object], patch: Mapping[str, object]) -> Change:
    """What of `patch` differs from `stored` (column names). Raises Forbidden, even where nothing would change, and OrganizationDeleted."""
    if not is_operator(caller) and (foreign := patch.keys() - OWN_FIELDS):
        raise _denied(f"Only the operator may change {', '.join(sorted(foreign))}.", caller)
    if stored["status"] == "deleted":
        raise OrganizationDeleted
    columns = {name: value for name, value in patch.items() if stored[name] != value}
    metadata: dict[str, Any] = {"fields": sorted(columns)}
    if "status" in columns:
        metadata |= {"oldStatus": stored["status"], "newStatus": columns["status"]}
    return Change(columns, metadata)


def _denied(detail: str, caller: Caller) -> Forbidden:
    entry = AuditEntry("access.denied", "failure", "organization", caller.organization_id, metadata={"requiredScope": OPERATOR_SCOPE})
    return Forbidden(detail, scope=OPERATOR_SCOPE, audit=[entry])
