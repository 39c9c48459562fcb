"""The client of one server for one caller."""

from __future__ import annotations

import copy
import time
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

import grpc

from parley._admin import Admin
from parley._backoff import Backoff
from parley._connection import Connection, Credential, Settings, open_channel
from parley._conversations import Conversations
from parley._fields import RequestFields
from parley._reach import Reach
from parley._request import build_request, duration, stream_options
from parley._stream import ReplyStream
from parley._transcript import Transcript
from parley.v1 import catalog_pb2, chat_pb2, resources_pb2

# Time limit of a call that waits on the server, in addition to its wait.
_ANSWER_S = 15.0


class Client:
    """Client of a Parley server. Create it in a running event loop, and use it as a context manager or call `close`.

    `api_key` is an API key or a token (JWT), or a function that returns it, directly or as an awaitable. The function
    is called for each attempt of a call, so that tokens can be renewed. It must not block, and an awaitable has 10
    seconds; if it fails, the call raises `CredentialFailed`. `end_user` is the user on whose behalf the client acts.
    `tls` is True to use the system's root certificates, or `grpc.ssl_channel_credentials(roots, key, certificate)`.

    `backoff` applies to streams and calls, and `stream_backoff`, by default the same, to streams after their reply was
    accepted: a web backend refuses a request soon, and keeps streams over a restart of the server. `call_timeout_s`
    limits each attempt of a unary call. A stream reconnects after `silence_s` without a chunk or heartbeat, and after
    `attempt_timeout_s` (None: no limit). `options` are further gRPC channel options, which override the client's.

    Methods raise a `ParleyError`, or ValueError for wrong arguments. gRPC does not survive a fork: in a process whose
    parent had opened a client before the fork, creating or using one raises RuntimeError.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:50051",
        *,
        api_key: Credential | None = None,
        end_user: str = "",
        tls: bool | grpc.ChannelCredentials = False,
        backoff: Backoff | None = None,
        stream_backoff: Backoff | None = None,
        call_timeout_s: float = 30.0,
        silence_s: float = 90.0,
        attempt_timeout_s: float | None = None,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        backoff = backoff or Backoff()
        settings = Settings(
            api_key=api_key,
            end_user=end_user,
            backoff=backoff,
            stream_backoff=stream_backoff or backoff,
            call_timeout_s=call_timeout_s,
            silence_s=silence_s,
            attempt_timeout_s=attempt_timeout_s,
        )
        channel = open_channel(address, tls=tls, options=options)
        self._attach(Connection(channel, settings, Reach(channel, address, tls=tls is not False)))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends all calls and closes the channel. Running replies continue on the server."""
        await self._connection.close()

    def acting_for(self, end_user: str) -> Self:
        """Returns a client for another end user that shares this client's connection.

        It is cheap enough to call for each request of a web application. Closing one client closes both.
        """
        other = copy.copy(self)
        other._attach(self._connection.acting_for(end_user))  # noqa: SLF001 - the same class
        return other

    def stream_reply(self, message: str | chat_pb2.ReplyRequest, **fields: Unpack[RequestFields]) -> ReplyStream:
        """Returns a stream that starts a reply when it is first read. See `ReplyStream` and `RequestFields`.

        The client makes a `request_id` if none is given. With the `request_id` of an earlier request the stream reads
        the reply that this request started.
        """
        request = build_request(message, fields)
        return ReplyStream(self._connection, Transcript(), request, request.stream_options)

    def resume(
        self, reply_id: str, *, after_sequence: int = 0, reasoning: bool = False, heartbeat_s: float | None = None
    ) -> ReplyStream:
        """Returns a stream of a running or finished reply, from the chunk after `after_sequence`; 0 is the start.

        The `text` of the stream and of its events does not contain the text up to `after_sequence`.
        """
        options = stream_options(reasoning=reasoning, heartbeat_s=heartbeat_s)
        return ReplyStream(self._connection, Transcript(reply_id, after_sequence), None, options)

    async def create_reply(
        self,
        message: str | chat_pb2.ReplyRequest,
        *,
        wait_s: float | None = None,
        **fields: Unpack[RequestFields],
    ) -> resources_pb2.Reply:
        """Starts a reply, waits for its end for at most `wait_s` (0: does not wait), and returns its current state.

        A failed reply is returned, not raised: see its `state` and `error`.
        """
        request = build_request(message, fields)
        if wait_s is not None:
            request.wait.CopyFrom(duration(wait_s))
        create = self._connection.chat.CreateReply
        if not request.HasField("wait"):
            return await self._connection.call(create, request, timeout_s=0.0)
        limit_s = request.wait.ToNanoseconds() / 1e9
        deadline_s = time.monotonic() + limit_s

        def attempt() -> chat_pb2.ReplyRequest:
            # Each attempt waits only for the remaining time. The server ignores `wait` when it compares requests.
            request.wait.CopyFrom(duration(max(0.0, deadline_s - time.monotonic())))
            return request

        return await self._connection.call(create, attempt, timeout_s=limit_s + _ANSWER_S)

    async def poll(
        self,
        reply_id: str,
        *,
        after_sequence: int = 0,
        wait_s: float = 20.0,
        gather_s: float | None = None,
        reasoning: bool = False,
    ) -> chat_pb2.PollReplyResponse:
        """Returns the chunks after `after_sequence`; waits up to `wait_s` for the first, then `gather_s` for more.

        The response's `after_sequence` is the cursor for the next poll.
        """
        request = chat_pb2.PollReplyRequest(
            reply_id=reply_id,
            after_sequence=after_sequence,
            wait=duration(wait_s),
            gather=None if gather_s is None else duration(gather_s),
            reasoning=reasoning,
        )
        return await self._connection.call(self._connection.chat.PollReply, request, timeout_s=wait_s + _ANSWER_S)

    async def polls(
        self,
        reply_id: str,
        *,
        after_sequence: int = 0,
        wait_s: float = 20.0,
        gather_s: float | None = None,
        reasoning: bool = False,
    ) -> AsyncIterator[chat_pb2.PollReplyResponse]:
        """Polls until the terminal chunk and yields each response, including empty ones."""
        while True:
            answer = await self.poll(
                reply_id, after_sequence=after_sequence, wait_s=wait_s, gather_s=gather_s, reasoning=reasoning
            )
            after_sequence = answer.after_sequence
            yield answer
            if any(chunk.WhichOneof("event") in {"finished", "failed"} for chunk in answer.chunks):
                return

    async def cancel(
        self, *, reply_id: str = "", request_id: str = "", conversation_id: str = "", reason: str = ""
    ) -> resources_pb2.Reply:
        """Stops a reply, named in exactly one of three ways, and returns it with what it had written.

        `ReplyNotFound` for a `request_id` that the server does not know yet: it will be accepted as cancelled.
        """
        target = {"reply_id": reply_id, "request_id": request_id, "conversation_id": conversation_id}
        named = {name: value for name, value in target.items() if value}
        if len(named) != 1:
            raise ValueError("name exactly one of reply_id, request_id and conversation_id")
        request = chat_pb2.CancelRequest(reason=reason, **named)
        return await self._connection.call(self._connection.chat.Cancel, request)

    async def get_reply(self, reply_id: str) -> resources_pb2.Reply:
        """Returns the current state of the reply."""
        request = chat_pb2.GetReplyRequest(reply_id=reply_id)
        return await self._connection.call(self._connection.chat.GetReply, request)

    async def models(self) -> list[resources_pb2.Model]:
        """Returns the models that the caller may use."""
        request = catalog_pb2.ListModelsRequest()
        return list((await self._connection.call(self._connection.catalog.ListModels, request)).models)

    async def quotas(self) -> list[resources_pb2.Quota]:
        """Returns the caller's limits and their current use."""
        request = catalog_pb2.GetQuotaRequest()
        return list((await self._connection.call(self._connection.catalog.GetQuota, request)).quotas)

    def _attach(self, connection: Connection) -> None:
        self._connection = connection
        self.conversations = Conversations(connection)
        self.admin = Admin(connection)
