"""The dispatcher of one process: puts down what was sealed as deliveries, and sends what is due, each webhook in a lane of its own.

Any number of processes may each have one. A lane has the lease on its webhook: it sends one delivery after the other, in order, as long as the receiver
keeps up, several at once when it does not, and less and less often when it fails. No receiver takes another's place, however long it takes.
"""

import asyncio
import contextlib
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator

from agentidp.auth.instance import Instance
from agentidp.core import limits
from agentidp.core.caller import SYSTEM, Caller
from agentidp.core.errors import Problem
from agentidp.core.ids import new_id
from agentidp.ledger.following import wait_for
from agentidp.webhooks import queues
from agentidp.webhooks.delivery import attempt
from agentidp.webhooks.queues import Lane, Receiver
from agentidp.webhooks.rules import Attempt, Delivery, DisabledReason, Pace, Result, WebhookNotFound, result_of

log = logging.getLogger(__name__)


class Dispatcher:
    """`jitter` gives numbers between 0 and 1."""

    def __init__(self, instance: Instance, pace: Pace | None = None, jitter: Callable[[], float] = random.random) -> None:
        self._instance, self._database, self._clock = instance, instance.database, instance.clock
        self._pace, self._jitter = pace or Pace(), jitter
        self._lanes: dict[asyncio.Task[None], Lane] = {}
        self._results: list[tuple[Lane, Result, asyncio.Future[None]]] = []
        self._recorder: asyncio.Task[None] | None = None
        self._places = asyncio.Semaphore(limits.WEBHOOK_YOUNG_MAX)
        self._is_due, self._is_ending = asyncio.Event(), False

    async def run(self) -> None:
        """Until cancelled; then what is being sent gets a moment to end."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._put_down_all())
                group.create_task(self._begin_all())
        finally:
            self._is_ending = True
            if self._lanes:
                await asyncio.wait(self._lanes, timeout=limits.WEBHOOK_END_SECONDS)
            await self.stop()

    async def _put_down_all(self) -> None:
        while True:
            sealed = self._instance.sealed.next()
            with self._lasting():
                if await self.put_down():
                    self._is_due.set()
            await wait_for(sealed, limits.FOLLOW_POLL_SECONDS)

    async def _begin_all(self) -> None:
        while True:
            self._is_due.clear()
            with self._lasting():
                await self.begin_lanes()
            await wait_for(self._is_due, limits.FOLLOW_POLL_SECONDS)

    @contextlib.contextmanager
    def _lasting(self) -> Iterator[None]:
        """What fails is tried again with the next round."""
        try:
            yield
        except Problem as problem:
            log.warning("webhooks have to wait", extra={"reason": problem.detail})
        except Exception:
            log.exception("webhooks failed")

    async def put_down(self) -> int:
        """Deliveries of everything that was sealed so far. Returns how many."""
        written, more = 0, True
        while more:
            found, more = await self._database.read(queues.collect, SYSTEM)
            if found:
                written += await self._database.write(queues.put_down, SYSTEM, found)
        return written

    async def begin_lanes(self) -> int:
        """A lane for every webhook for which something is due, as far as there is room. Returns how many."""
        failing = sum(lane.failures > 0 for lane in self._lanes.values())
        room = {"healthy": limits.WEBHOOK_LANES_MAX - len(self._lanes) + failing, "failing": limits.WEBHOOK_FAILING_LANES_MAX - failing}
        room = {kind: max(0, count) for kind, count in room.items()}
        if not await self._database.read(queues.is_due, SYSTEM):
            return 0
        held = Counter(lane.organization_id for lane in self._lanes.values())
        begun = await self._database.write(queues.claim, SYSTEM, new_id(self._clock()), self._pace, held, **room)
        for lane in begun:
            task = asyncio.create_task(self._serve(lane))
            self._lanes[task] = lane
            task.add_done_callback(self._end)
        return len(begun)

    async def idle(self) -> None:
        """Until no lane is under way."""
        while self._lanes:
            await asyncio.wait(self._lanes)

    async def stop(self) -> None:
        """At once: what is being sent is sent again by whoever gets the lease."""
        tasks = [*self._lanes, *([self._recorder] if self._recorder else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _end(self, task: asyncio.Task[None]) -> None:
        del self._lanes[task]
        self._is_due.set()  # others may have waited for room

    async def _serve(self, lane: Lane) -> None:
        """For a while: then it is the turn of those who wait for a lane."""
        mine, ends_at = Caller(lane.organization_id), self._clock() + limits.WEBHOOK_TENURE_MS
        try:
            while self._clock() < ends_at and await self._keep(lane):
                receiver = await self._database.read(queues.look, mine, lane, self._instance.sealer)
                if receiver.url is None:
                    await self._give_up(lane)
                if not receiver.due or not await self._send_all(lane, receiver, ends_at):
                    break
        except* Problem as problems:
            log.warning("deliveries have to wait", extra={"reason": str(problems.exceptions[0])})
            await asyncio.sleep(limits.WEBHOOK_BUSY_MS / 1000)
        except* Exception:
            log.exception("deliveries failed", extra={"webhook": lane.webhook_id})
            lane.paused_until = self._clock() + self._pace.receiver_pause_max  # else they would fail again at once, and for ever
        with self._lasting():
            await self._database.write(queues.release, mine, lane)

    async def _give_up(self, lane: Lane) -> None:
        while await self._keep(lane) and (count := await self._database.write(queues.give_up, Caller(lane.organization_id), lane, "disabled")):
            self._instance.metrics.webhook_deliveries.labels("dead_letter").inc(count)

    async def _send_all(self, lane: Lane, receiver: Receiver, ends_at: int) -> bool:
        """Everything that was read as due, in its order. Returns whether the receiver may be asked for more right away."""
        waiting = iter(receiver.due)
        width = limits.WEBHOOK_CONCURRENT_EACH if len(receiver.due) >= limits.WEBHOOK_BACKLOG and not lane.failures else 1
        async with asyncio.TaskGroup() as group:
            for _ in range(width):
                group.create_task(self._send(lane, receiver, waiting, ends_at, stops_at=1 if width > 1 else 0))
        return not self._is_ending and lane.paused_until <= self._clock()

    @contextlib.asynccontextmanager
    async def _place(self) -> AsyncIterator[asyncio.TimerHandle]:
        """One of the few, until the end for an attempt that is answered at once; who waits for his receiver beyond the timer loses it, and gets none again."""
        await self._places.acquire()
        leave = contextlib.ExitStack()
        leave.callback(self._places.release)
        timer = asyncio.get_running_loop().call_later(limits.WEBHOOK_YOUNG_SECONDS, leave.close)
        try:
            yield timer
        finally:
            timer.cancel()
            leave.close()

    async def _send(self, lane: Lane, receiver: Receiver, waiting: Iterator[Delivery], ends_at: int, *, stops_at: int) -> None:
        """One after the other. Several at once stop at the first failure, one alone when the receiver is to be left alone."""
        assert receiver.url is not None
        recorded = []
        for delivery in waiting:
            now = self._clock()
            if delivery.asked_at + self._pace.expires <= now:
                recorded.append(self._record(lane, Result(delivery, Attempt(now, 0, error="expired"), "dead_letter", None)))
                continue
            async with self._place() as timer:
                now = self._clock()
                if self._is_ending or lane.paused_until > now or now >= ends_at or (stops_at and lane.failures >= stops_at) or not await self._keep(lane):
                    break
                done = await attempt(self._instance.outgoing, self._clock, receiver.url, receiver.secrets, delivery)
                timer.cancel()
                if done is None:
                    lane.paused_until = self._clock() + limits.WEBHOOK_BUSY_MS
                    break
                lane.observe(done, self._pace)
                # waited for: else a kill would repeat all that was sent since the last commit
                await self._record(lane, result_of(delivery, done, self._pace, self._jitter()))
            if reason := self._end_of(lane, done):
                with contextlib.suppress(WebhookNotFound):  # deleted meanwhile
                    await self._database.write(queues.disable, Caller(lane.organization_id), lane, reason)
                lane.paused_until = 0  # what waits is given up right away
                break
        await asyncio.gather(*recorded)

    def _end_of(self, lane: Lane, done: Attempt) -> DisabledReason | None:
        if done.is_gone:
            return "gone"
        is_over = lane.failing_since is not None and done.at - lane.failing_since >= self._pace.failing_max
        return "failing" if is_over else None

    async def _keep(self, lane: Lane) -> bool:
        """Whether the lease lasts for another attempt; it is renewed when it does not."""
        if lane.lease_until - self._clock() >= self._pace.lease_left:
            return True
        until = await self._database.write(queues.keep, Caller(lane.organization_id), lane, self._pace)
        lane.lease_until = until or 0
        return until is not None

    def _record(self, lane: Lane, result: Result) -> "asyncio.Future[None]":
        """Is done when the result is durable. Whatever ends while one commit is under way shares the next."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda done: done.cancelled() or done.exception())  # the lane may have ended by then
        self._results.append((lane, result, future))
        if self._recorder is None:
            self._recorder = asyncio.create_task(self._record_all())
        return future

    async def _record_all(self) -> None:
        try:
            while self._results:
                batch, self._results = self._results[: limits.WEBHOOK_FAN_OUT_ROWS], self._results[limits.WEBHOOK_FAN_OUT_ROWS :]
                lanes = {(lane.webhook_id, lane.lease_owner): lane for lane, _, _ in batch}
                error: Exception | None = None
                try:
                    lost = await self._database.write(queues.record, SYSTEM, [result for _, result, _ in batch], list(lanes.values()))
                    for lane in lost:
                        lane.lease_until = 0
                except Exception as failed:  # noqa: BLE001 - each lane is told
                    error = failed
                for _, result, future in batch:
                    if error is None:
                        self._instance.metrics.webhook_deliveries.labels(result.status).inc()
                    if not future.done():
                        future.set_result(None) if error is None else future.set_exception(error)
        finally:
            self._recorder = None
