"""How far logs of this process are published, and what is next of each."""

from __future__ import annotations

from collections.abc import Iterable

from parley_server.core.replies.events import Snapshot
from parley_server.core.replies.log import Log
from parley_server.journal import wire
from parley_server.relay.scripts import APPEND, ENDED

MAX_ENTRIES = 500
MAX_CHARACTERS = 64 * 1024


class Publication:
    """A log of this process, as Redis has it up to `sent`.

    `refused`: another has the log now, and nothing is appended any more. `end`: the last number to publish, once it has
    ended.
    """

    __slots__ = ("_more", "_reach", "cancel_told", "end", "expires_at", "log", "names", "refused", "seen_ms", "sent")

    def __init__(self, log: Log) -> None:
        self.log = log
        self.names = (wire.reply_key(log.reply.id), wire.stream_key(log.reply.id, log.reply.epoch))
        self.sent = 0
        self.end: int | None = None
        self.expires_at = 0.0
        self.refused = False
        self._reach = 0
        self._more = False
        self.cancel_told = False
        self.seen_ms = 0

    @property
    def running(self) -> bool:
        """Whether it is this process that writes it, still."""
        return not self.refused and self.end is None

    @property
    def behind(self) -> bool:
        """Whether there is more to append."""
        return not self.refused and self.sent < (self.log.last_sequence if self.end is None else self.end)

    def finish(self, *, expires_at: float) -> None:
        """The log has ended as it is stored; where another's end replaced it, none of its content is published."""
        last = self.log.last_sequence
        replaced = any(isinstance(entry, Snapshot) for entry in self.log.since(last - 2))
        self.end = 0 if replaced else last - 1
        self.expires_at = expires_at

    def next_stretch(self, ttl_ms: int) -> bytes:
        """The command that appends what is next: as much as Redis is to take at once. Without the lease that is
        nothing, but asks whether the log is still this writer's."""
        entries = self.log.since(self.sent)
        if self.end is not None:
            entries = entries[: self.end - self.sent]
        elif not self.log.lease.held:
            entries = []
        values, room = [], MAX_CHARACTERS
        for entry in entries[:MAX_ENTRIES]:
            value = wire.encode(entry)
            values.append(value)
            room -= len(value)
            if room <= 0:
                break
        self._reach = self.sent + len(values)
        self._more = len(values) < len(entries)
        stretch = wire.pack(self.log.reply.epoch, self.sent + 1, values)
        return APPEND.call(self.names, stretch, ttl_ms)

    def appended(self, last: int) -> bool:
        """Redis has the log up to this number; whether there is something to say at once."""
        self.sent = min(last, self._reach)
        return self._more or last < self._reach or self.end is not None

    def last_word(self, retention_ms: int) -> bytes:
        """The command that tells everybody that the reply has ended."""
        return ENDED.call(self.names[:1], self.log.reply.epoch, retention_ms, wire.NOBODY_PASSES)


class Publications:
    """Those of this process, by reply. One that is no longer current has nothing to say."""

    def __init__(self) -> None:
        self._current: dict[str, Publication] = {}

    def __len__(self) -> int:
        return len(self._current)

    def __contains__(self, publication: Publication) -> bool:
        return self._current.get(publication.log.reply.id) is publication

    def __getitem__(self, reply_id: str) -> Publication:
        return self._current[reply_id]

    def open(self, log: Log) -> Publication:
        """Publish this log from its start, in place of another of the same reply."""
        publication = self._current[log.reply.id] = Publication(log)
        return publication

    def of(self, log: Log) -> Publication:
        """The current one of this very log."""
        found = self._current.get(log.reply.id)
        return found if found is not None and found.log is log else self.open(log)

    def running(self) -> list[Publication]:
        """Those that this process writes."""
        return [each for each in self._current.values() if each.running]

    def drop(self, publication: Publication) -> None:
        """It is over."""
        if publication in self:
            del self._current[publication.log.reply.id]

    def forget(self, reply_ids: Iterable[str]) -> None:
        """These replies exist no more."""
        for reply_id in reply_ids:
            self._current.pop(reply_id, None)

    def tidy(self, now: float) -> None:
        """Drop what exists no more, and ends that could not be told for as long as anything would be kept."""
        for publication in list(self._current.values()):
            log, end = publication.log, publication.end
            dead = log.erased or log.broken is not None or (log.ended and end is None)
            if dead or (end is not None and now >= publication.expires_at):
                self.drop(publication)
