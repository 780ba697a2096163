"""The one key store: every key that signs anything, its life next → current → retired, and the published key set.

A key is published as `next` before it signs, and as `retired` until the last token it signed has expired and every verifier's
copy of the key set has, too. Exactly one key is next and one is current, on any number of processes: the table's indexes say so.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import msgspec
import sqlalchemy as sa

from agentidp.auth import jwk
from agentidp.auth.jws import Algorithm, PrivateKey, PublicKey
from agentidp.core import limits
from agentidp.core.caller import SYSTEM
from agentidp.core.clock import Clock
from agentidp.core.errors import Conflict, NotFound, WrongSettings
from agentidp.core.secrets import Sealer
from agentidp.db.schema import signing_keys
from agentidp.db.unit import Database, Tx

_DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key pair with its place in the rotation. Instants are milliseconds."""

    key_id: str
    algorithm: Algorithm
    status: str
    public_jwk: dict[str, str]
    private_key: PrivateKey
    public_key: PublicKey
    created_at: int
    activated_at: int | None
    published_until: int | None


async def _nothing() -> None:
    """A sealer that nobody changes needs no refreshing."""


class KeyStore:
    """The keys as this process knows them; `reload` brings them up to date. Verification and signing read memory only.

    `refresh_sealer` is awaited before keys are opened: another process may have sealed them under a new data key.
    """

    def __init__(self, database: Database, sealer: Sealer, clock: Clock, refresh_sealer: Callable[[], Awaitable[None]] = _nothing) -> None:
        self._database, self._sealer, self._clock, self._refresh_sealer = database, sealer, clock, refresh_sealer
        self._keys: dict[str, SigningKey] = {}
        self._reloaded_at = 0
        self._looking = asyncio.Lock()
        self.verified: dict[bytes, Any] = {}  # what `jwt` found out about tokens, by their SHA-256
        self.current: SigningKey
        self.jwks = b""
        self.jwks_etag = ""

    async def reload(self) -> None:
        """Raises WrongSettings when a new key is sealed under a data key that this process cannot open."""
        await self._refresh_sealer()
        keys = await self._database.read(list_keys, SYSTEM, self._sealer, known=self._keys)
        self._reloaded_at = self._clock()
        self._keys = {key.key_id: key for key in keys}
        self.current = next(key for key in keys if key.status == "current")
        self.jwks = msgspec.json.encode({"keys": [key.public_jwk for key in keys]})
        self.jwks_etag = f'"{hashlib.sha256(self.jwks).hexdigest()[:32]}"'

    async def find(self, key_id: object) -> SigningKey | None:
        """The published key of that id; an unknown one makes the store look once, at most once a second."""
        now = self._clock()
        key = self._keys.get(key_id) if isinstance(key_id, str) else None
        if key is None:
            async with self._looking:
                if abs(now - self._reloaded_at) >= limits.UNKNOWN_KEY_RELOAD_SECONDS * 1000:
                    with contextlib.suppress(WrongSettings):  # housekeeping logs it; to the caller the key is unknown
                        await self.reload()
            key = self._keys.get(key_id) if isinstance(key_id, str) else None
        if key is not None and key.published_until is not None and key.published_until <= now:
            return None
        return key

    def remember(self, fingerprint: bytes, verified: object) -> None:
        """Keep what was verified; the oldest goes when there is too much."""
        if len(self.verified) >= limits.VERIFIED_TOKENS_MAX:
            del self.verified[next(iter(self.verified))]
        self.verified[fingerprint] = verified

    def algorithms(self) -> list[str]:
        """The algorithms of the published keys, sorted."""
        return sorted({key.algorithm for key in self._keys.values()})


def list_keys(tx: Tx, sealer: Sealer, *, include_unpublished: bool = False, known: Mapping[str, SigningKey] = MappingProxyType({})) -> list[SigningKey]:
    """Published keys, oldest first; with `include_unpublished`, all that ever were. The halves of `known` keys are not parsed again."""
    published = sa.or_(signing_keys.c.published_until.is_(None), signing_keys.c.published_until > tx.now)
    query = sa.select(signing_keys).order_by(signing_keys.c.created_at, signing_keys.c.key_id)
    return [_from_row(row, sealer, known) for row in tx.all(query if include_unpublished else query.where(published))]


def ensure_keys(tx: Tx, sealer: Sealer, algorithm: Algorithm) -> bool:
    """Make the first current key, or a next key where there is none or it is of another algorithm. Returns whether anything changed."""
    keys = {row.status: row for row in tx.all(sa.select(signing_keys).where(signing_keys.c.status != "retired"))}
    changed = False
    if "current" not in keys:
        changed = _insert(tx, sealer, algorithm, "current")
    following = keys.get("next")
    if following is not None and following.algorithm != algorithm:
        _retire(tx, following.key_id, published_until=tx.now)  # it has signed nothing
        following = None
    if following is None:
        changed |= _insert(tx, sealer, algorithm, "next")
    return changed


def is_rotation_due(tx: Tx, algorithm: Algorithm, *, rotation_days: int) -> bool:
    """Whether the current key is too old (`rotation_days`, 0: never) or not of the configured algorithm, and the next key may sign."""
    keys = {row.status: row for row in tx.all(sa.select(signing_keys).where(signing_keys.c.status != "retired"))}
    current, following = keys["current"], keys["next"]
    too_old = rotation_days > 0 and tx.now - current.activated_at >= rotation_days * _DAY_MS
    return (too_old or current.algorithm != algorithm) and following.algorithm == algorithm and _wait_ms(following, tx.now) == 0


def rotate_keys(tx: Tx, sealer: Sealer, algorithm: Algorithm, *, lifetime_seconds: int, at_once: bool = False) -> str:
    """next becomes current, current retires but stays published while its tokens live, a new next is made. Returns the new current key id.

    Raises Conflict while verifiers may not have seen the next key yet, unless `at_once` (a compromised key).
    """
    rows = tx.all(sa.select(signing_keys).where(signing_keys.c.status != "retired").with_for_update())
    keys = {row.status: row for row in rows}
    if keys.keys() != {"next", "current"}:  # those that were locked when another process's rotation had just changed them
        raise Conflict("Another process has rotated the keys at this moment.")
    following, current = keys["next"], keys["current"]
    if (wait := _wait_ms(following, tx.now)) and not at_once:
        raise Conflict(f"Verifiers may not know the next key before {wait // 1000 + 1} s from now; wait, or use --at-once if the current key is compromised.")
    overlap_ms = (lifetime_seconds + limits.JWKS_MAX_AGE_SECONDS) * 1000
    _retire(tx, current.key_id, published_until=tx.now + overlap_ms)
    tx.run(sa.update(signing_keys).where(signing_keys.c.key_id == following.key_id).values(status="current", activated_at=tx.now))
    _insert(tx, sealer, algorithm, "next")
    tx.record("key.rotated", "key", following.key_id, previousKeyId=current.key_id, atOnce=at_once)
    return str(following.key_id)


def retire_key(tx: Tx, key_id: str) -> None:
    """Take a retired key out of the key set now: every token that it signed dies. Raises NotFound, or Conflict for a key still in use."""
    row = tx.one(sa.select(signing_keys).where(signing_keys.c.key_id == key_id).with_for_update())
    if row is None:
        raise NotFound(f"There is no key {key_id}; `agentidp keys list` shows them.")
    if row.status != "retired":
        raise Conflict(f"The key is {row.status}; rotate first, so that another one signs.")
    _retire(tx, key_id, published_until=tx.now - limits.ISSUED_AT_LEEWAY_SECONDS * 1000)  # over also by a clock that is behind
    tx.record("key.rotated", "key", key_id, retired=True)


def _wait_ms(following: sa.Row[Any], now: int) -> int:
    """How long the next key must still be published before it may sign: one max-age of the key set, plus what a process takes to notice."""
    ready_at = following.created_at + (limits.JWKS_MAX_AGE_SECONDS + limits.KEYS_REFRESH_SECONDS) * 1000
    return max(0, int(ready_at - now))


def _insert(tx: Tx, sealer: Sealer, algorithm: Algorithm, status: str) -> bool:
    """Returns False when another process has just made the key of that status."""
    key = jwk.generate(algorithm)
    public = jwk.public_jwk(key, algorithm)
    return tx.insert_new(
        signing_keys,
        key_id=public["kid"],
        algorithm=algorithm,
        status=status,
        public_jwk=public,
        sealed_private_key=sealer.seal(jwk.to_bytes(key), "signing_keys", "sealed_private_key", public["kid"]),
        created_at=tx.now,
        activated_at=tx.now if status == "current" else None,
    )


def _retire(tx: Tx, key_id: str, *, published_until: int) -> None:
    tx.run(sa.update(signing_keys).where(signing_keys.c.key_id == key_id).values(status="retired", published_until=published_until))


def _from_row(row: sa.Row[Any], sealer: Sealer, known: Mapping[str, SigningKey]) -> SigningKey:
    if row.key_id in known:
        return replace(known[row.key_id], status=row.status, activated_at=row.activated_at, published_until=row.published_until)
    private = jwk.from_bytes(sealer.unseal(row.sealed_private_key, "signing_keys", "sealed_private_key", row.key_id))
    return SigningKey(
        row.key_id, row.algorithm, row.status, row.public_jwk, private, private.public_key(), row.created_at, row.activated_at, row.published_until
    )
