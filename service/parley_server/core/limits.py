"""The limits of a process and of a request, and the count of replies in progress."""

from __future__ import annotations

import msgspec

from parley_server.core.model import Value
from parley_server.core.ports import Clock
from parley_server.errors import Overloaded

LEAST_AWAY_S, MOST_AWAY_S = 1.0, 30.0
BACK_PER_S = 40
"""Spreads retries: at most 40 refused callers per second get the same time to return.

A grpc.aio server accepts one call per connection and loop iteration, so that calls over few connections queue in gRPC.
With 100 returns per second over four connections, newcomers waited 12 to 15 s in overload; with 40, 3 to 10 s."""


class Limits(Value, frozen=True, kw_only=True):
    """Bounds, in the units of their names. The defaults of those that can be configured belong to the settings."""

    max_replies: int
    max_prompt_bytes: int
    max_readers_per_reply: int
    max_reply_bytes: int
    max_input_text_bytes: int
    max_images_bytes: int
    hold_output_tokens: int
    time_limit_s: float
    orphan_ttl_s: float
    disconnect_cancel_s: float
    reconcile_interval_s: float
    relay_retention_s: float
    ended_logs_ttl_s: float
    ended_logs_max_bytes: int
    interrupt_wait_s: float = 5.0
    provider_close_s: float = 5.0


def limits_of(settings: object) -> Limits:
    """The limits in the attributes of the same names; the core does not import the settings."""
    return msgspec.convert(settings, Limits, from_attributes=True)


class Capacity:
    """Counts running replies and the bytes of their prompts. Above a limit, requests are refused, not queued.

    Callers that are refused at the same time get rising delays, so that they return one after the other."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self._limits = limits
        self._clock = clock
        self._last_back = 0.0
        self._replies = 0
        self._prompt_bytes = 0

    def claim(self, prompt_bytes: int) -> None:
        """Count a reply in. Raises `Overloaded`."""
        self.check(prompt_bytes)
        self._replies += 1
        self._prompt_bytes += prompt_bytes

    def check(self, prompt_bytes: int = 0) -> None:
        """Raises `Overloaded` if a reply with this prompt would exceed a limit."""
        if self._replies >= self._limits.max_replies:
            raise self.overloaded("the server runs as many replies as it may: retry later")
        if self._replies and self._prompt_bytes + prompt_bytes > self._limits.max_prompt_bytes:
            raise self.overloaded("the server holds as many bytes of prompts as it may: retry later")

    def overloaded(self, message: str) -> Overloaded:
        """The refusal, with the time after which this caller should retry."""
        now = self._clock.monotonic()
        self._last_back = max(now + LEAST_AWAY_S, min(self._last_back + 1 / BACK_PER_S, now + MOST_AWAY_S))
        return Overloaded(message, retry_after_s=round(self._last_back - now, 3))

    def release(self, prompt_bytes: int) -> None:
        """Count a reply out."""
        self._replies -= 1
        self._prompt_bytes -= prompt_bytes
