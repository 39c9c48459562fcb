"""parley.v1.Chat: converts requests, calls the core and converts results. The rules about replies are in the core."""

from __future__ import annotations

from parley.v1 import chat_pb2, chat_pb2_grpc, resources_pb2

from parley_server.core.replies.log import Log
from parley_server.core.replies.service import Replies
from parley_server.core.requests import ReplyRequest
from parley_server.errors import InvalidRequest
from parley_server.rpc import from_proto
from parley_server.rpc.call import CallEnvironment, Caller, Context, Servicer, left_s, rpc
from parley_server.rpc.stream import Stream
from parley_server.rpc.to_proto import reply_message, token_chunk

SERVICE = "/parley.v1.Chat"
# A wait ends this long before the caller's deadline, so that the partial reply arrives instead of DEADLINE_EXCEEDED.
DEADLINE_MARGIN_S = 0.5
FOREVER_S = 86_400.0  # no configuration lets a reply run for longer


class ChatServicer(Servicer, chat_pb2_grpc.ChatServicer):
    """The six RPCs of the service. `heartbeat_s`: default interval of heartbeats in streams, in seconds."""

    def __init__(self, environment: CallEnvironment, replies: Replies, *, heartbeat_s: float) -> None:
        super().__init__(environment)
        self._replies = replies
        self._heartbeat_s = heartbeat_s

    @rpc(f"{SERVICE}/StreamReply")
    async def StreamReply(  # type: ignore[override]  # a coroutine that writes: a generator is closed late on a cancel
        self, request: chat_pb2.ReplyRequest, context: Context, caller: Caller
    ) -> None:
        """Accept a reply, then stream it."""
        # All options are checked before the acceptance, because a refused call must leave no trace.
        heartbeat_s = from_proto.heartbeat_s(request.stream_options, self._heartbeat_s)
        started = await self._replies.start(
            ReplyRequest(
                identity=caller.identity,
                request_id=request.request_id,
                payload=from_proto.payload(request),
                traceparent=caller.traceparent,
            )
        )
        caller.reply_id = started.log.reply.id
        stream = self._stream(context, started.log, request.stream_options, after=0, heartbeat_s=heartbeat_s)
        await stream.run(self._replies, replayed=started.replayed, quota=started.quota)

    @rpc(f"{SERVICE}/ResumeReply")
    async def ResumeReply(  # type: ignore[override]  # as above
        self, request: chat_pb2.ResumeReplyRequest, context: Context, caller: Caller
    ) -> None:
        """Stream a reply from the cursor on."""
        if request.after_sequence < 0:
            raise InvalidRequest.field("after_sequence", "must not be negative")
        heartbeat_s = from_proto.heartbeat_s(request.stream_options, self._heartbeat_s)
        log = await self._replies.attach(caller.identity, request.reply_id)
        caller.reply_id = log.reply.id
        self.environment.observer.resumed()  # only now, so that refused calls are not counted as resumed
        after = request.after_sequence
        stream = self._stream(context, log, request.stream_options, after=after, heartbeat_s=heartbeat_s)
        await stream.run(self._replies, replayed=False)

    @rpc(f"{SERVICE}/CreateReply")
    async def CreateReply(
        self, request: chat_pb2.ReplyRequest, context: Context, caller: Caller
    ) -> resources_pb2.Reply:
        """Accept a reply, send the response headers as the sign of acceptance, then wait for the end."""
        wait_s = from_proto.seconds(request.wait, "wait") if request.HasField("wait") else FOREVER_S
        started = await self._replies.start(
            ReplyRequest(
                identity=caller.identity,
                request_id=request.request_id,
                payload=from_proto.payload(request),
                background=wait_s == 0,
                traceparent=caller.traceparent,
            )
        )
        caller.reply_id = started.log.reply.id
        # Clients take the headers as the sign that the reply is stored; the response may follow much later.
        await context.send_initial_metadata(())
        if wait_s == 0:
            return reply_message(self._replies.standing(started.log))
        return reply_message(await self._replies.wait(started.log, _within_deadline(context, wait_s)))

    @rpc(f"{SERVICE}/PollReply")
    async def PollReply(
        self, request: chat_pb2.PollReplyRequest, context: Context, caller: Caller
    ) -> chat_pb2.PollReplyResponse:
        """Return the chunks after the cursor, and wait for some if there are none."""
        caller.reply_id = request.reply_id[:64]  # logged even if the reply is not found, so its length is limited
        wait_s, gather_s = from_proto.wait_s(request), from_proto.gather_s(request)
        poll = await self._replies.poll(
            caller.identity,
            request.reply_id,
            after=request.after_sequence,
            wait_s=_within_deadline(context, wait_s),
            gather_s=_within_deadline(context, gather_s),
            reasoning=request.reasoning,
        )
        return chat_pb2.PollReplyResponse(
            chunks=[token_chunk(chunk) for chunk in poll.chunks],
            after_sequence=poll.after_sequence,
            reply=reply_message(poll.reply),
        )

    @rpc(f"{SERVICE}/GetReply")
    async def GetReply(
        self, request: chat_pb2.GetReplyRequest, context: Context, caller: Caller
    ) -> resources_pb2.Reply:
        """Return the current state of the reply."""
        caller.reply_id = request.reply_id[:64]
        return reply_message(await self._replies.get(caller.identity, request.reply_id))

    @rpc(f"{SERVICE}/Cancel")
    async def Cancel(self, request: chat_pb2.CancelRequest, context: Context, caller: Caller) -> resources_pb2.Reply:
        """Cancel a reply, identified by its id, its request or its conversation."""
        reply = await self._replies.cancel(caller.identity, from_proto.cancel_target(request), request.reason)
        caller.reply_id = reply.id
        return reply_message(reply)

    def _stream(
        self, context: Context, log: Log, options: chat_pb2.StreamOptions, *, after: int, heartbeat_s: float
    ) -> Stream:
        return Stream(context, log, self.environment, after=after, heartbeat_s=heartbeat_s, reasoning=options.reasoning)


def _within_deadline(context: Context, wait_s: float) -> float:
    """The wait, shortened so that it ends before the deadline of the call."""
    left = left_s(context)
    if left is None:
        return wait_s
    # Of a short deadline, the margin takes only a quarter, so that the wait does not become zero.
    return max(0.0, min(wait_s, left - min(DEADLINE_MARGIN_S, left / 4)))
