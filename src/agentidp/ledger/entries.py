"""What is appended to the ledger, and the rules by which a batch is judged. Pure.

A decision is made on a `Snapshot`, which may be out of date. The batch reads the current revisions of exactly the rows behind it: an
entry whose snapshot is stale is refused, so a cache never outlives a revocation, on any number of processes.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto

import msgspec

from agentidp.core.caller import Origin

DAY_MS = 24 * 3600 * 1000
Revisions = tuple[int, int, int]  # organization, agent, credential
Counter = tuple[str, int, str]  # organization id, UTC day number, meter
Claim = tuple[str, str, str]  # organization id, kind and digest of a one-time value


@dataclass(slots=True)
class Snapshot:
    """A credential with its agent and organization as they were when read. Instants are milliseconds."""

    organization_id: str
    agent_id: str
    credential_id: str
    revisions: Revisions
    organization_status: str
    agent_status: str
    agent_expires_at: int | None
    revoked_at: int | None
    expires_at: int | None
    scopes: frozenset[str]
    token_epoch: int
    tokens_per_day_max: int | None  # the organization's own limit, else the plan's
    calls_per_day_max: int | None
    plan_tier: str
    last_used_at: int | None = None  # as far as this process knows

    @property
    def ends_at(self) -> int | None:
        """When the credential or the agent expires, whichever is first."""
        return min((instant for instant in (self.expires_at, self.agent_expires_at) if instant is not None), default=None)

    def is_active(self, now: int) -> bool:
        """Whether agent and organization are; a credential's own state is another question."""
        return self.agent_status == "active" and self.organization_status == "active" and (self.agent_expires_at is None or self.agent_expires_at > now)


@dataclass(slots=True)
class SecretSnapshot:
    """A client secret as stored, and the credential that it belongs to."""

    credential_key: str
    secret_hash: bytes
    valid_until: int | None
    credential: Snapshot


@dataclass(slots=True)
class ClientKey:
    """A public key that a client has registered, or where it publishes its keys, and the credential that this belongs to."""

    public_jwk: Mapping[str, str] | None
    jwks_uri: str | None
    credential: Snapshot


@dataclass(slots=True)
class ClientKeys:
    """What a client has registered and not revoked; the newest first."""

    client_id: str
    keys: tuple[ClientKey, ...]


class Verdict(Enum):
    """What became of an entry."""

    RECORDED = auto()
    STALE = auto()  # read again, decide again
    DEAD = auto()  # the token was revoked, its key withdrawn, or it is older than a restored backup allows
    OVER_LIMIT = auto()  # the day's quota is used up
    REPLAYED = auto()  # one of its one-time values has been used before


class Event(msgspec.Struct):
    """An audit event about to be written; `metadata` is JSON text already."""

    event_id: str
    agent_id: str | None
    action: str
    target_type: str | None
    target_id: str | None
    metadata: str
    origin: Origin
    outcome: str = "success"


class OneTime(msgspec.Struct, frozen=True):
    """A value from outside that may be used once in its organization. Instants are milliseconds."""

    kind: str
    digest: str
    issued_at: int  # it cannot have been used before
    expires_at: int  # from then on nobody takes it

    @classmethod
    def of(cls, kind: str, *parts: str, issued_at: int, expires_at: int) -> "OneTime":
        """`parts` say which one it is: whoever made the value unique, and the value. No other parts have that digest."""
        return cls(kind, hashlib.sha256(msgspec.json.encode(parts)).hexdigest(), issued_at, expires_at)


class Entry(msgspec.Struct):
    """Something that was decided on a snapshot: what it counts and records once the commit has confirmed the snapshot."""

    snapshot: Snapshot
    meter: str | None = None
    event: Event | None = None
    token_id: str | None = None  # must not be revoked
    token_issued_at: int = 0  # milliseconds; with `token_id` only
    key_id: str | None = None  # must not be withdrawn
    used: bool = False  # stamp the credential's last use
    essential: bool = False  # counted as any other, but not refused when the day's limit is reached
    once: tuple[OneTime, ...] = ()  # what it uses up
    replayed: str = ""  # the kind of the one of them that was used before, when that is the verdict
    verdict: Verdict = Verdict.RECORDED


@dataclass(slots=True)
class Facts:
    """What the batch reads before it judges."""

    revisions: Mapping[str, Revisions]  # by credential id
    revoked_tokens: frozenset[str]
    withdrawn_keys: frozenset[str]
    tokens_not_before: int = 0


def judge(batch: Sequence[Entry], facts: Facts) -> None:
    """Set every entry's verdict, as far as it can be told before counting."""
    for entry in batch:
        if facts.revisions.get(entry.snapshot.credential_id) != entry.snapshot.revisions:
            entry.verdict = Verdict.STALE
        elif entry.token_id is not None and (
            entry.token_id in facts.revoked_tokens or entry.key_id in facts.withdrawn_keys or entry.token_issued_at < facts.tokens_not_before
        ):
            entry.verdict = Verdict.DEAD
        else:
            entry.verdict = Verdict.RECORDED
            for value in entry.once:
                if value.issued_at < facts.tokens_not_before:  # the restored database may not know that it was used
                    entry.verdict, entry.replayed = Verdict.REPLAYED, value.kind


def claims(batch: Iterable[Entry]) -> list[tuple[Claim, int]]:
    """The one-time values of the recorded entries, with their expiry, in the order in which they are claimed."""
    found: dict[Claim, int] = {}
    for entry in batch:
        if entry.once and entry.verdict is Verdict.RECORDED:
            for claim, value in zip(_claims_of(entry), entry.once, strict=True):
                found[claim] = max(found.get(claim, 0), value.expires_at)
    return sorted(found.items())


def refuse_replayed(batch: Iterable[Entry], free: set[Claim]) -> None:
    """Refuse the entries of which a value was not among the free ones, or is taken by an earlier entry."""
    for entry in batch:
        if entry.once and entry.verdict is Verdict.RECORDED:
            wanted = set(_claims_of(entry))
            if used := wanted - free:
                entry.verdict, entry.replayed = Verdict.REPLAYED, min(used)[1]
            else:
                free -= wanted


def unused(batch: Iterable[Entry]) -> list[Claim]:
    """What was claimed for entries that the day's limit refused: it may be used another time."""
    return [claim for entry in batch if entry.once and entry.verdict is Verdict.OVER_LIMIT for claim in _claims_of(entry)]


def _claims_of(entry: Entry) -> list[Claim]:
    return [(entry.snapshot.organization_id, value.kind, value.digest) for value in entry.once]


def counters(batch: Iterable[Entry], now: int) -> dict[Counter, list[Entry]]:
    """The recorded entries by the counter that they add one to, in the order in which counters are locked."""
    found: dict[Counter, list[Entry]] = {}
    day = now // DAY_MS
    for entry in batch:
        if entry.meter is not None and entry.verdict is Verdict.RECORDED:
            found.setdefault((entry.snapshot.organization_id, day, entry.meter), []).append(entry)
    return dict(sorted(found.items()))


def refuse_over_limit(counted: Sequence[Entry], total: int) -> int:
    """Refuse the newest entries beyond the day's limit. `total` is the counter with all of them. Returns how many were refused.

    All were confirmed on one revision of the organization, so they agree on its limit.
    """
    first = counted[0]
    limit = first.snapshot.tokens_per_day_max if first.meter == "tokensIssued" else first.snapshot.calls_per_day_max if first.meter == "apiCalls" else None
    if limit is None or total <= limit:
        return 0
    refused = [entry for entry in reversed(counted) if not entry.essential][: total - limit]
    for entry in refused:
        entry.verdict = Verdict.OVER_LIMIT
    return len(refused)


def events(batch: Iterable[Entry]) -> list[tuple[str, Event]]:
    """The events to write, with their organization."""
    return [(entry.snapshot.organization_id, entry.event) for entry in batch if entry.event is not None and entry.verdict is Verdict.RECORDED]
