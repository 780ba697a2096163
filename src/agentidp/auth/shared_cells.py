"""The cells of `core.gcra` on Redis or Valkey, for several processes. What waits is sent together, on one connection.

When Redis does not answer in time, everybody is told so at once and counts in memory, until it is back: see `SharedCells.take`.
"""

import asyncio
import contextlib
import logging
from typing import Any, Final

from agentidp.core import limits
from agentidp.core.errors import WrongSettings
from agentidp.core.gcra import Rate, Standing
from agentidp.core.metrics import Metrics

log = logging.getLogger(__name__)

# `Cells.take` over again. One key, so that it runs on a cluster as well. The time is the Redis server's: processes share its clock, whatever theirs say. The cell is
# gone when it is as good as new.
_TAKE: Final = """
local time = redis.call('TIME')
local now, interval, window = time[1] * 1000000 + time[2], tonumber(ARGV[1]), tonumber(ARGV[2])
local backlog = tonumber(redis.call('GET', KEYS[1]) or 0) - now
if backlog < 0 or backlog > window then
  backlog = 0
end
local is_allowed = 0
if backlog + interval <= window then
  backlog, is_allowed = backlog + interval, 1
end
redis.call('SET', KEYS[1], string.format('%.0f', now + backlog), 'PX', math.ceil(backlog / 1000))
return {is_allowed, backlog, time[1], time[2]}
"""
_Waiting = tuple[str, Rate, "asyncio.Future[Standing | None]"]


class SharedCells:
    """Belongs to one event loop. Is either in order, or being mended in the background."""

    def __init__(self, url: str, metrics: Metrics) -> None:
        self._url, self._metrics = url, metrics
        self._client: Any = None
        self._in_order = False
        self._waiting: list[_Waiting] = []
        self._sender: asyncio.Task[None] | None = None
        self._mender: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Try once to reach Redis; go on trying in the background. Raises WrongSettings."""
        try:
            from redis.asyncio import Redis  # noqa: PLC0415 - only who configures it pays for it
            from redis.asyncio.retry import Retry  # noqa: PLC0415
            from redis.backoff import NoBackoff  # noqa: PLC0415
        except ImportError as error:
            raise WrongSettings("redis_url: needs the extra: pip install 'agentidp[redis]'") from error
        seconds = limits.SHARED_RATES_CONNECT_SECONDS
        self._client = Redis.from_url(self._url, socket_connect_timeout=seconds, socket_timeout=seconds, retry=Retry(NoBackoff(), 0))
        try:
            await self._ping()
        except Exception as error:  # noqa: BLE001 - as below
            self._break(error)

    async def close(self) -> None:
        for task in (self._sender, self._mender):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        if self._client is not None:
            with contextlib.suppress(Exception):
                await self._client.aclose()

    async def take(self, key: str, rate: Rate) -> Standing | None:
        """As `gcra.Cells.take`; None when Redis is out of order, which takes no longer than two of its time limits to find out."""
        if not self._in_order:
            return None
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Standing | None] = loop.create_future()
        self._waiting.append((key, rate, answer))
        if self._sender is None:
            self._sender = loop.create_task(self._send())
        return await answer

    async def _send(self) -> None:
        """Send what waits, and what has come meanwhile, until nothing does."""
        sent: list[_Waiting] = []
        try:
            while self._waiting:
                sent, self._waiting = self._waiting[: limits.SHARED_RATES_BATCH_MAX], self._waiting[limits.SHARED_RATES_BATCH_MAX :]
                async with asyncio.timeout(limits.SHARED_RATES_SECONDS_MAX):
                    standings = await self._evaluate(sent)
                for (_, _, answer), standing in zip(sent, standings, strict=True):
                    if not answer.done():  # its request may have been cancelled
                        answer.set_result(standing)
        except Exception as error:  # noqa: BLE001 - whatever it was, Redis is of no use now, and nothing of ours may depend on it
            self._break(error)
        finally:
            self._sender = None
            left, self._waiting = [*sent, *self._waiting], []
            for _, _, answer in left:
                if not answer.done():
                    answer.set_result(None)

    async def _evaluate(self, batch: list[_Waiting]) -> list[Standing]:
        pipeline = self._client.pipeline(transaction=False)
        for key, rate, _ in batch:
            pipeline.eval(_TAKE, 1, key, rate.interval, rate.window)
        answers = await pipeline.execute()
        return [
            Standing(rate, bool(is_allowed), int(backlog), int(seconds) * 1_000_000 + int(microseconds))
            for (_, rate, _), (is_allowed, backlog, seconds, microseconds) in zip(batch, answers, strict=True)
        ]

    def _break(self, error: Exception) -> None:
        self._in_order = False
        self._metrics.rate_limit_store_failures.inc()
        self._metrics.rate_limit_degraded.set(1)
        log.warning("Redis does not answer; each process counts requests for itself until it does", extra={"error": type(error).__name__})
        self._mender = asyncio.get_running_loop().create_task(self._mend())

    async def _mend(self) -> None:
        while not self._in_order:
            await asyncio.sleep(limits.SHARED_RATES_RETRY_SECONDS)
            with contextlib.suppress(Exception):
                await self._client.connection_pool.disconnect()  # what is left of an answer that came too late is nobody's
                await self._ping()
        log.info("Redis answers again; processes share their limits")

    async def _ping(self) -> None:
        """Reach Redis and run the script there, which a replica or an account without the right would refuse."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(limits.SHARED_RATES_CONNECT_SECONDS):
            await self._evaluate([("{agentidp}:ping", Rate.of(60), loop.create_future())])
        self._in_order = True
        self._metrics.rate_limit_degraded.set(0)
