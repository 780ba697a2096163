"""The sealer of one process: soon after each commit it takes what is unsealed, in every organization, into the chains.

Several processes may each have one: whoever seals an organization's events first holds its chain for a moment, and after that whoever is first.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from agentidp.core import limits
from agentidp.core.caller import SYSTEM
from agentidp.core.clock import Clock
from agentidp.core.errors import Problem
from agentidp.core.ids import new_id
from agentidp.db.unit import Database
from agentidp.ledger.nudge import Nudge
from agentidp.ledger.sealing import FIRST_ID, Overtaken, find_unsealed, next_unsealed, release, seal

log = logging.getLogger(__name__)


class ChainSealer:
    """`observe_lag` is told after each look how old the oldest event found unsealed was, in seconds; `observe_wrong` of each chain that cannot grow; `on_sealed` of each round that sealed something."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        nudge: Nudge,
        observe_lag: Callable[[float], None] = lambda _: None,
        observe_wrong: Callable[[], None] = lambda: None,
        on_sealed: Callable[[], None] = lambda: None,
    ) -> None:
        self._database, self._clock, self._nudge = database, clock, nudge
        self._observe_lag, self._observe_wrong, self._on_sealed = observe_lag, observe_wrong, on_sealed
        self.sealer_id = new_id(clock())

    async def run(self) -> None:
        """Seal until cancelled, then give the chains up."""
        nudged, pause = False, limits.SEAL_PAUSE_SECONDS
        try:
            while True:
                # Twice after a nudge: the commit may be late, and the chain another process's for the length of a lease.
                nudged = await self._nudge.wait(limits.SEAL_LEASE_MS / 1000 if nudged else limits.SEAL_POLL_SECONDS)
                if nudged:
                    await asyncio.sleep(pause)
                started = time.monotonic()
                try:
                    if await self.seal_all():
                        self._on_sealed()
                except Problem as problem:
                    log.warning("sealing has to wait", extra={"reason": problem.detail})
                    await asyncio.sleep(limits.SEAL_POLL_SECONDS)
                except Exception:
                    log.exception("sealing failed")
                    await asyncio.sleep(limits.SEAL_POLL_SECONDS)
                # A fifth of the time at most: the busier the machine, the more events share the cost of a round.
                pause = min(max(limits.SEAL_PAUSE_SECONDS, 4 * (time.monotonic() - started)), limits.SEAL_PAUSE_SECONDS_MAX)
        finally:
            with contextlib.suppress(Problem):
                await self._database.write(release, SYSTEM, self.sealer_id)

    async def seal_all(self) -> int:
        """Everything, of all organizations together. Where that fails, one by one, before the error is raised: what is wrong in one holds up no other.

        Returns how many events were sealed.
        """
        try:
            return await self._seal_together()
        except Problem:
            raise
        except Exception:
            await self._seal_apart()
            raise

    async def _seal_together(self) -> int:
        """Until a look from the beginning has shown everything. Each full look goes on beyond it, so that no organization waits for a busy one."""
        sealed, after = 0, None
        while True:
            found = await self._database.read(find_unsealed, SYSTEM, self.sealer_id, after)
            self._observe_lag(0.0 if found.oldest is None else (self._clock() - found.oldest) / 1000)
            if found.links:
                with contextlib.suppress(Overtaken):
                    sealed += await self._database.write(seal, SYSTEM, self.sealer_id, found.links)
            if after is None and found.after is None:
                return sealed
            after = found.after

    async def _seal_apart(self) -> None:
        """Organization by organization. Of one that cannot be sealed, such as by a row that was planted, the operator learns."""
        organization_id = FIRST_ID
        while found_id := await self._database.read(next_unsealed, SYSTEM, organization_id):
            organization_id = found_id
            try:
                found = await self._database.read(find_unsealed, SYSTEM, self.sealer_id, only=organization_id)
                with contextlib.suppress(Overtaken):
                    await self._database.write(seal, SYSTEM, self.sealer_id, found.links)
            except Problem:
                raise
            except Exception:
                log.exception("the history of an organization cannot be sealed; run a verification", extra={"organization": organization_id})
                self._observe_wrong()
