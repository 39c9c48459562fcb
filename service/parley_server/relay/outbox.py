"""Sends commands that other replicas depend on, and retries them until Redis accepts them or they expire."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from redis.exceptions import ResponseError

from parley_server.core.ports import Clock
from parley_server.relay.health import Health
from parley_server.relay.redis_pipeline import RedisPipeline, RelayAway, is_about_one


class Outbox:
    """Queues batches of idempotent commands. A batch that Redis refuses does not delay the others."""

    def __init__(self, pipeline: RedisPipeline, clock: Clock) -> None:
        self.health = Health("tell", clock)
        self._pipeline = pipeline
        self._clock = clock
        self._batches: list[tuple[float, Sequence[bytes]]] = []
        self._posted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to send."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="relay-tell")

    def post(self, commands: Sequence[bytes], *, for_s: float) -> None:
        """Send these commands together and in order, with retries for `for_s` seconds."""
        self._batches.append((self._clock.monotonic() + for_s, commands))
        self._posted.set()

    async def stop(self) -> None:
        """Stop, and drop what Redis has not accepted."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await self._posted.wait()
            await self._send()
            # `_posted` stays set while batches are left, so that the next round sends them again after the pause.
            if self._batches:
                await self._clock.sleep(self.health.retry_at - self._clock.monotonic())
            else:
                self._posted.clear()

    async def _send(self) -> None:
        batches, self._batches = self._batches, []
        commands = [command for _, batch in batches for command in batch]
        try:
            answers = await self._pipeline.run(commands)
        except RelayAway as away:
            self._keep(batches, str(away))
            return
        # An error of one command would come again, so it is not retried. Errors of the server's state (out of memory,
        # read-only) pass.
        refused = [str(each) for each in answers if isinstance(each, ResponseError) and not is_about_one(each)]
        if refused:
            self._keep(batches, refused[0])
        else:
            self.health.worked()

    def _keep(self, batches: list[tuple[float, Sequence[bytes]]], problem: str) -> None:
        """Queue all batches again. Those that Redis has accepted may be repeated."""
        self.health.failed(problem)
        now = self._clock.monotonic()
        # An expired batch may be dropped: cancels and erasures are in the database first, and other replicas look there
        # as well.
        self._batches = [batch for batch in batches if batch[0] > now] + self._batches
