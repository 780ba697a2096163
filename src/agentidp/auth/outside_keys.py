"""The public keys of other issuers, and of clients that publish theirs: found by discovery or at their own address, kept as HTTP says, never longer than a bound, and only for whom they are.

OpenID Connect Discovery section 4, RFC 7517. An issuer that cannot be reached is trusted on what it said last, for a while; then nobody can tell, and the answer is
503. What a document or a key may not be is ignored, so that one bad key does not take the good ones with it.
"""

import asyncio
import contextlib
import functools
import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from agentidp.auth.jwk import InvalidKey, parse_public
from agentidp.auth.jws import PublicKey
from agentidp.core import limits
from agentidp.core.clock import Clock
from agentidp.core.errors import Unavailable
from agentidp.core.outgoing import Answer, Blocked, Outgoing, Unreachable
from agentidp.core.shared_turns import SharedTurns
from agentidp.core.strict_json import NotStrictJson, parse

_MAX_AGE = re.compile(r"(?:^|[ ,])max-age=\"?([0-9]{1,9})\"?", re.IGNORECASE | re.ASCII)
_NOT_KEPT = re.compile(r"(?:^|[ ,])no-(?:store|cache)(?:$|[ ,])", re.IGNORECASE | re.ASCII)
_AGE = re.compile(r"[0-9]{1,9}", re.ASCII)
_BUSY = "Too many issuers are being asked for their keys."
log = logging.getLogger(__name__)


class IssuerUnreachable(Unavailable):
    """`reason`, a sentence, is for those who trust the issuer; whoever presents a token may be anybody."""

    title = "The issuer of the token cannot be asked for its keys right now; nothing was done. Please try again."

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason
        self.headers["Retry-After"] = str(limits.OUTSIDE_KEYS_RETRY_SECONDS)


class NotAKeySet(Exception):
    """What the issuer answered is not what it should be. The text is for people, and nothing in it is the other side's."""


class _Source(NamedTuple):
    """Whose keys, and where they are: without `jwks_uri` where the issuer's discovery document says. What one source has published is never another's."""

    issuer: str
    jwks_uri: str | None


@dataclass(frozen=True, slots=True)
class OutsideKey:
    """`algorithm` is the only one that it verifies."""

    algorithm: str
    key: PublicKey


@dataclass(slots=True)
class _Known:
    """What is known of one source. Instants are milliseconds."""

    whose: str  # the organization that asks for it; empty: several do
    keys: Mapping[str, OutsideKey] | None = None  # as published last
    loaded_at: int = 0
    fresh_until: int = 0
    tried_at: int = 0  # when asking ended the last time, in vain or not
    reason: str | None = None  # why it was in vain
    loading: "asyncio.Task[None] | None" = None


class OutsideKeys:
    """The key sets that this process knows, by source. Belongs to one event loop; many who want the same keys wait for one fetch."""

    def __init__(
        self,
        outgoing: Outgoing,
        clock: Clock,
        private_issuers: Collection[str] = (),
        *,
        issuers_max: int = limits.OUTSIDE_ISSUERS_MAX,
        turn_seconds: float = limits.OUTGOING_TURN_SECONDS_MAX,
        wait_seconds: float = limits.OUTSIDE_KEYS_WAIT_SECONDS,
        seconds_max: float = limits.OUTSIDE_KEYS_SECONDS_MAX,
    ) -> None:
        self._outgoing, self._clock, self._private_issuers = outgoing, clock, private_issuers
        self._issuers_max, self._turn_seconds, self._wait_seconds, self._seconds_max = issuers_max, turn_seconds, wait_seconds, seconds_max
        self._known: dict[_Source, _Known] = {}
        self._turns = SharedTurns(limits.OUTSIDE_LOADS_MAX, limits.OUTSIDE_LOADS_EACH_MAX)

    async def find(self, issuer: str, key_id: object, *, whose: str, jwks_uri: str | None = None) -> OutsideKey | None:
        """The issuer's key of that id; an unknown one makes it be asked again, at most once a minute. Raises IssuerUnreachable, also for an unknown one when that was in vain.

        `whose`: the organization that trusts the issuer. One that names many that do not answer leaves room for the others.
        """
        if not isinstance(key_id, str):
            return None
        source = _Source(issuer, jwks_uri)
        known = self._asked_for(source, whose)
        keys = known.keys
        if keys is None or not known.loaded_at <= self._clock() < known.fresh_until:
            keys = await self._refreshed(source, known, whose)
        if key_id not in keys and not self._is_within(known.tried_at, limits.OUTSIDE_UNKNOWN_KEY_SECONDS):
            await self._load(source, known, whose)
            keys = known.keys or keys
        if key_id not in keys and known.reason is not None:
            raise IssuerUnreachable(known.reason)  # it may well be a new one
        return keys.get(key_id)

    async def require(self, issuer: str, jwks_uri: str, *, whose: str) -> None:
        """Ask now, whatever is known already, and keep nothing of it. Raises Blocked, Unreachable, NotAKeySet; the last also for a set without a usable key.

        Also IssuerUnreachable: there was no turn.
        """
        async with self._turn(whose):
            keys, _ = await self._ask(_Source(issuer, jwks_uri))
        if not keys:
            raise NotAKeySet("Its key set holds no key that this server can use: one with a kid, for ES256, RS256 or Ed25519.")

    def _asked_for(self, source: _Source, whose: str) -> _Known:
        """What is asked for stays, before others. One organization alone fills no more than its part."""
        known = self._known.pop(source, None)
        if known is None:
            known, own = _Known(whose), [one for one, other in self._known.items() if other.whose == whose]
            if len(own) >= limits.OUTSIDE_ISSUERS_EACH_MAX:
                del self._known[own[0]]
            elif len(self._known) >= self._issuers_max:
                del self._known[next(iter(self._known))]
        elif known.whose != whose:
            known.whose = ""
        self._known[source] = known
        return known

    async def _refreshed(self, source: _Source, known: _Known, whose: str) -> Mapping[str, OutsideKey]:
        """What the issuer says now, or else what it said last, if that is not too long ago. Raises IssuerUnreachable."""
        reason, stale = known.reason, known.keys if self._is_within(known.loaded_at, limits.OUTSIDE_KEYS_STALE_SECONDS_MAX) else None
        if stale is not None and known.loading is not None:
            return stale  # the first to come waits a little, and nobody after him
        if reason is None or not self._is_within(known.tried_at, limits.OUTSIDE_KEYS_RETRY_SECONDS):
            try:
                async with asyncio.timeout(None if stale is None else self._wait_seconds):
                    await self._load(source, known, whose)
                reason = known.reason
            except TimeoutError:
                reason = "It takes long to answer."
            except IssuerUnreachable as error:  # no turn to ask: what is known may do
                reason = error.reason
        if known.keys is None or (reason is not None and stale is None):
            raise IssuerUnreachable(reason or _BUSY)
        return known.keys

    def _is_within(self, instant: int, seconds: int) -> bool:
        """Whether that was so short ago. A clock that was set back does not know."""
        return 0 <= self._clock() - instant < seconds * 1000

    async def _load(self, source: _Source, known: _Known, whose: str) -> None:
        """Ask the issuer; what came of it is in `known`. Whoever gives up waiting does not stop it for the others. Raises IssuerUnreachable when there is no turn."""
        for is_last in (False, True):
            begins = known.loading is None
            if known.loading is None:
                known.loading = asyncio.create_task(self._fetch(source, known, whose))
                known.loading.add_done_callback(functools.partial(_loaded, known))
            try:
                await asyncio.shield(known.loading)
            except IssuerUnreachable:
                if begins or is_last:
                    raise
            else:
                return  # else whoever began had no turn, and it is ours to begin

    async def _fetch(self, source: _Source, known: _Known, whose: str) -> None:
        async with self._turn(whose):
            now, reason = self._clock(), None
            try:
                known.keys, fresh_seconds = await self._ask(source)
                known.loaded_at, known.fresh_until = now, now + fresh_seconds * 1000
            except (Blocked, Unreachable, NotAKeySet) as error:
                reason = str(error)
                if isinstance(error, Unreachable) and error.kind == "busy":
                    raise IssuerUnreachable(reason) from error  # which says nothing about the issuer
                log.warning("the keys of an issuer cannot be had", extra={"issuer": source.issuer, "jwks_uri": source.jwks_uri, "reason": reason})
            known.reason, known.tried_at = reason, self._clock()  # when it was over: an issuer that hangs is left alone for as long as another

    @contextlib.asynccontextmanager
    async def _turn(self, whose: str) -> AsyncIterator[None]:
        """Raises IssuerUnreachable when there is none in time."""
        async with contextlib.AsyncExitStack() as taken:
            try:
                async with asyncio.timeout(self._turn_seconds):
                    await taken.enter_async_context(self._turns.turn(whose))
            except TimeoutError:
                raise IssuerUnreachable(_BUSY) from None
            yield

    async def _ask(self, source: _Source) -> tuple[Mapping[str, OutsideKey], int]:
        """The usable keys, and for how many seconds they are fresh. Raises Blocked, Unreachable, NotAKeySet."""
        try:
            async with asyncio.timeout(self._seconds_max):
                return await self._asked(source)
        except TimeoutError:
            raise Unreachable("timeout", f"It has not answered whole within {self._seconds_max:g} seconds.") from None

    async def _asked(self, source: _Source) -> tuple[Mapping[str, OutsideKey], int]:
        address: object = source.jwks_uri
        is_private = address is None and source.issuer in self._private_issuers  # an address of a tenant's choice never is
        if address is None:
            url = f"{source.issuer.removesuffix('/')}/.well-known/openid-configuration"
            document, _ = await self._document("Its discovery document", url, anywhere=is_private)
            address = document.get("jwks_uri")
            if document.get("issuer") != source.issuer:
                raise NotAKeySet("Its discovery document names another issuer; they are compared letter by letter.")
        if not isinstance(address, str):
            raise NotAKeySet("Its discovery document has no jwks_uri.")
        answered, answer = await self._document("Its key set", address, anywhere=is_private)
        return _usable_keys(answered), _fresh_seconds(answer)

    async def _document(self, what: str, url: str, *, anywhere: bool) -> tuple[dict[str, Any], Answer]:
        try:
            answer = await self._outgoing.request("GET", url, headers={"Accept": "application/json"}, anywhere=anywhere)
        except (Blocked, Unreachable) as error:
            error.args = (f"{what}: {error}",)
            raise
        if answer.status != 200:  # a redirect leads to somebody whom nobody named
            raise NotAKeySet(f"{what} is answered with status {answer.status}; it has to be 200.")
        if answer.is_cut:
            raise NotAKeySet(f"{what} is longer than {limits.OUTGOING_ANSWER_BYTES_MAX} bytes.")
        try:
            value = parse(answer.body)
        except NotStrictJson as error:
            raise NotAKeySet(f"{what} is no JSON, or not in a form that has one meaning.") from error
        if not isinstance(value, dict):
            raise NotAKeySet(f"{what} is no JSON object.")
        return value, answer


def _loaded(known: _Known, loading: "asyncio.Task[None]") -> None:
    known.loading = None
    if not loading.cancelled():
        loading.exception()  # nobody may have waited for it


def _usable_keys(document: Mapping[str, Any]) -> dict[str, OutsideKey]:
    """By key id, those that verify signatures. Two of one id are nobody's: which one is meant, nobody knows."""
    rows = document.get("keys")
    if not isinstance(rows, list) or len(rows) > limits.OUTSIDE_KEYS_MAX:
        raise NotAKeySet(f"Its key set has no list of at most {limits.OUTSIDE_KEYS_MAX} keys.")
    found, counted = dict[str, OutsideKey](), Counter[str]()
    for row in rows:
        key_id = row.get("kid") if isinstance(row, dict) else None
        if not isinstance(key_id, str) or not key_id:
            continue
        counted[key_id] += 1
        try:
            parsed = parse_public(row)
            found[key_id] = OutsideKey(parsed.algorithm, parsed.public_key)
        except InvalidKey:
            continue
    return {key_id: key for key_id, key in found.items() if counted[key_id] == 1}


def _fresh_seconds(answer: Answer) -> int:
    """How long it may be used without asking again: RFC 9111 section 4.2, less what it has aged in caches on its way, within our bounds."""
    control, age = answer.headers.get("cache-control", ""), answer.headers.get("age", "")
    if _NOT_KEPT.search(control):
        said = 0
    elif match := _MAX_AGE.search(control):
        said = int(match[1])
    else:
        said = _seconds_between(answer.headers.get("date", ""), answer.headers.get("expires", ""))
    said -= int(age) if _AGE.fullmatch(age) else 0
    return min(max(said, limits.OUTSIDE_KEYS_FRESH_SECONDS_MIN), limits.OUTSIDE_KEYS_FRESH_SECONDS_MAX)


def _seconds_between(date: str, expires: str) -> int:
    try:
        return int((parsedate_to_datetime(expires) - parsedate_to_datetime(date)).total_seconds())
    except (ValueError, TypeError, OverflowError):  # absent, or no dates, or one of them without a zone
        return 0
