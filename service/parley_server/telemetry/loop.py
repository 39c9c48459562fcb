"""Measures how late and how busy the event loop is. Never on a request's path."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable

from parley_server.core.ports import Clock
from parley_server.telemetry.metrics import Metrics

SAMPLE_INTERVAL_S = 0.1
COUNT_EVERY = 10  # samples: counting the tasks takes time that grows with them
# An older sample's share falls to half within about two newer ones: it follows a burst in 0.2 s, and one pause does not
# make it forget the burst.
WEIGHT_OF_NEWEST = 0.3
# A newcomer has its first token after some ten turns of the loop: beyond this lag, after a second. Overload is a lag
# that lasts, not one stall or one burst, and it is over once there is room again.
LATE_S = 0.1
LATE_FOR_S = 1.0
CALM_S = 0.05
STALL_S = 0.5  # a process that was stopped for long was late once, and no more than that


class LoopMonitor:
    """Samples every 100 ms: how late the sample came (lag), and for which share the loop's thread was on the CPU.

    `start` is called in the loop whose thread it measures; `stop` ends it.
    """

    def __init__(self, metrics: Metrics, clock: Clock, *, cpu_time: Callable[[], float] = time.thread_time) -> None:
        self._metrics = metrics
        self._clock = clock
        self._cpu_time = cpu_time
        self._utilisation = 0.0
        self._lag_s = 0.0
        self._late_since: float | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def utilisation(self) -> float:
        """Share of the last few samples in which the loop's thread was on the CPU, from 0 to 1."""
        return self._utilisation

    @property
    def overloaded(self) -> bool:
        """Whether the loop has been late for so long that newcomers would make it worse for everybody."""
        return self._late_since is not None and self._clock.monotonic() >= self._late_since + LATE_FOR_S

    def start(self) -> None:
        """Begin to sample."""
        self._task = asyncio.get_running_loop().create_task(self._sample(), name="loop-monitor")

    async def stop(self) -> None:
        """Sample no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _sample(self) -> None:
        for number in itertools.count():
            if number % COUNT_EVERY == 0:
                self._metrics.tasks_counted(len(asyncio.all_tasks()))
            wall, cpu = self._clock.monotonic(), self._cpu_time()
            await self._clock.sleep(SAMPLE_INTERVAL_S)
            now = self._clock.monotonic()
            elapsed_s = now - wall
            busy = min(1.0, (self._cpu_time() - cpu) / elapsed_s) if elapsed_s > 0 else 0.0
            self._utilisation += WEIGHT_OF_NEWEST * (busy - self._utilisation)
            lag_s = max(0.0, elapsed_s - SAMPLE_INTERVAL_S)
            self._lag_s += WEIGHT_OF_NEWEST * (min(lag_s, STALL_S) - self._lag_s)
            if self._lag_s >= LATE_S and self._late_since is None:
                self._late_since = now
            elif self._lag_s < CALM_S:
                self._late_since = None
            self._metrics.loop_sampled(lag_s=lag_s, utilisation=self._utilisation)
