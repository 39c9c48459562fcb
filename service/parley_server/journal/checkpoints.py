"""The journal: new entries of all running replies, made durable by the store, in one commit a flush.

It never holds up a reply: what cannot be written now is written with a later flush, and what can never be written keeps
nobody else from the store.
"""

from __future__ import annotations

import asyncio
import logging

from parley_server.core.ports import Clock, Store
from parley_server.core.replies.events import merge
from parley_server.core.replies.log import Log
from parley_server.core.store_types import Checkpoint
from parley_server.errors import StorageUnavailable

logger = logging.getLogger("parley.relay")

MAX_RETRY_S = 1.0
MIN_INTERVAL_S = 0.1


class Checkpoints:
    """Whoever opens a log here marks it when it grows, at the latest when `Log.on_append` says so.

    A flush comes `interval_s` after the first entry that it holds, so that a shorter reply costs none; or earlier, once
    a marked log has `max_bytes` (0: no limit) of content that are not durable.
    """

    def __init__(self, store: Store, clock: Clock, *, interval_s: float, max_bytes: int = 0) -> None:
        self._store = store
        self._clock = clock
        self._interval_s = interval_s
        self._max_bytes = max_bytes
        self._open: dict[str, int] = {}  # by reply: how many bytes of its content are durable
        self._dirty: dict[str, Log] = {}
        self._unwritable: set[str] = set()
        self._wanted = asyncio.Event()
        self._hurry = asyncio.Event()
        self._behind = False
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to flush."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="journal")

    def open(self, log: Log) -> None:
        """Journal this log from its start."""
        self._open[log.reply.id] = 0
        if log.last_sequence:
            self.mark(log)

    def close(self, log: Log) -> None:
        """Journal it no further."""
        self._open.pop(log.reply.id, None)
        self._dirty.pop(log.reply.id, None)
        self._unwritable.discard(log.reply.id)

    def mark(self, log: Log) -> None:
        """It has new entries."""
        reply_id = log.reply.id
        if reply_id in self._unwritable:
            return
        self._want(log)
        full = self._max_bytes and log.size - self._open.get(reply_id, log.size) >= self._max_bytes
        if full and not self._behind:
            self._hurry.set()

    async def stop(self) -> None:
        """Flush what is open, then end."""
        self._stopping = True
        self._wanted.set()
        self._hurry.set()
        if self._task is not None:
            await self._task

    def _want(self, log: Log) -> None:
        reply_id = log.reply.id
        if reply_id in self._open and reply_id not in self._dirty:
            self._dirty[reply_id] = log
            self._wanted.set()

    async def _run(self) -> None:
        delay_s = self._interval_s
        while not (self._stopping and not self._dirty):
            await self._wanted.wait()
            await self._pause(delay_s)
            self._wanted.clear()
            self._behind = not await self._flush()
            if not self._behind:
                delay_s = self._interval_s
                continue
            delay_s = min(delay_s * 2, MAX_RETRY_S)
            if self._stopping:
                return

    async def _pause(self, delay_s: float) -> None:
        """As long as that, or until there is a hurry; but never too short for a flush to be worth its commit."""
        start = self._clock.monotonic()
        if not self._stopping:
            await self._clock.sleep(min(delay_s, MIN_INTERVAL_S))
        timer = self._clock.call_at(start + delay_s, self._hurry.set)
        try:
            await self._hurry.wait()
        finally:
            timer.cancel()
        if not self._stopping:
            self._hurry.clear()

    async def _flush(self) -> bool:
        """Write all that is new; False where the store is away."""
        logs, self._dirty = self._dirty, {}
        checkpoints = [made for log in logs.values() if (made := _checkpoint(log)) is not None]
        together = [each for each in checkpoints if each.reply_id not in self._unwritable]
        alone = [each for each in checkpoints if each.reply_id in self._unwritable]
        try:
            if not await self._write_together(together, logs):
                alone = checkpoints
            for each in alone:
                await self._write_alone(each, logs[each.reply_id])
        except StorageUnavailable as error:
            logger.warning("journal_behind", extra={"fields": {"replies": len(logs), "problem": error.message}})
            for behind in logs.values():
                self._want(behind)
            return False
        return True

    async def _write_together(self, checkpoints: list[Checkpoint], logs: dict[str, Log]) -> bool:
        """False where a defect of one kept all of them from the store."""
        if not checkpoints:
            return True
        sizes = [logs[each.reply_id].size for each in checkpoints]
        try:
            await self._store.append_checkpoints(checkpoints)
        except StorageUnavailable:
            raise
        except Exception:  # a defect that ended this task would end the journal of every reply
            logger.exception("journal_defect", extra={"fields": {"replies": len(checkpoints)}})
            return False
        for written, size in zip(checkpoints, sizes, strict=True):
            self._written(written, logs[written.reply_id], size)
        return True

    async def _write_alone(self, checkpoint: Checkpoint, found: Log) -> None:
        """Where that fails, it is tried again in a while, alone, so that it costs the others nothing."""
        reply_id, size = checkpoint.reply_id, found.size
        try:
            await self._store.append_checkpoints([checkpoint])
        except StorageUnavailable:
            raise
        except Exception:  # the same
            if reply_id in self._open and reply_id not in self._unwritable:
                logger.exception("journal_defect", extra={"fields": {"reply_id": reply_id}})
                self._unwritable.add(reply_id)
            self._clock.call_at(self._clock.monotonic() + MAX_RETRY_S, lambda: self._want(found))
        else:
            self._unwritable.discard(reply_id)
            self._written(checkpoint, found, size)

    def _written(self, checkpoint: Checkpoint, found: Log, size: int) -> None:
        if checkpoint.reply_id in self._open:
            self._open[checkpoint.reply_id] = size
        found.journaled(checkpoint.to_sequence)


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
