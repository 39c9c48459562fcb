"""Counts the readers of a reply, and detects replies without readers."""

from __future__ import annotations

from collections.abc import Callable

from parley_server.core.ports import Clock, Timer
from parley_server.errors import TooManyReaders

POLL_COUNTS_S = 60.0


class ReaderCount:
    """Counts the readers of one reply; calls `on_orphaned` after `ttl_s` without readers (0: never).

    The time starts when a reader leaves. A poll counts as a reader for a minute. While `paused` is set, `on_orphaned`
    is not called: the server is draining, and its readers reconnect to other replicas.
    """

    def __init__(self, clock: Clock, *, ttl_s: float, max_readers: int, on_orphaned: Callable[[], None]) -> None:
        self._clock = clock
        self._ttl_s = ttl_s
        self._max_readers = max_readers
        self._on_orphaned = on_orphaned
        self._readers = 0
        self._left_at: float | None = None
        self._timer: Timer | None = None
        self.paused = False

    @property
    def readers(self) -> int:
        """Streams and waiting calls that read now."""
        return self._readers

    @property
    def orphaned(self) -> bool:
        """Whether it has had no reader for `ttl_s`."""
        if self._readers or self._left_at is None or self.paused or self._ttl_s <= 0.0:
            return False
        return self._clock.monotonic() >= self._left_at + self._ttl_s

    def enter(self) -> None:
        """A reader joins. Raises `TooManyReaders`."""
        if self._readers >= self._max_readers:
            raise TooManyReaders(
                f"the reply has {self._max_readers} readers, as many as it may have",
                metadata={"limit": "readers_per_reply"},
            )
        self._readers += 1

    def leave(self) -> None:
        """A reader that had joined leaves."""
        self._readers -= 1
        self._seen(self._clock.monotonic())

    def touch(self) -> None:
        """A poll reads it."""
        self._seen(self._clock.monotonic() + POLL_COUNTS_S)

    def seen(self, age_s: float) -> None:
        """A reader was seen on another replica, this long ago."""
        self._seen(self._clock.monotonic() - age_s)

    def close(self) -> None:
        """Stop watching: the reply has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._ttl_s = 0.0
        self._on_orphaned = _nothing  # it refers to the reply, which refers to this: no reference cycle may remain

    def _seen(self, until: float) -> None:
        self._left_at = max(self._left_at or until, until)
        self._arm(self._left_at)

    def _check(self) -> None:
        self._timer = None
        if self.orphaned:
            self._on_orphaned()
        elif self._left_at is not None:
            self._arm(self._left_at)

    def _arm(self, left_at: float) -> None:
        if self._timer is None and self._ttl_s > 0.0 and self._readers == 0 and not self.paused:
            self._timer = self._clock.call_at(left_at + self._ttl_s, self._check)


def _nothing() -> None:
    """Nothing follows once the reply has ended."""
