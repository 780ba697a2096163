"""What a partner is, and for what reasons one of its tokens is not good. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import urlsplit
from uuid import UUID

from agentidp.core import limits
from agentidp.core.errors import Conflict, InvalidFields, NotFound, Problem

PartnerStatus = Literal["active", "suspended", "expired"]
TOKEN_TYPES: Final = frozenset({"jwt", "at+jwt", "application/at+jwt"})  # RFC 9068: a partner may well be another AgentIdP
# Of these claims the first that a token has names the organization that it speaks for: AgentIdP's own, then those that others use.
ORGANIZATION_CLAIMS: Final = ("organization_id", "org_id", "org")


class PartnerNotFound(NotFound):
    code = "PARTNER_NOT_FOUND"
    title = "There is no such partner in your organization."


class IssuerTaken(Conflict):
    title = "Another partner of your organization has this issuer: one issuer has one set of keys."


class TooManyPartners(Conflict):
    title = f"An organization may have {limits.FEDERATION_PARTNERS_MAX} partners; delete one first."


class FederationUnreachable(Problem):
    status, code = 502, "FEDERATION_UNREACHABLE"
    title = "There is no key set at jwksUri, or none with a key that this server can use; nothing was changed."


@dataclass(frozen=True, slots=True)
class Partner:
    """A partner as stored, with its status at that moment. No `allowed_organizations`: any. Instants are milliseconds."""

    partner_id: str
    name: str
    issuer: str
    jwks_uri: str
    allowed_organizations: Sequence[str]
    status: PartnerStatus
    expires_at: int | None
    created_at: int
    updated_at: int


@dataclass(frozen=True, slots=True)
class NewPartner:
    """Whose tokens somebody wants to check."""

    name: str
    issuer: str
    jwks_uri: str
    allowed_organizations: Sequence[str]
    expires_at: int | None


@dataclass(frozen=True, slots=True)
class Verification:
    """What is known of a token: everything when it is valid, else only the reason."""

    valid: bool
    reason: str | None = None
    partner_id: str | None = None
    issuer: str | None = None
    subject: str | None = None
    organization_id: str | None = None
    claims: Mapping[str, Any] | None = None


def partner_status(stored: str, expires_at: int | None, now: int) -> PartnerStatus:
    """Time ends even what is suspended: to resume that would need another `expiresAt`, too."""
    if expires_at is not None and expires_at <= now:
        return "expired"
    return "suspended" if stored == "suspended" else "active"


def require_sound(patch: Mapping[str, Any], *, own_issuer: str, own_organization_id: str, now: int) -> None:
    """Raises InvalidFields for a partner that could pass for somebody of this server, or is over before it begins. `patch` by column; its addresses may be called."""
    wrong, issuer = list[tuple[str, str]](), patch.get("issuer", "")
    if "?" in issuer or "#" in issuer:
        wrong.append(("issuer", "must have no query and no fragment"))
    if issuer and _at(issuer) == _at(own_issuer):  # which is an origin
        wrong.append(("issuer", "is this server's own: its tokens are introspected"))
    if any(_is_id(name, own_organization_id) for name in patch.get("allowed_organizations", ())):
        wrong.append(("allowedOrganizations", "names your own organization, for which no partner speaks"))
    expires_at = patch.get("expires_at")
    if expires_at is not None and expires_at <= now:
        wrong.append(("expiresAt", "must be in the future"))
    if wrong:
        raise InvalidFields(wrong)


def wrong_with_audience(audiences: Collection[str], expected: str | None, own: Collection[str]) -> str | None:
    """RFC 7519 section 4.1.3: who is not among those that a token names does not accept it. One that names nobody will do, unless somebody is expected."""
    if expected is not None:
        return None if expected in audiences else "aud is not the expected one"
    if audiences and not set(audiences) & set(own):
        return "aud is neither this server nor your organization; if it is your own service, say so as expectedAudience"
    return None


def organization_of(claims: Mapping[str, Any]) -> str | None:
    """The partner's organization that the token speaks for; None when it says nothing. Only for claims with which nothing is wrong."""
    return next((claims[name] for name in ORGANIZATION_CLAIMS if name in claims), None)


def wrong_with_organization(claims: Mapping[str, Any], allowed: Collection[str], own_organization_id: str) -> str | None:
    """None of the claims may name the organization that asks, in any spelling of its id, whichever of them counts: somebody may read another."""
    said = [claims[name] for name in ORGANIZATION_CLAIMS if name in claims]
    if not all(isinstance(one, str) and one for one in said):
        return "the claim of the organization is not text"
    if any(_is_id(one, own_organization_id) for one in said):
        return "the token claims to be of your own organization, for which no partner speaks"
    named = organization_of(claims)
    if allowed and named not in allowed:
        return (
            "the token's organization is none of the partner's allowedOrganizations"
            if named
            else "the token names no organization, and the partner's are limited"
        )
    return None


def _is_id(text: str, organization_id: str) -> bool:
    """Whether the text is that id, however it is written (RFC 9562 section 4)."""
    try:
        return UUID(text.strip()) == UUID(organization_id)
    except ValueError:
        return False


def _at(issuer: str) -> tuple[str | None, int | None]:
    """Host and port. `issuer` is a sound address."""
    parts = urlsplit(issuer)
    return parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)
