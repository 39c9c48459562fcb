"""Retry delays, and the limit after which retries stop."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

UNREACHED_S: Final = 5.0
"""Limit for a client that has never reached a server, since the address may be wrong."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Backoff:
    """Exponential backoff with jitter. All times are in seconds.

    The n-th delay is random between 50 and 100 % of min(first_s * 2**n, max_s), rounded to milliseconds. The server's
    `retry_after` is a lower bound.

    Retries stop `max_elapsed_s` after the first failure since the last progress; 0 disables retries. A client that has
    never reached a server stops after 5 seconds. `random`, `sleep` and `clock` are replaced in tests.
    """

    first_s: float = 0.1
    max_s: float = 5.0
    max_elapsed_s: float = 60.0
    random: Callable[[], float] = random.random
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    clock: Callable[[], float] = time.monotonic


class Patience:
    """Applies a `Backoff` to the failures of one call or stream."""

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff
        self._trying_since: float | None = None
        self._failing_since: float | None = None
        self.attempts = 0

    def unreached_s(self) -> float:
        """Starts an attempt of a client that has never reached a server; returns the seconds that it may take."""
        now = self._backoff.clock()
        if self._trying_since is None:
            self._trying_since = now
        return max(0.0, self._trying_since + UNREACHED_S - now)

    def progressed(self) -> None:
        """Resets the count, since something new was received."""
        self._trying_since = self._failing_since = None
        self.attempts = 0

    def failed(self, *, retry_after_s: float | None = None, reached: bool = True) -> float | None:
        """Returns the seconds to wait before the next attempt, or None to stop.

        `reached`: a server was ever reached.
        """
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
        # The exponent is capped because 2.0**n overflows for large n; first_s * 2.0**64 is above any max_s.
        whole_s = min(self._backoff.first_s * 2.0 ** min(self.attempts, 64), self._backoff.max_s)
        return round(whole_s * (0.5 + 0.5 * self._backoff.random()), 3)
