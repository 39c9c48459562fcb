"""One connection: frames in, frames out, flow control, and what a peer may not do. It knows nothing of servicers.

A write happens at once, in the caller's turn of the event loop; the loop's transport puts those of one turn together.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import TYPE_CHECKING, cast

from hpack import Decoder
from hpack.exceptions import HPACKError, OversizedHeaderListError

from parley_server.rpc.http2 import frames, headers
from parley_server.rpc.http2.call import Call
from parley_server.rpc.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HAS_PRIORITY,
    HEADER_BYTES,
    HEADERS,
    MAX_FRAME_BYTES,
    MAX_WINDOW,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Code,
    ConnectionFault,
    StreamFault,
)
from parley_server.rpc.http2.lifetime import Budget, Lifetime

if TYPE_CHECKING:
    from parley_server.rpc.http2.server import Http2Server

log = logging.getLogger("parley.server")

STREAM_WINDOW = 1024 * 1024
CONNECTION_WINDOW = 4 * 1024 * 1024
BLOCK_BYTES = 32 * 1024
LIST_BYTES = 32 * 1024
UNREAD_BYTES = 4 * 1024 * 1024
"""What may wait for a peer that does not read, before the connection ends."""
HELD_BYTES = 256 * 1024 * 1024
"""What a connection's requests may hold before they are complete."""
ALIVE, GOODBYE = b"\0\0\0\0\0\0\0\1", b"\0\0\0\0\0\0\0\2"
METHODS = (b"GET ", b"POST ", b"HEAD ", b"PUT ", b"OPTIONS ", b"DELETE ")
PLAIN_TEXT = b"This port speaks gRPC, over HTTP/2 from the first byte on.\n"
PLAIN_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s"
    % (len(PLAIN_TEXT), PLAIN_TEXT)
)


class Connection(asyncio.Protocol):
    """The server's end of one connection.

    `window` is what the peer takes in all, in bytes; `waiting` are the calls that wait for it, or for the socket, the
    longest wait first; `paused` says that the socket takes no more for now.
    """

    def __init__(self, server: Http2Server) -> None:
        self.server = server
        self.loop = server.loop
        self.calls: dict[int, Call] = {}
        self.waiting: dict[int, Call] = {}
        self.window = DEFAULT_WINDOW
        self.max_frame = MAX_FRAME_BYTES
        self.paused = False
        self.closed = False
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._decoder = Decoder(max_header_list_size=LIST_BYTES)
        self._rest = b""
        self._greeted = False
        self._introduced = False
        self._stream_window = DEFAULT_WINDOW
        self._unacknowledged = 0
        self._last_id = 0
        self._block: tuple[int, int, bytearray] | None = None
        self._going_away = False
        self._refused_above = MAX_WINDOW
        self._budget = Budget(self.loop, server.limits)
        self._lifetime = Lifetime(
            self.loop, server.limits, ping=self._ping_peer, go_away=self.go_away, abort=self.abort
        )

    # --- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the peer to greet."""
        self._transport = cast(asyncio.Transport, transport)
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            self._transport.abort()
            return
        self.server.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        """Its calls are over."""
        self.closed = True
        self.server.closed(self)
        self._lifetime.end()
        for call in list(self.calls.values()):
            call.leave()
        self.waiting.clear()

    def pause_writing(self) -> None:
        """The socket's buffer is full."""
        self.paused = True

    def resume_writing(self) -> None:
        """It has room again."""
        self.paused = False
        self._wake_all()

    def eof_received(self) -> bool:
        """A peer that has ended its half gets no answers any more."""
        return False

    def data_received(self, data: bytes) -> None:
        """Take what has come, frame by frame."""
        self._lifetime.heard_at = self.loop.time()
        if self._rest:
            data = self._rest + data
        try:
            at = self._take(data)
        except ConnectionFault as fault:
            self._break(fault)
            return
        self._rest = data[at:]
        if self._transport.get_write_buffer_size() > UNREAD_BYTES:
            self._transport.abort()

    # --- the calls' side

    def send(self, data: bytes) -> None:
        """Frames, as they are. The caller has seen to the windows."""
        if not self.closed:
            self._budget.sent()
            self._transport.write(data)

    def forget(self, call: Call) -> None:
        """The call has ended."""
        self.calls.pop(call.stream_id, None)
        self.waiting.pop(call.stream_id, None)
        if self._going_away and not self.calls:
            self._close_soon()

    # --- the server's side

    def go_away(self) -> None:
        """Take no new calls; close once those that run have ended, after `age_grace_s` at the latest."""
        if self._going_away or self.closed:
            return
        self._going_away = True
        self._transport.write(frames.go_away(MAX_WINDOW, Code.NO_ERROR) + frames.frame(PING, 0, 0, GOODBYE))
        self._lifetime.leaving(self._refuse_new)

    def abort(self) -> None:
        """Close at once. Calls that run are cancelled."""
        if not self.closed:
            self._transport.abort()

    def close(self) -> None:
        """Send what is written, then close."""
        if not self.closed:
            self._transport.close()

    # --- frames

    def _take(self, data: bytes) -> int:
        at = 0
        if not self._greeted:
            at = self._greet(data)
            if not self._greeted:
                return at
        end = len(data)
        while end - at >= HEADER_BYTES and not self.closed:
            length = int.from_bytes(data[at : at + 3])
            if length > MAX_FRAME_BYTES:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a frame is larger than the settings allow")
            begin, at_next = at + HEADER_BYTES, at + HEADER_BYTES + length
            if at_next > end:
                break
            stream_id = int.from_bytes(data[at + 5 : begin]) & MAX_WINDOW
            try:
                self._frame(data[at + 3], data[at + 4], stream_id, data[begin:at_next])
            except StreamFault as fault:
                self._reset(fault)
            at = at_next
        return at

    def _greet(self, data: bytes) -> int:
        if len(data) < len(PREFACE) and PREFACE.startswith(data):
            return 0
        if not data.startswith(PREFACE):
            if data.startswith(METHODS):
                self._transport.write(PLAIN_ANSWER)
            self._transport.close()
            self.closed = True
            return len(data)
        self._greeted = True
        self._lifetime.greeted()
        self._transport.write(
            frames.settings(
                (frames.MAX_CONCURRENT_STREAMS, self.server.limits.streams),
                (frames.INITIAL_WINDOW_SIZE, STREAM_WINDOW),
                (frames.MAX_HEADER_LIST_SIZE, LIST_BYTES),
            )
            + frames.window_update(0, CONNECTION_WINDOW - DEFAULT_WINDOW)
        )
        return len(PREFACE)

    def _frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if not self._introduced:
            if kind != SETTINGS or flags & ACK:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "the first frame is not SETTINGS")
            self._introduced = True
        if self._block is not None and kind != CONTINUATION:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a header block is interrupted")
        if kind == DATA:
            self._data(flags, stream_id, payload)
        elif kind == WINDOW_UPDATE:
            self._window_update(stream_id, payload)
        elif kind == HEADERS:
            self._headers(flags, stream_id, payload)
        elif kind == PING:
            self._ping(flags, stream_id, payload)
        elif kind == RST_STREAM:
            self._reset_by_peer(stream_id, payload)
        elif kind == SETTINGS:
            self._settings(flags, stream_id, payload)
        elif kind == CONTINUATION:
            self._continuation(flags, stream_id, payload)
        elif kind == PRIORITY:
            self._priority(stream_id, payload)
        elif kind == GOAWAY:
            _expect(stream_id == 0, Code.PROTOCOL_ERROR, "GOAWAY on a stream")
            _expect(len(payload) >= 8, Code.FRAME_SIZE_ERROR, "GOAWAY is short")
            self.go_away()
        elif kind == PUSH_PROMISE:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a client must not push")

    def _data(self, flags: int, stream_id: int, payload: bytes) -> None:
        _expect(stream_id != 0, Code.PROTOCOL_ERROR, "DATA without a stream")
        size = len(payload)
        if size == 0 and not flags & END_STREAM:
            self._budget.spend()
        self._unacknowledged += size
        _expect(self._unacknowledged <= CONNECTION_WINDOW, Code.FLOW_CONTROL_ERROR, "more DATA than the window allows")
        if self._unacknowledged >= CONNECTION_WINDOW // 4:
            self._transport.write(frames.window_update(0, self._unacknowledged))
            self._unacknowledged = 0
            if sum(call.held for call in self.calls.values()) > HELD_BYTES:
                raise StreamFault(stream_id, Code.ENHANCE_YOUR_CALM)
        call = self.calls.get(stream_id)
        if call is None or call.remote_closed:
            _expect(stream_id <= self._last_id, Code.PROTOCOL_ERROR, "DATA on an idle stream")
            self._budget.spend()
            raise StreamFault(stream_id, Code.STREAM_CLOSED)
        content = _unpadded(flags, payload)
        if call.remaining is not None:
            call.remaining -= len(content)
            if call.remaining < 0 or (flags & END_STREAM and call.remaining):
                raise StreamFault(stream_id, Code.PROTOCOL_ERROR)
        call.unacknowledged += size
        if call.unacknowledged > STREAM_WINDOW:
            raise StreamFault(stream_id, Code.FLOW_CONTROL_ERROR)
        if flags & END_STREAM:
            call.receive(content, self.server.limits.message_bytes)
            call.receive_end()
            return
        if call.unacknowledged >= STREAM_WINDOW // 2:
            self._transport.write(frames.window_update(stream_id, call.unacknowledged))
            call.unacknowledged = 0
        call.receive(content, self.server.limits.message_bytes)

    def _headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        _expect(stream_id % 2 == 1, Code.PROTOCOL_ERROR, "HEADERS on a stream that is not a client's")
        content = _unpadded(flags, payload)
        if flags & HAS_PRIORITY:
            _expect(len(content) >= 5, Code.FRAME_SIZE_ERROR, "HEADERS are short")
            if int.from_bytes(content[:4]) & MAX_WINDOW == stream_id:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "a stream depends on itself")
            content = content[5:]
        if not flags & END_HEADERS:
            self._block = (stream_id, flags, bytearray(content))
            return
        self._fields(flags, stream_id, content)

    def _continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        if self._block is None or self._block[0] != stream_id:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "CONTINUATION of nothing")
        self._budget.spend()
        block = self._block[2]
        block += payload
        _expect(len(block) <= BLOCK_BYTES, Code.ENHANCE_YOUR_CALM, "a header block is too large")
        if flags & END_HEADERS:
            first_flags = self._block[1]
            self._block = None
            self._fields(first_flags, stream_id, bytes(block))

    def _fields(self, flags: int, stream_id: int, block: bytes) -> None:
        """A whole header block: a new call, or the trailers of a request."""
        try:
            fields = cast("list[headers.Field]", self._decoder.decode(block, raw=True))
        except OversizedHeaderListError:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "the header fields are too large") from None
        except (HPACKError, IndexError, UnicodeDecodeError) as error:
            raise ConnectionFault(Code.COMPRESSION_ERROR, "a header block makes no sense") from error
        call = self.calls.get(stream_id)
        if call is not None and not call.remote_closed:
            headers.check_trailers(stream_id, fields)
            if not flags & END_STREAM or call.remaining:
                raise StreamFault(stream_id, Code.PROTOCOL_ERROR)
            call.receive_end()
            return
        if stream_id <= self._last_id:
            raise ConnectionFault(Code.STREAM_CLOSED, "HEADERS on a stream that has ended")
        self._last_id = stream_id
        if stream_id > self._refused_above or len(self.calls) >= self.server.limits.streams:
            raise StreamFault(stream_id, Code.REFUSED_STREAM)
        self._open(flags, stream_id, fields)

    def _open(self, flags: int, stream_id: int, fields: list[headers.Field]) -> None:
        head = headers.read(stream_id, fields)
        length = headers.content_length(fields)
        if length is not None and (length < 0 or (length > 0 and flags & END_STREAM)):
            raise StreamFault(stream_id, Code.PROTOCOL_ERROR)
        call = Call(self, stream_id, head, window=self._stream_window, remaining=length)
        call.remote_closed = bool(flags & END_STREAM)
        self.calls[stream_id] = call
        self.server.dispatch(call, head)
        if flags & END_STREAM and not call.ended:
            call.receive_end()

    def _window_update(self, stream_id: int, payload: bytes) -> None:
        _expect(len(payload) == 4, Code.FRAME_SIZE_ERROR, "WINDOW_UPDATE is not four bytes")
        size = int.from_bytes(payload) & MAX_WINDOW
        if stream_id == 0:
            self.window += size
            _expect(size > 0, Code.PROTOCOL_ERROR, "WINDOW_UPDATE by nothing")
            _expect(self.window <= MAX_WINDOW, Code.FLOW_CONTROL_ERROR, "the window is too large")
            self._wake_all()
            return
        call = self.calls.get(stream_id)
        if call is None:
            _expect(stream_id <= self._last_id, Code.PROTOCOL_ERROR, "WINDOW_UPDATE on an idle stream")
            return
        if size == 0:
            raise StreamFault(stream_id, Code.PROTOCOL_ERROR)
        call.window += size
        if call.window > MAX_WINDOW:
            raise StreamFault(stream_id, Code.FLOW_CONTROL_ERROR)
        self.waiting.pop(stream_id, None)
        call.wake()

    def _settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        _expect(stream_id == 0, Code.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & ACK:
            _expect(not payload, Code.FRAME_SIZE_ERROR, "an acknowledgement with a payload")
            return
        _expect(len(payload) % 6 == 0, Code.FRAME_SIZE_ERROR, "SETTINGS are cut off")
        self._budget.spend()
        for name, value in frames.parse_settings(payload):
            if name == frames.INITIAL_WINDOW_SIZE:
                _expect(value <= MAX_WINDOW, Code.FLOW_CONTROL_ERROR, "the initial window is too large")
                self._resize_windows(value - self._stream_window)
                self._stream_window = value
            elif name == frames.MAX_FRAME_SIZE:
                _expect(MAX_FRAME_BYTES <= value < 2**24, Code.PROTOCOL_ERROR, "no such frame size")
                self.max_frame = value
            elif name == frames.ENABLE_PUSH:
                _expect(value <= 1, Code.PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")
        self._transport.write(frames.SETTINGS_ACK)

    def _resize_windows(self, by: int) -> None:
        for call in self.calls.values():
            call.window += by
            _expect(call.window <= MAX_WINDOW, Code.FLOW_CONTROL_ERROR, "a window is too large")
        self._wake_all()

    def _ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        _expect(stream_id == 0, Code.PROTOCOL_ERROR, "PING on a stream")
        _expect(len(payload) == 8, Code.FRAME_SIZE_ERROR, "PING is not eight bytes")
        if flags & ACK:
            if payload == GOODBYE and self._going_away:
                self._refuse_new()
            return
        self._budget.ping()
        self._transport.write(frames.frame(PING, ACK, 0, payload))

    def _priority(self, stream_id: int, payload: bytes) -> None:
        _expect(stream_id != 0, Code.PROTOCOL_ERROR, "PRIORITY without a stream")
        self._budget.spend()
        if len(payload) != 5:
            raise StreamFault(stream_id, Code.FRAME_SIZE_ERROR)
        if int.from_bytes(payload[:4]) & MAX_WINDOW == stream_id:
            raise StreamFault(stream_id, Code.PROTOCOL_ERROR)

    def _reset_by_peer(self, stream_id: int, payload: bytes) -> None:
        _expect(stream_id != 0, Code.PROTOCOL_ERROR, "RST_STREAM without a stream")
        _expect(len(payload) == 4, Code.FRAME_SIZE_ERROR, "RST_STREAM is not four bytes")
        _expect(stream_id <= self._last_id, Code.PROTOCOL_ERROR, "RST_STREAM of an idle stream")
        self._budget.spend()
        call = self.calls.get(stream_id)
        if call is not None:
            call.leave()

    # --- ends

    def _reset(self, fault: StreamFault) -> None:
        self._budget.spend()
        call = self.calls.get(fault.stream_id)
        if call is not None:
            call.leave()
        if not self.closed:
            self._transport.write(frames.reset(fault.stream_id, fault.code))

    def _break(self, fault: ConnectionFault) -> None:
        if self.closed:
            return
        log.info("connection_fault", extra={"fields": {"code": fault.code.name, "problem": str(fault)}})
        self._transport.write(frames.go_away(self._last_id, fault.code, str(fault)))
        self._transport.close()
        self.closed = True
        for call in list(self.calls.values()):
            call.leave()

    def _refuse_new(self) -> None:
        """The peer has seen the farewell: what it opens from now on is refused, unread and safe to repeat."""
        if self._refused_above < MAX_WINDOW:
            return
        self._refused_above = self._last_id
        self._transport.write(frames.go_away(self._last_id, Code.NO_ERROR))
        if not self.calls:
            self._close_soon()

    def _close_soon(self) -> None:
        if self._refused_above < MAX_WINDOW:
            self.close()

    def _ping_peer(self) -> None:
        self._transport.write(frames.frame(PING, 0, 0, ALIVE))

    def _wake_all(self) -> None:
        waiting, self.waiting = self.waiting, {}
        for call in waiting.values():
            call.wake()


def _unpadded(flags: int, payload: bytes) -> bytes:
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ConnectionFault(Code.PROTOCOL_ERROR, "more padding than payload")
    return payload[1 : len(payload) - payload[0]]


def _expect(fact: bool, code: Code, problem: str) -> None:
    if not fact:
        raise ConnectionFault(code, problem)
