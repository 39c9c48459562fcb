"""When to try again, and when to give up. Knows nothing of calls."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

UNREACHED_S: Final = 5.0
"""A client that has never reached a server gives up after so long: the address is wrong, or no server runs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Backoff:
    """Exponential, with jitter: the n-th delay lies between half and the whole of min(first_s * 2**n, max_s), in whole
    milliseconds.

    It gives up once `max_elapsed_s` have passed since the first failure without progress in between; 0 never tries
    again. Where the client has never reached a server, it gives up after 5 seconds at the latest. The server's
    `retry_after` is a lower bound of a delay.
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
        self._trying_since: float | None = None
        self._failing_since: float | None = None
        self.attempts = 0

    def unreached_s(self) -> float:
        """Begins an attempt of a client that has never reached its server: how long it may take."""
        now = self._backoff.clock()
        if self._trying_since is None:
            self._trying_since = now
        return max(0.0, self._trying_since + UNREACHED_S - now)

    def progressed(self) -> None:
        """Something new has come: the count starts afresh."""
        self._trying_since = self._failing_since = None
        self.attempts = 0

    def failed(self, *, retry_after_s: float | None = None, reached: bool = True) -> float | None:
        """Seconds to wait before the next attempt; None means give up. `reached`: whether a server ever was."""
        now = self._backoff.clock()
        if self._failing_since is None:
            self._failing_since = now
        delay_s = max(self._delay_s(), retry_after_s or 0.0)
        if now + delay_s - self._failing_since > self._backoff.max_elapsed_s:
            return None
        if not reached and delay_s > self.unreached_s():
            return None
        self.attempts += 1
        return delay_s

    def _delay_s(self) -> float:
        # 2.0**64 first_s is beyond any max_s; the cap on the exponent keeps a float from overflowing.
        whole_s = min(self._backoff.first_s * 2.0 ** min(self.attempts, 64), self._backoff.max_s)
        return round(whole_s * (0.5 + 0.5 * self._backoff.random()), 3)
