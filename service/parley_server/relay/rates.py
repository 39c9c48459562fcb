"""Counts messages in Redis, for all replicas together.

Each replica also counts its own messages in memory, so that no user can ever send more than the limit through one
replica, also while Redis fails or returns without its data.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec
from redis.exceptions import ResponseError

from parley_server.core.ports import Clock
from parley_server.core.rate_values import WINDOW_S, Taken
from parley_server.core.rates.memory import MemoryRateLimiter
from parley_server.errors import LimitsUnavailable
from parley_server.relay import wire
from parley_server.relay.health import Health
from parley_server.relay.redis_pipeline import RedisPipeline, RelayAway, is_about_one
from parley_server.relay.scripts import RATE_LOOK, RATE_TAKE, command

logger = logging.getLogger("parley.relay")

ANSWER_S = 0.25
"""The longest time for which a request waits for Redis."""
WINDOW_MS = round(WINDOW_S * 1000)
REFUSED, TAKEN = 0, 1  # of the answers of rate_take.lua


class RedisRateLimiter:
    """Implements `RateLimiter`. While Redis is lost it is not asked: each replica counts for itself, or with
    `refuses_alone` refuses all messages. It counts as lost if it does not answer within `answer_s`. The connection is
    opened by `start` or at the first use."""

    def __init__(
        self, pipeline: RedisPipeline, clock: Clock, *, refuses_alone: bool = False, answer_s: float = ANSWER_S
    ) -> None:
        self.health = Health("rate", clock)
        self._pipeline = pipeline
        self._clock = clock
        self._answer_s = answer_s
        self._local = None if refuses_alone else MemoryRateLimiter(clock)
        self._connecting: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Connect in the background, so that the first message does not wait for it."""
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.get_running_loop().create_task(self._connect(), name="relay-rate")

    async def stop(self) -> None:
        """Close the connection."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        await self._pipeline.close()

    async def take(self, key: str, member: str, limit: int) -> Taken:
        here = await self._local.take(key, member, limit) if self._local else None
        if here is not None and not here.allowed:  # as many as are allowed through all replicas came through this one
            return here
        answer = await self._ask(RATE_TAKE.call([wire.rate_key(key)], WINDOW_MS, limit, member))
        if answer is None:
            if here is None:
                raise LimitsUnavailable
            return msgspec.structs.replace(here, local=True)
        outcome, used, wait_ms = answer
        if outcome == REFUSED:
            if self._local and here is not None and here.fresh:
                await self._local.give_back(key, member)
            # After a failover, the clock of Redis may be behind the times of the members.
            return Taken(allowed=False, used=used, wait_s=min(max(0, wait_ms), WINDOW_MS) / 1000)
        return Taken(allowed=True, used=used, fresh=outcome == TAKEN and (here is None or here.fresh))

    async def give_back(self, key: str, member: str) -> None:
        if self._local:
            await self._local.give_back(key, member)
        await self._ask(command("ZREM", wire.rate_key(key), member))

    async def look(self, key: str) -> int:
        used = await self._ask(RATE_LOOK.call([wire.rate_key(key)], WINDOW_MS))
        if used is not None:
            return int(used)
        if self._local is None:
            raise LimitsUnavailable
        return await self._local.look(key)

    async def _ask(self, call: bytes) -> Any:
        """The answer; None while Redis is lost, refuses, or does not answer in time."""
        if self.health.lost_s:
            return None
        answer, problem = await self._try(call)
        if problem:
            self.health.failed(problem)
            self.start()
        elif isinstance(answer, ResponseError):
            logger.error("relay_command_failed", extra={"fields": {"problem": str(answer)}})
            return None
        return answer

    async def _connect(self) -> None:
        """Take from a window of its own until Redis answers in time."""
        probe = RATE_TAKE.call([wire.RATE_PROBE_KEY], WINDOW_MS, 1, "probe")
        while problem := (await self._try(probe))[1]:
            self.health.failed(problem)
            await self._clock.sleep(self.health.retry_at - self._clock.monotonic())
        self.health.worked()

    async def _try(self, call: bytes) -> tuple[Any, str]:
        """The answer, or why Redis counts as lost. All calls may be repeated, so one retry covers a connection that
        broke since its last use."""
        try:
            async with asyncio.timeout(self._answer_s):
                try:
                    (answer,) = await self._pipeline.run([call])
                except RelayAway:
                    (answer,) = await self._pipeline.run([call])
        except RelayAway as away:
            return None, str(away)
        except TimeoutError:
            return None, f"no answer within {self._answer_s:g} s"
        if isinstance(answer, ResponseError) and not is_about_one(answer):
            return None, str(answer)
        return answer, ""
