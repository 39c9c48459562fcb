"""How far a log of another replica's has come here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from parley_server.core.replies.events import Entry
from parley_server.core.replies.log import Log
from parley_server.journal import wire
from parley_server.relay.scripts import command

RANGE_ENTRIES = 500


class StreamReading:
    """Reads the stream of a reply and an epoch in order, from the entry after `position` on."""

    __slots__ = ("position", "stream")

    def __init__(self, reply_id: str, epoch: int, *, position: int = 0) -> None:
        self.stream = wire.stream_key(reply_id, epoch)
        self.position = position

    def next_range(self) -> bytes:
        """The command that reads on."""
        return command("XRANGE", self.stream, f"{self.position + 1}-0", "+", "COUNT", RANGE_ENTRIES)


def entries_of(found: Sequence[tuple[bytes, Sequence[bytes]]], first: int) -> list[Entry]:
    """What a range that was to begin with number `first` holds, if it is without a gap; else nothing."""
    if not found or (_number(found[0][0]), _number(found[-1][0])) != (first, first + len(found) - 1):
        return []
    return [wire.decode_bytes(fields[1]) for _, fields in found]


class RemoteLogCursor(StreamReading):
    """A log that is filled up to `position` with what its owner has appended in its epoch."""

    __slots__ = ("channel", "gone", "heard_at", "log", "look", "told", "visited", "wanted")

    def __init__(self, log: Log, *, wanted: Callable[[], bool], look: Callable[[], None], now: float) -> None:
        super().__init__(log.reply.id, log.reply.epoch, position=log.last_sequence)
        self.log = log
        self.wanted = wanted
        self.look = look
        self.channel = wire.reply_key(log.reply.id)
        self.heard_at = now
        self.gone = False
        self.visited = self.told = False

    def visit(self) -> bool:
        """Somebody begins to read; whether its owner, who is told at each heartbeat, is to be told at once."""
        self.visited = self.visited or not self.told
        return self.visited

    def tells_presence(self, *, everyone: bool) -> bool:
        """Whether its owner is to be told now that somebody reads; `everyone`: a heartbeat is due."""
        tells = self.visited or (everyone and self.wanted())
        self.told = tells or (self.told and not everyone)
        self.visited = False
        return tells

    def take(self, first: int, entries: Sequence[Entry]) -> bool:
        """Append what is new of a stretch; False where something is missing before it."""
        if first > self.position + 1:
            return False
        new = entries[self.position + 1 - first :]
        for entry in new:
            self.log.append(entry)
        self.position += len(new)
        self.log.journaled(self.position)  # the journal is its owner's: here nothing is held back for it
        return True


def _number(entry_id: bytes) -> int:
    """Of an entry, by its id in the stream."""
    return int(entry_id.partition(b"-")[0])
