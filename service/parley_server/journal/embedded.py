"""The relay of a single process: a journal without other replicas."""

# ruff: noqa: ARG002 - the arguments are the port's

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from parley_server.core.events import Entry
from parley_server.core.model import Reply
from parley_server.core.ports import Clock, Store
from parley_server.core.replies.log import Log
from parley_server.journal.checkpoints import Checkpoints
from parley_server.journal.text_journal import TextJournal

INTERVAL_S = 0.1
CHECKPOINT_S = 2.0
CHECKPOINT_BYTES = 64 * 1024
"""With a text journal: the interval, and the amount of one reply's text, after which the store gets a checkpoint."""


class EmbeddedRelay:
    """Implements `core.ports.Relay`: makes text durable within `interval_s`.

    Without `tail` it writes checkpoints to the store. With `tail`, the path of a SQLite database, it writes the text to
    files beside the database first, which costs a fraction, and checkpoints the store less often.
    """

    def __init__(self, store: Store, clock: Clock, *, interval_s: float = INTERVAL_S, tail: Path | None = None) -> None:
        self._tail: TextJournal | None = None
        if tail is None:
            self._checkpoints = Checkpoints(store, clock, interval_s=interval_s)
            return
        self._checkpoints = Checkpoints(store, clock, interval_s=CHECKPOINT_S, max_bytes=CHECKPOINT_BYTES)
        self._tail = TextJournal(tail, clock, interval_s=interval_s, on_growth=self._checkpoints.mark)

    async def load(self) -> None:
        """Read the journal files of the previous process, for `take_over`. Raises OSError."""
        if self._tail is not None:
            await self._tail.load()

    def start(self) -> None:
        """Begin to write. Deletes the previous process's files: its replies must have ended by then."""
        self._checkpoints.start()
        if self._tail is not None:
            self._tail.start()

    def open(self, log: Log) -> None:
        mark = self._checkpoints.mark if self._tail is None else self._tail.mark
        log.on_append = lambda: mark(log)
        self._checkpoints.open(log)
        if self._tail is not None:
            self._tail.open(log)

    def close(self, log: Log) -> None:
        """Stop checkpoints of the log. The text journal goes on until the reply is finalised."""
        self._checkpoints.close(log)

    def ended(self, log: Log) -> None:
        """Nobody is elsewhere."""
        if self._tail is not None:
            self._tail.ended(log)

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

    async def take_over(self, reply_id: str, epoch: int, *, after: int = 0) -> tuple[Entry, ...]:
        """What a dead process has left; the store guards the rest."""
        return () if self._tail is None else self._tail.recall(reply_id, after)

    async def idle_s(self, reply_id: str) -> float | None:
        """Nobody is elsewhere."""
        return math.inf

    def publish_cancel(self, reply: Reply) -> None:
        """The owner finds it in the store."""

    def erase(self, reply_ids: tuple[str, ...]) -> None:
        """The store has erased them."""

    async def stop(self) -> None:
        """Flush what is open, then end."""
        await self._checkpoints.stop()
        if self._tail is not None:
            await self._tail.stop()
