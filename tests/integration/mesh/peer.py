"""A caller that writes HTTP/2 frames itself, because a gRPC client cannot flood a server or refuse to read."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Self

from google.protobuf.message import Message

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, WINDOW_UPDATE = 0x0, 0x1, 0x3, 0x4, 0x8
END_STREAM, END_HEADERS = 0x1, 0x4
CANCEL = 0x8
LARGEST_WINDOW = 2**31 - 1
RECEIVE_BUFFER_BYTES = 4096


class Peer:
    """`async with Peer(port) as peer`: one connection, from which nothing is ever read.

    `window`: bytes of each stream that the other side may send.
    """

    def __init__(self, port: int, *, window: int = 65_535) -> None:
        self._port = port
        self._window = window
        self._next = 1
        self._writer: asyncio.StreamWriter
        self._reader: asyncio.StreamReader

    async def __aenter__(self) -> Self:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self._port))
        # The reader stops taking bytes from the socket once it holds twice its limit.
        self._reader, self._writer = await asyncio.open_connection(sock=sock, limit=RECEIVE_BUFFER_BYTES)
        window = struct.pack(">HI", 0x4, self._window)
        self._send(SETTINGS, 0, 0, window)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.transport.abort()

    def call(self, method: str, request: Message) -> int:
        """Begin a call with its whole request; the number of its stream."""
        stream, self._next = self._next, self._next + 2
        body = request.SerializeToString()
        self._send(HEADERS, END_HEADERS, stream, _block(method))
        self._send(DATA, END_STREAM, stream, struct.pack(">BI", 0, len(body)) + body)
        return stream

    def cancel(self, stream: int) -> None:
        """Reset a call."""
        self._send(RST_STREAM, 0, stream, struct.pack(">I", CANCEL))

    async def drain(self) -> None:
        """Wait until the socket has taken what was sent."""
        await self._writer.drain()

    def _send(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        preface = PREFACE if kind == SETTINGS else b""
        head = struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream)
        self._writer.write(preface + head + payload)


def _block(method: str) -> bytes:
    """The header fields of a call, each as an HPACK literal that no table remembers."""
    fields = (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", method),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    )
    return b"".join(b"\x00" + _literal(name) + _literal(value) for name, value in fields)


def _literal(text: str) -> bytes:
    assert len(text) < 127, "longer ones need more than one byte of length"
    return bytes((len(text),)) + text.encode()
