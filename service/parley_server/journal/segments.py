"""Files of stretches of logs, frame by frame: a length, a checksum, and what was appended at one time.

Blocking, for one thread at a time. What was appended survives the death of the process, but not a loss of power.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from parley_server.private_files import close_to_others, open_private

_HEADER = struct.Struct("<II")


class Stretch(msgspec.Struct, array_like=True, frozen=True):
    """Entries of one reply's log from `number` on, each as `wire.encode` writes it."""

    reply_id: str
    number: int
    entries: list[str]


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[Stretch]).decode


def pack(stretch: Stretch) -> msgspec.Raw:
    """As `Segment.append` takes it. Raises UnicodeEncodeError for text that is none."""
    return msgspec.Raw(_pack(stretch))


class Segment:
    """One file; it is made when something is appended. `size` is how many bytes of it count."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self.size = 0

    def read(self) -> list[Stretch]:
        """All that was appended whole. A frame that a killed process or a full disk has cut ends it; one that this
        release does not understand is passed over. Raises OSError."""
        try:
            held = self._path.read_bytes()
            close_to_others(self._path)
        except FileNotFoundError:
            return []
        self.size = 0
        found: list[Stretch] = []
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
                continue
        return found

    def append(self, stretches: Sequence[msgspec.Raw]) -> None:
        """Raises OSError; what was written of it by then does not count."""
        frame = _pack(stretches)
        data = memoryview(_HEADER.pack(len(frame), zlib.crc32(frame)) + frame)
        if self._file is None:
            self._file = open_private(self._path)
        written = 0
        while written < len(data):
            written += os.pwrite(self._file, data[written:], self.size + written)
        self.size += written

    def clear(self) -> None:
        """Empty it. Raises OSError."""
        if self._file is not None:
            os.ftruncate(self._file, 0)
        elif self.size:
            os.truncate(self._path, 0)
        self.size = 0

    def close(self) -> None:
        """Close the file; one that holds nothing is removed."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)
            if not self.size:
                self._path.unlink(missing_ok=True)
