"""Signing and verifying compact JWS (RFC 7515), and the strict pre-parser that every token passes first.

A token that two parsers could read differently is refused before any signature is looked at: canonical base64url only, three
parts, no duplicate names, no `crit`, no key material or key locations in the header, bounded size. The algorithm belongs to the
key, never to the token (RFC 8725 section 3.1). Does not check claims.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from agentidp.core import limits
from agentidp.core.strict_json import NotStrictJson, parse

Algorithm = Literal["ES256", "RS256", "Ed25519"]
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey

_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)", re.ASCII)
_REFUSED_HEADERS = frozenset({"crit", "b64", "jwk", "jku", "x5u", "x5c", "x5t", "x5t#S256", "zip", "enc"})
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_P256_BYTES = 32
RSA_BITS = 2048
_ECDSA = ec.ECDSA(SHA256())
_PKCS1 = padding.PKCS1v15()


class InvalidToken(Exception):
    """The token is not one of ours, or no longer good. The text is for logs; clients see it of an assertion or a proof that they made themselves."""


@dataclass(frozen=True, slots=True)
class UnverifiedToken:
    """A well-formed JWS whose signature nobody has checked."""

    header: dict[str, Any]
    payload: dict[str, Any]
    signing_input: bytes
    signature: bytes


def parse_unverified(text: str, *, carries_key: bool = False, ignored: frozenset[str] = frozenset()) -> UnverifiedToken:
    """The parts of a compact JWS with a JSON object as payload; `carries_key`: its header may hold a key, as a proof's must. `ignored` are header parameters that
    may be there and mean nothing. Raises InvalidToken.
    """
    if len(text) > limits.TOKEN_CHARACTERS_MAX:
        raise InvalidToken("too long")
    match = _COMPACT.fullmatch(text)
    if not match:
        raise InvalidToken("not three base64url parts")
    raw_header, raw_payload, signature = (decode_base64url(part) for part in match.groups())
    if len(raw_header) > limits.TOKEN_HEADER_BYTES_MAX:
        raise InvalidToken("header too long")
    header, payload = _parse_object(raw_header, "header"), _parse_object(raw_payload, "payload")
    if refused := _REFUSED_HEADERS & header.keys() - ignored - ({"jwk"} if carries_key else set()):
        raise InvalidToken(f"header parameter {min(refused)} is not accepted")
    if not isinstance(header.get("alg"), str) or not isinstance(header.get("kid", ""), str):
        raise InvalidToken("alg and kid must be strings")
    return UnverifiedToken(header, payload, text.rpartition(".")[0].encode(), signature)


def decode_base64url(text: str) -> bytes:
    """Unpadded canonical base64url (RFC 7515 appendix C): exactly one text decodes to given bytes. Raises InvalidToken."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError as error:
        raise InvalidToken("not base64url") from error
    if encode_base64url(raw) != text:
        raise InvalidToken("not canonical base64url")
    return raw


def encode_base64url(raw: bytes) -> str:
    return binascii.b2a_base64(raw, newline=False).rstrip(b"=").translate(_URL_SAFE).decode()


def sign(key: PrivateKey, signing_input: bytes) -> bytes:
    """The signature in JWS form: for ECDSA the two numbers side by side (RFC 7518 section 3.4)."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        r, s = decode_dss_signature(key.sign(signing_input, _ECDSA))
        return r.to_bytes(_P256_BYTES) + s.to_bytes(_P256_BYTES)
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(signing_input, _PKCS1, SHA256())
    return key.sign(signing_input)


def verify_signature(algorithm: str, key: PublicKey, token: UnverifiedToken) -> None:
    """Raises InvalidToken unless the token names exactly the key's algorithm and the signature is right."""
    if token.header["alg"] != algorithm:
        raise InvalidToken("algorithm is not the key's")
    try:
        match algorithm, key:
            case "ES256", ec.EllipticCurvePublicKey():
                if len(token.signature) != 2 * _P256_BYTES:
                    raise InvalidToken("signature has the wrong length")
                r, s = int.from_bytes(token.signature[:_P256_BYTES]), int.from_bytes(token.signature[_P256_BYTES:])
                key.verify(encode_dss_signature(r, s), token.signing_input, _ECDSA)
            case "RS256", rsa.RSAPublicKey():
                if key.key_size < RSA_BITS:
                    raise InvalidToken("RSA key is too short")
                key.verify(token.signature, token.signing_input, _PKCS1, SHA256())
            case "Ed25519", ed25519.Ed25519PublicKey():
                key.verify(token.signature, token.signing_input)
            case _:
                raise InvalidToken("algorithm is not accepted")
    except InvalidSignature as error:
        raise InvalidToken("signature is wrong") from error


def _parse_object(raw: bytes, part: str) -> dict[str, Any]:
    try:
        value = parse(raw)
    except NotStrictJson as error:
        raise InvalidToken(f"{part} {error}") from error
    if not isinstance(value, dict):
        raise InvalidToken(f"{part} is not an object")
    return value
