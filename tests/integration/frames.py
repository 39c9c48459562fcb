"""Reads the HTTP/2 frames of the response to a gRPC call, which client libraries hide.

Supports one call per connection: request headers are sent as literals, and response headers are not decoded.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncGenerator
from dataclasses import dataclass

DATA, HEADERS, RST_STREAM, SETTINGS, PING = 0, 1, 3, 4, 6
END_STREAM = ACK = 0x1
END_HEADERS = 0x4


@dataclass(frozen=True)
class Frame:
    """A HEADERS, DATA or RST_STREAM frame of the call."""

    kind: int
    flags: int
    payload: bytes

    @property
    def ends(self) -> bool:
        """Whether it is the last frame of the response."""
        return self.kind == RST_STREAM or (self.kind in (DATA, HEADERS) and bool(self.flags & END_STREAM))


async def call(port: int, method: str, request: bytes) -> list[Frame]:
    """Make one call; returns the frames of its response, in order."""
    return [frame async for frame in response(port, method, request)]


async def response(port: int, method: str, request: bytes) -> AsyncGenerator[Frame]:
    """Make one call; yields the frames of its response as they arrive."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", method),
            (":authority", "localhost"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        ]
        block = b"".join(_literal(name, value) for name, value in fields)
        body = struct.pack(">BI", 0, len(request)) + request
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(SETTINGS, 0, 0, b""))
        writer.write(_frame(HEADERS, END_HEADERS, 1, block) + _frame(DATA, END_STREAM, 1, body))
        ended = False
        while not ended:
            head = await reader.readexactly(9)
            size, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
            stream, payload = int.from_bytes(head[5:], "big"), await reader.readexactly(size)
            if kind == SETTINGS and not flags & ACK:
                writer.write(_frame(SETTINGS, ACK, 0, b""))
            elif kind == PING and not flags & ACK:
                writer.write(_frame(PING, ACK, 0, payload))
            elif stream == 1 and kind in (DATA, HEADERS, RST_STREAM):
                frame = Frame(kind, flags, payload)
                ended = frame.ends
                yield frame
    finally:
        writer.close()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


def _literal(name: str, value: str) -> bytes:
    return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
