"""A reply that another replica generates, as readers of this replica see it."""

from __future__ import annotations

from collections.abc import Callable

from parley_server.core.limits import Limits
from parley_server.core.model import Reply
from parley_server.core.ports import Clock
from parley_server.core.replies.log import Log
from parley_server.core.replies.readers import POLL_COUNTS_S, ReaderCount

KEPT_S = 60.0


class RemoteReply:
    """The log of a remote reply and its readers here. `on_read` is called when a reader joins or polls."""

    def __init__(self, reply: Reply, clock: Clock, limits: Limits, *, on_read: Callable[[Log], None] | None) -> None:
        self.log = Log.of_other(reply)
        self.since = clock.monotonic()
        self._readers = ReaderCount(
            clock, ttl_s=0.0, max_readers=limits.max_readers_per_reply, on_orphaned=_leave_to_owner
        )
        self._clock = clock
        self._on_read = on_read
        self._polled_until = self._kept_until = 0.0

    @property
    def wanted(self) -> bool:
        """Whether it has a reader, or was polled recently. The owner counts this as a reader."""
        return self._readers.readers > 0 or self._clock.monotonic() < self._polled_until

    @property
    def kept(self) -> bool:
        """Whether to follow it on: it is `wanted`, or its log was requested recently."""
        return self.wanted or self._clock.monotonic() < self._kept_until

    def enter(self) -> None:
        """A reader joins. Raises `TooManyReaders`."""
        self._readers.enter()
        self._read()

    def leave(self) -> None:
        """A reader leaves."""
        self._readers.leave()

    def touch(self) -> None:
        """A poll reads it."""
        self._polled_until = self._clock.monotonic() + POLL_COUNTS_S
        self._read()

    def keep(self) -> None:
        """Its log was requested."""
        self._kept_until = self._clock.monotonic() + KEPT_S

    def _read(self) -> None:
        if self._on_read is not None:
            self._on_read(self.log)


def _leave_to_owner() -> None:
    """The owner ends a reply without readers."""
