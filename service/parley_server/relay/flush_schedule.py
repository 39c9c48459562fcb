"""Decides which publications have entries to send, and when."""

from __future__ import annotations

import asyncio

from parley_server.core.ports import Clock, Timer
from parley_server.relay.publication import Publication


class FlushSchedule:
    """A queue of publications. Urgent ones are due at once, all others together every `interval_s`."""

    def __init__(self, clock: Clock, interval_s: float) -> None:
        self._clock = clock
        self._interval_s = interval_s
        # The dictionaries serve as ordered sets: if a flush reaches its limit, the publications that have waited
        # longest have been sent.
        self._all: dict[Publication, None] = {}
        self._urgent: dict[Publication, None] = {}
        self._next = 0.0
        self._timer: Timer | None = None
        self._due = asyncio.Event()

    def __len__(self) -> int:
        return len(self._all)

    def add(self, publication: Publication, *, urgent: bool = False) -> None:
        """Queue a publication."""
        self._all[publication] = None
        if urgent:
            self._urgent[publication] = None
            self._due.set()
        elif self._timer is None:
            self._timer = self._clock.call_at(self._next, self._ring)

    def remove(self, publication: Publication) -> None:
        """Remove a publication that is being sent."""
        self._all.pop(publication, None)
        self._urgent.pop(publication, None)

    def ring(self) -> None:
        """Make `wait` return."""
        self._due.set()

    def hurry(self) -> None:
        """Make all queued publications due at once."""
        self._next = 0.0
        self._due.set()

    async def wait(self) -> None:
        """Wait until a publication is due, or `ring` is called."""
        if self._all and self._timer is None:
            # While Redis is unreachable, publications that were due stay queued without a timer.
            self._timer = self._clock.call_at(self._next, self._ring)
        await self._due.wait()
        self._due.clear()

    def due(self) -> list[Publication]:
        """The publications to send now. Starts a new interval if the last one is over."""
        now = self._clock.monotonic()
        if now < self._next:
            # The first entry of a reply must not start the interval of the others early: flushes would become more
            # frequent.
            return list(self._urgent)
        self._next = now + self._interval_s
        return list(self._all)

    def all(self) -> list[Publication]:
        """All queued publications."""
        return list(self._all)

    def close(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _ring(self) -> None:
        self._timer = None
        self._due.set()
