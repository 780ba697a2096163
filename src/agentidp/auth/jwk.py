"""Making keys, writing their public halves as JWK, and reading those of others (RFC 7517, RFC 7518, RFC 8037, RFC 9864).

Key ids are thumbprints (RFC 7638).
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from agentidp.auth.jws import RSA_BITS, Algorithm, InvalidToken, PrivateKey, PublicKey, decode_base64url, encode_base64url
from agentidp.core import limits

_THUMBPRINT_MEMBERS = {"EC": ("crv", "kty", "x", "y"), "RSA": ("e", "kty", "n"), "OKP": ("crv", "kty", "x")}

_PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_EXPONENT = "AQAB"  # 65537: what every key has that was made with care
_FIELD = 2**255 - 19  # of Ed25519 (RFC 8032 section 5.1)
_ORDER_8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
# The vertical coordinates of the points whose order divides 8: with one of these as a key, anybody can make signatures.
_SMALL_ORDER = frozenset({0, 1, _FIELD - 1, _ORDER_8, _FIELD - _ORDER_8})


class InvalidKey(ValueError):
    """Not a public key that we take. The text is for whoever sent it."""


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """Somebody else's public key, checked. `members` are those that make the key."""

    algorithm: Algorithm
    public_key: PublicKey
    members: dict[str, str]

    @property
    def thumbprint(self) -> str:
        return thumbprint(self.members)


def generate(algorithm: Algorithm) -> PrivateKey:
    match algorithm:
        case "ES256":
            return ec.generate_private_key(ec.SECP256R1())
        case "RS256":
            return rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
        case "Ed25519":
            return ed25519.Ed25519PrivateKey.generate()


def to_bytes(key: PrivateKey) -> bytes:
    """PKCS #8, DER, unencrypted: seal it before it goes anywhere."""
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def from_bytes(raw: bytes) -> PrivateKey:
    key = load_der_private_key(raw, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey):
        raise TypeError(type(key).__name__)
    return key


def public_jwk(key: PrivateKey, algorithm: Algorithm) -> dict[str, str]:
    """The public half with `kid`, `use` and `alg`, ready to be published."""
    match key:
        case ec.EllipticCurvePrivateKey():
            point = key.public_key().public_numbers()
            members = {"kty": "EC", "crv": "P-256", "x": _number(point.x, 32), "y": _number(point.y, 32)}
        case rsa.RSAPrivateKey():
            numbers = key.public_key().public_numbers()
            members = {"kty": "RSA", "n": _number(numbers.n), "e": _number(numbers.e)}
        case _:
            raw = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
            members = {"kty": "OKP", "crv": "Ed25519", "x": encode_base64url(raw)}
    return members | {"kid": thumbprint(members), "use": "sig", "alg": algorithm}


def thumbprint(members: Mapping[str, str]) -> str:
    """base64url of the SHA-256 of the required members in canonical form (RFC 7638 section 3)."""
    required = {name: members[name] for name in _THUMBPRINT_MEMBERS[members["kty"]]}
    canonical = json.dumps(required, separators=(",", ":"), sort_keys=True)
    return encode_base64url(hashlib.sha256(canonical.encode()).digest())


def parse_public(document: Mapping[str, Any]) -> ForeignKey:
    """The public key that somebody sent as a JWK. Raises InvalidKey with a sentence."""
    if _PRIVATE_MEMBERS & document.keys():
        raise InvalidKey("holds a private key: keep that to yourself, send the public half only, and if others may have seen it make another one")
    algorithm: Algorithm
    match document:
        case {"kty": "EC", "crv": "P-256", "x": str(), "y": str()}:
            algorithm = "ES256"
        case {"kty": "RSA", "n": str(), "e": str()}:
            algorithm = "RS256"
        case {"kty": "OKP", "crv": "Ed25519", "x": str()}:
            algorithm = "Ed25519"
        case _:
            raise InvalidKey("must be a key for ES256 (EC, P-256), RS256 (RSA) or Ed25519 (OKP), with all its members")
    if document.get("use", "sig") != "sig" or document.get("alg", algorithm) != algorithm or document.get("key_ops", ["verify"]) != ["verify"]:
        raise InvalidKey(f"must be for signatures with {algorithm}: use, alg and key_ops say so, or are absent")
    members = {name: document[name] for name in _THUMBPRINT_MEMBERS[document["kty"]]}
    return ForeignKey(algorithm, _public_key(*members.items()), members)


@functools.lru_cache(limits.FOREIGN_KEYS_CACHED_MAX)
def _public_key(*members: tuple[str, str]) -> PublicKey:
    try:
        match dict(members):
            case {"kty": "EC", "x": x, "y": y}:
                return ec.EllipticCurvePublicNumbers(_integer(x, 32), _integer(y, 32), ec.SECP256R1()).public_key()
            case {"kty": "RSA", "n": n, "e": e}:
                modulus = _integer(n)
                if e != _EXPONENT or modulus % 2 == 0 or not RSA_BITS <= modulus.bit_length() <= limits.FOREIGN_RSA_BITS_MAX:
                    raise InvalidKey(f"must have an odd modulus of {RSA_BITS} to {limits.FOREIGN_RSA_BITS_MAX} bits and the exponent 65537")
                return rsa.RSAPublicNumbers(65537, modulus).public_key()
            case {"x": x}:
                raw = decode_base64url(x)
                key = ed25519.Ed25519PublicKey.from_public_bytes(raw)
                vertical = int.from_bytes(raw, "little") & (2**255 - 1)  # the highest bit is the sign of the other coordinate
                if vertical >= _FIELD or vertical in _SMALL_ORDER:
                    raise InvalidKey("is not a key: anybody could sign for it")
                return key
    except InvalidKey:
        raise
    except (InvalidToken, ValueError) as error:
        raise InvalidKey("is not a key: its numbers are wrong") from error
    raise AssertionError("one of the three it is")


def _integer(text: str, length: int | None = None) -> int:
    """An unsigned integer of that many bytes, or else of as few as it needs (RFC 7518 sections 2 and 6.2.1.2). Raises InvalidToken, InvalidKey."""
    raw = decode_base64url(text)
    value = int.from_bytes(raw)
    if len(raw) != (length or (value.bit_length() + 7) // 8):
        raise InvalidKey("has a number of the wrong length")
    return value


def _number(value: int, length: int | None = None) -> str:
    return encode_base64url(value.to_bytes(length or (value.bit_length() + 7) // 8))
