"""The clock of a running process."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

from parley_server.core.ports import Timer


class SystemClock:
    """Wall clock, the system's monotonic clock, and timers of the running event loop."""

    def now_us(self) -> int:
        """Wall-clock time in microseconds since the epoch."""
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        """Monotonic time in seconds."""
        return time.monotonic()

    def boottime(self) -> float:
        """Monotonic time in seconds that includes time in which the machine was suspended."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Run `callback` in the event loop at `when` (by `monotonic`) or later."""
        return _LoopTimer(when, callback)

    async def sleep(self, delay_s: float) -> None:
        """Wait for `delay_s` seconds."""
        await asyncio.sleep(delay_s)


class _LoopTimer:
    """A timer that does not fire early.

    uvloop rounds delays to whole milliseconds, measured from the start of the current loop iteration, so that its own
    timers may fire early. This one rounds up, and starts again if it still fires early."""

    __slots__ = ("_callback", "_handle", "_when")

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self._when = when
        self._callback = callback
        self._handle = self._arm()

    def cancel(self) -> None:
        self._handle.cancel()

    def _arm(self) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_at(math.ceil(self._when * 1000) / 1000, self._fire)

    def _fire(self) -> None:
        if time.monotonic() < self._when:
            self._handle = self._arm()
        else:
            self._callback()
