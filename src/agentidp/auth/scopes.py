"""The scopes that exist, and the rules of granting them (RFC 6749 section 3.3). Pure."""

from collections.abc import Iterable

from agentidp.core.caller import OPERATOR_SCOPE, AuditEntry
from agentidp.core.errors import InvalidScopes

SCOPES = (
    "agents:read",
    "agents:write",
    "tokens:read",
    "tokens:write",
    "audit:read",
    "webhooks:read",
    "webhooks:write",
    "billing:read",
    "billing:write",
    "policies:read",
    "policies:write",
    "delegation:write",
    "analytics:read",
    "compliance:read",
    OPERATOR_SCOPE,
    "openid",
)
REGISTRATION_SCOPE = "agents:register"  # of a token that registers one agent: nobody asks for it, and nobody grants it
DEFAULT_SCOPES = frozenset({"agents:read", "tokens:read", "openid"})
_KNOWN = frozenset(SCOPES)


def to_text(scopes: Iterable[str]) -> str:
    """Scopes as a token carries them: sorted, separated by one space."""
    return " ".join(sorted(scopes))


def require_grantable(asked: frozenset[str], held: frozenset[str]) -> None:
    """Raises InvalidScopes unless every scope exists and is held by whoever grants it; an attempt to grant more is put on record."""
    if unknown := asked - _KNOWN:
        raise InvalidScopes(f"There is no scope {to_text(unknown)}.", details={"unknown": sorted(unknown)})
    if missing := asked - held:
        entry = AuditEntry("access.denied", "failure", metadata={"reason": "scopes not held", "scopes": sorted(missing)})
        raise InvalidScopes(f"Your token does not hold {to_text(missing)}, so it cannot grant it.", details={"missing": sorted(missing)}, audit=[entry])


def granted_scopes(requested: str | None, allowed: frozenset[str]) -> frozenset[str]:
    """What a token request gets: what it asks for if all of that is allowed; without `scope`, everything but the operator's.

    Raises InvalidScopes; never narrows or widens silently.
    """
    if requested is None:
        return allowed - {OPERATOR_SCOPE}
    asked = frozenset(requested.split(" "))
    if asked - allowed:
        raise InvalidScopes("A requested scope is unknown or not allowed for this agent.")
    return asked
