"""Tokens of other issuers: the strict pre-parser, a key that their issuer published, and the claims that every such token has, with their types.

RFC 7519, RFC 7523 section 3, RFC 8725. Does not know whom a token is good for: that is what trust policies and partners say.
"""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from agentidp.auth.jws import InvalidToken, UnverifiedToken, parse_unverified, verify_signature
from agentidp.auth.outside_keys import OutsideKeys
from agentidp.core import limits
from agentidp.core.clock import Clock
from agentidp.ledger.entries import OneTime

# GitHub and Microsoft name their certificate beside the key. A thumbprint is no key and no place to get one; everything else that points to keys is refused.
_THUMBPRINTS: Final = frozenset({"x5t", "x5t#S256"})
_JWT: Final = frozenset({"jwt"})  # or none; a token that calls itself something else was made for something else


@dataclass(frozen=True, slots=True)
class UnverifiedOutside:
    """What a token says, and nobody has checked: who made it, and whom it is for."""

    token: UnverifiedToken
    issuer: str
    key_id: str
    audiences: tuple[str, ...]

    @property
    def audience(self) -> str:
        """The only one; empty where there are none or many."""
        return self.audiences[0] if len(self.audiences) == 1 else ""


@dataclass(frozen=True, slots=True)
class OutsideToken:
    """A token that its issuer signed, and in time. `audience` as above. `one_time_parts` say which one it is. Times in seconds."""

    issuer: str
    audience: str
    subject: str
    token_id: str | None
    issued_at: int
    expires_at: int
    claims: Mapping[str, Any]
    one_time_parts: tuple[str, ...]


def parse_outside(unverified_token: str) -> UnverifiedOutside:
    """A token to be exchanged, and whom to ask for the key. Raises InvalidToken, also for a token with more than one audience: the others could use it here."""
    unverified = read_outside(unverified_token, _JWT)
    if not unverified.audience:
        raise InvalidToken("aud must be one audience")
    return unverified


def read_outside(unverified_token: str, types: Collection[str]) -> UnverifiedOutside:
    """`types`: what it may call itself, in lower case. Raises InvalidToken."""
    token = parse_unverified(unverified_token, ignored=_THUMBPRINTS)
    kind = token.header.get("typ", "jwt")
    if not isinstance(kind, str) or kind.lower() not in types:
        raise InvalidToken("typ is not JWT")
    key_id = token.header.get("kid")
    if not isinstance(key_id, str) or not key_id:
        raise InvalidToken("kid is missing")
    audience = token.payload.get("aud", [])
    audiences = audience if isinstance(audience, list) else [audience]
    if len(audiences) > limits.RESOURCES_MAX or not all(isinstance(one, str) for one in audiences):
        raise InvalidToken("aud must be text, or a short list of texts")
    issuer = token.payload.get("iss")
    if not isinstance(issuer, str) or not issuer:
        raise InvalidToken("iss is not text")
    return UnverifiedOutside(token, issuer, key_id, tuple(audiences))


async def require_signature(unverified: UnverifiedOutside, keys: OutsideKeys, *, whose: str, jwks_uri: str | None = None) -> None:
    """Without `jwks_uri` the issuer is asked where its keys are. Raises InvalidToken, IssuerUnreachable. Ask only for an issuer that somebody trusts: its server is called."""
    key = await keys.find(unverified.issuer, unverified.key_id, whose=whose, jwks_uri=jwks_uri)
    if key is None:
        raise InvalidToken("unknown key")
    verify_signature(key.algorithm, key.key, unverified.token)


async def verify_outside(unverified: UnverifiedOutside, keys: OutsideKeys, clock: Clock, *, whose: str, jwks_uri: str | None = None) -> OutsideToken:
    """Signature and claims, by the time after its issuer was asked, which may take long. Raises what `require_signature` does."""
    await require_signature(unverified, keys, whose=whose, jwks_uri=jwks_uri)
    return require_claims(unverified, clock())


def require_claims(unverified: UnverifiedOutside, now: int) -> OutsideToken:
    """What every token must say, of one whose signature is right. `now` in milliseconds. Raises InvalidToken."""
    token, now_seconds = unverified.token, now // 1000
    claims = token.payload
    subject, token_id = claims.get("sub"), claims.get("jti")
    if not isinstance(subject, str) or not subject:
        raise InvalidToken("sub is not text")
    if token_id is not None and (not isinstance(token_id, str) or not token_id):
        raise InvalidToken("jti is not text")
    issued_at, expires_at = _seconds(claims, "iat"), _seconds(claims, "exp")
    begins_at = _seconds(claims, "nbf") if "nbf" in claims else issued_at
    if expires_at <= now_seconds:
        raise InvalidToken("expired")
    if max(issued_at, begins_at) > now_seconds + limits.ISSUED_AT_LEEWAY_SECONDS:
        raise InvalidToken("not yet valid")
    if not 0 <= issued_at < expires_at <= issued_at + limits.OUTSIDE_TOKEN_SECONDS_MAX:
        raise InvalidToken("lives longer than is accepted")
    which = ("jti", token_id) if token_id is not None else ("token", hashlib.sha256(token.signing_input).hexdigest())
    return OutsideToken(unverified.issuer, unverified.audience, subject, token_id, issued_at, expires_at, claims, (unverified.issuer, *which))


def _seconds(claims: Mapping[str, Any], name: str) -> int:
    value = claims.get(name)
    if type(value) is not int:
        raise InvalidToken(f"{name} is not an integer")
    return value


def outside_jti(token: OutsideToken) -> OneTime:
    """What is used up with it."""
    return OneTime.of("outside_jti", *token.one_time_parts, issued_at=token.issued_at * 1000, expires_at=token.expires_at * 1000)
