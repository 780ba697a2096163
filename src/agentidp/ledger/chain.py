"""An organization's history as a hash chain: the bytes that are hashed, and finding the first event that breaks the chain. Pure.

`hash` = SHA-256(0x00 ‖ JCS(event)), in hexadecimal, where JCS is RFC 8785 canonical JSON of the event as the API shows it, without `hash`
and with `"v": "agentidp-audit-1"`. The leading zero byte makes it a leaf hash of RFC 9162 section 2.1.1.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import msgspec
from msgspec import UNSET, UnsetType

from agentidp.core.clock import to_rfc3339

FIRST_PREVIOUS_HASH: Final = "0" * 64
INTEGER_MAX: Final = 2**53 - 1  # beyond it two JSON parsers may read different numbers (RFC 8785 section 3.2.2.3, RFC 7493 section 2.2)
Reason = Literal["hash", "link", "gap", "duplicate", "organization", "head", "checkpoint"]
_NO_HEAD = (-1, "")
_LEAF = hashlib.sha256(b"\0")


class ChainedEvent(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A sealed event as the API and the export show it. The fields stand in the order of their JSON names: the order of RFC 8785 section 3.2.3.

    `decode_event` reads it from a line of an export, `from_row` from the database.
    """

    action: str
    agent_id: str | None
    event_id: str
    ip_address: str | None
    metadata: dict[str, Any]
    organization_id: str
    outcome: str
    previous_hash: str
    request_id: str | None
    seq: int
    target_id: str | None
    target_type: str | None
    timestamp: str
    user_agent: str | None
    v: Literal["agentidp-audit-1"] = "agentidp-audit-1"
    hash: str | UnsetType = UNSET  # last, since what is hashed leaves it out


ROW: Final = (
    *("action", "agent_id", "event_id", "ip_address", "metadata", "organization_id", "outcome", "previous_hash"),
    *("request_id", "seq", "target_id", "target_type", "timestamp", "user_agent", "hash"),
)  # columns of `audit_events`, in the order in which `from_row` takes them

encode_event: Final[Callable[[ChainedEvent], bytes]] = msgspec.json.Encoder(order="deterministic").encode
"""A line of JSON with `hash`. Sorts what `metadata` holds; Structs keep their order."""
decode_event: Final[Callable[[bytes | str], ChainedEvent]] = msgspec.json.Decoder(ChainedEvent).decode
"""The event of one line of JSON, with or without `hash` and `v`. Raises msgspec.DecodeError for what is not one."""
decode_metadata: Final[Callable[[bytes | str], dict[str, Any]]] = msgspec.json.Decoder(dict[str, Any]).decode


def from_row(row: tuple[Any, ...]) -> ChainedEvent:
    """A row of the columns `ROW` as the driver gives it: `metadata` as JSON text, `timestamp` in milliseconds."""
    action, agent_id, event_id, ip_address, metadata, organization_id, outcome, previous_hash, request_id, seq, *rest = row
    target_id, target_type, timestamp, user_agent, hash_ = rest
    return ChainedEvent(
        action,
        agent_id,
        event_id,
        ip_address,
        decode_metadata(metadata),
        organization_id,
        outcome,
        previous_hash,
        request_id,
        seq,
        target_id,
        target_type,
        to_rfc3339(timestamp),
        user_agent,
        "agentidp-audit-1",
        hash_,
    )


def from_sealed_row(row: tuple[Any, ...]) -> ChainedEvent:
    """As `from_row`, in half the time, for `verify`, which reads the text of `metadata` only where it is not in canonical form already."""
    return ChainedEvent(*row[:4], msgspec.Raw(row[4]), *row[5:12], to_rfc3339(row[12]), row[13], "agentidp-audit-1", row[14])  # type: ignore[call-arg]  # fifteen columns


def canonical(event: ChainedEvent) -> bytes:
    """The event in the canonical JSON of RFC 8785, without its hash."""
    stored = event.hash
    event.hash = UNSET  # two assignments are cheaper than a copy
    try:
        return encode_event(event)
    finally:
        event.hash = stored


def event_hash(event: ChainedEvent) -> str:
    """64 hexadecimal digits; what `event.hash` says does not matter."""
    return hash_text(canonical(event))


def hash_text(text: bytes) -> str:
    """The same of an event in canonical JSON."""
    digest = _LEAF.copy()  # in half the time of a new one
    digest.update(text)
    return digest.hexdigest()


def require_canonical(value: object) -> None:
    """Raises ValueError for what has no single canonical form: numbers other than integers up to 2^53 - 1, names that are not ASCII, other types.

    Called where an event is made, so that nothing enters the history which cannot be sealed.
    """
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        value.encode()  # a lone surrogate has no UTF-8 form: UnicodeEncodeError is a ValueError
    elif isinstance(value, int):
        if abs(value) > INTEGER_MAX:
            raise ValueError("an audit event holds integers up to 2^53 - 1")
    elif isinstance(value, list | tuple):
        for item in value:
            require_canonical(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            if not isinstance(name, str) or not name.isascii():
                raise ValueError("an audit event holds names in ASCII")
            require_canonical(item)
    else:
        raise ValueError(f"an audit event holds no {type(value).__name__}")  # noqa: TRY004 - one kind of error, whatever is wrong


@dataclass(frozen=True, slots=True)
class Break:
    """The first thing wrong with a chain.

    `hash`: the event was changed. `link`: it does not follow the one before. `gap`: events before it are missing. `duplicate`: its number
    was there already. `organization`: it belongs to another one. `head`: a checkpoint says otherwise; `event_id` is None when the chain
    ends before the checkpoint. `checkpoint`: a stored checkpoint was changed or is missing; `verify` looks at none.
    """

    event_id: str | None
    seq: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Verified:
    """How far a chain was followed: `size` and `head` of the last good event, and what is wrong with the next, if anything."""

    size: int
    head: str
    broken: Break | None


def verify(
    organization_id: str,
    events: Iterable[ChainedEvent],
    *,
    heads: Iterable[tuple[int, str]] = (),
    size: int = 0,
    head: str = FIRST_PREVIOUS_HASH,
) -> Verified:
    """Follow the chain through `events`, in the order of `seq`, and stop at the first that is broken.

    `heads` are (size, head hash) of checkpoints in the order of size; each must be met on the way. `size` and `head` say after which event
    to begin: those of a checkpoint when older events were purged. Reads both as streams, in constant memory.
    """
    ahead = (known for known in heads if known[0] >= max(size, 1))
    wanted, wanted_head = next(ahead, _NO_HEAD)
    while size == wanted:
        if wanted_head != head:
            return Verified(size, head, Break(None, size, "head"))
        wanted, wanted_head = next(ahead, _NO_HEAD)
    for event in events:
        reason = _wrong(event, organization_id, size, head)
        if reason is not None:
            return Verified(size, head, Break(event.event_id, event.seq, reason))
        while event.seq == wanted:
            if wanted_head != event.hash:
                return Verified(size, head, Break(event.event_id, event.seq, "head"))
            wanted, wanted_head = next(ahead, _NO_HEAD)
        size, head = event.seq, cast("str", event.hash)
    return Verified(size, head, None if wanted < 0 else Break(None, wanted, "head"))


def _wrong(event: ChainedEvent, organization_id: str, size: int, head: str) -> Reason | None:
    if event.organization_id != organization_id:
        return "organization"
    if event.seq != size + 1:
        return "gap" if event.seq > size else "duplicate"
    if event.previous_hash != head:
        return "link"
    return None if _is_as_sealed(event) else "hash"


def _is_as_sealed(event: ChainedEvent) -> bool:
    if event_hash(event) == event.hash:  # whatever text gives this hash is the one that was sealed
        return True
    if not isinstance(event.metadata, msgspec.Raw):
        return False
    try:
        event.metadata = decode_metadata(event.metadata)
    except msgspec.DecodeError:
        return False
    return event_hash(event) == event.hash
