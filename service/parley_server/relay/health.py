"""Tracks whether a part of the relay works, logs each change once, and sets the time of the next retry."""

from __future__ import annotations

import logging
import random

from parley_server.core.ports import Clock

logger = logging.getLogger("parley.relay")

# The longest pause is short, because readers on other replicas get no text meanwhile and are refused after 10 s.
MIN_RETRY_S, MAX_RETRY_S = 0.05, 1.0


class Health:
    """The health of one part. It counts as working until `failed` is called, and again after `worked`."""

    def __init__(self, part: str, clock: Clock) -> None:
        self.part = part
        self.losses = 0
        self.retry_at = 0.0
        self._clock = clock
        self._lost_at: float | None = None
        self._works_since = clock.monotonic()
        self._retry_s = MIN_RETRY_S

    @property
    def lost_s(self) -> float:
        """Seconds for which it has not worked; 0 while it works."""
        # Never 0 while the part is lost, even in the instant of the loss: callers use the value as a condition.
        return 0.0 if self._lost_at is None else max(1e-6, self._clock.monotonic() - self._lost_at)

    @property
    def works_s(self) -> float:
        """Seconds for which it has worked without a break; 0 while it does not work."""
        return 0.0 if self._lost_at is not None else self._clock.monotonic() - self._works_since

    def failed(self, problem: str) -> None:
        """Record that Redis is unreachable or refuses. The caller must not retry before `retry_at`."""
        now = self._clock.monotonic()
        # All replicas lose Redis at the same instant. Without the random factor, all would also return at the same
        # instant.
        self.retry_at = now + self._retry_s * random.uniform(0.5, 1)  # noqa: S311 - spreads load, not for security
        self._retry_s = min(self._retry_s * 2, MAX_RETRY_S)
        if self._lost_at is None:
            self.losses += 1
            self._lost_at = now
            logger.warning("relay_lost", extra={"fields": {"part": self.part, "problem": problem}})

    def worked(self) -> bool:
        """Record a success. Returns True if the part had not worked before."""
        if self._lost_at is None:
            return False
        now = self._clock.monotonic()
        logger.info("relay_restored", extra={"fields": {"part": self.part, "lost_s": round(now - self._lost_at, 3)}})
        self._lost_at = None
        self._works_since = now
        self._retry_s = MIN_RETRY_S
        self.retry_at = 0.0
        return True
