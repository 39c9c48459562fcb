"""Follows logs of other replicas. Pub/sub gives low latency; the Redis streams are the source of truth."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import ResponseError

from parley_server.core.ports import Clock
from parley_server.core.replies.log import Log
from parley_server.journal import entry_codec
from parley_server.relay import wire
from parley_server.relay.health import Health
from parley_server.relay.redis_pipeline import RedisPipeline, RelayAway, is_about_one
from parley_server.relay.remote_log_cursor import RANGE_ENTRIES, RemoteLogCursor, entries_of
from parley_server.relay.scripts import PING, PROBE, SEEN, groups
from parley_server.relay.subscription import Subscription

logger = logging.getLogger("parley.relay")

# Without the subscription, all entries arrive by these checks, so that they are more frequent.
SILENCE_S = 1.0
DEAF_SILENCE_S = 0.25
TICK_S = 0.25
# Limits the entries of one exchange, which has a time limit, after a reconnect with many logs.
RANGES_AT_ONCE = 64


class RemoteLogReader:
    """Fills the logs that this process follows, with one connection for commands and one for subscriptions.

    A log is read from its stream when its channel becomes live, when a message shows a gap, and when no message came
    for `SILENCE_S` (`DEAF_SILENCE_S` while the subscription is lost) but the stream has grown. A lost message therefore
    delays entries but never loses them.
    """

    def __init__(
        self,
        pipeline: RedisPipeline,
        subscription: Subscription,
        clock: Clock,
        *,
        heartbeat_s: float,
        running_ttl_s: float,
    ) -> None:
        self.health = Health("follow", clock)
        self.presence = Health("presence", clock)
        self._pipeline = pipeline
        self._subscription = subscription
        self._clock = clock
        self._heartbeat_s = heartbeat_s
        self._running_ttl_ms = round(running_ttl_s * 1000)
        self._followed: dict[bytes, RemoteLogCursor] = {}
        self._behind: dict[RemoteLogCursor, None] = {}
        self._due = asyncio.Event()
        self._next_probe = self._next_presence = 0.0
        self._new_readers = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to read."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="relay-follow")

    async def stop(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def follow(self, log: Log, *, wanted: Callable[[], bool], look: Callable[[], None]) -> None:
        """See `Peers.follow`."""
        cursor = RemoteLogCursor(log, wanted=wanted, look=look, now=self._clock.monotonic())
        self._followed[cursor.channel] = cursor
        # A live channel gets no second confirmation, and a lost connection gets none soon: read at once.
        if self._subscription.add(cursor.channel) or self._subscription.health.lost_s:
            self._behind[cursor] = None
        self._due.set()

    def read(self, log: Log) -> None:
        """See `Peers.read`."""
        cursor = self._followed.get(wire.reply_key(log.reply.id))
        if cursor is not None and cursor.visit():
            self._new_readers = True
            self._due.set()

    def unfollow(self, log: Log) -> None:
        """See `Peers.unfollow`."""
        channel = wire.reply_key(log.reply.id)
        cursor = self._followed.get(channel)
        if cursor is not None and cursor.log is log:
            del self._followed[channel]
            self._behind.pop(cursor, None)
            self._subscription.drop(channel)

    def live(self, channel: bytes) -> None:
        """The subscription of this channel is confirmed: read what was appended before."""
        if (cursor := self._followed.get(channel)) is not None:
            self._read_on(cursor)

    def heard(self, channel: bytes, data: bytes) -> None:
        """Take a message of a reply's channel."""
        cursor, message = self._followed.get(channel), wire.unpack(data)
        if cursor is None or message is None:
            return
        # The reply has ended, or was taken over: its state is in the store.
        if message.entries is None or message.epoch > cursor.log.reply.epoch:
            cursor.look()
        if message.entries is None or message.epoch != cursor.log.reply.epoch:
            return
        cursor.heard_at = self._clock.monotonic()
        if not cursor.take(message.number, [entry_codec.decode(value) for value in message.entries]):
            self._read_on(cursor)

    def _read_on(self, cursor: RemoteLogCursor) -> None:
        self._behind[cursor] = None
        self._due.set()

    async def _run(self) -> None:
        while True:
            timer = self._clock.call_at(max(self._clock.monotonic() + TICK_S, self.health.retry_at), self._due.set)
            await self._due.wait()
            timer.cancel()
            self._due.clear()
            try:
                if self._clock.monotonic() >= self.health.retry_at:
                    await self._turn()
            except (RelayAway, ResponseError) as problem:
                self.health.failed(str(problem))
            except Exception:  # a bug in one reply must not end this task, which serves all replies
                logger.exception("relay_task_failed")
                self.health.failed("internal error")

    async def _turn(self) -> None:
        now = self._clock.monotonic()
        if self._behind:
            await self._read()
        # While Redis is unreachable, the report, or the ping in its place, finds out when it answers again.
        if self._new_readers or now >= self._next_presence or self.health.lost_s:
            await self._report_presence(now)
        if now >= self._next_probe:
            self._next_probe = now + TICK_S
            await self._probe(now)

    async def _read(self) -> None:
        """Read the next range of each log that is behind. A log with a full range stays behind."""
        behind = [(each, each.position + 1) for each in list(self._behind)[:RANGES_AT_ONCE]]
        for cursor, _ in behind:
            del self._behind[cursor]
        try:
            answers = await self._ask([each.next_range() for each, _ in behind])
        except BaseException:  # nothing was read: these logs are still behind
            self._behind.update((each, None) for each, _ in behind)
            raise
        for (cursor, first), found in zip(behind, answers, strict=True):
            entries = entries_of(found, first)
            cursor.take(first, entries)
            if len(entries) == RANGE_ENTRIES and cursor.channel in self._followed:
                self._behind[cursor] = None
        if self._behind:
            self._due.set()

    async def _report_presence(self, now: float) -> None:
        """Report to the owners which logs have readers: new readers at once, all others at each heartbeat."""
        everyone = now >= self._next_presence
        if everyone:
            self._next_presence = now + self._heartbeat_s
        # Reset before the call, so that a reader who joins during it is reported in the next turn.
        self._new_readers = False
        read = [each for each in self._followed.values() if each.takes_presence(everyone=everyone)]
        calls = [SEEN.call([each.channel for each in group], self._running_ttl_ms) for group in groups(read)]
        try:
            answers = await self._pipeline.run(calls or [PING])
        except BaseException:  # report all again at once, since the owners may count no readers by the next heartbeat
            self._new_readers = bool(read)
            for each in read:
                each.new_reader = True
            raise
        refused = [str(answer) for answer in answers if isinstance(answer, ResponseError)]
        if refused:
            self.presence.failed(refused[0])
        elif calls or everyone:
            self.presence.worked()
        self.health.worked()

    async def _probe(self, now: float) -> None:
        """Check the streams of logs without recent messages."""
        silence_s = DEAF_SILENCE_S if self._subscription.health.lost_s else SILENCE_S
        silent = [each for each in self._followed.values() if now - each.heard_at >= silence_s]
        if not silent:
            return
        asked = groups(silent)
        answers = await self._ask(
            [PROBE.call([key for each in group for key in (each.channel, each.stream)]) for group in asked]
        )
        for group, answer in zip(asked, answers, strict=True):
            for cursor, (last, ended) in zip(group, zip(answer[::2], answer[1::2], strict=True), strict=False):
                cursor.heard_at = now
                self._follow_probe(cursor, last=last, ended=bool(ended))

    def _follow_probe(self, cursor: RemoteLogCursor, *, last: int, ended: bool) -> None:
        """Apply a stream's state. A stream shorter than the position was lost or has expired; the reply may have
        ended."""
        if last > cursor.position:
            self._read_on(cursor)
        # A stream that stays gone would cause a read of the store at each check, so only the loss itself counts.
        gone = last < cursor.position
        if ended or (gone and not cursor.gone):
            cursor.look()
        cursor.gone = gone

    async def _ask(self, commands: Sequence[bytes]) -> list[Any]:
        """Run commands. The answer of a command that failed by itself is empty; other refusals are raised."""
        answers = await self._pipeline.run(commands)
        for i, answer in enumerate(answers):
            if is_about_one(answer):
                logger.error("relay_command_failed", extra={"fields": {"problem": str(answer)}})
                answers[i] = ()
            elif isinstance(answer, ResponseError):
                raise answer
        self.health.worked()
        return answers
