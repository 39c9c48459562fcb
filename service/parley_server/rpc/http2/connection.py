"""One connection: frames in, frames out, flow control, and what a peer may not do. It knows nothing of servicers.

A write happens at once, in the caller's turn of the event loop; the loop's transport puts those of one turn together.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import TYPE_CHECKING, cast

from parley_server.rpc.http2 import frames, headers
from parley_server.rpc.http2.blocks import LIST_BYTES, Blocks
from parley_server.rpc.http2.call import Call
from parley_server.rpc.http2.flow import Flow
from parley_server.rpc.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    DEFAULT_WINDOW,
    END_STREAM,
    GOAWAY,
    HEADER_BYTES,
    HEADERS,
    MAX_FRAME_BYTES,
    MAX_WINDOW,
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
    expect,
)
from parley_server.rpc.http2.lifetime import Budget, Lifetime

if TYPE_CHECKING:
    from parley_server.rpc.http2.server import Http2Server

log = logging.getLogger("parley.server")

STREAM_WINDOW = 1024 * 1024
CONNECTION_WINDOW = 4 * 1024 * 1024
UNREAD_BYTES = 4 * 1024 * 1024
"""What may wait for a peer that does not read, before the connection ends."""
FRAME_BYTES = 4 * MAX_FRAME_BYTES
"""The largest frame that we send, whatever the peer takes: others wait while it goes out."""
REMEMBERED = 1_024
"""How many streams that we have reset are known as such; what their peer had sent by then is ignored."""
YOUNG_S = 1.0
"""A call that is reset earlier was no call; an old one costs its peer next to nothing to reset."""
CHEAP = 0.1
LINGER_S = 1.0
"""How long a peer that has broken the rules may take to read why its connection ends."""
ALIVE, GOODBYE = b"\0\0\0\0\0\0\0\1", b"\0\0\0\0\0\0\0\2"
METHODS = (b"GET ", b"POST ", b"HEAD ", b"PUT ", b"OPTIONS ", b"DELETE ")
PLAIN_TEXT = b"This port speaks gRPC, over HTTP/2 from the first byte on.\n"
PLAIN_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s"
    % (len(PLAIN_TEXT), PLAIN_TEXT)
)


class Connection(asyncio.Protocol):
    """The server's end of one connection. `flow` is what may go out; `closed` says that nothing more does.
    `held` are the bytes of all requests that no servicer has taken yet."""

    def __init__(self, server: Http2Server) -> None:
        self.server = server
        self.loop = server.loop
        self.flow = Flow()
        self.calls: dict[int, Call] = {}
        self.closed = False
        self.held = 0
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._lifetime: Lifetime = cast(Lifetime, None)
        self._budget = Budget(self.loop, server.limits)
        self._blocks = Blocks()
        self._rest = b""
        self._greeted = False
        self._introduced = False
        self._stream_window = DEFAULT_WINDOW
        self._table_bytes = frames.DEFAULT_TABLE_BYTES
        self._table_emptied = True
        self._unacknowledged = 0
        self._last_id = 0
        self._cut: dict[int, None] = {}
        self._going_away = False
        self._refused_above = MAX_WINDOW

    # --- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the peer to greet."""
        self._transport = cast(asyncio.Transport, transport)
        self._lifetime = Lifetime(
            self.loop, self.server.limits, ping=self._ping_peer, go_away=self.go_away, abort=self.abort
        )
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            self.abort()
            return
        self.server.opened(self)

    def connection_lost(self, error: Exception | None) -> None:
        """Its calls are over."""
        self._end_calls()
        self._lifetime.end()
        self.server.closed(self)

    def pause_writing(self) -> None:
        """The socket's buffer is full."""
        self.flow.pause()

    def resume_writing(self) -> None:
        """It has room again."""
        self.flow.resume()

    def eof_received(self) -> bool:
        """A peer that has ended its half gets no answers any more; what is written is sent, then it closes."""
        self._end_calls()
        self._lifetime.closing(self.server.limits.ping_s)
        return False

    def data_received(self, data: bytes) -> None:
        """Take what has come, frame by frame."""
        if self.closed:
            return
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
            self.abort()

    # --- the calls' side

    @property
    def heard_at(self) -> float:
        """When the peer was last heard."""
        return self._lifetime.heard_at

    def send(self, data: bytes) -> None:
        """Frames, as they are. The caller has seen to the windows."""
        if not self.closed:
            self._budget.sent()
            self._transport.write(data)

    def header_block(self, stream_id: int, block: bytes, *, end_stream: bool) -> bytes:
        """The frames of a header block, which is to be sent at once."""
        if not self._table_emptied:
            self._table_emptied, block = True, frames.TABLE_EMPTIED + block
        return frames.header_block(stream_id, block, end_stream=end_stream, max_frame=self.flow.max_frame)

    def reset(self, stream_id: int, code: Code) -> None:
        """Reset a stream; what its peer has sent by then is ignored."""
        self._cut[stream_id] = None
        if len(self._cut) > REMEMBERED:
            del self._cut[next(iter(self._cut))]
        self.send(frames.reset(stream_id, code))

    def acknowledge(self, call: Call) -> None:
        """Let the peer send more of a request, once half a window is used and its servicer keeps up."""
        if call.unacknowledged >= STREAM_WINDOW // 2 > call.queued and not (call.remote_closed or call.ended):
            self._transport.write(frames.window_update(call.stream_id, call.unacknowledged))
            call.unacknowledged = 0

    def forget(self, call: Call) -> None:
        """The call has ended."""
        self.calls.pop(call.stream_id, None)
        if self._going_away and not self.calls:
            self._close_soon()

    # --- the server's side

    def go_away(self) -> None:
        """Take no new calls; close once those that run have ended, after `age_grace_s` at the latest."""
        if self._going_away or self.closed:
            return
        self._going_away = True
        if not self._greeted:
            self.close()
            return
        self._transport.write(frames.go_away(MAX_WINDOW, Code.NO_ERROR) + frames.frame(PING, 0, 0, GOODBYE))
        self._lifetime.leaving(self.refuse_new)

    def refuse_new(self) -> None:
        """The peer has had time to see the farewell: what it opens from now on is refused, and safe to repeat."""
        if self._refused_above < MAX_WINDOW or self.closed:
            return
        self._refused_above = self._last_id
        self._transport.write(frames.go_away(self._last_id, Code.NO_ERROR))
        if not self.calls:
            self._close_soon()

    def abort(self) -> None:
        """Close at once. Calls that run are cancelled."""
        self._end_calls()
        self._transport.abort()

    def close(self, linger_s: float | None = None) -> None:
        """Send what is written, then close, after `linger_s` at the latest. Calls that run are cancelled.

        What still comes is read and thrown away: closing a socket that has unread bytes would make the peer's kernel
        throw away what we have sent."""
        if self.closed:
            return
        self._end_calls()
        self._lifetime.closing(self.server.limits.ping_s if linger_s is None else linger_s)
        if not self._transport.can_write_eof():
            self._transport.close()
            return
        try:
            self._transport.write_eof()
        except OSError:  # the peer has reset it, and the loop has yet to hear of that
            self._transport.abort()

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
            self.close(LINGER_S)
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
        if self._blocks.open and kind != CONTINUATION:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a header block is interrupted")
        if kind == DATA:
            self._data(flags, stream_id, payload)
        elif kind == WINDOW_UPDATE:
            self._window_update(stream_id, payload)
        elif kind == HEADERS:
            if self._blocks.begin(flags, stream_id, payload):
                self._fields(*self._blocks.take())
        elif kind == PING:
            self._ping(flags, stream_id, payload)
        elif kind == RST_STREAM:
            self._reset_by_peer(stream_id, payload)
        elif kind == SETTINGS:
            self._settings(flags, stream_id, payload)
        elif kind == CONTINUATION:
            self._budget.spend()
            if self._blocks.go_on(flags, stream_id, payload):
                self._fields(*self._blocks.take())
        elif kind == PRIORITY:
            self._priority(stream_id, payload)
        elif kind == GOAWAY:
            expect(stream_id == 0, Code.PROTOCOL_ERROR, "GOAWAY on a stream")
            expect(len(payload) >= 8, Code.FRAME_SIZE_ERROR, "GOAWAY is short")
            self._budget.spend()
            self.go_away()
        elif kind == PUSH_PROMISE:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a client must not push")
        else:
            self._budget.spend()

    def _data(self, flags: int, stream_id: int, payload: bytes) -> None:
        expect(stream_id != 0, Code.PROTOCOL_ERROR, "DATA without a stream")
        size = len(payload)
        if size == 0 and not flags & END_STREAM:
            self._budget.spend()
        content = frames.unpadded(flags, payload)
        call = self.calls.get(stream_id)
        expect(call is not None or stream_id <= self._last_id, Code.PROTOCOL_ERROR, "DATA on an idle stream")
        self._unacknowledged += size
        if self._unacknowledged >= CONNECTION_WINDOW // 4:
            self._transport.write(frames.window_update(0, self._unacknowledged))
            self._unacknowledged = 0
        if call is None and stream_id in self._cut:
            return
        if call is None or call.remote_closed:
            raise StreamFault(stream_id, Code.STREAM_CLOSED)
        if self.held > self.server.limits.held_bytes:
            raise StreamFault(stream_id, Code.ENHANCE_YOUR_CALM)
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
        call.receive(content, self.server.limits.message_bytes)
        self.acknowledge(call)

    def _fields(self, flags: int, stream_id: int, fields: list[headers.Field]) -> None:
        """A whole header block: a new call, or the trailers of a request."""
        call = self.calls.get(stream_id)
        if call is not None and not call.remote_closed:
            headers.check_trailers(stream_id, fields)
            if not flags & END_STREAM or call.remaining:
                raise StreamFault(stream_id, Code.PROTOCOL_ERROR)
            call.receive_end()
            return
        if stream_id in self._cut:
            return
        expect(stream_id > self._last_id, Code.STREAM_CLOSED, "HEADERS on a stream that has ended")
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
        expect(len(payload) == 4, Code.FRAME_SIZE_ERROR, "WINDOW_UPDATE is not four bytes")
        size = int.from_bytes(payload) & MAX_WINDOW
        if stream_id == 0:
            self.flow.window += size
            expect(size > 0, Code.PROTOCOL_ERROR, "WINDOW_UPDATE by nothing")
            expect(self.flow.window <= MAX_WINDOW, Code.FLOW_CONTROL_ERROR, "the window is too large")
            if self.flow.busy:
                self.flow.let_go()
            return
        call = self.calls.get(stream_id)
        if call is None:
            expect(stream_id <= self._last_id, Code.PROTOCOL_ERROR, "WINDOW_UPDATE on an idle stream")
            return
        if size == 0:
            raise StreamFault(stream_id, Code.PROTOCOL_ERROR)
        if call.window + size > MAX_WINDOW:
            raise StreamFault(stream_id, Code.FLOW_CONTROL_ERROR)
        call.widen(size)

    def _settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        expect(stream_id == 0, Code.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & ACK:
            expect(not payload, Code.FRAME_SIZE_ERROR, "an acknowledgement with a payload")
            return
        expect(len(payload) % 6 == 0, Code.FRAME_SIZE_ERROR, "SETTINGS are cut off")
        self._budget.spend(1 + len(self.calls) / 1_000)
        window = self._stream_window
        for name, value in frames.parse_settings(payload):
            if name == frames.INITIAL_WINDOW_SIZE:
                expect(value <= MAX_WINDOW, Code.FLOW_CONTROL_ERROR, "the initial window is too large")
                window = value
            elif name == frames.MAX_FRAME_SIZE:
                expect(MAX_FRAME_BYTES <= value < 2**24, Code.PROTOCOL_ERROR, "no such frame size")
                self.flow.max_frame = min(value, FRAME_BYTES)
            elif name == frames.HEADER_TABLE_SIZE:
                self._table_emptied = self._table_emptied and value >= self._table_bytes
                self._table_bytes = value
            elif name == frames.ENABLE_PUSH:
                expect(value <= 1, Code.PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")
        self._resize_windows(window)
        self._transport.write(frames.SETTINGS_ACK)

    def _resize_windows(self, size: int) -> None:
        """Each of them by the same; the last of several sizes counts, so that one frame costs one round."""
        by, self._stream_window = size - self._stream_window, size
        for call in self.calls.values() if by else ():
            expect(call.window + by <= MAX_WINDOW, Code.FLOW_CONTROL_ERROR, "a window is too large")
            call.widen(by)

    def _ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        expect(stream_id == 0, Code.PROTOCOL_ERROR, "PING on a stream")
        expect(len(payload) == 8, Code.FRAME_SIZE_ERROR, "PING is not eight bytes")
        if flags & ACK:
            if payload == GOODBYE and self._going_away:
                self.refuse_new()
            return
        self._budget.ping()
        self._transport.write(frames.frame(PING, ACK, 0, payload))

    def _priority(self, stream_id: int, payload: bytes) -> None:
        expect(stream_id != 0, Code.PROTOCOL_ERROR, "PRIORITY without a stream")
        self._budget.spend()
        if len(payload) != 5:
            raise StreamFault(stream_id, Code.FRAME_SIZE_ERROR)
        if int.from_bytes(payload[:4]) & MAX_WINDOW == stream_id:
            raise StreamFault(stream_id, Code.PROTOCOL_ERROR)

    def _reset_by_peer(self, stream_id: int, payload: bytes) -> None:
        expect(stream_id != 0, Code.PROTOCOL_ERROR, "RST_STREAM without a stream")
        expect(len(payload) == 4, Code.FRAME_SIZE_ERROR, "RST_STREAM is not four bytes")
        expect(stream_id <= self._last_id, Code.PROTOCOL_ERROR, "RST_STREAM of an idle stream")
        call = self.calls.get(stream_id)
        is_young = call is not None and self.heard_at - call.began_at < YOUNG_S
        self._budget.spend(1 if is_young else CHEAP)
        if call is not None:
            call.leave()

    # --- ends

    def _reset(self, fault: StreamFault) -> None:
        self._budget.spend()
        call = self.calls.get(fault.stream_id)
        if call is not None:
            call.leave()
        self.reset(fault.stream_id, fault.code)

    def _break(self, fault: ConnectionFault) -> None:
        log.info("connection_fault", extra={"fields": {"code": fault.code.name, "problem": str(fault)}})
        if not self.closed:
            self._transport.write(frames.go_away(self._last_id, fault.code, str(fault)))
            self.close(LINGER_S)

    def _end_calls(self) -> None:
        self.closed = True
        for call in list(self.calls.values()):
            call.leave()

    def _close_soon(self) -> None:
        if self._refused_above < MAX_WINDOW:
            self.close()

    def _ping_peer(self) -> None:
        self._transport.write(frames.frame(PING, 0, 0, ALIVE))
