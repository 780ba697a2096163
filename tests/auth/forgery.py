"""Tokens that nobody should accept. `forge` signs anything with anything; nothing here uses the product's own encoder."""

import base64
import hashlib
import hmac
import json
import time
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256


def b64(raw: bytes | str) -> str:
    return base64.urlsafe_b64encode(raw.encode() if isinstance(raw, str) else raw).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims of a token."""
    header, claims, _ = token.split(".")
    return json.loads(unb64(header)), json.loads(unb64(claims))


def es256(key: ec.EllipticCurvePrivateKey, signing_input: str) -> str:
    r, s = decode_dss_signature(key.sign(signing_input.encode(), ec.ECDSA(SHA256())))
    return b64(r.to_bytes(32) + s.to_bytes(32))


def forge(key: ec.EllipticCurvePrivateKey, header: Any, claims: Any) -> str:
    """ES256 over these parts, whatever the header says. Text and bytes go in as they are, everything else as JSON."""
    text = [part if isinstance(part, str | bytes) else json.dumps(part) for part in (header, claims)]
    signing_input = ".".join(b64(part) for part in text)
    return f"{signing_input}.{es256(key, signing_input)}"


def forge_hmac(secret: bytes, header: Any, claims: Any) -> str:
    signing_input = f"{b64(json.dumps(header))}.{b64(json.dumps(claims))}"
    return f"{signing_input}.{b64(hmac.digest(secret, signing_input.encode(), hashlib.sha256))}"


def now() -> int:
    return int(time.time())


def other_last_character(part: str) -> str:
    """The same bytes in another spelling: the unused bits of the last character are not zero. The part must have unused bits."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    changed = part[:-1] + alphabet[alphabet.index(part[-1]) + 1]
    assert len(part) % 4 in {2, 3}
    assert unb64(changed) == unb64(part)
    return changed
