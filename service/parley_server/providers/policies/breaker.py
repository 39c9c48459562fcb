"""Keeps requests away from models that fail: a circuit breaker, and cool-downs after rate limits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from parley_server.core.ports import Clock

OUTCOMES = 20
WINDOW_S = 30.0
FAILURES = 5
FAILED_SHARE = 0.5
FIRST_OPEN_S = 5.0
MAX_OPEN_S = 60.0
MAX_COOL_DOWN_S = 60.0
"""Bounds a provider's `Retry-After`: a wrong value must not exclude a model for hours."""


class Breaker:
    """The circuit breaker of one model at one provider, for all requests of the process.

    It opens if at least 5 and at least half of the last 20 outcomes of the last 30 s are failures. It then admits no
    request for 5 s, doubled after each failed probe up to 60 s, and after that one probe at a time, until a probe
    succeeds. `on_change` receives whether it is open. `failures` None: it never opens.
    """

    def __init__(
        self, clock: Clock, *, on_change: Callable[[bool], None] | None = None, failures: int | None = FAILURES
    ) -> None:
        self._clock = clock
        self._on_change = on_change
        self._failures = failures
        self._outcomes: deque[tuple[float, bool]] = deque(maxlen=OUTCOMES)
        self._open_until_s: float | None = None
        self._open_s = FIRST_OPEN_S
        self._probing = False

    @property
    def is_open(self) -> bool:
        """Whether it is open, which includes the time in which it admits probes."""
        return self._open_until_s is not None

    @property
    def left_s(self) -> float:
        """Seconds until it may admit a request; 0 if it admits one now."""
        if self._open_until_s is None:
            return 0.0
        left_s = max(0.0, self._open_until_s - self._clock.monotonic())
        return left_s or (FIRST_OPEN_S if self._probing else 0.0)

    def enter(self) -> Permit | None:
        """Admit a request, or return None. The caller must `release` the permit on every way out."""
        if self.left_s:
            return None
        self._probing = self.is_open
        return Permit(self, probe=self.is_open)

    def succeeded(self, *, probe: bool) -> None:
        """A request that was admitted has got an answer."""
        if probe:
            self._open_until_s, self._open_s = None, FIRST_OPEN_S
            self._outcomes.clear()
            self._report()
        elif not self.is_open:
            self._outcomes.append((self._clock.monotonic(), True))

    def failed(self, *, probe: bool) -> None:
        """A request that was admitted has failed."""
        now = self._clock.monotonic()
        if probe:
            self._open_s = min(self._open_s * 2, MAX_OPEN_S)
            self._open_until_s = now + self._open_s
        elif not self.is_open and self._failures is not None:
            self._outcomes.append((now, False))
            recent = [success for at, success in self._outcomes if at > now - WINDOW_S]
            failures = recent.count(False)
            if failures >= self._failures and failures >= FAILED_SHARE * len(recent):
                self._open_until_s = now + self._open_s
                self._report()

    def probe_ended(self) -> None:
        """The next probe may be admitted."""
        self._probing = False

    def _report(self) -> None:
        if self._on_change is not None:
            self._on_change(self.is_open)


class Permit:
    """Lets one request through a breaker. `succeeded` counts once: at the first token, or at an end without one."""

    __slots__ = ("_breaker", "_counted", "_probe")

    def __init__(self, breaker: Breaker, *, probe: bool) -> None:
        self._breaker = breaker
        self._probe = probe
        self._counted = False

    def succeeded(self) -> None:
        """The request has got its first token, or an end."""
        if not self._counted:
            self._counted = True
            self._breaker.succeeded(probe=self._probe)
            self.release()

    def failed(self) -> None:
        """The request has failed in a way that says something about the provider."""
        self._breaker.failed(probe=self._probe)

    def release(self) -> None:
        """The request is over."""
        if self._probe:
            self._probe = False
            self._breaker.probe_ended()


class CoolDowns:
    """The times until which models are not asked with a key that has reached its limit. A key of theirs is (provider,
    model, fingerprint of the API key), so that the limit of one tenant's key excludes no other tenant."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until_s: dict[tuple[str, str, str], float] = {}

    def start(self, key: tuple[str, str, str], seconds: float) -> None:
        """Do not ask for so many seconds, at most a minute."""
        now = self._clock.monotonic()
        self._until_s = {each: until for each, until in self._until_s.items() if until > now}
        self._until_s[key] = now + min(seconds, MAX_COOL_DOWN_S)

    def cooling(self, key: tuple[str, str, str]) -> bool:
        """Whether the model is not to be asked with this key now."""
        return self._until_s.get(key, 0.0) > self._clock.monotonic()
