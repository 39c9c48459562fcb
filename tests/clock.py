"""A clock that tests move. Timers run in order, each at its due time; the event loop becomes idle between them."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from typing import Any, cast

START_US = 1_700_000_000_000_000
START_S = 1000.0
MAX_STEPS = 10_000


class ManualTimer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class ManualClock:
    """Implements `core.ports.Clock`. It stands still until `advance` is awaited."""

    def __init__(self, *, start_us: int = START_US, start_s: float = START_S) -> None:
        self._start_us = start_us
        self._start_s = start_s
        self._now_s = start_s
        self._suspended_s = 0.0
        self._timers: list[tuple[float, int, ManualTimer]] = []
        self._made = 0

    def now_us(self) -> int:
        """Wall-clock time, which moves with `monotonic`."""
        return self._start_us + round((self._now_s - self._start_s) * 1e6)

    def monotonic(self) -> float:
        """Seconds."""
        return self._now_s

    def boottime(self) -> float:
        """Seconds, including those while the machine was suspended."""
        return self._now_s + self._suspended_s

    def suspend(self, seconds: float) -> None:
        """Suspend the machine: wall clock and `boottime` move on, `monotonic` does not."""
        self._suspended_s += seconds
        self._start_us += round(seconds * 1e6)

    def correct(self, seconds: float) -> None:
        """Change the wall clock alone."""
        self._start_us += round(seconds * 1e6)

    def call_at(self, when: float, callback: Callable[[], None]) -> ManualTimer:
        """Run `callback` once the clock has been moved to `when`, or in the next `advance` where that is past."""
        timer = ManualTimer(callback)
        self._made += 1
        heapq.heappush(self._timers, (when, self._made, timer))
        return timer

    async def sleep(self, delay_s: float) -> None:
        """Wait until the clock has been moved by `delay_s`; without a delay, yield once to other tasks."""
        if delay_s <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        timer = self.call_at(self._now_s + delay_s, lambda: None if woken.done() else woken.set_result(None))
        try:
            await woken
        finally:
            timer.cancel()

    @property
    def waiting(self) -> int:
        """The number of timers that have not run yet."""
        return sum(timer.callback is not None for _, _, timer in self._timers)

    @property
    def next_due(self) -> float:
        """The time of the next timer, by `monotonic`; infinite without one."""
        return min((when for when, _, timer in self._timers if timer.callback is not None), default=float("inf"))

    def has_timer_in(self, seconds: float) -> bool:
        """Whether a timer is due after exactly this time."""
        due_s = self._now_s + seconds
        return any(when == due_s for when, _, timer in self._timers if timer.callback is not None)

    async def advance(self, seconds: float) -> None:
        """Move the clock by `seconds`. Every timer that becomes due runs at its time, also those added meanwhile."""
        until = self._now_s + seconds
        await settle()
        while self._timers and self._timers[0][0] <= until:
            when, _, timer = heapq.heappop(self._timers)
            if timer.callback is None:
                continue
            self._now_s = max(self._now_s, when)
            callback, timer.callback = timer.callback, None
            callback()
            await settle()
        self._now_s = until
        await settle()


async def settle() -> None:
    """Return once nothing in the event loop is ready to run. Pending threads and sockets are not waited for."""
    ready = cast(Any, asyncio.get_running_loop())._ready
    for _ in range(MAX_STEPS):
        await asyncio.sleep(0)
        if not ready:
            return
    raise AssertionError("the event loop does not become idle")


async def until(condition: Callable[[], bool], limit_s: float = 10.0) -> None:
    """Wait in real time until other threads or tasks have made the condition true."""
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.001)
