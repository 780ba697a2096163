"""Signed heads of an organization's chain: C2SP signed notes (c2sp.org/signed-note) with the text of a checkpoint (c2sp.org/tlog-checkpoint).

    id.example.com/organizations/0199…        origin: the issuer without its scheme, and the organization
    1042                                      size: how many events the chain has
    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2…=        the hash of the last of them, in base64
    time 2026-11-22T19:20:31.042Z             an extension line
    part                                      another, only at the end of a part of the history: more had happened when it was signed

    — id.example.com/organizations/0199… Az3grlgtzPICa5OS8npVmf1My…=

The name of the key is the origin, as c2sp.org/tlog-checkpoint asks: one instance has one key pair and, for each organization, one
verifier key. Everything here is pure; the seed of the key comes from the sealed server secret `AUDIT_KEY`.
"""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agentidp.core.clock import from_rfc3339, to_rfc3339

AUDIT_KEY: Final = "audit_key"  # the name of the server secret
NOTE_CHARACTERS_MAX: Final = 8192  # ours have about 400; room for the signatures of sixteen witnesses
_ED25519 = b"\x01"  # the signature type of c2sp.org/signed-note
_PART = "\npart"
_NO_HASH = bytes(32)  # the head of an empty chain
_SIZE = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)
_SIGNATURE_LINE = re.compile(r"— ([^\s+]+) ([A-Za-z0-9+/]+={0,2})")


class BadCheckpoint(ValueError):
    """The text is not a checkpoint of this chain by this key; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A chain's head: `size` events, of which the last has the hash `head` (64 hexadecimal digits). `signed_at` is in milliseconds."""

    origin: str
    size: int
    head: str
    signed_at: int
    is_part: bool = False  # it was not the head when it was signed

    @property
    def text(self) -> str:
        """What is signed."""
        head, part = base64.b64encode(bytes.fromhex(self.head)).decode(), _PART if self.is_part else ""
        return f"{self.origin}\n{self.size}\n{head}\ntime {to_rfc3339(self.signed_at)}{part}\n"


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """The public half for one chain. As text: `<name>+<key id>+<base64 of type and key>`."""

    name: str
    public_key: bytes

    @property
    def key_id(self) -> bytes:
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.public_key).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(_ED25519 + self.public_key).decode()}"


def origin(issuer: str, organization_id: str) -> str:
    """The name of an organization's chain, on this instance and nowhere else."""
    return f"{issuer.partition('://')[2]}/organizations/{organization_id}"


def verifier_key(seed: bytes, name: str) -> VerifierKey:
    """`seed`: the 32 bytes of the audit key (RFC 8032 section 5.1.5); `name`: the chain's origin."""
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key()
    return VerifierKey(name, public.public_bytes(Encoding.Raw, PublicFormat.Raw))


def sign(checkpoint: Checkpoint, seed: bytes) -> str:
    """The checkpoint as a signed note."""
    text = checkpoint.text
    signature = Ed25519PrivateKey.from_private_bytes(seed).sign(text.encode())
    key_id = verifier_key(seed, checkpoint.origin).key_id
    return f"{text}\n— {checkpoint.origin} {base64.b64encode(key_id + signature).decode()}\n"


def parse_verifier_key(text: str) -> VerifierKey:
    """Raises BadCheckpoint."""
    name, _, rest = text.strip().partition("+")
    key_id, _, encoded = rest.partition("+")
    raw = _decode(encoded, "the verifier key")
    if not name or len(raw) != 33 or raw[:1] != _ED25519:
        raise BadCheckpoint("the verifier key is not an Ed25519 key of the form name+id+base64")
    key = VerifierKey(name, raw[1:])
    if key.key_id.hex() != key_id:
        raise BadCheckpoint("the verifier key was mistyped: its id does not belong to its name and key")
    return key


def open_note(note: str, key: VerifierKey) -> Checkpoint:
    """The checkpoint, once its origin is the key's name and the key's signature holds. Raises BadCheckpoint.

    Signatures of other keys, such as witnesses, are passed over.
    """
    checkpoint, signatures = parse_note(note)
    if checkpoint.origin != key.name:
        mine, theirs = key.name.partition("/organizations/"), checkpoint.origin.partition("/organizations/")
        whose = "another organization" if mine[0] == theirs[0] else "another instance"
        raise BadCheckpoint(f"this is a checkpoint of {whose}: {checkpoint.origin}, not {key.name}")
    ours = [signature for name, signature in signatures if name == key.name and signature[:4] == key.key_id]
    if not ours:
        raise BadCheckpoint(f"the checkpoint is not signed by the key {key.name}+{key.key_id.hex()}")
    public = Ed25519PublicKey.from_public_bytes(key.public_key)
    for signature in ours:
        try:
            public.verify(signature[4:], checkpoint.text.encode())
        except InvalidSignature:
            raise BadCheckpoint("the signature does not belong to the checkpoint: one of them was changed") from None
    return checkpoint


def parse_note(note: str) -> tuple[Checkpoint, list[tuple[str, bytes]]]:
    """The checkpoint, unproven, and its signatures by key name: four bytes of key id, then the signature. Raises BadCheckpoint."""
    if len(note) > NOTE_CHARACTERS_MAX:
        raise BadCheckpoint(f"malformed: a checkpoint has at most {NOTE_CHARACTERS_MAX} characters")
    body, separator, signed = note.rpartition("\n\n")
    lines = body.removesuffix(_PART).split("\n")
    if not separator or not signed.endswith("\n") or len(lines) != 4:
        raise BadCheckpoint("malformed: a checkpoint is four lines (origin, size, head, time), an empty line, and signature lines")
    name, size, head, time = lines
    if not name or re.search(r"[\s+\x00-\x1f]", name):
        raise BadCheckpoint("malformed: the first line must be the origin, without spaces and plus signs")
    if not _SIZE.fullmatch(size):
        raise BadCheckpoint("malformed: the second line must be the size, a decimal number")
    raw = _decode(head, "the third line")
    if len(raw) != len(_NO_HASH) or (size == "0") != (raw == _NO_HASH):
        raise BadCheckpoint("malformed: the third line must be the head, 32 bytes in base64, all zero if the size is 0 and only then")
    try:
        signed_at = from_rfc3339(time.removeprefix("time "))
    except ValueError as error:
        raise BadCheckpoint("malformed: the fourth line must be `time` and an instant of RFC 3339") from error
    checkpoint = Checkpoint(name, int(size), raw.hex(), signed_at, is_part=body.endswith(_PART))
    if checkpoint.text != body + "\n":  # a second spelling of the same checkpoint
        raise BadCheckpoint("malformed: the fourth line must be `time` and an instant in UTC with milliseconds")
    return checkpoint, [_parse_signature(line) for line in signed[:-1].split("\n")]


def _parse_signature(line: str) -> tuple[str, bytes]:
    match = _SIGNATURE_LINE.fullmatch(line)
    if match is None:
        raise BadCheckpoint("malformed: a signature line is `— name base64`")
    raw = _decode(match[2], "a signature line")
    if len(raw) <= 4:
        raise BadCheckpoint("malformed: a signature line has four bytes of key id and a signature")
    return match[1], raw


def _decode(text: str, place: str) -> bytes:
    """Standard base64 in its one spelling (RFC 4648 section 3.5)."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadCheckpoint(f"malformed: {place} must be base64") from error
    if base64.b64encode(raw).decode() != text:
        raise BadCheckpoint(f"malformed: {place} must be base64 without loose bits")
    return raw
