"""How long a connection lives, and how much chatter it may send: its timers and its budget. Reads no frames."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from parley_server.rpc.http2.frames import Code, ConnectionFault

BURST: Final = 2_000
"""How many cheap frames (resets, pings, settings, empty data) a peer may send at once."""
RATE: Final = 200.0
"""How many of them are forgiven each second."""
STRIKES: Final = 2


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a connection may do, and how long. Seconds and bytes; `streams` is how many calls it may have at once."""

    streams: int = 10_000
    message_bytes: int = 8 * 1024 * 1024
    held_bytes: int = 256 * 1024 * 1024
    """What a connection's requests may hold that no servicer has taken yet."""
    greeting_s: float = 10.0
    keepalive_s: float = 30.0
    ping_s: float = 10.0
    min_ping_interval_s: float = 9.0
    age_s: float = 1_200.0
    age_grace_s: float = 900.0


class Lifetime:
    """The timers of one connection: it must greet, answer pings, and leave when it is old.

    `ping` sends one, `go_away` says farewell, `abort` ends the connection. `heard_at` is when the peer was last heard.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
        *,
        ping: Callable[[], None],
        go_away: Callable[[], None],
        abort: Callable[[], None],
    ) -> None:
        self.heard_at = loop.time()
        self._loop = loop
        self._limits = limits
        self._ping = ping
        self._abort = abort
        self._pinged_at = 0.0
        age_s = limits.age_s * random.uniform(0.9, 1.1)  # noqa: S311 - so that they do not end all at once
        self._alive = loop.call_later(limits.greeting_s, abort)
        self._age = loop.call_later(age_s, go_away)
        self._farewell: asyncio.TimerHandle | None = None

    def greeted(self) -> None:
        """The peer speaks HTTP/2; from now on it must not fall silent."""
        self._alive.cancel()
        self._alive = self._loop.call_later(self._limits.keepalive_s, self._keep_alive)

    def leaving(self, refuse: Callable[[], None]) -> None:
        """The farewell is sent: after the time of a ping `refuse` is called, after the grace the connection ends."""
        self._age.cancel()
        self._age = self._loop.call_later(self._limits.age_grace_s, self._abort)
        self._farewell = self._loop.call_later(self._limits.ping_s, refuse)

    def closing(self, limit_s: float) -> None:
        """All is written: a peer that does not read it, or does not close, is not waited for longer."""
        self.end()
        self._alive = self._loop.call_later(limit_s, self._abort)

    def end(self) -> None:
        """Nothing happens any more."""
        for timer in (self._alive, self._age, self._farewell):
            if timer is not None:
                timer.cancel()

    def _keep_alive(self) -> None:
        """After a silence a ping; after another one, without any answer, the end."""
        limits, now = self._limits, self._loop.time()
        silent_s = now - self.heard_at
        if silent_s < limits.keepalive_s:
            self._alive = self._loop.call_later(limits.keepalive_s - silent_s, self._keep_alive)
        elif self._pinged_at > self.heard_at:
            self._abort()
        else:
            self._pinged_at = now
            self._ping()
            self._alive = self._loop.call_later(limits.ping_s, self._keep_alive)


class Budget:
    """What a peer may send that costs it nothing. Raises `ConnectionFault` once that is too much."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: Limits) -> None:
        self._loop = loop
        self._min_interval_s = limits.min_ping_interval_s
        self._credit = float(BURST)
        self._credited_at = loop.time()
        self._pinged_at = -limits.min_ping_interval_s
        self._strikes = 0

    def spend(self, price: float = 1.0) -> None:
        """One frame that carries nothing."""
        self._credit -= price
        if self._credit >= 0:
            return
        now = self._loop.time()
        self._credit = min(float(BURST), self._credit + (now - self._credited_at) * RATE)
        self._credited_at = now
        if self._credit < 0:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "too many frames that carry nothing")

    def ping(self) -> None:
        """A ping, which must not come too often where nothing is sent to the peer in between."""
        self.spend()
        now = self._loop.time()
        if now - self._pinged_at < self._min_interval_s:
            self._strikes += 1
            if self._strikes > STRIKES:
                raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "too_many_pings")
        self._pinged_at = now

    def sent(self) -> None:
        """Something was sent to the peer: it may ping again, to measure."""
        self._strikes = 0
