"""The clock of a running process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from parley_server.core.ports import Timer


class SystemClock:
    """Wall clock and event loop. To be used from within the loop."""

    def now_us(self) -> int:
        """Wall-clock time in microseconds since the epoch."""
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        """Seconds of the event loop's own clock."""
        return asyncio.get_running_loop().time()

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Run `callback` in the event loop at `when`."""
        return asyncio.get_running_loop().call_at(when, callback)

    async def sleep(self, delay_s: float) -> None:
        """Wait."""
        await asyncio.sleep(delay_s)
