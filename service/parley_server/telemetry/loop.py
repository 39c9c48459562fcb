"""Measures the delay and the utilisation of the event loop, outside of the path of requests."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable

from parley_server.core.ports import Clock
from parley_server.telemetry.metrics import Metrics

SAMPLE_INTERVAL_S = 0.1
COUNT_EVERY = 10  # samples: the time to count the tasks grows with their number
# The weight of a sample halves within about two newer ones, so that the average follows a burst in 0.2 s, and a single
# pause does not hide the burst.
WEIGHT_OF_NEWEST = 0.3
# A new reply needs about ten turns of the loop for its first token, so with this lag a second. Overload is a lasting
# lag, not a single stall or burst; it ends when the lag falls below CALM_S.
LATE_S = 0.1
LATE_FOR_S = 1.0
CALM_S = 0.05
# Upper bounds of one sample's lag and duration: however long the process was suspended, that is a single delay.
STALL_S = 0.5
SAMPLE_LIMIT_S = 0.3


class LoopMonitor:
    """Takes a sample every 100 ms: its delay (lag), and the share of time in which the loop's thread was on the CPU.

    `start` must be called in the loop to measure. `cpu_time` returns the CPU seconds of the loop's thread.
    """

    def __init__(self, metrics: Metrics, clock: Clock, *, cpu_time: Callable[[], float] = time.thread_time) -> None:
        self._metrics = metrics
        self._clock = clock
        self._cpu_time = cpu_time
        self._utilisation = 0.0
        self._lag_s = 0.0
        self._late_for_s: float | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def utilisation(self) -> float:
        """Share of the last samples in which the loop's thread was on the CPU, from 0 to 1."""
        return self._utilisation

    @property
    def overloaded(self) -> bool:
        """Whether the lag has lasted so long that new replies would slow down all running ones."""
        return self._late_for_s is not None and self._late_for_s >= LATE_FOR_S

    def start(self) -> None:
        """Start sampling."""
        self._task = asyncio.get_running_loop().create_task(self._sample(), name="loop-monitor")

    async def stop(self) -> None:
        """Stop sampling."""
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
            self._note_lateness(elapsed_s)
            self._metrics.loop_sampled(lag_s=lag_s, utilisation=self._utilisation)

    def _note_lateness(self, elapsed_s: float) -> None:
        if self._lag_s < CALM_S:
            self._late_for_s = None
        elif self._late_for_s is not None:
            # The sum of the samples, since the clock alone would make two suspensions of a process an overload.
            self._late_for_s += min(elapsed_s, SAMPLE_LIMIT_S)
        elif self._lag_s >= LATE_S:
            self._late_for_s = 0.0
