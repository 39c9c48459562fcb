"""The two journals without Redis: checkpoints in the store alone, and text files beside a SQLite database."""

from __future__ import annotations

from pathlib import Path

from parley_server.core.events import Entry
from parley_server.core.ports import Clock, Store
from parley_server.core.replies.log import Log
from parley_server.journal.checkpoints import Checkpoints
from parley_server.journal.text_journal import TextJournal

# Together with the time of a write and delays of the event loop, this must stay below the 250 ms of text that a killed
# process may lose (docs/guarantees.md).
INTERVAL_S = 0.1
CHECKPOINT_S = 2.0
CHECKPOINT_BYTES = 64 * 1024
"""With text files, text goes to the store after this time, or after this many bytes of one reply."""


class CheckpointJournal:
    """Implements `core.replies.journal.Journal` with checkpoints in the store, at most one each `interval_s`."""

    def __init__(self, store: Store, clock: Clock, *, interval_s: float = INTERVAL_S) -> None:
        self._checkpoints = Checkpoints(store, clock, interval_s=interval_s)

    def start(self) -> None:
        """Start to write."""
        self._checkpoints.start()

    def open(self, log: Log) -> None:
        log.on_append = lambda: self._checkpoints.mark(log)
        self._checkpoints.open(log)

    def close(self, log: Log) -> None:
        self._checkpoints.close(log)

    async def stop(self) -> None:
        """Write the remaining text, then end."""
        await self._checkpoints.stop()


class StandaloneJournal:
    """Implements `core.replies.journal.Journal` with files beside the SQLite database at `path`.

    A write to a file costs a fraction of a commit, so it can be done each `interval_s`; the store receives the text
    later, in larger checkpoints. The process must hold the lock of the database.
    """

    def __init__(self, store: Store, clock: Clock, *, path: Path, interval_s: float = INTERVAL_S) -> None:
        self._checkpoints = Checkpoints(store, clock, interval_s=CHECKPOINT_S, max_bytes=CHECKPOINT_BYTES)
        self._files = TextJournal(path, clock, interval_s=interval_s, on_growth=self._checkpoints.mark)

    async def load(self) -> None:
        """Read the text that a dead process has left, for `take_over`. Raises OSError."""
        await self._files.load()

    def start(self) -> None:
        """Start to write, and drop the text that `load` has read."""
        self._checkpoints.start()
        self._files.start()

    def open(self, log: Log) -> None:
        log.on_append = lambda: self._files.mark(log)
        self._checkpoints.open(log)
        self._files.open(log)

    def close(self, log: Log) -> None:
        """Stop checkpoints of the log. The files are written until `ended`."""
        self._checkpoints.close(log)

    def ended(self, log: Log) -> None:
        """The reply is stored whole: its text in the files is not needed any more."""
        self._files.ended(log)

    async def take_over(self, reply_id: str, epoch: int, *, after: int = 0) -> tuple[Entry, ...]:  # noqa: ARG002
        """Return the text in the files. No epoch is checked, since the database lock excludes other writers."""
        return self._files.recall(reply_id, after)

    async def stop(self) -> None:
        """Write the remaining text, then end."""
        # The checkpoints first: what the store has by then is removed from the files.
        await self._checkpoints.stop()
        await self._files.stop()
