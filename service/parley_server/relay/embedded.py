"""The relay of a process that is alone: the journal, and nobody elsewhere."""

# ruff: noqa: ARG002 - the arguments are the port's

from __future__ import annotations

import math
from collections.abc import Callable

from parley_server.core.events import Entry
from parley_server.core.log import Log
from parley_server.core.model import Reply
from parley_server.core.ports import Clock, Store
from parley_server.relay.checkpoints import Checkpoints

INTERVAL_S = 0.1


class EmbeddedRelay:
    """Implements `core.ports.Relay` on the store's checkpoints, at most `interval_s` apart."""

    def __init__(self, store: Store, clock: Clock, *, interval_s: float = INTERVAL_S) -> None:
        self._checkpoints = Checkpoints(store, clock, interval_s=interval_s)

    def start(self) -> None:
        """Begin to flush."""
        self._checkpoints.start()

    def open(self, log: Log) -> None:
        """Journal this log from its start."""
        log.on_append = lambda: self._checkpoints.mark(log)
        self._checkpoints.open(log)

    def close(self, log: Log) -> None:
        """Journal it no further."""
        self._checkpoints.close(log)

    def ended(self, log: Log) -> None:
        """Nobody is elsewhere."""

    @property
    def unreachable_s(self) -> float:
        """There is no way to the logs of others."""
        return math.inf

    def follow(self, log: Log, *, wanted: Callable[[], bool], look: Callable[[], None]) -> None:
        """Nothing will come."""

    def read(self, log: Log) -> None:
        """Nobody is told."""

    def unfollow(self, log: Log) -> None:
        """Nothing came."""

    async def recall(self, reply_id: str) -> tuple[Entry, ...]:
        """Nothing is kept."""
        return ()

    async def take_over(self, reply_id: str, epoch: int) -> tuple[Entry, ...]:
        """The store has all that is durable, and guards it."""
        return ()

    async def idle_s(self, reply_id: str) -> float | None:
        """Nobody is elsewhere."""
        return math.inf

    def wish_cancel(self, reply: Reply) -> None:
        """The owner finds it in the store."""

    def erase(self, reply_ids: tuple[str, ...]) -> None:
        """The store has erased them."""

    async def stop(self) -> None:
        """Flush what is open, then end."""
        await self._checkpoints.stop()
