"""The journal of a single process: every running reply's new entries, in one commit at most 100 ms apart.

It never holds up a reply: what cannot be written now is written with the next flush.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

from parley_server.core.events import Entry, merge
from parley_server.core.log import Log
from parley_server.core.model import Reply
from parley_server.core.ports import Clock, Store
from parley_server.core.records import Checkpoint
from parley_server.errors import StorageUnavailable

log = logging.getLogger("parley.relay")

INTERVAL_S = 0.1
MAX_RETRY_S = 1.0


class EmbeddedRelay:
    """Implements `core.ports.Relay` on the store's checkpoints.

    A flush comes `interval_s` after the first entry that it holds, so that a reply shorter than that costs none.
    """

    def __init__(self, store: Store, clock: Clock, *, interval_s: float = INTERVAL_S) -> None:
        self._store = store
        self._clock = clock
        self._interval_s = interval_s
        self._dirty: dict[str, Log] = {}
        self._open: set[str] = set()
        self._wanted = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to flush."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="journal")

    def open(self, log: Log) -> None:
        """Journal this log from its start."""
        self._open.add(log.reply.id)
        log.on_append = lambda: self._mark(log)
        if log.last_sequence:
            self._mark(log)

    def close(self, log: Log) -> None:
        """Journal it no further."""
        self._open.discard(log.reply.id)
        self._dirty.pop(log.reply.id, None)

    def ended(self, log: Log) -> None:
        """Nobody is elsewhere."""

    @property
    def unreachable_s(self) -> float:
        """There is no way to the logs of others."""
        return math.inf

    def follow(self, log: Log, *, wanted: Callable[[], bool], look: Callable[[], None]) -> None:
        """Nothing will come."""

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
        self._stopping = True
        self._wanted.set()
        if self._task is not None:
            await self._task

    def _mark(self, log: Log) -> None:
        reply_id = log.reply.id
        if reply_id in self._open and reply_id not in self._dirty:
            self._dirty[reply_id] = log
            self._wanted.set()

    async def _run(self) -> None:
        delay_s = self._interval_s
        while not (self._stopping and not self._dirty):
            await self._wanted.wait()
            self._wanted.clear()
            if not self._stopping:
                await self._clock.sleep(delay_s)
            if await self._flush():
                delay_s = self._interval_s
                continue
            delay_s = min(delay_s * 2, MAX_RETRY_S)
            if self._stopping:
                return

    async def _flush(self) -> bool:
        """Write all that is new; whether it was written."""
        logs, self._dirty = list(self._dirty.values()), {}
        checkpoints = [checkpoint for log in logs if (checkpoint := _checkpoint(log)) is not None]
        if not checkpoints:
            return True
        try:
            await self._store.append_checkpoints(checkpoints)
        except StorageUnavailable as error:
            log.warning("journal_behind", extra={"fields": {"replies": len(logs), "problem": error.message}})
        except Exception:  # a defect that ended this task would end the journal of every reply
            log.exception("journal_defect", extra={"fields": {"replies": len(logs)}})
        else:
            self._written(logs, checkpoints)
            return True
        for behind in logs:
            self._mark(behind)
        return False

    def _written(self, logs: list[Log], checkpoints: list[Checkpoint]) -> None:
        journaled = {checkpoint.reply_id: checkpoint.to_sequence for checkpoint in checkpoints}
        for written in logs:
            if (sequence := journaled.get(written.reply.id)) is not None:
                written.journaled(sequence)


def _checkpoint(log: Log) -> Checkpoint | None:
    if log.ended:
        return None
    first, entries = log.durable_sequence + 1, log.since(log.durable_sequence)
    if not entries:
        return None
    return Checkpoint(
        reply_id=log.reply.id,
        epoch=log.reply.epoch,
        from_sequence=first,
        to_sequence=first + len(entries) - 1,
        entries=tuple(entry for _, entry in merge(entries)),
        first_token_time_us=log.first_token_time_us,
    )
