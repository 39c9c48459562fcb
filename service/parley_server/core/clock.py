"""The clock of a running process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from parley_server.core.ports import Timer


class SystemClock:
    """Wall clock, the system's monotonic clock, and timers of the running event loop."""

    def now_us(self) -> int:
        """Wall-clock time in microseconds since the epoch."""
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        """Seconds that never run back."""
        return time.monotonic()

    def boottime(self) -> float:
        """The same, counted on while the machine is suspended."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Run `callback` in the event loop at `when`, never before."""
        return _LoopTimer(when, callback)

    async def sleep(self, delay_s: float) -> None:
        """Wait."""
        await asyncio.sleep(delay_s)


class _LoopTimer:
    """uvloop counts a delay from the start of its current turn, in milliseconds, and so may call early."""

    __slots__ = ("_callback", "_handle", "_when")

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self._when = when
        self._callback = callback
        self._handle = self._arm()

    def cancel(self) -> None:
        self._handle.cancel()

    def _arm(self) -> asyncio.TimerHandle:
        delay_s = max(0.0, self._when - time.monotonic())
        return asyncio.get_running_loop().call_later(delay_s, self._fire)

    def _fire(self) -> None:
        if time.monotonic() < self._when:
            self._handle = self._arm()
        else:
            self._callback()
