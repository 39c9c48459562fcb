"""A proxy between client and server that tracks the position within a call, so that a case can break it there.

It reads HTTP/2 frames and gRPC messages, and forwards them unchanged unless a `Break` or a `Rewrite` applies. The break
of one connection does not affect the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Self

from hpack import Decoder
from parley.v1 import chat_pb2

from tests.conformance.http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FAULTY_ENDS,
    HEADERS,
    PADDED,
    PAGE_AFTER_S,
    PRIORITY,
    FaultyEnd,
    HeaderWriter,
    frame,
    goaway,
    rst_stream,
    torn,
)
from tests.ports import free_port

HOST = "127.0.0.1"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
LINGER = struct.pack("ii", 1, 0)
READ_BYTES = 64 * 1024
REFRAMED_BYTES = 16_000  # larger messages are forwarded in parts: one held back would exhaust its window
Rewrite = Callable[[chat_pb2.TokenChunk], list[chat_pb2.TokenChunk]]


@dataclass
class Break:
    """Breaks the connection or one call before the frame or message at a place of a call is forwarded.

    Places: `request` (the call's own headers), the response's `headers`, `accepted`, the `nth` `text`, the `terminal`
    chunk, the `message` of a unary answer, the `status`. Ways for the connection: `reset` (RST), `close` (FIN), `torn`
    (FIN within a frame), `goaway` (GOAWAY with the HTTP/2 error `code`, then FIN), `stall` (nothing is
    forwarded, for `for_s` seconds if that is set). Ways for this one call: `mute` (the client
    gets no more of it), and those of `FaultyEnd`. With `held`, what the client gets waits for `Wire.release`: gRPC
    drops messages that the application has not read when the end of their call is an error.
    """

    how: str
    before: str
    call: str = ""
    nth: int = 1
    times: int = 1
    for_s: float = 0.0
    code: str | int = ""
    reason: str = ""
    held: bool = False
    done: int = 0

    def applies(self, place: str, call: str, count: int) -> bool:
        """Whether the break applies at this place; if so, counts it."""
        if self.done >= self.times or place != self.before or self.call not in ("", call) or count < self.nth:
            return False
        self.done += 1
        return True


class Wire:
    """`async with Wire(port) as wire:` listens on `wire.address`, and forwards new connections to `target_port`."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = free_port()
        self.breaks: list[Break] = []
        self.rewrite: Rewrite | None = None
        self.held: asyncio.Queue[Callable[[], None]] = asyncio.Queue()
        self.accepted = 0
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()
        self.break_all("reset")
        await asyncio.gather(*(link.ended.wait() for link in list(self._links)))

    async def listen(self) -> None:
        """Accept connections."""
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, HOST, self.port, backlog=1024)

    async def refuse(self) -> None:
        """Refuse new connections; open ones stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def break_all(self, how: str, *, for_s: float = 0.0) -> None:
        """Break every open connection at once."""
        for link in list(self._links):
            link.break_now(how, for_s=for_s)

    async def release(self) -> None:
        """Carry out the next break that is held, as soon as there is one."""
        (await self.held.get())()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            server_reader, server_writer = await asyncio.open_connection(HOST, self.target_port)
        except OSError:
            _reset(writer)
            return
        link = _Link(self, client=writer, server=server_writer)
        self._links.add(link)
        try:
            await link.run(reader, server_reader)
        finally:
            self._links.discard(link)


@dataclass
class _Call:
    """The state of one call of a connection."""

    name: str
    stream: int
    begun: bool = False  # the client has the headers of the answer
    answered: bool = False
    texts: int = 0
    muted: bool = False  # the client gets nothing more
    ended: bool = False  # the same, and it has got a faulty end
    withheld: bool = False  # the server gets nothing
    pending: bytearray = field(default_factory=bytearray)
    passing: int = 0  # bytes left of a message that is forwarded in parts

    @property
    def streamed(self) -> bool:
        return self.name in ("StreamReply", "ResumeReply")


class _Broken(Exception):
    """The connection has ended."""


class _Link:
    """The connection of a client, and that to the server."""

    def __init__(self, wire: Wire, *, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.ended = asyncio.Event()
        self._wire = wire
        self._client = client
        self._server = server
        self._calls: dict[int, _Call] = {}
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._requests = _decoder()
        self._answers = _decoder()
        self._to_client = HeaderWriter()
        self._to_server = HeaderWriter()
        self._request_block = b""
        self._request_ends = False
        self._answer_block = b""
        self._answer_ends = False
        self._tasks: list[asyncio.Task[None]] = []
        for end in (client, server):
            end.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def run(self, from_client: asyncio.StreamReader, from_server: asyncio.StreamReader) -> None:
        directions = (
            self._forward(from_client, self._server, self._request, skip=len(PREFACE)),
            self._forward(from_server, self._client, self._response, skip=0),
        )
        self._tasks = [asyncio.create_task(direction) for direction in directions]
        try:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in self._tasks:
                task.cancel()
            for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
                if isinstance(outcome, Exception) and not isinstance(outcome, _Broken | OSError):
                    raise outcome
            for end in (self._client, self._server):
                end.close()
            self.ended.set()

    def break_now(self, how: str, *, for_s: float = 0.0) -> None:
        if how == "stall":
            self._flowing.clear()
            if for_s:
                asyncio.get_running_loop().call_later(for_s, self._flowing.set)
            return
        for end in (self._client, self._server):
            if how == "reset":
                _reset(end)
            else:
                end.close()
        for task in self._tasks:
            task.cancel()

    async def _forward(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        handle: Callable[[int, int, int, bytes], bytes | None],
        *,
        skip: int,
    ) -> None:
        if skip:
            writer.write(await _exactly(reader, skip))
        while True:
            head = await _exactly(reader, 9)
            length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
            stream = int.from_bytes(head[5:], "big") & 0x7FFFFFFF
            payload = await _exactly(reader, length)
            await self._flowing.wait()
            out = handle(kind, flags, stream, payload)
            await self._flowing.wait()
            writer.write(out if out is not None else head + payload)
            await writer.drain()

    # --- frames of the client, of which only the names of calls are read

    def _request(self, kind: int, flags: int, stream: int, payload: bytes) -> bytes | None:
        """Returns what the server gets instead; None for the frame as it is."""
        if kind not in (HEADERS, CONTINUATION):
            call = self._calls.get(stream)
            return b"" if call is not None and call.withheld else None
        if kind == HEADERS:
            self._request_ends = bool(flags & END_STREAM)
        self._request_block = _joined(self._request_block, kind, flags, payload)
        if not flags & END_HEADERS:
            return b""
        fields = self._requests.decode(self._request_block, raw=True)
        path = next((value for name, value in fields if name == b":path"), None)
        if path is not None:
            call = self._calls[stream] = _Call(path.decode().rpartition("/")[2], stream)
            self._at("request", call)
            if call.withheld:
                return b""
        return self._to_server.frames(stream, fields, ends=self._request_ends)

    # --- frames of the server

    def _response(self, kind: int, flags: int, stream: int, payload: bytes) -> bytes | None:
        """Returns what the client gets instead; None for the frame as it is."""
        call = self._calls.get(stream)
        if kind == DATA:
            return None if call is None else self._data(call, flags, stream, payload)
        if kind not in (HEADERS, CONTINUATION):
            return b"" if call is not None and call.ended else None
        if kind == HEADERS:
            self._answer_ends = bool(flags & END_STREAM)
        self._answer_block = _joined(self._answer_block, kind, flags, payload)
        if not flags & END_HEADERS:
            return b""
        # Also of a muted call, whose block may enter fields into the server's table.
        fields = self._answers.decode(self._answer_block, raw=True)
        if call is not None:
            self._at("status" if self._answer_ends else "headers", call)
            if self._answer_ends:
                self._calls.pop(stream, None)
            if call.muted:
                return b""
            call.begun = True
        return self._to_client.frames(stream, fields, ends=self._answer_ends)

    def _data(self, call: _Call, flags: int, stream: int, payload: bytes) -> bytes | None:
        """Whole messages, each in a frame of its own, so that a break can be between two of them."""
        if not call.streamed and not call.answered:
            call.answered = True
            self._at("message", call)
        if not call.streamed:
            return b"" if call.ended else None
        out = bytearray()
        call.pending += payload
        while call.pending:
            if call.passing:
                piece = bytes(call.pending[: call.passing])
                del call.pending[: len(piece)]
                call.passing -= len(piece)
                out += frame(DATA, 0, stream, piece)
                continue
            if len(call.pending) < 5:
                break
            length = int.from_bytes(call.pending[1:5], "big")
            if length > REFRAMED_BYTES:
                call.passing = length + 5
                continue
            if len(call.pending) < length + 5:
                break
            chunk = chat_pb2.TokenChunk.FromString(bytes(call.pending[5 : length + 5]))
            del call.pending[: length + 5]
            self._chunk(call, stream, chunk, out)
        if call.ended:
            return b""
        if flags & END_STREAM:
            out += frame(DATA, END_STREAM, stream, b"")
        return bytes(out)

    def _chunk(self, call: _Call, stream: int, chunk: chat_pb2.TokenChunk, out: bytearray) -> None:
        kind = chunk.WhichOneof("event") or ""
        if kind == "text":
            call.texts += 1
        place = "terminal" if kind in ("finished", "failed") else kind
        self._at(place, call, count=call.texts if kind == "text" else 1, out=out)
        if call.muted:
            return
        for each in self._wire.rewrite(chunk) if self._wire.rewrite is not None else [chunk]:
            message = each.SerializeToString()
            out += frame(DATA, 0, stream, b"\0" + len(message).to_bytes(4, "big") + message)

    def _at(self, place: str, call: _Call, *, count: int = 1, out: bytearray | None = None) -> None:
        """Apply the breaks at this place, after sending `out`, the data before it."""
        for each in [] if call.ended else self._wire.breaks:
            if not each.applies(place, call.name, count):
                continue
            if out:
                self._client.write(bytes(out))
                out.clear()
            if each.how == "mute":
                call.muted = True
            elif each.how in FAULTY_ENDS:
                self._end(call, FaultyEnd(each.how, each.code, each.reason), is_sent=place != "request", held=each.held)
                return
            elif each.how == "stall":
                self.break_now("stall", for_s=each.for_s)
            elif each.held:
                call.muted = call.ended = True
                self._wire.held.put_nowait(partial(self._break_connection, each, call, place))
                return
            else:
                self._break_connection(each, call, place)
                raise _Broken

    def _send(self, at_once: bytes, later: bytes) -> None:
        """Send both to the client. It may have left before the second one."""
        self._client.write(at_once)
        if later:
            asyncio.get_running_loop().call_later(PAGE_AFTER_S, self._client.write, later)

    def _break_connection(self, how: Break, call: _Call, place: str) -> None:
        if how.how == "goaway":
            self._client.write(goaway(0 if place == "request" else call.stream, str(how.code)))
        elif how.how == "torn":
            self._client.write(torn(call.stream, begun=call.begun))
        self.break_now("reset" if how.how == "reset" else "close")

    def _end(self, call: _Call, end: FaultyEnd, *, is_sent: bool, held: bool) -> None:
        """Ends one call for the client. The server sees a cancelled call, or none if `is_sent` is false."""
        frames = end.frames(call.stream, self._to_client, begun=call.begun)
        if held:
            self._wire.held.put_nowait(partial(self._send, *frames))
        else:
            self._send(*frames)
        call.muted = call.ended = True
        call.withheld = True
        if is_sent:
            self._server.write(rst_stream(call.stream, "CANCEL"))


def _decoder() -> Decoder:
    decoder = Decoder()
    decoder.max_allowed_table_size = 1 << 20
    return decoder


def _joined(block: bytes, kind: int, flags: int, payload: bytes) -> bytes:
    """The header block so far, without the padding and the priority of HEADERS."""
    if kind == CONTINUATION:
        return block + payload
    if flags & PADDED:
        payload = payload[1 : len(payload) - payload[0]]
    return payload[5:] if flags & PRIORITY else payload


async def _exactly(reader: asyncio.StreamReader, count: int) -> bytes:
    try:
        return await reader.readexactly(count)
    except asyncio.IncompleteReadError as gone:
        raise _Broken from gone


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a TCP reset."""
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
    writer.transport.abort()
