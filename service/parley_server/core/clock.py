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
        self._handle: asyncio.TimerHandle | None = self._arm()

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._forget()

    def _arm(self) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_at(math.ceil(self._when * 1000) / 1000, self._fire)

    def _fire(self) -> None:
        if time.monotonic() < self._when:
            self._handle = self._arm()
        else:
            callback = self._callback
            self._forget()
            callback()

    def _forget(self) -> None:
        """Drop the handle, which refers to `_fire`, and the callback, whose owner refers to this timer, so that no
        reference cycle keeps them in memory until Python's oldest generation is collected."""
        self._handle = None
        self._callback = _nothing


def _nothing() -> None:
    """The callback of a timer that is over."""
