"""One call: its request as it arrives, its response as a servicer writes it. What servicers know as their context."""

from __future__ import annotations

import asyncio
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
    MAX_FRAME_BYTES,
    PREFIX_BYTES,
    Code,
    frame,
    header,
    header_block,
    message_header,
    message_prefix,
    reset,
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

    `window` is what the peer takes on this stream, in bytes; the connection owns what it takes in all.
    """

    __slots__ = (
        "_accepted",
        "_body",
        "_connection",
        "_deadline",
        "_handler",
        "_head",
        "_loop",
        "_messages",
        "_news",
        "_refusal",
        "_task",
        "_timer",
        "ended",
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
        self.room: asyncio.Future[None] | None = None
        self._connection = connection
        self._loop = connection.loop
        self._head = head
        self._handler: Handler = None
        self._refusal: tuple[int, str] | None = None
        self._accepted = False
        self._body = bytearray()
        self._messages: deque[bytes] = deque()
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
        connection = self._connection
        if self.ended:
            return
        if size > self.window or size > connection.window or size > connection.max_frame or connection.paused:
            await self._write_slowly(payload)
            return
        self.window -= size
        connection.window -= size
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
            self._start(self._requests())

    def refuse(self, status: int, text: str) -> None:
        """It is no gRPC, and gets this HTTP answer once the request is complete."""
        self._refusal = (status, text)

    @property
    def held(self) -> int:
        """Bytes of a request that is not complete."""
        return len(self._body)

    def receive(self, data: bytes, limit: int) -> None:
        """Bytes of the request; messages of more than `limit` bytes end the call."""
        if self._refusal is not None:
            return
        body = self._body
        body += data
        while not self.ended and len(body) >= PREFIX_BYTES:
            size = int.from_bytes(body[1:PREFIX_BYTES])
            if size > limit:
                self._refuse_size(size, limit)
                return
            if len(body) < PREFIX_BYTES + size:
                return
            compressed, message = body[0], bytes(body[PREFIX_BYTES : PREFIX_BYTES + size])
            del body[: PREFIX_BYTES + size]
            if compressed:
                plain = self._inflate(message, limit)
                if plain is None:
                    return
                message = plain
            self._messages.append(message)
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
        elif len(self._messages) == 1:
            self._start_with(self._messages.popleft())
        else:
            self.end(grpc.StatusCode.INTERNAL, f"a request is one message, not {len(self._messages)}")

    def leave(self) -> None:
        """The caller has gone, or the server goes: the servicer is cancelled, and nothing more is sent."""
        self.ended = True
        self._wind_up()
        if self._task is not None:
            self._task.cancel()

    def wake(self) -> None:
        """There may be room to write."""
        room, self.room = self.room, None
        if room is not None and not room.done():
            room.set_result(None)

    def end(self, code: grpc.StatusCode, details: str = "", metadata: Trailing = ()) -> None:
        """Send the status, once. Whatever of the request is still to come is not waited for."""
        if self.ended:
            return
        self.ended = True
        block = headers.trailers(code, details, metadata, alone=not self._accepted)
        data = header_block(self.stream_id, block, end_stream=True, max_frame=self._connection.max_frame)
        self._connection.send(data if self.remote_closed else data + reset(self.stream_id, Code.NO_ERROR))
        self._wind_up()

    # --- running

    def _start_with(self, message: bytes) -> None:
        try:
            request = self._handler.request_deserializer(message)
        except Exception:  # noqa: BLE001 - whatever the serialiser raises, the bytes are to blame
            self.end(grpc.StatusCode.INTERNAL, "the request is not a message of its method's type")
            return
        self._start(request)

    def _start(self, request: Any) -> None:
        self._run_as_task(self._run(request))

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
        server, connection = self._connection.server, self._connection
        server.tasks.discard(task)
        if not self.ended:  # cancelled from within
            self.ended = True
            connection.send(reset(self.stream_id, Code.CANCEL))
            self._wind_up()

    def _wind_up(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.wake()
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
            while self._messages:
                yield self._handler.request_deserializer(self._messages.popleft())
            if self.remote_closed or self.ended:
                return
            self._news = self._loop.create_future()
            await self._news

    # --- the slow ways

    def _opening(self, metadata: Trailing = ()) -> bytes:
        self._accepted = True
        block = headers.response(metadata)
        return header_block(self.stream_id, block, end_stream=False, max_frame=self._connection.max_frame)

    async def _write_slowly(self, payload: bytes) -> None:
        """In pieces, as windows and socket take them."""
        if not self._accepted:
            self._connection.send(self._opening())
        await self._write_data(message_prefix(len(payload)) + payload)

    async def _answer_plainly(self, status: int, text: str) -> None:
        block = headers.http_answer(status)
        self._connection.send(header_block(self.stream_id, block, end_stream=False, max_frame=MAX_FRAME_BYTES))
        await self._write_data(text.encode())
        if not self.ended:
            self.ended = True
            self._connection.send(frame(DATA, END_STREAM, self.stream_id))
            self._wind_up()

    async def _write_data(self, data: bytes) -> None:
        connection, rest = self._connection, memoryview(data)
        while rest and not self.ended:
            size = min(len(rest), self.window, connection.window, connection.max_frame)
            if size <= 0 or connection.paused:
                await self._until_room()
                continue
            self.window -= size
            connection.window -= size
            connection.send(header(DATA, 0, self.stream_id, size) + rest[:size])
            rest = rest[size:]

    async def _until_room(self) -> None:
        self.room = self._loop.create_future()
        self._connection.waiting[self.stream_id] = self
        try:
            await self.room
        finally:
            self.room = None

    def _inflate(self, message: bytes, limit: int) -> bytes | None:
        if self._head.encoding not in ("gzip", "deflate"):
            self.end(grpc.StatusCode.INTERNAL, "a message is compressed, and the call does not say how")
            return None
        inflater = zlib.decompressobj(31 if self._head.encoding == "gzip" else 15)
        try:
            plain = inflater.decompress(message, limit + 1)
        except zlib.error:
            self.end(grpc.StatusCode.INTERNAL, f"a message is not {self._head.encoding}")
            return None
        if len(plain) > limit:
            self._refuse_size(len(plain), limit)
            return None
        return plain

    def _refuse_size(self, size: int, limit: int) -> None:
        self.end(grpc.StatusCode.RESOURCE_EXHAUSTED, f"received message larger than max ({size} vs. {limit})")
        if self._task is not None:
            self._task.cancel()
