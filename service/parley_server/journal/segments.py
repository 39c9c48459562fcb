"""Append-only files of log entries. Each append is one frame: length, checksum, entries.

The calls block and must come from one thread at a time. Appended frames survive the death of the process, but not a
power loss, since there is no fsync.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from parley_server.private_files import close_to_others, open_private

# Length and checksum of a frame. They show whether a frame is complete when its process was killed or the disk was
# full.
_HEADER = struct.Struct("<II")


class EntryRange(msgspec.Struct, array_like=True, frozen=True):
    """Consecutive entries of one reply's log; `number` is the first one's. Encoded by `entry_codec.encode`."""

    reply_id: str
    number: int
    entries: list[str]


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[EntryRange]).decode


def pack(entry_range: EntryRange) -> msgspec.Raw:
    """Encode a range for `Segment.append`. Raises UnicodeEncodeError for lone surrogates."""
    return msgspec.Raw(_pack(entry_range))


class Segment:
    """One file, created by the first append. `size` is the number of valid bytes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self.size = 0

    def read(self) -> list[EntryRange]:
        """Read all complete frames. Reading stops at a frame that was cut by a kill or a full disk; a frame that this
        release cannot decode is skipped. Raises OSError."""
        try:
            held = self._path.read_bytes()
            close_to_others(self._path)
        except FileNotFoundError:
            return []
        self.size = 0
        found: list[EntryRange] = []
        while len(held) >= self.size + _HEADER.size:
            length, checksum = _HEADER.unpack_from(held, self.size)
            start = self.size + _HEADER.size
            frame = held[start : start + length]
            if len(frame) < length or zlib.crc32(frame) != checksum:
                break
            self.size = start + length
            try:
                found += _unpack(frame)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue  # the numbers of its entries are missing, so a reply's text ends before it
        return found

    def append(self, ranges: Sequence[msgspec.Raw]) -> None:
        """Append one frame. Raises OSError; a part that was written by then is overwritten by the next append."""
        frame = _pack(ranges)
        data = memoryview(_HEADER.pack(len(frame), zlib.crc32(frame)) + frame)
        if self._file is None:
            self._file = open_private(self._path)
        written = 0
        while written < len(data):
            written += os.pwrite(self._file, data[written:], self.size + written)
        self.size += written

    def clear(self) -> None:
        """Truncate the file. Raises OSError."""
        if self._file is not None:
            os.ftruncate(self._file, 0)
        elif self.size:  # read at the start, and not written since
            os.truncate(self._path, 0)
        self.size = 0

    def close(self) -> None:
        """Close the file, and remove it if it is empty."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)
            if not self.size:
                self._path.unlink(missing_ok=True)
