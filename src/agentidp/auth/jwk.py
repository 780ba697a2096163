"""Making keys, writing their public halves as JWK, and reading those of others (RFC 7517, RFC 7518, RFC 8037, RFC 9864); key ids are thumbprints (RFC 7638)."""

import hashlib
import json
from collections.abc import Mapping
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

_PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_RSA_EXPONENT = 65_537  # the only one in use; smaller ones are for mistakes
_THUMBPRINT_MEMBERS = {"EC": ("crv", "kty", "x", "y"), "RSA": ("e", "kty", "n"), "OKP": ("crv", "kty", "x")}


class NotUsable(ValueError):
    """The JWK verifies no signature here."""


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


def public_key_of(jwk: Mapping[str, Any]) -> tuple[Algorithm, PublicKey]:
    """Somebody's public key, and the one algorithm that it is for.

    Raises NotUsable for a private or symmetric key, a weak one, one for something else, or of an algorithm that is not accepted here.
    """
    if _PRIVATE_MEMBERS & jwk.keys() or jwk.get("use", "sig") != "sig" or "verify" not in jwk.get("key_ops", ("verify",)):
        raise NotUsable
    try:
        match jwk.get("kty"), jwk.get("crv"):
            case "RSA", None:
                algorithm, key = _read_rsa(jwk)
            case "EC", "P-256":
                x, y = (int.from_bytes(_member(jwk, name, 32)) for name in ("x", "y"))
                algorithm, key = "ES256", ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
            case "OKP", "Ed25519":
                algorithm, key = "Ed25519", ed25519.Ed25519PublicKey.from_public_bytes(_member(jwk, "x", 32))
            case _:
                raise NotUsable
    except (InvalidToken, ValueError, TypeError) as error:
        raise NotUsable from error
    if jwk.get("alg", algorithm) != algorithm:
        raise NotUsable
    return algorithm, key


def thumbprint(members: dict[str, str]) -> str:
    """base64url of the SHA-256 of the required members in canonical form (RFC 7638 section 3)."""
    required = {name: members[name] for name in _THUMBPRINT_MEMBERS[members["kty"]]}
    canonical = json.dumps(required, separators=(",", ":"), sort_keys=True)
    return encode_base64url(hashlib.sha256(canonical.encode()).digest())


def _number(value: int, length: int | None = None) -> str:
    return encode_base64url(value.to_bytes(length or (value.bit_length() + 7) // 8))


def _read_rsa(jwk: Mapping[str, Any]) -> tuple[Algorithm, PublicKey]:
    n, e = (int.from_bytes(_member(jwk, name)) for name in ("n", "e"))
    if e != _RSA_EXPONENT or not RSA_BITS <= n.bit_length() <= limits.OUTSIDE_RSA_BITS_MAX:
        raise NotUsable
    return "RS256", rsa.RSAPublicNumbers(e, n).public_key()


def _member(jwk: Mapping[str, Any], name: str, length: int | None = None) -> bytes:
    value = jwk.get(name)
    raw = decode_base64url(value) if isinstance(value, str) else b""
    if not raw or (length is not None and len(raw) != length):
        raise NotUsable
    return raw
