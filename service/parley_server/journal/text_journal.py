"""Keeps the newest text of running replies in files, until the store has it, so that it survives a killed process.

It alternates between two files. A file is truncated once the store has everything in it or no longer needs it. The
files are read only at the next start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec

from parley_server.core.events import Entry
from parley_server.core.ports import Clock
from parley_server.core.replies.log import Log
from parley_server.journal import entry_codec
from parley_server.journal.segments import EntryRange, Segment, pack

logger = logging.getLogger("parley.relay")

TURN_S = 1.0
"""Time for which one file is written, and the interval of checks whether a file can be truncated."""
RETRY_S = 1.0

T = TypeVar("T")


class TextJournal:
    """Writes the new entries of all logs in one frame, `interval_s` after the first of them, then calls `on_growth` for
    each log. File access runs in its own thread."""

    def __init__(self, path: Path, clock: Clock, *, interval_s: float, on_growth: Callable[[Log], None]) -> None:
        self._clock = clock
        self._interval_s = interval_s
        self._on_growth = on_growth
        # A file can only be truncated when none of its text is needed, which hardly occurs while it is written. So one
        # file is written while the text of the other one becomes unnecessary.
        self._segments = [Segment(path.with_name(f"{path.name}.tail{number}")) for number in range(2)]
        self._holds: list[dict[Log, int]] = [{}, {}]  # by segment: the last number of each log in it
        self._current = 0
        self._turned_at = clock.monotonic()
        # By reply id: the entries of the previous process by number, open logs, the last number in the files, logs to
        # write, and replies whose entries cannot be encoded.
        self._left: dict[str, dict[int, str]] = {}
        self._open: dict[str, Log] = {}
        self._written: dict[str, int] = {}
        self._dirty: dict[str, Log] = {}
        self._unwritable: set[str] = set()
        self._wanted = asyncio.Event()
        self._stopping = False
        self._lost = False
        # A disk can stall any write for seconds, which must not stop the event loop or the threads of other work.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tail")
        self._task: asyncio.Task[None] | None = None

    # --- at the start

    async def load(self) -> None:
        """Read the files of the previous process, for `recall`. Raises OSError."""
        for segment in self._segments:
            for entry_range in await self._in_thread(segment.read):
                numbered = enumerate(entry_range.entries, entry_range.number)
                self._left.setdefault(entry_range.reply_id, {}).update(numbered)

    def recall(self, reply_id: str, after: int) -> tuple[Entry, ...]:
        """The entries after number `after`, up to the first gap: of a log that is open here, or from the loaded
        files."""
        if (open_here := self._open.get(reply_id)) is not None:
            return tuple(open_here.content()[after:])
        left, found, number = self._left.get(reply_id, {}), list[Entry](), after + 1
        while (entry := left.get(number)) is not None:
            found.append(entry_codec.decode(entry))
            number += 1
        return tuple(found)

    def start(self) -> None:
        """Begin to write. The loaded entries are discarded, and the files truncated soon after."""
        self._left.clear()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="tail")

    # --- while replies run

    def open(self, log: Log) -> None:
        """Write this log from its start on."""
        self._open[log.reply.id] = log
        self._written[log.reply.id] = 0
        if log.last_sequence:
            self.mark(log)

    def mark(self, log: Log) -> None:
        """Include the log's new entries in the next frame."""
        reply_id = log.reply.id
        if reply_id in self._written and reply_id not in self._dirty:
            self._dirty[reply_id] = log
            self._wanted.set()

    def ended(self, log: Log) -> None:
        """Stop writing a log that the store has whole."""
        self._open.pop(log.reply.id, None)
        self._written.pop(log.reply.id, None)
        self._dirty.pop(log.reply.id, None)
        self._unwritable.discard(log.reply.id)

    async def stop(self) -> None:
        """Write once more, then end. The files keep entries that the store does not have."""
        self._stopping = True
        self._wanted.set()
        if self._task is not None:
            await self._task
        for segment in self._segments:
            await self._in_thread(segment.close)
        self._thread.shutdown()

    # --- inside

    async def _run(self) -> None:
        while not self._stopping:
            await self._work()
            if self._dirty and not self._stopping:
                await self._clock.sleep(RETRY_S if self._lost else self._interval_s)
            await self._write_all()
        await self._write_all()

    async def _work(self) -> None:
        """Wait until there are entries to write, or a file may be ready to be truncated."""
        timer = None
        if any(segment.size for segment in self._segments):
            timer = self._clock.call_at(self._clock.monotonic() + TURN_S, self._wanted.set)
        try:
            await self._wanted.wait()
        finally:
            if timer is not None:
                timer.cancel()
        self._wanted.clear()

    async def _write_all(self) -> None:
        """Truncate a file if possible and write the new entries. After an error, the next call tries again."""
        logs, self._dirty = self._dirty, {}
        ranges = [made for found in logs.values() if (made := self._new_entries(found)) is not None]
        try:
            await self._take_turns()
            if ranges:
                await self._append(ranges)
        except OSError as error:
            self._failed(error.strerror or "it cannot be written")
            for found in logs.values():
                self.mark(found)
        # Also after an error: the store's checkpoints then hold the text, though it is up to 2 s older.
        for found in logs.values():
            self._on_growth(found)

    async def _append(self, ranges: list[tuple[Log, int, msgspec.Raw]]) -> None:
        holds, segment = self._holds[self._current], self._segments[self._current]
        await self._in_thread(lambda: segment.append([packed for _, _, packed in ranges]))
        for found, number, _ in ranges:
            holds[found] = number
            if found.reply.id in self._written:  # otherwise the reply has ended during the write
                self._written[found.reply.id] = number
        if self._lost:
            self._lost = False
            logger.info("text_journal_restored")

    def _new_entries(self, found: Log) -> tuple[Log, int, msgspec.Raw] | None:
        """The entries that are neither in the files nor durable, and the last one's number. A log that cannot be
        encoded is left to the checkpoints."""
        reply_id = found.reply.id
        if found.over or reply_id in self._unwritable:
            return None
        # After an error of the disk, the store may have more than the files: that text is not written here any more.
        before = max(self._written.get(reply_id, 0), found.durable_sequence)
        entries = found.since(before)
        if not entries:
            return None
        try:
            packed = pack(EntryRange(reply_id, before + 1, list(map(entry_codec.encode, entries))))
        except Exception:  # a bug in one reply must not end this task, which serves all replies
            logger.exception("text_journal_encode_failed", extra={"fields": {"reply_id": reply_id}})
            self._unwritable.add(reply_id)
            return None
        return found, before + len(entries), packed

    async def _take_turns(self) -> None:
        """Truncate files that the store no longer needs. Switch files once the other one is empty and this one has been
        written for `TURN_S`."""
        for segment, holds in zip(self._segments, self._holds, strict=True):
            if segment.size and all(found.over or found.durable_sequence >= last for found, last in holds.items()):
                await self._in_thread(segment.clear)
                holds.clear()
        other, now = 1 - self._current, self._clock.monotonic()
        if self._segments[self._current].size and not self._segments[other].size and now >= self._turned_at + TURN_S:
            self._current, self._turned_at = other, now

    def _failed(self, problem: str) -> None:
        if not self._lost:
            self._lost = True
            logger.error("text_journal_lost", extra={"fields": {"problem": problem}})

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
