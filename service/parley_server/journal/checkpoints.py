"""Writes new log entries of all running replies to the store, with one commit per flush.

A reply never waits for it. Entries that cannot be written now are part of a later flush, and a log that can never be
written does not block the others.
"""

from __future__ import annotations

import asyncio
import logging

from parley_server.core.events import merge
from parley_server.core.ports import Clock, Store
from parley_server.core.replies.log import Log
from parley_server.core.store_types import Checkpoint
from parley_server.errors import StorageUnavailable

logger = logging.getLogger("parley.relay")

MAX_RETRY_S = 1.0
MIN_INTERVAL_S = 0.1


class Checkpoints:
    """Flushes the marked logs. The caller opens a log and marks it when it has grown.

    A flush happens `interval_s` after the first new entry, so that a reply that ends earlier needs no checkpoint. It
    happens sooner once a marked log has `max_bytes` of content that is not durable (0: no limit), or is `hurried` and
    has no checkpoint yet.
    """

    def __init__(self, store: Store, clock: Clock, *, interval_s: float, max_bytes: int = 0) -> None:
        self._store = store
        self._clock = clock
        self._interval_s = interval_s
        self._max_bytes = max_bytes
        self._open: dict[str, int] = {}  # by reply id: bytes of content that are durable
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
        """Write this log from its start on."""
        self._open[log.reply.id] = 0
        if log.last_sequence:
            self.mark(log)

    def close(self, log: Log) -> None:
        """Stop writing this log."""
        self._open.pop(log.reply.id, None)
        self._dirty.pop(log.reply.id, None)
        self._unwritable.discard(log.reply.id)

    def mark(self, log: Log) -> None:
        """Include the log's new entries in the next flush."""
        reply_id = log.reply.id
        if reply_id in self._unwritable:
            # A timer marks it again (`_write_alone`): entries that arrive faster must not cause more failing commits.
            return
        self._want(log)
        if reply_id not in self._open or self._behind:
            return  # while the store is unavailable, no log may shorten the pause between attempts
        full = self._max_bytes and log.size - self._open[reply_id] >= self._max_bytes
        if full or (log.hurried and not log.durable_sequence):
            self._hurry.set()

    async def stop(self) -> None:
        """Flush once more, then end."""
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
            # Only after the pause: entries that came during it are part of this flush.
            self._wanted.clear()
            self._behind = not await self._flush()
            if not self._behind:
                delay_s = self._interval_s
                continue
            # The pauses grow, so that the attempts do not delay the recovery of an overloaded database.
            delay_s = min(delay_s * 2, MAX_RETRY_S)
            if self._stopping:  # the process must end even if the database does not come back
                return

    async def _pause(self, delay_s: float) -> None:
        """Wait `delay_s`, or less if a log reaches `max_bytes`, but at least `MIN_INTERVAL_S` to limit commits."""
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
        """Write all marked logs. Returns False if the store is unavailable."""
        logs, self._dirty = self._dirty, {}
        checkpoints = [made for log in logs.values() if (made := _checkpoint(log)) is not None]
        together = [each for each in checkpoints if each.reply_id not in self._unwritable]
        alone = [each for each in checkpoints if each.reply_id in self._unwritable]
        try:
            # Usually all are written in one commit. If it fails, one of them is invalid: written alone, only that one
            # fails again.
            if not await self._write_together(together, logs):
                alone = checkpoints
            for each in alone:
                await self._write_alone(each, logs[each.reply_id])
        except StorageUnavailable as error:
            logger.warning("checkpoints_delayed", extra={"fields": {"replies": len(logs), "problem": error.message}})
            for behind in logs.values():
                self._want(behind)
            return False
        return True

    async def _write_together(self, checkpoints: list[Checkpoint], logs: dict[str, Log]) -> bool:
        """Write the checkpoints in one commit. Returns False if one of them made the commit fail."""
        if not checkpoints:
            return True
        sizes = [logs[each.reply_id].size for each in checkpoints]  # before the call, since the logs grow during it
        try:
            await self._store.append_checkpoints(checkpoints)
        except StorageUnavailable:
            raise
        except Exception:  # a bug in one reply must not end this task, which serves all replies
            logger.exception("checkpoint_write_failed", extra={"fields": {"replies": len(checkpoints)}})
            return False
        for written, size in zip(checkpoints, sizes, strict=True):
            self._written(written, logs[written.reply_id], size)
        return True

    async def _write_alone(self, checkpoint: Checkpoint, found: Log) -> None:
        """Write one checkpoint in its own commit. If that fails, retry later, apart from the other replies."""
        reply_id, size = checkpoint.reply_id, found.size
        try:
            await self._store.append_checkpoints([checkpoint])
        except StorageUnavailable:
            raise
        except Exception:  # as above
            if reply_id in self._open and reply_id not in self._unwritable:
                logger.exception("checkpoint_write_failed", extra={"fields": {"reply_id": reply_id}})
                self._unwritable.add(reply_id)
            self._clock.call_at(self._clock.monotonic() + MAX_RETRY_S, lambda: self._want(found))
        else:
            self._unwritable.discard(reply_id)
            self._written(checkpoint, found, size)

    def _written(self, checkpoint: Checkpoint, found: Log, size: int) -> None:
        if checkpoint.reply_id in self._open:  # otherwise it was closed during the write
            self._open[checkpoint.reply_id] = size
        found.journaled(checkpoint.to_sequence)


def _checkpoint(log: Log) -> Checkpoint | None:
    if log.ended:
        # The finalisation has stored the whole text and deleted the checkpoints.
        return None
    first, entries = log.durable_sequence + 1, log.since(log.durable_sequence)
    if not entries:
        return None
    # Adjacent text is merged to save space. The numbers within are not needed again: a takeover numbers above all of
    # them.
    return Checkpoint(
        reply_id=log.reply.id,
        epoch=log.reply.epoch,
        model=log.reply.model,
        provider=log.reply.provider,
        from_sequence=first,
        to_sequence=first + len(entries) - 1,
        entries=tuple(entry for _, entry in merge(entries)),
        first_token_time_us=log.first_token_time_us,
    )
