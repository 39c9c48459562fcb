"""The log of one reply: numbered entries in memory, and readers that follow it by position.

The writer never waits for a reader, and a reader keeps only its position. Storage is not the concern of a log.
"""

from __future__ import annotations

import asyncio
import bisect
import sys
from collections.abc import Callable

from parley_server.core.events import (
    Chunk,
    Entry,
    Failed,
    Finished,
    Snapshot,
    Terminal,
    merge,
    size_of,
)
from parley_server.core.lease import FOR_EVER, Lease
from parley_server.core.model import Reply, State, TextPart, Usage
from parley_server.errors import InternalError, ParleyError, ReplyNotFound

# A takeover numbers its snapshot this far past the durable end, and an owner never numbers as far past its journal. So
# a cursor that lies in lost text is always lower than the snapshot that replaces it.
TAKEOVER_GAP = 65_536
MAX_UNJOURNALED = 65_000

MAX_MESSAGE_BYTES = 1024 * 1024
ENTRY_BYTES = 150  # an entry, its text's header and its places in two lists: 148 measured with CPython 3.11

_NOTHING: Callable[[], None] = lambda: None  # noqa: E731 - a default that costs no method of its own


class Log:
    """Entries of one reply, numbered from 1 without gaps (after a takeover from the snapshot).

    Exactly one terminal entry ends a log, last. After `seal` only the terminal entry is accepted, so that readers see
    what is stored. While the `lease` is not held, nothing is numbered and readers receive nothing except a stored end.
    Set `hurried` if the reply's row names another model than `reply`: then the first checkpoint, which corrects it, is
    not put off.
    """

    __slots__ = (
        "_base",
        "_entries",
        "_held",
        "_journal_told",
        "_journaled",
        "_offsets",
        "_waiting",
        "broken",
        "ended",
        "erased",
        "first_token_time_us",
        "hurried",
        "lease",
        "on_append",
        "reply",
        "sealed",
    )

    def __init__(self, reply: Reply, *, lease: Lease = FOR_EVER) -> None:
        self.reply = reply
        self.lease = lease
        self.broken: ParleyError | None = None
        self.sealed = False
        self.ended = False
        self.erased = False
        self.first_token_time_us = 0
        self.hurried = False
        self.on_append: Callable[[], None] = _NOTHING
        self._base = 1
        self._entries: list[Entry] = []
        self._offsets: list[int] = []
        self._held: list[Entry] = []
        self._journaled = 0
        self._journal_told = False
        self._waiting: dict[Reader, None] = {}

    @classmethod
    def of_ended(cls, reply: Reply) -> Log:
        """The log of an ended reply without its entries: a snapshot and the terminal entry."""
        log = cls(reply)
        log.replace(reply)
        return log

    @classmethod
    def of_other(cls, reply: Reply) -> Log:
        """The log of a reply that another replica writes and journals, so that entries are numbered at once."""
        log = cls(reply)
        log._journaled = sys.maxsize
        return log

    @property
    def last_sequence(self) -> int:
        """The number of the newest entry; 0 where there is none."""
        return self._base - 1 + len(self._entries)

    @property
    def over(self) -> bool:
        """Whether nothing will ever follow."""
        return self.ended or self.erased or self.broken is not None

    @property
    def fenced(self) -> bool:
        """Whether readers receive nothing until the lease is held again."""
        return not self.lease.held and not self.over

    @property
    def size(self) -> int:
        """Bytes of content that it holds."""
        return self._offsets[-1] if self._offsets else 0

    @property
    def footprint(self) -> int:
        """The approximate memory of content, entries and the message of the reply, in bytes."""
        message = self.reply.message
        held = sum(len(part.text) for part in message.parts if isinstance(part, TextPart)) if message else 0
        return self.size + ENTRY_BYTES * len(self._entries) + held

    @property
    def closing_sequence(self) -> int:
        """The number that the terminal entry will have, once the log is sealed."""
        return self.last_sequence + len(self._held) + 1

    def content(self) -> list[Entry]:
        """All entries, including those that are held back from readers."""
        return self._entries + self._held

    def numbered(self) -> list[Entry]:
        """All entries except those that are held back."""
        return self._entries

    def append(self, entry: Entry) -> None:
        """Number an entry and wake the readers; dropped once the log is sealed."""
        if self.sealed:
            return
        if self._held or len(self._entries) - self._journaled >= MAX_UNJOURNALED or not self.lease.held:
            self._held.append(entry)
            return
        self._number(entry)
        self._tell_journal()
        if self._waiting:
            self._wake()

    @property
    def durable_sequence(self) -> int:
        """The number up to which the log is durable."""
        return self._journaled

    def since(self, sequence: int) -> list[Entry]:
        """The entries after this number, without those held back. The next append calls `on_append` again."""
        self._journal_told = False
        return self._entries[max(0, sequence - self._base + 1) :]

    def journaled(self, sequence: int) -> None:
        """All entries up to `sequence` are durable; number the entries that waited for that."""
        self._journaled = max(self._journaled, sequence)
        self.release()

    def release(self) -> None:
        """Number held-back entries, as far as the journal and the lease allow."""
        if not self._held or self.ended or not self.lease.held:
            return
        room = MAX_UNJOURNALED - (self.last_sequence - self._journaled)
        for entry in self._held[:room]:
            self._number(entry)
        del self._held[:room]
        self._tell_journal()
        self._wake()

    def seal(self) -> None:
        """Accept no more entries except the terminal one."""
        self.sealed = True

    def finish(self, reply: Reply) -> None:
        """Number held-back entries, then the terminal entry of the stored `reply`."""
        self.sealed = True
        for entry in self._held:
            self._number(entry)
        self._held.clear()
        self._number(terminal_of(reply))
        self._end(reply)

    def replace(self, reply: Reply) -> None:
        """Keep only a snapshot and the terminal entry: another writer ended the reply, or text is missing here."""
        self.sealed = True
        self._base = reply.last_sequence - 1
        self._entries.clear()
        self._offsets.clear()
        self._held.clear()
        self._number(Snapshot(reply))
        self._number(terminal_of(reply))
        self._end(reply)

    def erase(self) -> None:
        """The reply no longer exists: its readers end with `ReplyNotFound`."""
        self.sealed = self.erased = True
        self._over()

    def break_off(self, error: ParleyError) -> None:
        """The reply goes on, but can no longer be followed here: its readers end with `error`."""
        self.sealed = True
        self.broken = error
        self._over()

    def wake(self) -> None:
        """Wake all readers, so that they check again."""
        self._wake()

    def chunks(self, position: int) -> list[Chunk]:
        """Entries after `position`, merged, at most one message of them (or one larger entry)."""
        start = max(0, position - self._base + 1)
        if start >= len(self._entries):
            return []
        before = self._offsets[start - 1] if start else 0
        stop = max(start + 1, bisect.bisect_right(self._offsets, before + MAX_MESSAGE_BYTES, start))
        first = self._base + start - 1
        if stop - start == 1:
            return [Chunk(first + 1, self._entries[start])]
        return [Chunk(first + taken, entry) for taken, entry in merge(self._entries[start:stop])]

    def waits(self, reader: Reader) -> None:
        """Wake `reader` at the next change."""
        self._waiting[reader] = None

    def waits_no_more(self, reader: Reader) -> None:
        """Remove the reader, so that a silent log does not collect readers that have left."""
        self._waiting.pop(reader, None)

    def _number(self, entry: Entry) -> None:
        offsets = self._offsets
        offsets.append(size_of(entry) + (offsets[-1] if offsets else 0))
        self._entries.append(entry)

    def _tell_journal(self) -> None:
        if not self._journal_told:
            self._journal_told = True
            self.on_append()

    def _end(self, reply: Reply) -> None:
        self.reply = reply
        self.ended = True
        self._over()

    def _over(self) -> None:
        """Drop the callback, which may refer to this log: in a reference cycle, an ended log would stay in memory until
        Python's oldest generation is collected, which takes minutes to hours."""
        self.on_append = _NOTHING
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for reader in waiting:
            reader.wake()


class Reader:
    """Follows a log from a position, for one task.

    A position at the end yields the terminal chunk again. One beyond the end waits while the reply runs, and yields a
    snapshot and the terminal chunk once it has ended.
    """

    __slots__ = ("_woken", "done", "log", "position")

    def __init__(self, log: Log, after: int) -> None:
        self.log = log
        self.position = after
        self.done = False
        self._woken: asyncio.Future[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether `take` would return chunks or raise."""
        log = self.log
        return not self.done and (log.over or (log.last_sequence > self.position and log.lease.held))

    def take(self) -> list[Chunk]:
        """The new chunks, merged, at most one message of them; `done` is set with the terminal chunk.

        Raises `ReplyNotFound` if the reply was erased, and the error of a log that was broken off."""
        log = self.log
        if log.erased:
            raise ReplyNotFound
        if self.done or log.fenced:
            return []
        at_end = log.ended and self.position >= log.last_sequence
        chunks = self._again() if at_end else log.chunks(self.position)
        if not chunks and log.broken is not None:
            raise log.broken
        if chunks:
            self.position = chunks[-1].sequence
            self.done = isinstance(chunks[-1].entry, Finished | Failed)
        return chunks

    async def wait(self) -> None:
        """Return when there are new entries, or when `wake` is called."""
        if self.ready:
            return
        self._woken = asyncio.get_running_loop().create_future()
        self.log.waits(self)
        try:
            await self._woken
        finally:
            self._woken = None
            self.log.waits_no_more(self)

    async def until_ended(self) -> None:
        """Return when the log has ended or is erased. Raises the error that has broken it off."""
        while not self.log.over:
            self.position = max(self.position, self.log.last_sequence)
            await self.wait()
        if self.log.broken is not None:
            raise self.log.broken

    def wake(self) -> None:
        """End a `wait`."""
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    def _again(self) -> list[Chunk]:
        last = self.log.last_sequence
        terminal = Chunk(last, terminal_of(self.log.reply))
        if self.position == last:
            return [terminal]
        return [Chunk(last - 1, Snapshot(self.log.reply)), terminal]


def terminal_of(reply: Reply) -> Terminal:
    """The terminal entry of an ended reply: the same for every reader, and equal to what is stored."""
    usage = reply.usage or Usage()
    if reply.state is State.FAILED and reply.error is not None:
        return Failed(reply.error, usage, reply.model, reply.provider)
    if reply.finish_reason is None:
        raise InternalError(f"reply {reply.id} has ended without a reason")
    return Finished(reply.finish_reason, reply.provider_reason, usage, reply.model, reply.cancel_reason, reply.provider)
