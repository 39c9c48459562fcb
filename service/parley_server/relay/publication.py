"""Tracks how far each log of this process is published, and makes the next command for it."""

from __future__ import annotations

from collections.abc import Iterable

from parley_server.core.events import Snapshot
from parley_server.core.replies.log import Log
from parley_server.journal import entry_codec
from parley_server.relay import wire
from parley_server.relay.scripts import APPEND, ENDED

# Limits of one append, because Redis serves no other client while a script runs.
MAX_ENTRIES = 500
MAX_CHARACTERS = 64 * 1024


class Publication:
    """A log of this process, of which Redis has the entries up to `sent`.

    `refused`: another replica has taken the log over, so nothing more is appended. `end`: the last number to publish,
    once the reply has ended.
    """

    __slots__ = (
        "_more",
        "_reach",
        "cancel_reported",
        "end",
        "expires_at",
        "log",
        "names",
        "refused",
        "seen_ms",
        "sent",
    )

    def __init__(self, log: Log) -> None:
        self.log = log
        self.names = (wire.reply_key(log.reply.id), wire.stream_key(log.reply.id, log.reply.epoch))
        self.sent = 0
        self.end: int | None = None
        self.expires_at = 0.0
        self.refused = False
        # The last number of the append in flight, and whether it has left out entries because of the limits.
        self._reach = 0
        self._more = False
        self.cancel_reported = False
        self.seen_ms = 0

    @property
    def running(self) -> bool:
        """Whether this process still writes the log."""
        return not self.refused and self.end is None

    @property
    def behind(self) -> bool:
        """Whether there are entries to append."""
        return not self.refused and self.sent < (self.log.last_sequence if self.end is None else self.end)

    def finish(self, *, expires_at: float) -> None:
        """Record that the log has ended as it is stored. If another replica ended the reply, the stored result replaced
        this log's content, and nothing more of it is published."""
        # The terminal entry is not published: followers read the end from the store, which alone decides it. A replaced
        # log has only two entries, a snapshot and the terminal one.
        last = self.log.last_sequence
        replaced = any(isinstance(entry, Snapshot) for entry in self.log.since(last - 2))
        self.end = 0 if replaced else last - 1
        self.expires_at = expires_at

    def append_command(self, ttl_ms: int) -> bytes:
        """The command that appends the next entries, limited by `MAX_ENTRIES` and `MAX_CHARACTERS`.

        Without the lease it appends none, and only checks whether the log is still open to this writer."""
        entries = self.log.since(self.sent)
        if self.end is not None:
            entries = entries[: self.end - self.sent]
        elif not self.log.lease.held:
            entries = []
        values, room = [], MAX_CHARACTERS
        for entry in entries[:MAX_ENTRIES]:
            value = entry_codec.encode(entry)
            values.append(value)
            room -= len(value)
            if room <= 0:
                break
        self._reach = self.sent + len(values)
        self._more = len(values) < len(entries)
        stretch = wire.pack(self.log.reply.epoch, self.sent + 1, values)
        return APPEND.call(self.names, stretch, ttl_ms)

    def appended(self, last: int) -> bool:
        """Record that Redis has the log up to number `last`. Returns whether to send again at once."""
        self.sent = min(last, self._reach)
        # If the stream is shorter than expected, Redis has lost entries: they are sent again from memory.
        return self._more or last < self._reach or self.end is not None

    def end_command(self, retention_ms: int) -> bytes:
        """The command that closes the log in Redis and publishes the reply's end."""
        return ENDED.call(self.names[:1], self.log.reply.epoch, retention_ms, wire.CLOSED_FENCE)


class Publications:
    """The publications of this process by reply id. A replaced publication is no longer in it."""

    def __init__(self) -> None:
        self._current: dict[str, Publication] = {}

    def __len__(self) -> int:
        return len(self._current)

    def __contains__(self, publication: Publication) -> bool:
        return self._current.get(publication.log.reply.id) is publication

    def __getitem__(self, reply_id: str) -> Publication:
        return self._current[reply_id]

    def open(self, log: Log) -> Publication:
        """Publish this log from its start. It replaces another log of the same reply."""
        publication = self._current[log.reply.id] = Publication(log)
        return publication

    def of(self, log: Log) -> Publication:
        """The publication of this log; opened if the reply has none or one of another log."""
        found = self._current.get(log.reply.id)
        return found if found is not None and found.log is log else self.open(log)

    def running(self) -> list[Publication]:
        """The publications whose logs this process still writes."""
        return [each for each in self._current.values() if each.running]

    def drop(self, publication: Publication) -> None:
        """Remove a publication, unless another one has replaced it."""
        if publication in self:
            del self._current[publication.log.reply.id]

    def forget(self, reply_ids: Iterable[str]) -> None:
        """Remove the publications of erased replies."""
        for reply_id in reply_ids:
            self._current.pop(reply_id, None)

    def tidy(self, now: float) -> None:
        """Remove logs that are erased or broken, and ended logs whose end Redis has not accepted before it expired."""
        for publication in list(self._current.values()):
            log, end = publication.log, publication.end
            dead = log.erased or log.broken is not None or (log.ended and end is None)
            if dead or (end is not None and now >= publication.expires_at):
                self.drop(publication)
