"""Secrets at rest: sealing what must be readable again, hashing what must not, and the base62 alphabet.

Does not decide who may see a secret. AES-256-GCM: NIST SP 800-38D.
"""

import base64
import functools
import hashlib
import hmac
import os
import re
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agentidp.core.errors import WrongSettings

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
MASTER_KEY_BYTES = 32
_NONCE_BYTES = 12
_SEALED = re.compile(r"v1\.([0-9a-f]{8})\.([A-Za-z0-9_=-]+)", re.ASCII)


def base62(number: int, length: int) -> str:
    """The number in base62, most significant digit first, padded with zeros to `length` characters."""
    digits = ""
    while number:
        number, rest = divmod(number, 62)
        digits = ALPHABET[rest] + digits
    return digits.rjust(length, "0")


def random_base62(length: int) -> str:
    """`length` characters of about 5.95 bits each, from the operating system's generator."""
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


def keyed_hash(key: bytes, text: str) -> bytes:
    """HMAC-SHA-256 (RFC 2104), 32 bytes: enough for secrets of 256 random bits, useless for people's passwords."""
    keyed = _keyed(key).copy()
    keyed.update(text.encode())
    return keyed.digest()


@functools.lru_cache(4)  # there are two keys; setting one up costs as much as the hash
def _keyed(key: bytes) -> hmac.HMAC:
    return hmac.new(key, digestmod="sha256")


def new_master_key() -> str:
    """A fresh key as it is written in settings: 32 bytes, base64url without padding."""
    return base64.urlsafe_b64encode(os.urandom(MASTER_KEY_BYTES)).decode().rstrip("=")


def key_id_of(key: str) -> str:
    """Which key it is, 8 hexadecimal digits that tell nothing else. Raises WrongSettings when it is none."""
    return hashlib.sha256(b"agentidp master key id" + _bytes_of(key)).hexdigest()[:8]


def _bytes_of(key: str) -> bytes:
    try:
        raw = base64.b64decode(key.strip() + "=" * (-len(key.strip()) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raw = b""
    if len(raw) != MASTER_KEY_BYTES or len(set(raw)) < 8:
        raise WrongSettings("master_key: must be 32 random bytes in base64url; `agentidp keys master` prints a fresh one")
    return raw


class Sealer:
    """Seals values under the key that `key_id` names and opens what any of its keys has sealed. Raises WrongSettings for what is no key.

    A sealed value reads `v1.<key id>.<base64url of nonce and ciphertext>`. Its `place` (table, column, primary key) is authenticated
    with it, so that a sealed value copied to another row does not open.
    """

    def __init__(self, key: str, *others: str) -> None:
        self._ciphers: dict[str, AESGCM] = {}
        for one in (key, *others):
            self.add(one)
        self.key_id = key_id_of(key)

    def add(self, key: str) -> None:
        """Open with this key, too."""
        self._ciphers[key_id_of(key)] = AESGCM(_bytes_of(key))

    def has(self, key_id: str) -> bool:
        return key_id in self._ciphers

    def seal(self, value: bytes, *place: str) -> str:
        nonce, key_id = os.urandom(_NONCE_BYTES), self.key_id
        box = nonce + self._ciphers[key_id].encrypt(nonce, value, self._associated_data(place))
        return f"v1.{key_id}.{base64.urlsafe_b64encode(box).decode()}"

    def unseal(self, sealed: str, *place: str) -> bytes:
        """The value. Raises WrongSettings when it was sealed under a key that is not here, at another place, or was changed."""
        match = _SEALED.fullmatch(sealed)
        if match and match[1] not in self._ciphers:
            raise WrongSettings(f"a sealed value at {'/'.join(place)} is under key {match[1]}; known are {', '.join(self._ciphers)}")
        try:
            raw = base64.urlsafe_b64decode(match[2] if match else "")
            cipher = self._ciphers[match[1] if match else self.key_id]
            return cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], self._associated_data(place))
        except (InvalidTag, ValueError) as error:
            raise WrongSettings(f"a sealed value at {'/'.join(place)} was changed or moved") from error

    @staticmethod
    def _associated_data(place: tuple[str, ...]) -> bytes:
        return "\x00".join(place).encode()
