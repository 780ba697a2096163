"""What a token request may say, and what its claims become. Pure. RFC 6749, RFC 8707, RFC 9068."""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from agentidp.core import limits
from agentidp.core.errors import DayUsedUp, Forbidden, Invalid, InvalidScopes, Problem

_SCOPE = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]+( [\x21\x23-\x5B\x5D-\x7E]+)*", re.ASCII)
# An absolute URI without fragment (RFC 3986 section 4.3); one of http or https names its host.
RESOURCE_PATTERN = r"^(?![Hh][Tt][Tt][Pp][Ss]?:(?!//[^/?:@]))[a-zA-Z][a-zA-Z0-9+.-]*:[\x21\x24-\x3B\x3D\x3F-\x5B\x5D\x5F\x61-\x7A\x7E]+$"
_URI = re.compile(RESOURCE_PATTERN.strip("^$"), re.ASCII)


class InvalidClient(Problem):
    """One answer for an unknown id, a wrong, an expired and a revoked secret, and an assertion that no active key has signed or that was used before.

    Only what is wrong in itself, whoever it is of, is said in `reason`, a clause.
    """

    status, code, oauth_error = 401, "UNAUTHORIZED", "invalid_client"
    title = "Client authentication failed."
    is_failed_login = True

    def __init__(self, reason: str | None = None, **options: Any) -> None:
        super().__init__(
            reason and f"Client authentication failed: {reason}.", headers={"WWW-Authenticate": 'Basic realm="agentidp", charset="UTF-8"'}, **options
        )


class UnsupportedGrantType(Invalid):
    oauth_error = "unsupported_grant_type"
    title = "This grant type is not supported; the discovery document lists those that are."


class UnauthorizedClient(Invalid):
    oauth_error = "unauthorized_client"
    title = "The agent or its organization is not active."
    is_failed_login = True


class InvalidTarget(Invalid):
    oauth_error = "invalid_target"
    title = "Each resource must be an absolute URI without fragment."


class TooManyTokens(DayUsedUp):
    title = "The organization has used up its tokens of today; more at midnight UTC."
    plan_limit = "tokens"


class NotYourToken(Forbidden):
    title = "Revoking another agent's token needs scope tokens:write."


class IssuedToken(msgspec.Struct, frozen=True):
    """What was decided and recorded, before it is signed. Times in seconds."""

    organization_id: str
    agent_id: str
    credential_id: str
    token_id: str
    epoch: int
    scope: str
    audience: tuple[str, ...]
    issued_at: int
    expires_at: int
    key_thumbprint: str | None = None  # the key that it is bound to
    actor: Mapping[str, Any] | None = None  # who acts for the agent, as the claim `act`
    rests_on: tuple[Mapping[str, Any], ...] = ()  # tokens that must be good for this one to be
    policy_id: str | None = None  # by which trust policy a workload acts for the agent

    @property
    def token_type(self) -> str:
        return "Bearer" if self.key_thumbprint is None else "DPoP"


def requested_scope(form: Mapping[str, Sequence[str]]) -> str | None:
    """The `scope` parameter, None when absent. Raises InvalidScopes when it is not a scope in the sense of RFC 6749 appendix A.4."""
    value = form.get("scope", [None])[0]
    if value is not None and (len(value) > limits.SCOPE_CHARACTERS_MAX or not _SCOPE.fullmatch(value)):
        raise InvalidScopes("scope must be scope names separated by single spaces.")
    return value


def requested_audience(form: Mapping[str, Sequence[str]], default: str) -> tuple[str, ...]:
    """The `resource` parameters in canonical form (RFC 8707 section 2), else the default. Raises InvalidTarget."""
    return (optional_audience(form) if "resource" in form else ()) or (default,)


def optional_audience(form: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The same, empty when nothing is asked for. Raises InvalidTarget."""
    resources = form.get("resource", ())
    if len(resources) > limits.RESOURCES_MAX:
        raise InvalidTarget(f"At most {limits.RESOURCES_MAX} resources.")
    return tuple(dict.fromkeys(_canonical(resource) for resource in resources if resource))


def _canonical(resource: str) -> str:
    """Scheme and host in lower case, no lone trailing slash."""
    if len(resource) > limits.RESOURCE_CHARACTERS_MAX or not _URI.fullmatch(resource):
        raise InvalidTarget
    try:
        parts = urlsplit(resource)
        if parts.scheme in {"http", "https"} and not parts.hostname:
            raise InvalidTarget
        path = "" if parts.path == "/" and not parts.query else parts.path
        return parts._replace(netloc=parts.netloc.lower(), path=path).geturl()
    except ValueError as error:
        raise InvalidTarget from error


def expiry(now_seconds: int, lifetime_seconds: int, bound_ms: int | None) -> int:
    """A token lives no longer than its credential and its agent. Seconds."""
    end = now_seconds + lifetime_seconds
    return end if bound_ms is None else min(end, bound_ms // 1000)


def access_token_claims(token: IssuedToken, issuer: str) -> dict[str, Any]:
    """RFC 9068 section 2.2; `aud` is a string when there is one audience. `cnf`: RFC 9449 section 6.1. `act`: RFC 8693 section 4.1."""
    claims: dict[str, Any] = {
        "iss": issuer,
        "sub": token.agent_id,
        "aud": token.audience[0] if len(token.audience) == 1 else list(token.audience),
        "client_id": token.agent_id,
        "scope": token.scope,
        "iat": token.issued_at,
        "exp": token.expires_at,
        "jti": token.token_id,
        "organization_id": token.organization_id,
        "credential_id": token.credential_id,
        "epoch": token.epoch,
    }
    if token.key_thumbprint is not None:
        claims["cnf"] = {"jkt": token.key_thumbprint}
    if token.rests_on:
        claims["rests_on"] = token.rests_on
    if token.actor is not None:
        claims["act"] = token.actor
    if token.policy_id is not None:
        claims["policy_id"] = token.policy_id
    return claims


def id_token_claims(token: IssuedToken, issuer: str, access_token_hash: str) -> dict[str, Any]:
    """OpenID Connect Core section 2; the agent is both subject and client."""
    return {
        "iss": issuer,
        "sub": token.agent_id,
        "aud": token.agent_id,
        "iat": token.issued_at,
        "exp": token.expires_at,
        "at_hash": access_token_hash,
        "organization_id": token.organization_id,
    }
