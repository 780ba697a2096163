"""How often a client may call, how often a source may fail to prove who it is, and how often it may call what is open to anybody.

The cells are those of this process, or with `redis_url` those of all: nothing else depends on Redis, and all that it holds may vanish at any time.
"""

import functools
import ipaddress
from collections.abc import Sequence

from agentidp.auth.shared_cells import SharedCells
from agentidp.core import limits
from agentidp.core.clock import Clock
from agentidp.core.config import Settings
from agentidp.core.gcra import Cells, Standing
from agentidp.core.metrics import Metrics
from agentidp.core.plans import TIERS


class RateLimits:
    """The limits of one process."""

    def __init__(self, settings: Settings, clock: Clock, metrics: Metrics) -> None:
        own, plans, self._clock = settings.rate_limit, settings.plans, clock
        self.clients: dict[str, Cells | None] = {
            tier: _cells(own.per_minute if own.per_minute is not None else getattr(plans, tier).requests_per_minute) for tier in TIERS
        }
        self._names = _cells(own.failed_logins_per_minute)
        self._sources = _cells(own.failed_logins_per_minute * limits.FAILED_LOGINS_PER_SOURCE_FACTOR)
        self._public = _cells(own.public_per_minute)
        self._rechecks = Cells(limits.RATE_RECHECKS_PER_MINUTE, limits.RATE_KEYS_MAX)
        self._shared = SharedCells(settings.redis_url.get_secret_value(), metrics) if settings.redis_url is not None else None

    @property
    def is_alone(self) -> bool:
        """Whether this process counts for itself, always."""
        return self._shared is None

    async def open(self) -> None:
        """Raises WrongSettings where Redis is configured and its client is not installed. A Redis that does not answer is no reason not to start."""
        if self._shared is not None:
            await self._shared.open()

    async def close(self) -> None:
        if self._shared is not None:
            await self._shared.close()

    async def take_client(self, organization_id: str, agent_id: str, cells: Cells) -> Standing:
        """One more request of a proven client. Another limit is another cell: whoever changes plans starts anew."""
        return await self._take(f"{{{organization_id}}}:rate:{agent_id}", cells, agent_id)

    async def take_source(self, address: str | None) -> Standing | None:
        """One more request of nobody in particular. None: not limited."""
        if self._public is None:
            return None
        source = source_of(address)
        return await self._take(f"{{{source}}}:public", self._public, source)

    def look_at_failures(self, presented: str, address: str | None, *, is_signed: bool) -> Standing | None:
        """The standing of who may not even try, because too much has failed from there; else None. Asks nobody, counts nothing.

        A token that we have signed is not a guess: what else has failed from there is not held against it.
        """
        if not self._sources:  # nobody has failed lately
            return None
        now, found = self._clock() * 1000, self._failures(presented, source_of(address))
        standings = [cells.look(key, now) for cells, key in (found[:1] if is_signed else found)]
        return next((standing for standing in standings if not standing.is_allowed), None)

    async def count_failure(self, presented: str | None, address: str | None) -> Standing | None:
        """One more failure to prove what was presented. Returns the standing when that is one too many."""
        source, refused = source_of(address), None
        for cells, key in self._failures(presented, source):
            standing = await self._take(f"{{{source}}}:failures:{key}", cells, key)
            cells.put(key, standing.backlog, self._clock() * 1000)  # so that `look_at_failures` knows what Redis does
            if not standing.is_allowed:
                refused = standing
        return refused

    def is_worth_a_recheck(self, agent_id: str) -> bool:
        """Whether the plan behind a refusal should be read anew: it may have been raised, but reading it for each refusal would make those dear."""
        return self._rechecks.take(agent_id, self._clock() * 1000).is_allowed

    def _failures(self, presented: str | None, source: str) -> Sequence[tuple[Cells, str]]:
        """What is presented from a source, and the source whatever it presents: an attacker elsewhere cannot lock out whom it names."""
        if self._names is None or self._sources is None:
            return ()
        if presented is None:
            return ((self._sources, source),)
        return ((self._names, f"{source} {presented[: limits.PRESENTED_CHARACTERS_KEPT]}"), (self._sources, source))

    async def _take(self, shared_key: str, cells: Cells, key: str) -> Standing:
        """From Redis while it is in order, else from memory."""
        standing = await self._shared.take(f"{shared_key}:{cells.rate.per_minute}", cells.rate) if self._shared is not None else None
        return standing or cells.take(key, self._clock() * 1000)


def _cells(per_minute: int) -> Cells | None:
    return Cells(per_minute, limits.RATE_KEYS_MAX) if per_minute else None


@functools.lru_cache(limits.REPEATED_HEADERS_MAX)
def source_of(address: str | None) -> str:
    """The source that an address counts as: an IPv6 network of 64 bits is one, because whoever has an address there has them all."""
    if address is None or ":" not in address:
        return address or "unknown"
    return str(ipaddress.IPv6Network((address, 64), strict=False))
