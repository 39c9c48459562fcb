"""Limits the wait for usage and the end of a body after the finish reason."""

from __future__ import annotations

from parley_server.core.ports import Clock, Timer
from parley_server.providers.http.transport import Body


class AfterFinish:
    """Stops a body some time after its finish reason, and always before the time limits of the reply would fail it.

    `first_token_at_s`: the time, by the clock, at which the first token must have arrived. `idle_s`: seconds allowed
    after the last token.
    """

    def __init__(self, body: Body, clock: Clock, *, first_token_at_s: float, idle_s: float) -> None:
        self._body = body
        self._clock = clock
        self._first_token_at_s = first_token_at_s
        self._idle_s = idle_s
        self._timer: Timer | None = None

    def start(self, wait_s: float, token_s: float | None) -> None:
        """Start the wait. `token_s`: the time of the last token, None if there was none."""
        now_s = self._clock.monotonic()
        limit_s = self._first_token_at_s if token_s is None else token_s + self._idle_s
        # Half of the remaining time: the end of the body is then processed before the limit fails a complete reply.
        self._timer = self._clock.call_at(now_s + min(wait_s, max(0.0, limit_s - now_s) / 2), self._body.stop)

    def stop(self) -> None:
        """Cancel the wait."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
