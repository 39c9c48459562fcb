"""What other replicas are to be told once: tried until Redis takes it, or nobody needs it any more."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from redis.exceptions import ResponseError

from parley_server.core.ports import Clock
from parley_server.relay.health import Health
from parley_server.relay.redis_pipeline import RedisPipeline, RelayAway, is_about_one


class Outbox:
    """Commands that may be repeated, each for so many seconds. None waits for another that Redis does not take."""

    def __init__(self, pipeline: RedisPipeline, clock: Clock) -> None:
        self.health = Health("tell", clock)
        self._pipeline = pipeline
        self._clock = clock
        self._letters: list[tuple[float, Sequence[bytes]]] = []
        self._posted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to tell."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="relay-tell")

    def post(self, commands: Sequence[bytes], *, for_s: float) -> None:
        """Send these, together and in order."""
        self._letters.append((self._clock.monotonic() + for_s, commands))
        self._posted.set()

    async def stop(self) -> None:
        """Give up what Redis has not taken."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await self._posted.wait()
            await self._send()
            if self._letters:
                await self._clock.sleep(self.health.retry_at - self._clock.monotonic())
            else:
                self._posted.clear()

    async def _send(self) -> None:
        letters, self._letters = self._letters, []
        commands = [command for _, letter in letters for command in letter]
        try:
            answers = await self._pipeline.run(commands)
        except RelayAway as away:
            self._keep(letters, str(away))
            return
        refused = [str(each) for each in answers if isinstance(each, ResponseError) and not is_about_one(each)]
        if refused:
            self._keep(letters, refused[0])
        else:
            self.health.worked()

    def _keep(self, letters: list[tuple[float, Sequence[bytes]]], problem: str) -> None:
        """All of them: to repeat one that was taken does no harm."""
        self.health.failed(problem)
        now = self._clock.monotonic()
        self._letters = [letter for letter in letters if letter[0] > now] + self._letters
