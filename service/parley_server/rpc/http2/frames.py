"""The bytes of HTTP/2 frames (RFC 9113): numbers, builders, and the two kinds of fault. No state."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_BYTES: Final = 9
MAX_FRAME_BYTES: Final = 16_384
DEFAULT_WINDOW: Final = 65_535
DEFAULT_TABLE_BYTES: Final = 4_096
MAX_WINDOW: Final = 2**31 - 1
PREFIX_BYTES: Final = 5
"""Of a gRPC message within DATA: whether it is compressed, and its length."""

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, HAS_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = (
    range(1, 7)
)

_HEADER: Final = struct.Struct(">HBBBI")
_MESSAGE: Final = struct.Struct(">HBBBIBI")
_SETTING: Final = struct.Struct(">HI")


class Code(IntEnum):
    """Why a stream or a connection ends (RFC 9113, 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11


class ConnectionFault(Exception):
    """The peer broke the protocol: GOAWAY with `code`, and the connection ends."""

    def __init__(self, code: Code, problem: str) -> None:
        super().__init__(problem)
        self.code = code


class StreamFault(Exception):
    """The peer broke the protocol on one stream, which is reset with `code`."""

    def __init__(self, stream_id: int, code: Code) -> None:
        super().__init__(code.name)
        self.stream_id = stream_id
        self.code = code


def header(kind: int, flags: int, stream_id: int, length: int) -> bytes:
    """The nine bytes before a payload of `length`."""
    return _HEADER.pack(length >> 8, length & 0xFF, kind, flags, stream_id)


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """A whole frame."""
    return header(kind, flags, stream_id, len(payload)) + payload


def message_header(stream_id: int, length: int) -> bytes:
    """What stands before a gRPC message of `length` that fills one DATA frame, uncompressed."""
    size = length + PREFIX_BYTES
    return _MESSAGE.pack(size >> 8, size & 0xFF, DATA, 0, stream_id, 0, length)


def message_prefix(length: int) -> bytes:
    """What stands before an uncompressed gRPC message of `length`."""
    return b"\0" + length.to_bytes(4)


def header_block(stream_id: int, block: bytes, *, end_stream: bool, max_frame: int) -> bytes:
    """HEADERS, followed by as many CONTINUATIONs as the peer's frame size asks for."""
    flags = END_STREAM if end_stream else 0
    if len(block) <= max_frame:
        return frame(HEADERS, flags | END_HEADERS, stream_id, block)
    pieces = [block[at : at + max_frame] for at in range(0, len(block), max_frame)]
    whole = [frame(HEADERS, flags, stream_id, pieces[0])]
    whole += [frame(CONTINUATION, 0, stream_id, piece) for piece in pieces[1:-1]]
    return b"".join([*whole, frame(CONTINUATION, END_HEADERS, stream_id, pieces[-1])])


def settings(*pairs: tuple[int, int]) -> bytes:
    """SETTINGS."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*pair) for pair in pairs))


def parse_settings(payload: bytes) -> list[tuple[int, int]]:
    """Identifiers and values of a SETTINGS payload, in their order."""
    return [(int(name), int(value)) for name, value in _SETTING.iter_unpack(payload)]


def window_update(stream_id: int, size: int) -> bytes:
    """WINDOW_UPDATE."""
    return frame(WINDOW_UPDATE, 0, stream_id, size.to_bytes(4))


def reset(stream_id: int, code: Code) -> bytes:
    """RST_STREAM."""
    return frame(RST_STREAM, 0, stream_id, code.to_bytes(4))


def go_away(last_stream_id: int, code: Code, problem: str = "") -> bytes:
    """GOAWAY."""
    return frame(GOAWAY, 0, 0, last_stream_id.to_bytes(4) + code.to_bytes(4) + problem.encode())


SETTINGS_ACK: Final = frame(SETTINGS, ACK, 0)
TABLE_EMPTIED: Final = b"\x20"
"""What a header block begins with once the peer's table has shrunk (RFC 7541, 4.2); ours is never used."""


def unpadded(flags: int, payload: bytes) -> bytes:
    """A payload without its padding. Raises `ConnectionFault` where that is longer than the frame."""
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ConnectionFault(Code.PROTOCOL_ERROR, "more padding than payload")
    return payload[1 : len(payload) - payload[0]]


def expect(fact: bool, code: Code, problem: str) -> None:
    """Raises `ConnectionFault` where it is not so."""
    if not fact:
        raise ConnectionFault(code, problem)
