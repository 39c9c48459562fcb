"""The events of one reply as an iterator that reconnects after cuts.

It reads from the network only when the next event is requested, so that a slow reader needs no memory in the client.
"""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self

import grpc

from parley import _fork
from parley._backoff import Patience
from parley._connection import Connection, is_cancelling
from parley._status import ends_reply, may_retry
from parley._transcript import Transcript
from parley.errors import ConnectionLost, CredentialFailed, NotFound, ParleyError, TooManyReaders, Unavailable
from parley.events import Accepted, Event, Finished, Reconnecting, ToolCall
from parley.v1 import chat_pb2, resources_pb2

# How long to wait for the status of a call after its terminal chunk.
_STATUS_WAIT_S = 1.0

_Call = (
    grpc.aio.UnaryStreamCall[chat_pb2.ReplyRequest, chat_pb2.TokenChunk]
    | grpc.aio.UnaryStreamCall[chat_pb2.ResumeReplyRequest, chat_pb2.TokenChunk]
)


class ReplyStream:
    """An asynchronous iterator over the events of one reply, for one reader at a time.

    After a cut it reconnects with the client's backoff. It ends after `Finished`. It raises `ReplyFailed` (with the
    partial text) if the reply failed, `ConnectionLost` if it could not reconnect after the reply was accepted, or
    another `ParleyError` if the request was refused. `break`, `aclose` and cancelling the task end the call at once;
    the request's `on_disconnect` decides whether the reply continues. After a cancelled `__anext__` no event is lost:
    call it again.
    """

    def __init__(
        self,
        connection: Connection,
        transcript: Transcript,
        request: chat_pb2.ReplyRequest | None,
        options: chat_pb2.StreamOptions,
    ) -> None:
        self._call: _Call | None = None
        self._transcript = transcript
        self._request = request
        self._connection = connection
        self._options = options
        self._patience = Patience(connection.settings.backoff)
        self._pause_s = 0.0
        self._left = asyncio.Event()
        self._failure_raised = False

    @property
    def request_id(self) -> str:
        """The idempotency key of the request; empty for a stream from `resume`."""
        return self._request.request_id if self._request else ""

    @property
    def reply_id(self) -> str:
        """Empty until the reply is accepted."""
        return self._transcript.reply_id

    @property
    def conversation_id(self) -> str:
        """The reply's conversation; for a new conversation empty until the reply is accepted."""
        source = self._transcript.accepted or self._request
        return source.conversation_id if source else ""

    @property
    def message_id(self) -> str:
        """The message for the answer; empty until the reply is accepted."""
        accepted = self._transcript.accepted
        return accepted.message_id if accepted else ""

    @property
    def accepted(self) -> Accepted | None:
        """The first event, once it was read."""
        return self._transcript.accepted

    @property
    def sequence(self) -> int:
        """The cursor: the sequence of the last chunk that was read."""
        return self._transcript.sequence

    @property
    def text(self) -> str:
        """The text that was read so far."""
        return self._transcript.text

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tool calls that were read so far, each with its joined arguments."""
        return self._transcript.tool_calls

    @property
    def finished(self) -> Finished | None:
        """The last event, once it was read."""
        return self._transcript.finished

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        _fork.check()
        while not (self._left.is_set() or self._transcript.ended):
            event = await self._step()
            if event is not None:
                return event
        await self._hang_up()
        if self._transcript.failure is not None and not self._failure_raised:
            self._failure_raised = True
            raise self._transcript.failure
        raise StopAsyncIteration

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Ends the call, not the reply. The iterator then ends without an error, also in another task."""
        self._left.set()
        self._drop_call()

    async def cancel(self, reason: str = "") -> resources_pb2.Reply | None:
        """Cancels the reply on the server. The stream then ends with `Finished`; the partial text is stored.

        Returns the cancelled reply, or None if the server has not received the request yet; it will then accept the
        request as cancelled. Raises a ParleyError.
        """
        reply_id = self.reply_id
        target = {"reply_id": reply_id} if reply_id else {"request_id": self.request_id}
        try:
            return await self._connection.call(
                self._connection.chat.Cancel, chat_pb2.CancelRequest(reason=reason, **target)
            )
        except NotFound:
            if reply_id:
                raise
            return None

    def __del__(self) -> None:
        # Ends the call after a `break`, which calls no other method. The event loop may already be closed.
        with contextlib.suppress(RuntimeError):
            self._drop_call()

    async def _step(self) -> Event | None:
        try:
            if self._pause_s:
                await self._connection.pause(self._pause_s, self._left)
                self._pause_s = 0.0
            chunk = await self._read()
        except grpc.aio.AioRpcError as status:
            return self._cut(self._connection.error_of(status), cause=status)
        except CredentialFailed as error:
            return self._cut(error, cause=error.__cause__)
        except TimeoutError as silence:
            return self._cut(self._silent(), cause=silence)
        except asyncio.CancelledError:
            self._drop_call()
            if self._left.is_set() and not is_cancelling():
                return None
            self._connection.check()
            raise
        if chunk is None:
            return self._cut(Unavailable("the stream ended before the end of the reply", retryable=True), cause=None)
        return self._apply(chunk)

    async def _read(self) -> chat_pb2.TokenChunk | None:
        if self._call is None:
            self._connection.check()
            metadata = await self._connection.metadata(self._left)
            if self._left.is_set():
                return None
            self._call = self._attach(metadata)
        async with asyncio.timeout(self._connection.settings.silence_s) as scope:
            if self._connection.reach.reached:
                chunk = await self._call.read()
            else:
                chunk = await self._first(self._call, scope)
        return chunk if isinstance(chunk, chat_pb2.TokenChunk) else None

    async def _first(self, call: _Call, scope: asyncio.Timeout) -> object:
        """Reads from a server that has never been reached, with a shorter time limit."""
        reach = self._connection.reach
        timer = reach.bound(scope, self._patience.unreached_s())
        try:
            chunk = await call.read()
        finally:
            timer.cancel()
        if chunk is not grpc.aio.EOF:
            reach.reached = True
        return chunk

    def _silent(self) -> Unavailable:
        if not self._connection.reach.reached:
            return self._connection.reach.unavailable()
        return Unavailable(f"the stream was silent for {self._connection.settings.silence_s:g} s", retryable=True)

    def _attach(self, metadata: tuple[tuple[str, str], ...]) -> _Call:
        chat = self._connection.chat
        limit_s = self._connection.settings.attempt_timeout_s
        if self._request is not None and not self.reply_id:
            return chat.StreamReply(self._request, timeout=limit_s, metadata=metadata)
        resume = chat_pb2.ResumeReplyRequest(
            reply_id=self.reply_id, after_sequence=self.sequence, stream_options=self._options
        )
        return chat.ResumeReply(resume, timeout=limit_s, metadata=metadata)

    def _apply(self, chunk: chat_pb2.TokenChunk) -> Event | None:
        before = self.sequence
        event = self._transcript.apply(chunk)
        if isinstance(event, Accepted):
            self._patience = Patience(self._connection.settings.stream_backoff)
        # A repeated `accepted` is not progress: a server that always cuts after it would be retried forever.
        if self.sequence > before or isinstance(event, Accepted) or chunk.WhichOneof("event") == "heartbeat":
            self._patience.progressed()
        return event

    def _cut(self, error: ParleyError, *, cause: BaseException | None) -> Event | None:
        self._drop_call()
        if self._left.is_set():
            return None
        again = self._may_attach_again(error)
        reached = self._connection.reach.reached
        delay_s = self._patience.failed(retry_after_s=error.retry_after_s, reached=reached) if again else None
        if delay_s is not None:
            self._pause_s = delay_s
            return Reconnecting(self._patience.attempts, delay_s, error)
        if again and self._transcript.accepted is not None:
            lost = ConnectionLost(error.message, reason=error.reason, code=error.code, retryable=True)
            lost.reply_id, lost.sequence, lost.text = self.reply_id, self.sequence, self.text
            raise lost from cause
        raise error from cause

    def _may_attach_again(self, error: ParleyError) -> bool:
        if may_retry(error) or (error.code is grpc.StatusCode.DEADLINE_EXCEEDED and not error.reason):
            return True
        # After acceptance, a status that reports a failed reply was sent instead of the terminal chunk, which a new
        # call reads. TooManyReaders may count the reader that was cut off, until its server has noticed the cut. A
        # credential may be available again soon. A proxy that limits its load ends streams with RESOURCE_EXHAUSTED;
        # before acceptance, this may also be a request that is too large.
        limited = error.code is grpc.StatusCode.RESOURCE_EXHAUSTED and not error.reason
        again = ends_reply(error) or limited or isinstance(error, TooManyReaders | CredentialFailed)
        return self._transcript.accepted is not None and again

    async def _hang_up(self) -> None:
        call, self._call = self._call, None
        if call is None:
            return
        # Waits for the status of the call, so that the server does not see a cancelled call.
        with contextlib.suppress(TimeoutError, grpc.aio.AioRpcError):
            async with asyncio.timeout(_STATUS_WAIT_S):
                while await call.read() is not grpc.aio.EOF:
                    pass
        call.cancel()

    def _drop_call(self) -> None:
        call, self._call = self._call, None
        if call is None:
            return
        if _fork.is_forked():
            _fork.keep(call)
        else:
            call.cancel()
