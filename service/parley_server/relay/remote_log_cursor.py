"""The position up to which this replica has a log of another replica."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from parley_server.core.events import Entry
from parley_server.core.replies.log import Log
from parley_server.relay import wire
from parley_server.relay.scripts import command

RANGE_ENTRIES = 500


class StreamReading:
    """Reads the stream of a reply's epoch in order; `position` is the last number read."""

    __slots__ = ("position", "stream")

    def __init__(self, reply_id: str, epoch: int, *, position: int = 0) -> None:
        self.stream = wire.stream_key(reply_id, epoch)
        self.position = position

    def next_range(self) -> bytes:
        """The command that reads the next entries, at most `RANGE_ENTRIES`."""
        return command("XRANGE", self.stream, f"{self.position + 1}-0", "+", "COUNT", RANGE_ENTRIES)


def entries_of(found: Sequence[tuple[bytes, Sequence[bytes]]], first: int) -> list[Entry]:
    """Decode the answer of a range command that starts at number `first`; empty if it has a gap."""
    # Ids of a stream rise, so that the first, the last and the number of entries prove that none is missing.
    if not found or (_number(found[0][0]), _number(found[-1][0])) != (first, first + len(found) - 1):
        return []
    return [wire.decode_bytes(fields[1]) for _, fields in found]


class RemoteLogCursor(StreamReading):
    """Fills `log` with the entries that its owner has appended; it has them up to `position`.

    `new_reader`: a reader has joined that was not reported to the owner. `reported`: the last heartbeat reported a
    reader to the owner. `gone`: the stream is shorter than `position`.
    """

    __slots__ = ("channel", "gone", "heard_at", "log", "look", "new_reader", "reported", "wanted")

    def __init__(self, log: Log, *, wanted: Callable[[], bool], look: Callable[[], None], now: float) -> None:
        super().__init__(log.reply.id, log.reply.epoch, position=log.last_sequence)
        self.log = log
        self.wanted = wanted
        self.look = look
        self.channel = wire.reply_key(log.reply.id)
        self.heard_at = now
        self.gone = False
        self.new_reader = self.reported = False

    def visit(self) -> bool:
        """Record a new reader. Returns whether to report it to the owner at once, because the last heartbeat did not
        report one."""
        self.new_reader = self.new_reader or not self.reported
        return self.new_reader

    def takes_presence(self, *, everyone: bool) -> bool:
        """Whether to report a reader to the owner now, which then counts as reported; `everyone`: a heartbeat is
        due."""
        due = self.new_reader or (everyone and self.wanted())
        # Between two heartbeats, the report of the last heartbeat is still valid.
        self.reported = due or (self.reported and not everyone)
        self.new_reader = False
        return due

    def take(self, first: int, entries: Sequence[Entry]) -> bool:
        """Append the entries that are new. Returns False if entries before number `first` are missing."""
        if first > self.position + 1:
            return False
        new = entries[self.position + 1 - first :]
        for entry in new:
            self.log.append(entry)
        self.position += len(new)
        self.log.journaled(self.position)  # the owner alone writes the journal, so nothing is held back for it here
        return True


def _number(entry_id: bytes) -> int:
    """The number in an entry's id."""
    return int(entry_id.partition(b"-")[0])
