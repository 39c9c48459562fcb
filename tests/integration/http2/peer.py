"""A client of HTTP/2 that does what a test says and nothing else, and keeps what it is answered."""

from __future__ import annotations

import asyncio
import ssl
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from urllib.parse import unquote

from hpack import Decoder, Encoder
from parley_server.rpc.http2 import frames
from parley_server.rpc.http2.frames import Code

LIMIT_S = 6.0
HEAD = (
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "localhost"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
)


def request_head(path: str, *more: tuple[str, str], **instead: str) -> list[tuple[str, str]]:
    """The fields of a request; `instead` of the usual ones, by name without colon and with underscores."""
    fields = [(":path", path), *((name, instead.get(name.strip(":").replace("-", "_"), value)) for name, value in HEAD)]
    return [each for each in fields if each[1]] + list(more)


def message(payload: bytes, *, compressed: bool = False) -> bytes:
    """A message as it stands in DATA."""
    return bytes((compressed,)) + len(payload).to_bytes(4) + payload


def data(stream_id: int, payload: bytes, *, end: bool = False) -> bytes:
    """DATA frames of the default size."""
    size = frames.MAX_FRAME_BYTES
    pieces = [payload[at : at + size] for at in range(0, len(payload), size)] or [b""]
    whole = [frames.frame(frames.DATA, 0, stream_id, piece) for piece in pieces[:-1]]
    return b"".join([*whole, frames.frame(frames.DATA, int(end), stream_id, pieces[-1])])


@dataclass
class Answer:
    """What came on one stream: blocks of fields, and all DATA."""

    blocks: list[dict[str, str]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    order: list[str] = field(default_factory=list)
    ended: bool = False
    reset: Code | None = None

    @property
    def over(self) -> bool:
        """Whether nothing follows."""
        return self.ended or self.reset is not None

    @property
    def status(self) -> tuple[int, str]:
        """The status of gRPC, and its text."""
        last = self.blocks[-1]
        return int(last["grpc-status"]), unquote(last.get("grpc-message", ""))

    @property
    def messages(self) -> list[bytes]:
        """The messages of the body, which must be whole."""
        found, body = [], bytes(self.body)
        while body:
            size = int.from_bytes(body[1:5])
            assert body[0] == 0
            assert len(body) >= 5 + size
            found.append(body[5 : 5 + size])
            body = body[5 + size :]
        return found


class Peer:
    """One connection. With `updates` it gives back what it has taken, with `pongs` it answers pings."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.encoder = Encoder()
        self.decoder = Decoder()
        self.answers: dict[int, Answer] = defaultdict(Answer)
        self.farewells: list[tuple[int, Code, str]] = []
        self.pings = 0
        self.settled = 0
        self.granted: dict[int, int] = defaultdict(int)
        self.closed = False
        self.updates = True
        self.pongs = True
        self.next_id = 1

    @classmethod
    async def connect(cls, port: int, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> Peer:
        """A connection on which nothing has been said."""
        name = "localhost" if tls else None
        return cls(*await asyncio.open_connection(host, port, ssl=tls, server_hostname=name))

    @classmethod
    async def greeted(cls, port: int, *settings: tuple[int, int], tls: ssl.SSLContext | None = None) -> Peer:
        """A connection on which both have sent and acknowledged their settings."""
        peer = await cls.connect(port, tls=tls)
        peer.send(frames.PREFACE, frames.settings(*settings))
        await peer.until(lambda: peer.settled)
        return peer

    def send(self, *data: bytes) -> None:
        """As it is; nothing once the connection has ended."""
        if not self.writer.transport.is_closing():
            self.writer.write(b"".join(data))

    def headers(self, stream_id: int, fields: Iterable[tuple[str, str]], *, end: bool = False) -> bytes:
        """A block of fields in one frame."""
        flags = frames.END_HEADERS | int(end)
        return frames.frame(frames.HEADERS, flags, stream_id, self.encoder.encode(fields))

    def call(self, path: str, *payloads: bytes, more: Iterable[tuple[str, str]] = (), end: bool = True) -> int:
        """Start a call with these messages; its stream."""
        stream_id, self.next_id = self.next_id, self.next_id + 2
        body = b"".join(message(each) for each in payloads)
        self.send(self.headers(stream_id, request_head(path, *more)), data(stream_id, body, end=end))
        return stream_id

    async def answer(self, stream_id: int) -> Answer:
        """All that comes on a stream."""
        answer = self.answers[stream_id]
        await self.until(lambda: answer.over)
        return answer

    async def ask(self, path: str, *payloads: bytes, more: Iterable[tuple[str, str]] = ()) -> Answer:
        """A call and its answer."""
        return await self.answer(self.call(path, *payloads, more=more))

    async def until(self, condition: Callable[[], object], limit_s: float = LIMIT_S) -> None:
        """Take frames until it is so. Raises EOFError where the connection ends before."""
        async with asyncio.timeout(limit_s):
            while not condition():
                if not await self.take():
                    raise EOFError(f"closed, after {self.farewells}")

    async def until_closed(self, limit_s: float = LIMIT_S) -> list[tuple[int, Code, str]]:
        """Take frames until the connection ends; the farewells."""
        async with asyncio.timeout(limit_s):
            while await self.take():
                pass
        return self.farewells

    async def round_trip(self) -> None:
        """All that was sent has been taken, and all that was answered by then is here."""
        before = self.pings
        self.send(frames.frame(frames.PING, 0, 0, b"trip" * 2))
        await self.until(lambda: self.pings > before)

    async def take(self) -> bool:
        """One frame; whether there was one."""
        try:
            head = await self.reader.readexactly(9)
            payload = await self.reader.readexactly(int.from_bytes(head[:3]))
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            self.closed = True
            self.writer.close()
            return False
        self._taken(head[3], head[4], int.from_bytes(head[5:]), payload)
        return True

    def _taken(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        answer = self.answers[stream_id] if stream_id else Answer()
        assert not answer.over or kind in (frames.RST_STREAM, frames.WINDOW_UPDATE), "a frame after the end"
        if kind == frames.HEADERS:
            assert flags & frames.END_HEADERS
            answer.blocks.append(dict(self.decoder.decode(payload)))
            answer.order.append("headers")
            answer.ended = bool(flags & frames.END_STREAM)
        elif kind == frames.DATA:
            answer.body += payload
            answer.order.append("data")
            answer.ended = bool(flags & frames.END_STREAM)
            if self.updates and payload:
                self.send(frames.window_update(0, len(payload)), frames.window_update(stream_id, len(payload)))
        elif kind == frames.RST_STREAM:
            answer.reset = Code(int.from_bytes(payload))
        elif kind == frames.SETTINGS and flags & frames.ACK:
            self.settled += 1
        elif kind == frames.SETTINGS:
            self.send(frames.SETTINGS_ACK)
        elif kind == frames.PING:
            self.pings += 1
            if self.pongs and not flags & frames.ACK:
                self.send(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif kind == frames.GOAWAY:
            self.farewells.append((int.from_bytes(payload[:4]), Code(payload[7]), payload[8:].decode()))
        elif kind == frames.WINDOW_UPDATE:
            self.granted[stream_id] += int.from_bytes(payload)

    async def close(self) -> None:
        """The end, at once."""
        self.writer.transport.abort()
