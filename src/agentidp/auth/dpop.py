"""DPoP (RFC 9449): proofs that whoever asks for a token, or presents one, holds a private key; and the nonces that proofs must carry.

Checks one proof. That it is used once, the ledger's commit confirms; what a token is bound to, `guard` compares.
"""

import hashlib
import hmac
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.requests import Request

from agentidp.auth.claims import instant, media_type, past_instant, token_id
from agentidp.auth.instance import Instance, instance_of
from agentidp.auth.jwk import InvalidKey, parse_public
from agentidp.auth.jws import InvalidToken, encode_base64url, parse_unverified, verify_signature
from agentidp.core import limits
from agentidp.core.caller import AuditEntry
from agentidp.core.errors import Invalid
from agentidp.core.http import header_values
from agentidp.core.secrets import keyed_hash
from agentidp.ledger.entries import OneTime

DPOP_PROOF = "dpop_proof"  # the kind of its one-time value
NONCE_KEY = "dpop_nonce"  # the server secret's name
_TYPE = "dpop+jwt"
_PRINTABLE = re.compile("[!-~]+")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_PROOF_MS_MAX = limits.DPOP_PROOF_SECONDS_MAX * 1000
_NONCE_MS = limits.DPOP_NONCE_SECONDS * 1000


class InvalidProof(Invalid):
    oauth_error = "invalid_dpop_proof"
    title = "The DPoP proof is not valid for this request."
    is_failed_login = True


class NonceNeeded(Invalid):
    """No failure: how a client gets its first nonce, and its next when that is too old."""

    oauth_error = "use_dpop_nonce"
    title = "The DPoP proof must carry the nonce of the header DPoP-Nonce."


@dataclass(frozen=True, slots=True)
class Proof:
    """A proof that is right. It is used up with what it was sent for."""

    key_thumbprint: str
    once: OneTime


def read_proof(request: Request, access_token: str | None = None) -> Proof | None:
    """The request's proof, None when it has none; for a resource, one of that access token. Raises InvalidProof, with its audit event, or NonceNeeded."""
    values = header_values(request, b"dpop")
    if not values:
        return None
    instance = instance_of(request)
    try:
        if len(values) > 1:
            raise InvalidToken("more than one")
        return _checked(values[0], request, access_token, instance)
    except InvalidToken as error:
        raise invalid_proof(str(error)) from error
    except InvalidKey as error:
        raise invalid_proof(f"jwk {error}") from error


def invalid_proof(reason: str, **agent: str) -> InvalidProof:
    """`agent`: organization and agent that it is of, where they are known."""
    return InvalidProof(
        f"The DPoP proof is not valid for this request: {reason}.",
        audit=[AuditEntry("auth.failed", "failure", metadata={"reason": f"DPoP proof: {reason}"}, **agent)],
    )


def nonce_headers(request: Request) -> list[tuple[bytes, bytes]]:
    """What every answer to a request with a proof carries."""
    if not header_values(request, b"dpop"):
        return []
    instance = instance_of(request)
    return [(b"dpop-nonce", _nonce(instance, instance.clock() // _NONCE_MS).encode())]


def _checked(unverified_proof: str, request: Request, access_token: str | None, instance: Instance) -> Proof:
    """What costs most comes last: whoever has no nonce makes us check no signature."""
    token, now = parse_unverified(unverified_proof, carries_key=True), instance.clock()
    header, claims = token.header, token.payload
    if media_type(header) != _TYPE or not isinstance(header.get("jwk"), dict):
        raise InvalidToken("typ is not dpop+jwt, or jwk is missing")
    if claims.get("htm") != request.method:
        raise InvalidToken("htm is not the method")
    if _normalized(claims.get("htu")) != _normalized(instance.settings.issuer + request.scope["raw_path"].decode("latin-1")):
        raise InvalidToken("htu is not the address")
    if access_token is not None and claims.get("ath") != encode_base64url(hashlib.sha256(access_token.encode()).digest()):
        raise InvalidToken("ath is not the hash of the access token")
    proof_id, issued_at, nonce = token_id(claims), past_instant(claims, "iat", now), claims.get("nonce", "")
    if issued_at is None or issued_at + _PROOF_MS_MAX <= now:
        raise InvalidToken("iat is missing or too long ago")
    past_instant(claims, "nbf", now)
    expires_at = instant(claims, "exp")
    if expires_at is not None and expires_at <= now:
        raise InvalidToken("expired")
    if not isinstance(nonce, str):
        raise InvalidToken("nonce is not a string")
    if not _is_good_nonce(instance, nonce, now):
        raise NonceNeeded
    key = parse_public(header["jwk"])
    verify_signature(key.algorithm, key.public_key, token)
    once = OneTime.of(DPOP_PROOF, key.thumbprint, proof_id, issued_at=issued_at, expires_at=issued_at + _PROOF_MS_MAX)
    return Proof(key.thumbprint, once)


def _normalized(url: object) -> str:
    """Without query and fragment, in the form of RFC 3986 sections 6.2.2 and 6.2.3 as far as addresses of ours can differ from it."""
    if not isinstance(url, str):
        raise InvalidToken("htu is missing")
    if not _PRINTABLE.fullmatch(url):  # `urlsplit` would take some of the others away
        raise InvalidToken("htu holds characters that no address has")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InvalidToken("htu is no address") from error
    return f"{parts.scheme}://{parts.netloc.lower().removesuffix(_DEFAULT_PORTS.get(parts.scheme, ''))}{parts.path or '/'}"


def _nonce(instance: Instance, step: int) -> str:
    return encode_base64url(keyed_hash(instance.nonce_key, str(step))[:16])


def _is_good_nonce(instance: Instance, nonce: str, now: int) -> bool:
    """This step's, the last's, or the next's: another process's clock may be ahead."""
    step = now // _NONCE_MS
    return any(hmac.compare_digest(nonce.encode(), _nonce(instance, one).encode()) for one in (step, step - 1, step + 1))
