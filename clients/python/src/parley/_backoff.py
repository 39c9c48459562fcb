"""When to try again, and when to give up. Knows nothing of calls."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Backoff:
    """Exponential, with jitter: the n-th delay lies between half and the whole of min(first_s * 2**n, max_s).

    It gives up once `max_elapsed_s` have passed since the first failure without progress in between; 0 never tries
    again. The server's `retry_after` is a lower bound of a delay.
    """

    first_s: float = 0.1
    max_s: float = 5.0
    max_elapsed_s: float = 60.0
    random: Callable[[], float] = random.random
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    clock: Callable[[], float] = time.monotonic


class Patience:
    """Counts the failures of one call or stream against its `Backoff`."""

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff
        self._failing_since: float | None = None
        self.attempts = 0

    def progressed(self) -> None:
        """Something new has come: the count starts afresh."""
        self._failing_since = None
        self.attempts = 0

    def failed(self, *, retry_after_s: float | None = None) -> float | None:
        """Seconds to wait before the next attempt; None means give up."""
        now = self._backoff.clock()
        if self._failing_since is None:
            self._failing_since = now
        delay_s = max(self._delay_s(), retry_after_s or 0.0)
        if now + delay_s - self._failing_since > self._backoff.max_elapsed_s:
            return None
        self.attempts += 1
        return delay_s

    def _delay_s(self) -> float:
        # 2.0**64 first_s is beyond any max_s; the cap on the exponent keeps a float from overflowing.
        whole_s = min(self._backoff.first_s * 2.0 ** min(self.attempts, 64), self._backoff.max_s)
        return whole_s * (0.5 + 0.5 * self._backoff.random())
