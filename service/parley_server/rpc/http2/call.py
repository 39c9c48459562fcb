"""One call: its request as it arrives, its response as a servicer writes it. What servicers know as their context."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import zlib
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from parley_server.rpc.http2 import headers
from parley_server.rpc.http2.frames import (
    DATA,
    END_STREAM,
    PREFIX_BYTES,
    Code,
    frame,
    header,
    message_header,
    message_prefix,
)

if TYPE_CHECKING:
    from parley_server.rpc.http2.connection import Connection

log = logging.getLogger("parley.server")

Trailing = Sequence[tuple[str, str | bytes]]
Handler = Any  # grpc.RpcMethodHandler, whose types say nothing of its fields


class Aborted(Exception):
    """The call has been given its status; nothing is left to do for its servicer."""


class Call:
    """The server's end of one stream of HTTP/2, of one writer. Its task belongs to it alone.

    `window` is what the peer takes on this stream, in bytes; what it takes in all is its connection's `flow`.
    `queued` are the bytes of whole messages that the servicer has not taken yet, `began_at` is when the call came.
    """

    __slots__ = (
        "_accepted",
        "_body",
        "_connection",
        "_deadline",
        "_flow",
        "_handler",
        "_head",
        "_loop",
        "_messages",
        "_news",
        "_refusal",
        "_task",
        "_timer",
        "began_at",
        "ended",
        "queued",
        "remaining",
        "remote_closed",
        "room",
        "stream_id",
        "unacknowledged",
        "window",
    )

    def __init__(
        self, connection: Connection, stream_id: int, head: headers.Head, *, window: int, remaining: int | None
    ) -> None:
        self.stream_id = stream_id
        self.window = window
        self.remaining = remaining
        self.unacknowledged = 0
        self.remote_closed = False
        self.ended = False
        self.queued = 0
        self.began_at = connection.heard_at
        self.room: asyncio.Future[None] | None = None
        self._connection = connection
        self._flow = connection.flow
        self._loop = connection.loop
        self._head = head
        self._handler: Handler = None
        self._refusal: tuple[int, str] | None = None
        self._accepted = False
        self._body = bytearray()
        self._messages: deque[tuple[bool, bytes]] = deque()
        self._news: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: float | None = None

    # --- what a servicer uses, as in grpc.aio.ServicerContext

    def invocation_metadata(self) -> headers.Metadata:
        """The caller's metadata, without what belongs to the transport."""
        return self._head.metadata

    def time_remaining(self) -> float | None:
        """Seconds to the caller's deadline; None without one."""
        return None if self._deadline is None else max(0.0, self._deadline - self._loop.time())

    async def send_initial_metadata(self, metadata: Trailing) -> None:
        """Send the header fields that accept the call, once."""
        if not (self._accepted or self.ended):
            self._connection.send(self._opening(metadata))

    async def write(self, message: Any) -> None:
        """Send a message; returns once the peer's windows and the socket have taken it."""
        payload = self._handler.response_serializer(message)
        size = len(payload) + PREFIX_BYTES
        connection, flow = self._connection, self._flow
        if self.ended:
            return
        if size > self.window or size > flow.window or size > flow.max_frame or flow.busy:
            await self._write_slowly(payload)
            return
        self.window -= size
        flow.window -= size
        if self._accepted:
            connection.send(message_header(self.stream_id, size - PREFIX_BYTES) + payload)
        else:
            connection.send(self._opening() + message_header(self.stream_id, size - PREFIX_BYTES) + payload)

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Trailing = ()) -> NoReturn:
        """End the call with this status, and leave the servicer."""
        self.end(code, details, trailing_metadata)
        raise Aborted

    # --- what the connection tells it

    def begin(self, handler: Handler) -> None:
        """Its method is known, and its deadline runs."""
        self._handler = handler
        if self._head.timeout_s is not None:
            self._deadline = self._loop.time() + self._head.timeout_s
            self._timer = self._loop.call_at(self._deadline, self._expire)
        if handler.request_streaming:
            self._run_as_task(self._run(self._requests()))

    def refuse(self, status: int, text: str) -> None:
        """It is no gRPC, and gets this HTTP answer once the request is complete."""
        self._refusal = (status, text)

    def receive(self, data: bytes, limit: int) -> None:
        """Bytes of the request; messages of more than `limit` bytes end the call."""
        if self._refusal is not None:
            return
        body = self._body
        body += data
        self._connection.held += len(data)
        while not self.ended and len(body) >= PREFIX_BYTES:
            size = int.from_bytes(body[1:PREFIX_BYTES])
            if size > limit:
                self._refuse_size(size, limit)
                return
            if len(body) < PREFIX_BYTES + size:
                return
            if self._messages and not self._handler.request_streaming:
                self.end(grpc.StatusCode.INTERNAL, "a request is one message, not several")
                return
            self._messages.append((body[0] != 0, bytes(body[PREFIX_BYTES : PREFIX_BYTES + size])))
            self.queued += PREFIX_BYTES + size
            del body[: PREFIX_BYTES + size]
            self._tell()

    def receive_end(self) -> None:
        """The request is complete."""
        self.remote_closed = True
        if self.ended:
            return
        if self._refusal is not None:
            self._run_as_task(self._answer_plainly(*self._refusal))
        elif self._body:
            self.end(grpc.StatusCode.INTERNAL, "the request ended within a message")
        elif self._handler.request_streaming:
            self._tell()
        elif not self._messages:
            self.end(grpc.StatusCode.INTERNAL, "a request is one message, not none")
        elif (request := self._next()) is not None:
            self._run_as_task(self._run(request))

    def leave(self) -> None:
        """The caller has gone, or the server goes: the servicer is cancelled, and nothing more is sent."""
        self.ended = True
        self._wind_up()
        if self._task is not None:
            self._task.cancel()

    def widen(self, size: int) -> None:
        """The peer takes so much more, or less."""
        was, self.window = self.window, self.window + size
        if was <= 0 < self.window:
            self._wake()

    def _wake(self) -> None:
        room, self.room = self.room, None
        if room is not None and not room.done():
            room.set_result(None)

    def end(self, code: grpc.StatusCode, details: str = "", metadata: Trailing = ()) -> None:
        """Send the status, once. Whatever of the request is still to come is not waited for. Raises ValueError for
        metadata that no client would take."""
        if self.ended:
            return
        connection = self._connection
        block = headers.trailers(code, details, metadata, alone=not self._accepted)
        self.ended = True
        connection.send(connection.header_block(self.stream_id, block, end_stream=True))
        if not self.remote_closed:
            connection.reset(self.stream_id, Code.NO_ERROR)
        self._wind_up()

    # --- running

    def _run_as_task(self, work: Coroutine[Any, Any, None]) -> None:
        self._task = self._loop.create_task(work)
        self._connection.server.tasks.add(self._task)
        self._task.add_done_callback(self._over)

    async def _run(self, request: Any) -> None:
        handler = self._handler
        try:
            if not handler.response_streaming:
                await self._answer(await (handler.stream_unary or handler.unary_unary)(request, self))
                return
            responses = (handler.stream_stream or handler.unary_stream)(request, self)
            if hasattr(responses, "__aiter__"):
                async with contextlib.aclosing(responses):
                    async for response in responses:
                        await self.write(response)
            else:
                await responses
        except Aborted:
            return
        except asyncio.CancelledError:
            raise
        except Exception:  # servicers map their own errors; this is a defect in one that does not
            log.exception("call_defect", extra={"fields": {"method": self._head.path}})
            self.end(grpc.StatusCode.UNKNOWN, "the call ended by a defect of the server")
            return
        self.end(grpc.StatusCode.OK)

    async def _answer(self, message: Any) -> None:
        await self.write(message)
        self.end(grpc.StatusCode.OK)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._connection.server.ended(task)
        self._break_off()  # unless it has ended well, it was cancelled from within

    def _break_off(self) -> None:
        if not self.ended:
            self.ended = True
            self._connection.reset(self.stream_id, Code.CANCEL)
            self._wind_up()

    def _wind_up(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._connection.held -= len(self._body) + self.queued
        self._body.clear()
        self._messages.clear()
        self.queued = 0
        self._wake()
        self._tell()
        self._connection.forget(self)

    def _expire(self) -> None:
        self.end(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        if self._task is not None:
            self._task.cancel()

    # --- requests of several messages

    def _tell(self) -> None:
        news, self._news = self._news, None
        if news is not None and not news.done():
            news.set_result(None)

    async def _requests(self) -> AsyncIterator[Any]:
        while True:
            while self._messages and not self.ended:
                request = self._next()
                if request is None:
                    return
                self._connection.acknowledge(self)
                yield request
            if self.remote_closed or self.ended:
                return
            self._news = self._loop.create_future()
            await self._news

    def _next(self) -> Any:
        """The next message; None once the call has ended because it is none."""
        compressed, message = self._messages.popleft()
        self.queued -= PREFIX_BYTES + len(message)
        self._connection.held -= PREFIX_BYTES + len(message)
        plain = self._inflate(message) if compressed else message
        if plain is None:
            return None
        try:
            return self._handler.request_deserializer(plain)
        except Exception:  # noqa: BLE001 - whatever the serialiser raises, the bytes are to blame
            self.end(grpc.StatusCode.INTERNAL, "the request is not a message of its method's type")
            return None

    def _inflate(self, message: bytes) -> bytes | None:
        if self._head.encoding not in ("gzip", "deflate"):
            self.end(grpc.StatusCode.INTERNAL, "a message is compressed, and the call does not say how")
            return None
        limit = self._connection.server.limits.message_bytes
        inflater = zlib.decompressobj(31 if self._head.encoding == "gzip" else 15)
        try:
            plain = inflater.decompress(message, limit + 1)
        except zlib.error:
            plain = b""
        if len(plain) > limit:
            self._refuse_size(len(plain), limit)
            return None
        if not inflater.eof or inflater.unused_data:
            self.end(grpc.StatusCode.INTERNAL, f"a message is not {self._head.encoding}")
            return None
        return plain

    # --- the slow ways

    def _opening(self, metadata: Trailing = ()) -> bytes:
        block = headers.response(metadata)
        self._accepted = True
        return self._connection.header_block(self.stream_id, block, end_stream=False)

    async def _write_slowly(self, payload: bytes) -> None:
        """In pieces, as windows and socket take them."""
        if not self._accepted:
            self._connection.send(self._opening())
        await self._write_data(message_prefix(len(payload)) + payload)

    async def _answer_plainly(self, status: int, text: str) -> None:
        block = headers.http_answer(status)
        self._connection.send(self._connection.header_block(self.stream_id, block, end_stream=False))
        await self._write_data(text.encode())
        if not self.ended:
            self.ended = True
            self._connection.send(frame(DATA, END_STREAM, self.stream_id))
            self._wind_up()

    async def _write_data(self, data: bytes) -> None:
        """One frame after the other, each in its turn, so that a long message does not keep others waiting."""
        flow, rest = self._flow, memoryview(data)
        try:
            rest = self._write_frame(rest) if flow.is_free(self.window) else rest
            while rest and not self.ended:
                self.room = self._loop.create_future()
                if self.window <= 0:
                    await self.room
                elif await flow.turn(self.stream_id, self.room, min(len(rest), self.window)):
                    rest = self._write_frame(rest)
                    flow.done()
        except asyncio.CancelledError:
            if len(rest) < len(data):  # a second message must not follow a half of one
                self._break_off()
            raise
        finally:
            self.room = None

    def _write_frame(self, rest: memoryview) -> memoryview:
        """As much as there is room for, at most a frame; what is left."""
        flow = self._flow
        size = min(len(rest), self.window, flow.window, flow.max_frame)
        if size <= 0 or self.ended:
            return rest
        self.window -= size
        flow.window -= size
        self._connection.send(header(DATA, 0, self.stream_id, size) + rest[:size])
        return rest[size:]

    def _refuse_size(self, size: int, limit: int) -> None:
        self.end(grpc.StatusCode.RESOURCE_EXHAUSTED, f"received message larger than max ({size} vs. {limit})")
        if self._task is not None:
            self._task.cancel()
