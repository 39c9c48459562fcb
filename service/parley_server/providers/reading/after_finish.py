"""How long usage and the end of a body are waited for once the finish word has come."""

from __future__ import annotations

from parley_server.core.ports import Clock, Timer
from parley_server.providers.http.transport import Body


class AfterFinish:
    """Stops a body some time after the finish word, and always before the limits of time of the reply.

    The limits count from the call to the first token, and then from the last token on.
    """

    def __init__(self, body: Body, clock: Clock, *, first_token_at_s: float, idle_s: float) -> None:
        self._body = body
        self._clock = clock
        self._first_token_at_s = first_token_at_s
        self._idle_s = idle_s
        self._timer: Timer | None = None

    def start(self, wait_s: float, token_s: float | None) -> None:
        """Begin to wait; the last token came at `token_s`, None where there was none."""
        now_s = self._clock.monotonic()
        limit_s = self._first_token_at_s if token_s is None else token_s + self._idle_s
        self._timer = self._clock.call_at(now_s + min(wait_s, max(0.0, limit_s - now_s) / 2), self._body.stop)

    def stop(self) -> None:
        """Wait no longer for an end."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
