"""One stream of token chunks to one reader: the chunks of the log, heartbeats during silence, and the notice of a
drain.

It holds only an index into the log, so that a slow reader takes no memory.
"""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from parley.v1 import chat_pb2

from parley_server.core.events import Failed
from parley_server.core.ports import Timer
from parley_server.core.quota_values import QuotaState
from parley_server.core.replies.log import Log, Reader
from parley_server.core.replies.service import Replies, shown
from parley_server.errors import Draining
from parley_server.rpc.call import CallEnvironment, Context, ReplyFailed
from parley_server.rpc.status import code_of, trailers_of
from parley_server.rpc.to_proto import accepted, time_message, token_chunk


class Stream:
    """Streams `log` from position `after`. `run` returns after a `finished` chunk and raises `ReplyFailed` after a
    `failed` one."""

    def __init__(
        self,
        context: Context,
        log: Log,
        environment: CallEnvironment,
        *,
        after: int,
        heartbeat_s: float,
        reasoning: bool,
    ) -> None:
        self._context = context
        self._log = log
        self._clock = environment.clock
        self._observer = environment.observer
        self._reader = Reader(log, after)
        self._heartbeat_s = heartbeat_s
        self._reasoning = reasoning
        self._last_write = environment.clock.monotonic()
        self._timer: Timer | None = None
        self._position = after
        self._going_away = False
        self._silent = False

    async def run(self, replies: Replies, *, replayed: bool, quota: QuotaState | None = None) -> None:
        """Send all chunks up to the terminal one."""
        # Counts as a reader until the call ends in any way, since the orphan rule depends on the count.
        with replies.reading(self._log, notice=self._go_away):
            self._timer = self._clock.call_at(self._last_write + self._heartbeat_s, self._tick)
            try:
                first = accepted(self._log.reply, position=self._reader.position, replayed=replayed, quota=quota)
                await self._context.write(first)
                await self._follow(replies)
            finally:
                self._timer.cancel()

    async def _follow(self, replies: Replies) -> None:
        reader, write = self._reader, self._context.write
        while True:
            for chunk in reader.take():
                if shown(chunk, reasoning=self._reasoning):
                    # The lease may have expired while an earlier chunk was written. Another replica may own the reply
                    # now, so the rest is not shown; it is taken again if the lease is renewed.
                    if self._log.fenced:
                        reader.position = self._position
                        break
                    await write(token_chunk(chunk))
                    self._last_write = self._clock.monotonic()
                    if isinstance(chunk.entry, Failed):
                        error = chunk.entry.error
                        reason = error.shown_reason
                        raise ReplyFailed(code_of(reason), error.message, trailers_of(error), reason)
                self._position = chunk.sequence  # also of a chunk that is not shown, which must not be taken again
            if reader.done:
                return
            # The notices come after the chunks: a reader that already has the end needs no other replica.
            if self._going_away and replies.going_away_at is not None:
                self._going_away = False
                await self._send_go_away(replies.going_away_at)
                if replies.hands_over:  # ends with an error, upon which the client resumes at another replica
                    raise Draining(
                        "the server is shutting down: the reply continues, and any other replica streams it",
                        retry_after_s=0.0,
                    )
            if self._silent:
                self._silent = False
                await self._send_heartbeat()
            if not reader.ready:  # new chunks may have arrived while the notices above were written
                await reader.wait()

    async def _send_heartbeat(self) -> None:
        beat = chat_pb2.Heartbeat(time=time_message(self._clock.now_us()))
        # Taken before the write returns, because the reader may receive the heartbeat long before that.
        self._last_write = self._clock.monotonic()
        await self._context.write(chat_pb2.TokenChunk(sequence=self._reader.position, heartbeat=beat))

    async def _send_go_away(self, at: float) -> None:
        left_ms = max(0, round((at - self._clock.monotonic()) * 1000))
        notice = chat_pb2.GoAway(time_left=Duration(seconds=left_ms // 1000, nanos=left_ms % 1000 * 1_000_000))
        await self._context.write(chat_pb2.TokenChunk(sequence=self._reader.position, go_away=notice))
        self._observer.went_away()
        self._last_write = self._clock.monotonic()

    def _go_away(self) -> None:
        self._going_away = True
        self._reader.wake()

    def _tick(self) -> None:
        """Detect silence with one timer per stream, set again only when it fires, because a timer per token costs
        CPU."""
        due = self._last_write + self._heartbeat_s
        now = self._clock.monotonic()
        if now >= due:
            self._silent = True
            self._reader.wake()
            due = now + self._heartbeat_s
        self._timer = self._clock.call_at(due, self._tick)
