"""The newest text of running replies, which the store has not been given yet: what a killed process leaves behind.

It takes turns with two files. One is emptied as soon as the store has, or no longer needs, everything in it. Nothing is
read from them but at the next start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec

from parley_server.core.ports import Clock
from parley_server.core.replies.events import Entry
from parley_server.core.replies.log import Log
from parley_server.journal import wire
from parley_server.journal.segments import Segment, Stretch, pack

logger = logging.getLogger("parley.relay")

TURN_S = 1.0
"""How long a file is written before the other's turn, and how often it is seen whether one can be emptied."""
RETRY_S = 1.0

T = TypeVar("T")


class TextJournal:
    """Writes what is new of all logs `interval_s` after the first entry that it has, in one frame; then tells
    `on_growth` of each of them. Blocking work is done in a thread of its own."""

    def __init__(self, path: Path, clock: Clock, *, interval_s: float, on_growth: Callable[[Log], None]) -> None:
        self._clock = clock
        self._interval_s = interval_s
        self._on_growth = on_growth
        self._segments = [Segment(path.with_name(f"{path.name}.tail{number}")) for number in range(2)]
        self._holds: list[dict[Log, int]] = [{}, {}]  # by segment: up to which number of which log
        self._current = 0
        self._turned_at = clock.monotonic()
        self._left: dict[str, dict[int, str]] = {}
        self._open: dict[str, Log] = {}
        self._written: dict[str, int] = {}
        self._dirty: dict[str, Log] = {}
        self._unwritable: set[str] = set()
        self._wanted = asyncio.Event()
        self._stopping = False
        self._lost = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tail")
        self._task: asyncio.Task[None] | None = None

    # --- at the start

    async def load(self) -> None:
        """Read what a dead process has left, for `recall`. Raises OSError."""
        for segment in self._segments:
            for stretch in await self._in_thread(segment.read):
                numbered = enumerate(stretch.entries, stretch.number)
                self._left.setdefault(stretch.reply_id, {}).update(numbered)

    def recall(self, reply_id: str, after: int) -> tuple[Entry, ...]:
        """The entries that follow this number, without a gap, in what was left, or of a log that is open here."""
        if (open_here := self._open.get(reply_id)) is not None:
            return tuple(open_here.content()[after:])
        left, found, number = self._left.get(reply_id, {}), list[Entry](), after + 1
        while (entry := left.get(number)) is not None:
            found.append(wire.decode(entry))
            number += 1
        return tuple(found)

    def start(self) -> None:
        """Begin to write. Nothing of what was left is needed any more, and the files are soon emptied."""
        self._left.clear()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="tail")

    # --- while replies run

    def open(self, log: Log) -> None:
        """Write this log from its start."""
        self._open[log.reply.id] = log
        self._written[log.reply.id] = 0
        if log.last_sequence:
            self.mark(log)

    def mark(self, log: Log) -> None:
        """It has new entries."""
        reply_id = log.reply.id
        if reply_id in self._written and reply_id not in self._dirty:
            self._dirty[reply_id] = log
            self._wanted.set()

    def ended(self, log: Log) -> None:
        """It is stored whole: write it no further."""
        self._open.pop(log.reply.id, None)
        self._written.pop(log.reply.id, None)
        self._dirty.pop(log.reply.id, None)
        self._unwritable.discard(log.reply.id)

    async def stop(self) -> None:
        """Write what is open, then end. What is left of it in the files is what the store does not have."""
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
        """Return when there is something to write, or perhaps to empty."""
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
        """Empty what can be, write what is new. Where that fails it is tried again, with what comes meanwhile."""
        logs, self._dirty = self._dirty, {}
        stretches = [made for found in logs.values() if (made := self._stretch(found)) is not None]
        try:
            await self._take_turns()
            if stretches:
                await self._append(stretches)
        except OSError as error:
            self._failed(error.strerror or "it cannot be written")
            for found in logs.values():
                self.mark(found)
        for found in logs.values():
            self._on_growth(found)

    async def _append(self, stretches: list[tuple[Log, int, msgspec.Raw]]) -> None:
        holds, segment = self._holds[self._current], self._segments[self._current]
        await self._in_thread(lambda: segment.append([packed for _, _, packed in stretches]))
        for found, number, _ in stretches:
            holds[found] = number
            if found.reply.id in self._written:
                self._written[found.reply.id] = number
        if self._lost:
            self._lost = False
            logger.info("tail_back")

    def _stretch(self, found: Log) -> tuple[Log, int, msgspec.Raw] | None:
        """What is new since it was last written, but for what is durable, with its last number. One that has a defect
        is left to the store, and spoils no other's."""
        reply_id = found.reply.id
        if found.over or reply_id in self._unwritable:
            return None
        before = max(self._written.get(reply_id, 0), found.durable_sequence)
        entries = found.since(before)
        if not entries:
            return None
        try:
            packed = pack(Stretch(reply_id, before + 1, list(map(wire.encode, entries))))
        except Exception:  # a defect that ended this task would leave the newest text of every reply to chance
            logger.exception("tail_defect", extra={"fields": {"reply_id": reply_id}})
            self._unwritable.add(reply_id)
            return None
        return found, before + len(entries), packed

    async def _take_turns(self) -> None:
        """The other file's turn has come if it is empty, and this one was written for a while."""
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
            logger.error("tail_lost", extra={"fields": {"problem": problem}})

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
