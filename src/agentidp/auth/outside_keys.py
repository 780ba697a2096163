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
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from agentidp.auth.jwk import InvalidKey, parse_public
from agentidp.auth.jws import PublicKey
from agentidp.core import limits
from agentidp.core.clock import Clock
from agentidp.core.errors import Unavailable
from agentidp.core.outgoing import Answer, Blocked, Outgoing, Unreachable
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


@dataclass(frozen=True, slots=True)
class _KeySet:
    """What one source published. Instants are milliseconds."""

    keys: Mapping[str, OutsideKey]
    loaded_at: int
    fresh_until: int
    tried_at: int  # when it was asked the last time, in vain or not


class _Failure(NamedTuple):
    """Why a source could not be asked, and the instant, in milliseconds."""

    reason: str
    at: int


class OutsideKeys:
    """The key sets that this process knows, by source. Belongs to one event loop; many who want the same keys wait for one fetch."""

    def __init__(self, outgoing: Outgoing, clock: Clock, private_issuers: Collection[str] = (), issuers_max: int = limits.OUTSIDE_ISSUERS_MAX) -> None:
        self._outgoing, self._clock, self._private_issuers, self._issuers_max = outgoing, clock, private_issuers, issuers_max
        self._known: dict[_Source, _KeySet] = {}
        self._failed: dict[_Source, _Failure] = {}
        self._loading: dict[_Source, asyncio.Task[_KeySet | None]] = {}
        self._places: Counter[str] = Counter()  # of those that are being asked, by whose tokens they were asked for

    async def find(self, issuer: str, key_id: object, *, whose: str, jwks_uri: str | None = None) -> OutsideKey | None:
        """The issuer's key of that id; an unknown one makes it be asked again, at most once a minute. Raises IssuerUnreachable.

        `whose`: the organization that trusts the issuer. One that names many that do not answer leaves room for the others.
        """
        source = _Source(issuer, jwks_uri)
        known, now = self._known.pop(source, None), self._clock()
        if known is not None:
            self._known[source] = known  # those that are asked for stay
        if known is None or not known.loaded_at <= now < known.fresh_until:
            known = await self._refreshed(source, known, now, whose)
        key = known.keys.get(key_id) if isinstance(key_id, str) else None
        if key is None and not 0 <= now - known.tried_at < limits.OUTSIDE_UNKNOWN_KEY_SECONDS * 1000:
            known = await self._load(source, whose) or known
            key = known.keys.get(key_id) if isinstance(key_id, str) else None
        return key

    async def require(self, issuer: str, jwks_uri: str, *, whose: str) -> None:
        """Ask now, whatever is known already, and keep nothing of it. Raises Blocked, Unreachable, NotAKeySet; the last also for a set without a usable key."""
        if not (await self._ask(_Source(issuer, jwks_uri), self._clock(), whose)).keys:
            raise NotAKeySet("Its key set holds no key that this server can use: one with a kid, for ES256, RS256 or Ed25519.")

    async def _refreshed(self, source: _Source, known: _KeySet | None, now: int, whose: str) -> _KeySet:
        failed, found = self._failed.get(source), None
        if failed is None or not 0 <= now - failed.at < limits.OUTSIDE_KEYS_RETRY_SECONDS * 1000:
            with contextlib.suppress(IssuerUnreachable):  # no room to ask: what is known may do
                found = await self._load(source, whose)
        if found is not None:
            return found
        known = self._known.get(source)
        if known is None or not 0 <= now - known.loaded_at < limits.OUTSIDE_KEYS_STALE_SECONDS_MAX * 1000:
            failed = self._failed.get(source)
            raise IssuerUnreachable(_BUSY if failed is None else failed.reason)
        return known

    async def _load(self, source: _Source, whose: str) -> _KeySet | None:
        """What the issuer says now, None when that cannot be had. Whoever gives up waiting does not stop it for the others. Raises IssuerUnreachable."""
        loading = self._loading.get(source)
        if loading is None:
            if len(self._loading) >= limits.OUTSIDE_LOADS_MAX or self._places[whose] >= limits.OUTSIDE_LOADS_EACH_MAX:
                raise IssuerUnreachable(_BUSY)
            self._places[whose] += 1
            loading = self._loading[source] = asyncio.create_task(self._fetch(source, whose))
            loading.add_done_callback(functools.partial(self._loaded, source, whose))
        return await asyncio.shield(loading)

    def _loaded(self, source: _Source, whose: str, _: "asyncio.Task[_KeySet | None]") -> None:
        del self._loading[source]
        self._places -= Counter([whose])

    async def _fetch(self, source: _Source, whose: str) -> _KeySet | None:
        try:
            found = await self._ask(source, self._clock(), whose)
        except (Blocked, Unreachable, NotAKeySet) as error:
            now = self._clock()  # when it was over: an issuer that hangs is left alone for as long as another
            self._keep(self._failed, source, _Failure(str(error), now))
            log.warning("the keys of an issuer cannot be had", extra={"issuer": source.issuer, "jwks_uri": source.jwks_uri, "reason": str(error)})
            if source in self._known:
                self._known[source] = replace(self._known[source], tried_at=now)
            return None
        self._failed.pop(source, None)
        self._keep(self._known, source, found)
        return found

    async def _ask(self, source: _Source, now: int, whose: str) -> _KeySet:
        """Raises Blocked, Unreachable, NotAKeySet."""
        address: object = source.jwks_uri
        is_private = address is None and source.issuer in self._private_issuers  # an address of a tenant's choice never is
        if address is None:
            url = f"{source.issuer.removesuffix('/')}/.well-known/openid-configuration"
            document, _ = await self._document("Its discovery document", url, whose, anywhere=is_private)
            address = document.get("jwks_uri")
            if document.get("issuer") != source.issuer:
                raise NotAKeySet("Its discovery document names another issuer; they are compared letter by letter.")
        if not isinstance(address, str):
            raise NotAKeySet("Its discovery document has no jwks_uri.")
        answered, answer = await self._document("Its key set", address, whose, anywhere=is_private)
        return _KeySet(_usable_keys(answered), now, now + _fresh_seconds(answer) * 1000, now)

    async def _document(self, what: str, url: str, whose: str, *, anywhere: bool) -> tuple[dict[str, Any], Answer]:
        try:
            answer = await self._outgoing.request("GET", url, headers={"Accept": "application/json"}, tenant=whose, anywhere=anywhere)
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

    def _keep(self, cache: dict[_Source, Any], source: _Source, value: Any) -> None:
        cache.pop(source, None)  # the newest stand last
        if len(cache) >= self._issuers_max:
            del cache[next(iter(cache))]
        cache[source] = value


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
