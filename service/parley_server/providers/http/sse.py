"""Splits a stream of server-sent events into the data of each event, independently of how the bytes were split.

Takes time linear in the bytes, and buffers at most one event.
"""

from __future__ import annotations

import msgspec

from parley_server.errors import ProviderMalformed

MAX_EVENT_BYTES = 6 * 2 * 1024 * 1024 + 64 * 1024
"""The largest text of a reply with each byte written as a six-byte escape, and 64 KiB for the JSON around it."""
MAX_STRAY_BYTES = 64 * 1024
"""Limit of bytes of JSON outside of any field in a stream of events."""
BOM = b"\xef\xbb\xbf"

_FIELDS = (b"", b"data", b"event", b"id", b"retry")  # empty: a comment
_CLOSING = (b"}", b"]")
_MAX_DECODINGS = 16


class EventSplitter:
    """Takes bytes as they arrive, and returns the `data` of each event that they complete. Events without data are
    skipped.

    Servers also send errors outside of events. So JSON in lines that are no field counts as an event, and the value of
    `error:` as an event with an object with the field `error`. `document`: the body is declared as one JSON document,
    which may be as large as an event. Everything else is ignored. Raises `ProviderMalformed` for an event of more than
    `max_event_bytes`, and at the end for incomplete JSON.
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES, *, document: bool = False) -> None:
        self._max_event_bytes = max_event_bytes
        self._max_stray_bytes = max_event_bytes if document else MAX_STRAY_BYTES
        self._strays: list[bytes] = []  # lines of incomplete JSON
        self._stray_bytes = 0
        self._decodings = 0
        self.documents = 0
        """Number of events that were JSON outside of any field."""
        self.ignored = False
        """Whether any line was neither a field nor JSON."""
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
        if not self._data and len(data) <= self._max_event_bytes:
            if data.startswith(b"data: "):
                return self._unnamed(data)
            if data.startswith(b"event: "):
                return self._named(data)
        return self._lines(data)

    def end(self) -> list[bytes]:
        """The data of a last event that lacks its empty line. Raises `ProviderMalformed` for incomplete JSON."""
        events = self._lines(b"\n\n") if self._pending or self._data else []
        if self._strays and not self._document(events):
            raise ProviderMalformed("the provider sent incomplete JSON")
        return events

    def _unnamed(self, data: bytes) -> list[bytes]:
        """Fast path for nearly every read: events of one `data: ` line each, ended by LF LF or CR LF CR LF."""
        if data.endswith(b"\r\n\r\n") and data.find(b"\r") == data.find(b"\n") - 1 == len(data) - 4:
            return self._fast([data[6:-4]], b"")  # one event, as Gemini writes them
        end = data.rfind(b"\n\n")
        returns = data.count(b"\r")
        if returns:
            end = data.rfind(b"\r\n\r\n")
        if end < 0:
            return self._lines(data)
        # The counts of line ends prove that the read has no other field, comment or second line of an event.
        events = data[6:end].split(b"\r\n\r\ndata: " if returns else b"\n\ndata: ")
        lines = 2 * len(events)
        stop = end + (4 if returns else 2)
        if data.count(b"\n", 0, stop) != lines or (returns and data.count(b"\r", 0, stop) != lines):
            return self._lines(data)
        return self._fast(events, data[stop:])

    def _named(self, data: bytes) -> list[bytes]:
        """Fast path for events of a line `event: ` and a line `data: ` each, ended by LF LF."""
        end = data.rfind(b"\n\n")
        if end < 0 or b"\r" in data:
            return self._lines(data)
        start = data.find(b"\ndata: ")
        if 0 < start < end == len(data) - 2 and data.count(b"\n") == 3:  # one event, as most vendors write them
            return self._fast([data[start + 7 : end]], b"")
        blocks = [block.partition(b"\ndata: ") for block in data[:end].split(b"\n\n")]
        # Three line ends for each event prove that it has no third line.
        if data.count(b"\n", 0, end + 2) != 3 * len(blocks) or not all(
            between and name.startswith(b"event: ") for name, between, _ in blocks
        ):
            return self._lines(data)
        return self._fast([event for _, _, event in blocks], data[end + 2 :])

    def _fast(self, events: list[bytes], rest: bytes) -> list[bytes]:
        if b"" in events:
            events = [event for event in events if event]
        self._at_start = False
        if rest:
            events += self._lines(rest)
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
        if line.startswith(b"data:"):
            self._add(line[6:] if line[5:6] == b" " else line[5:])
        elif line == b"data":
            self._add(b"")
        elif line.startswith(b"error:"):
            events.append(_error_event(line[6:].strip()))
        elif line.partition(b":")[0] not in _FIELDS:
            self._stray(line, events)

    def _stray(self, line: bytes, events: list[bytes]) -> None:
        """A line that is no field: JSON of one line, or a part of JSON of several lines."""
        line = line.strip() if not self._strays else line
        if not self._strays and line[:1] not in (b"{", b"["):
            self.ignored = True
            return
        self._strays.append(line)
        self._stray_bytes += len(line) + 1
        if self._stray_bytes > self._max_stray_bytes:
            self._drop_strays()
            self.ignored = True
        # A closing bracket on its own line may end an indented document. The number of attempts is limited, because
        # each one decodes all collected lines.
        elif len(self._strays) == 1 or (line in _CLOSING and self._decodings < _MAX_DECODINGS):
            self._document(events)

    def _document(self, events: list[bytes]) -> bool:
        """Add the collected lines as an event if they are complete JSON. Returns whether they are."""
        self._decodings += 1
        text = b"\n".join(self._strays)
        if not _is_json(text):
            return False
        events.append(text)
        self.documents += 1
        self._drop_strays()
        return True

    def _drop_strays(self) -> None:
        self._strays, self._stray_bytes, self._decodings = [], 0, 0

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


def _error_event(value: bytes) -> bytes:
    """The event for the value of a line `error: ...`, which is JSON or text."""
    if not _is_json(value):
        value = msgspec.json.encode(value.decode("utf-8", "replace"))
    return b'{"error":%s}' % value


def _is_json(text: bytes) -> bool:
    try:
        msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return False
    return True
