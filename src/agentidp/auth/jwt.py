"""The token profile, as a promise to whoever verifies: the only file that makes or checks the tokens of this issuer.

Access token (RFC 9068): header `alg, kid, typ: at+jwt`; claims `iss, sub` (agent id), `aud` (always), `client_id` (= sub), `scope`,
`iat, exp` (seconds), `jti` (UUIDv7), `organization_id, credential_id, epoch`; `cnf.jkt` if it is bound to a key (RFC 9449); where it was made from others,
`rests_on` them, and `act` for whoever acts for the agent (RFC 8693); `policy_id` where a trust policy let a workload in. ID token (OpenID Connect Core section 2): `typ: JWT`,
`aud` = the agent. A token of one kind is never accepted as the other. Does not know whether a token was revoked: see `authority`.
"""

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from agentidp.auth.jws import InvalidToken, encode_base64url, parse_unverified, sign, verify_signature
from agentidp.auth.keys import KeyStore, SigningKey
from agentidp.auth.scopes import REGISTRATION_SCOPE
from agentidp.core import limits
from agentidp.core.ids import is_id

ACCESS_TOKEN_TYPE = "at+jwt"  # noqa: S105 - a media type
ID_TOKEN_TYPE = "JWT"  # noqa: S105 - a media type


class NoOrganization(InvalidToken):
    """Everything else about the token is right, its revocation aside, which nobody can look up. `audience` as in the token."""

    def __init__(self, audience: tuple[str, ...]) -> None:
        super().__init__("organization_id is missing")
        self.audience = audience


@dataclass(frozen=True, slots=True)
class Foundation:
    """A token that another one was made from, and dies with. `issued_at` in seconds."""

    agent_id: str
    credential_id: str
    token_id: str
    key_id: str
    epoch: int
    issued_at: int

    def as_claim(self) -> dict[str, Any]:
        return {"sub": self.agent_id, "credential_id": self.credential_id, "jti": self.token_id, "kid": self.key_id, "epoch": self.epoch, "iat": self.issued_at}


@dataclass(frozen=True, slots=True)
class VerifiedClaims:
    """An access token of ours whose signature, type, issuer and times are right. `status` may still be anything."""

    organization_id: str
    agent_id: str
    credential_id: str
    token_id: str
    key_id: str
    epoch: int
    scopes: frozenset[str]
    audience: tuple[str, ...]
    issued_at: int  # seconds, as in the token
    expires_at: int
    claims: Mapping[str, Any]
    key_thumbprint: str | None = None  # whoever presents it must prove that he has this key
    rests_on: tuple[Foundation, ...] = ()

    @property
    def foundation(self) -> Foundation:
        """Itself, for a token that is made from it."""
        return Foundation(self.agent_id, self.credential_id, self.token_id, self.key_id, self.epoch, self.issued_at)

    @property
    def actors(self) -> int:
        """How many act for the agent one behind the other (RFC 8693 section 4.1)."""
        count, actor = 0, self.claims.get("act")
        while isinstance(actor, dict):
            count, actor = count + 1, actor.get("act")
        return count

    @property
    def is_delegated(self) -> bool:
        """Whether it is less than the agent: made of another token, for another agent or to do less, or given to a workload by a trust policy."""
        return bool(self.rests_on) or "act" in self.claims or "policy_id" in self.claims

    @property
    def is_registration(self) -> bool:
        """Whether it is good for registering one agent, and for nothing else: see `auth.registration`."""
        return REGISTRATION_SCOPE in self.scopes


def encode(key: SigningKey, token_type: str, claims: Mapping[str, Any]) -> str:
    """A signed compact JWT."""
    signing_input = f"{_header(key.algorithm, key.key_id, token_type)}.{encode_base64url(msgspec.json.encode(claims))}"
    return f"{signing_input}.{encode_base64url(sign(key.private_key, signing_input.encode()))}"


@functools.lru_cache(limits.SIGNING_KEYS_CACHED_MAX)
def _header(algorithm: str, key_id: str, token_type: str) -> str:
    """The same for all tokens of a key and a kind."""
    return encode_base64url(msgspec.json.encode({"alg": algorithm, "kid": key_id, "typ": token_type}))


async def verify_access_token(unverified_token: str, keys: KeyStore, *, issuer: str, now: int) -> VerifiedClaims:
    """The claims of an access token of this issuer. `now` in milliseconds. Raises InvalidToken with the reason.

    Does not check the audience: introspection answers for any, the guard for its own.
    """
    fingerprint = hashlib.sha256(unverified_token.encode(errors="surrogatepass")).digest()
    seen = keys.verified.get(fingerprint)
    if seen is not None:  # the signature is right for ever; everything that time or an operator can change is looked at again
        if await keys.find(seen.key_id) is None:
            raise InvalidToken("unknown key")
        return _in_time(seen, now // 1000)
    verified = await _verify(unverified_token, keys, issuer, now // 1000)
    keys.remember(fingerprint, verified)
    return verified


async def _verify(unverified_token: str, keys: KeyStore, issuer: str, now_seconds: int) -> VerifiedClaims:
    token = parse_unverified(unverified_token)
    if token.header.get("typ") != ACCESS_TOKEN_TYPE:
        raise InvalidToken("not an access token")
    key = await keys.find(token.header.get("kid"))
    if key is None:
        raise InvalidToken("unknown key")
    verify_signature(key.algorithm, key.public_key, token)
    return _in_time(_checked(token.payload, key.key_id, issuer), now_seconds)


def _checked(claims: Mapping[str, Any], key_id: str, issuer: str) -> VerifiedClaims:
    """Claims are checked even though we signed them: a key may outlive a release that wrote other claims."""
    agent_id, credential_id, token_id = (_id(claims, name) for name in ("sub", "credential_id", "jti"))
    organization_id = _id(claims, "organization_id") if claims.get("organization_id") is not None else ""  # refused by `_in_time`, after all else
    issued_at, expires_at, epoch = (_integer(claims, name) for name in ("iat", "exp", "epoch"))
    audience, scope = claims.get("aud"), claims.get("scope")
    audience = (audience,) if isinstance(audience, str) else tuple(audience) if isinstance(audience, list) else ()
    if not audience or not all(isinstance(one, str) for one in audience):
        raise InvalidToken("aud is missing")
    rests_on = tuple(map(_foundation, claims.get("rests_on", ())))
    if claims.get("iss") != issuer:
        raise InvalidToken("another issuer")
    if claims.get("client_id") != agent_id or not isinstance(scope, str):
        raise InvalidToken("client_id or scope is wrong")
    if expires_at - issued_at > limits.TOKEN_LIFETIME_SECONDS_MAX:
        raise InvalidToken("lives longer than any token")
    scopes, bound_to = frozenset(scope.split()), _key_thumbprint(claims)
    return VerifiedClaims(
        organization_id, agent_id, credential_id, token_id, key_id, epoch, scopes, audience, issued_at, expires_at, claims, bound_to, rests_on
    )


def _key_thumbprint(claims: Mapping[str, Any]) -> str | None:
    if "cnf" not in claims:
        return None
    match claims["cnf"]:
        case {"jkt": str(found)}:
            return found
    raise InvalidToken("cnf is not a key of DPoP")


def _in_time(token: VerifiedClaims, now_seconds: int) -> VerifiedClaims:
    if token.expires_at <= now_seconds:
        raise InvalidToken("expired")
    if token.issued_at > now_seconds + limits.ISSUED_AT_LEEWAY_SECONDS:
        raise InvalidToken("issued in the future")
    if not token.organization_id:
        raise NoOrganization(token.audience)
    return token


def _foundation(claims: Mapping[str, Any]) -> Foundation:
    agent_id, credential_id, token_id = (_id(claims, name) for name in ("sub", "credential_id", "jti"))
    return Foundation(agent_id, credential_id, token_id, str(claims["kid"]), _integer(claims, "epoch"), _integer(claims, "iat"))


def _id(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not is_id(value):
        raise InvalidToken(f"{name} is not an id")
    return value


def _integer(claims: Mapping[str, Any], name: str) -> int:
    value = claims.get(name)
    if type(value) is not int:
        raise InvalidToken(f"{name} is not an integer")
    return value
