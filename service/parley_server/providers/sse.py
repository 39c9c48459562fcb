"""Splits a stream of server-sent events into the data of each, wherever its bytes were cut.

It must take time linear in the bytes, and hold no more of them than one event may have.
"""

from __future__ import annotations

from parley_server.errors import ProviderMalformed

MAX_EVENT_BYTES = 4 * 1024 * 1024
BOM = b"\xef\xbb\xbf"


class EventSplitter:
    """Takes bytes as they come and returns the `data` of every event that they complete and that has any; the
    rest is ignored.

    Raises `ProviderMalformed` for an event of more than `max_event_bytes`.
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._pending: list[bytes] = []  # of a line that has not ended
        self._pending_bytes = 0
        self._data: list[bytes] = []  # of an event that has not ended
        self._data_bytes = 0
        self._after_cr = False
        self._at_start = True

    def feed(self, data: bytes) -> list[bytes]:
        """The data of the events that end within these bytes."""
        if self._after_cr and data:
            self._after_cr = False
            if data[0] == 10:  # the second half of CR LF
                data = data[1:]
        if self._pending:
            if b"\n" not in data and b"\r" not in data:
                self._hold(data)
                return []
            data = b"".join([*self._pending, data])
            self._pending, self._pending_bytes = [], 0
        if not self._data and data.startswith(b"data: ") and len(data) <= self._max_event_bytes:
            return self._plain(data)
        return self._lines(data)

    def end(self) -> list[bytes]:
        """The data of an event that the end of the stream has cut off before its empty line."""
        return self._lines(b"\n\n") if self._pending or self._data else []

    def _plain(self, data: bytes) -> list[bytes]:
        """What nearly every read holds: events of one `data: ` line each, ended by LF LF."""
        end = data.rfind(b"\n\n")
        if end < 0 or b"\r" in data:
            return self._lines(data)
        events = data[6:end].split(b"\n\ndata: ")
        if data.count(b"\n", 0, end + 2) != 2 * len(events):
            return self._lines(data)
        if b"" in events:
            events = [event for event in events if event]
        if len(data) > end + 2:
            events += self._lines(data[end + 2 :])
        self._at_start = False
        return events

    def _lines(self, data: bytes) -> list[bytes]:
        if self._pending:
            data = b"".join([*self._pending, data])
            self._pending, self._pending_bytes = [], 0
        lines = data.splitlines(keepends=True)
        if lines and lines[-1][-1] not in b"\r\n":
            self._hold(lines.pop())
        elif lines and lines[-1][-1] == 13:
            self._after_cr = True
        events: list[bytes] = []
        for line in lines:
            self._line(line.rstrip(b"\r\n"), events)
        return events

    def _line(self, line: bytes, events: list[bytes]) -> None:
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(BOM)
        if not line:
            data = b"\n".join(self._data)
            if data:
                events.append(data)
            self._data, self._data_bytes = [], 0
            return
        if not line.startswith(b"data"):
            return
        if line[4:5] == b":":
            self._add(line[6:] if line[5:6] == b" " else line[5:])
        elif len(line) == 4:
            self._add(b"")

    def _add(self, value: bytes) -> None:
        self._data.append(value)
        self._data_bytes += len(value) + 1
        self._check(self._data_bytes)

    def _hold(self, piece: bytes) -> None:
        self._pending.append(piece)
        self._pending_bytes += len(piece)
        self._check(self._data_bytes + self._pending_bytes)

    def _check(self, size: int) -> None:
        if size > self._max_event_bytes:
            raise ProviderMalformed("the provider sent an event that is too large")
