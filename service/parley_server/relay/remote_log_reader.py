"""Follows logs of other replicas. What is published makes it quick; what the streams hold makes it right."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import ResponseError

from parley_server.core.ports import Clock
from parley_server.core.replies.log import Log
from parley_server.journal import wire
from parley_server.relay.health import Health
from parley_server.relay.redis_pipeline import RedisPipeline, RelayAway, is_about_one
from parley_server.relay.remote_log_cursor import RANGE_ENTRIES, RemoteLogCursor, entries_of
from parley_server.relay.scripts import PROBE, SEEN, command
from parley_server.relay.subscription import Subscription

logger = logging.getLogger("parley.relay")

SILENCE_S = 1.0
DEAF_SILENCE_S = 0.25
TICK_S = 0.25
RANGES_AT_ONCE = 64
REPLIES_PER_CALL = 64
PING = command("PING")


class RemoteLogReader:
    """All the logs that this process follows, by one connection for questions and one that listens.

    A log is read from its stream once its channel is live, after a gap in what was heard, and when nothing was heard of
    it for `SILENCE_S` (sooner while nothing can be heard at all) but its stream has grown. So what a lost message would
    have brought is late, never missing.
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
        self._news = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to read."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="relay-follow")

    async def stop(self) -> None:
        """Follow nothing any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def follow(self, log: Log, *, wanted: Callable[[], bool], look: Callable[[], None]) -> None:
        """See `Relay`."""
        following = RemoteLogCursor(log, wanted=wanted, look=look, now=self._clock.monotonic())
        self._followed[following.channel] = following
        if self._subscription.add(following.channel) or self._subscription.health.lost_s:
            self._behind[following] = None
        self._due.set()

    def read(self, log: Log) -> None:
        """See `Relay`."""
        following = self._followed.get(wire.reply_key(log.reply.id))
        if following is not None and following.visit():
            self._news = True
            self._due.set()

    def unfollow(self, log: Log) -> None:
        """See `Relay`."""
        channel = wire.reply_key(log.reply.id)
        following = self._followed.get(channel)
        if following is not None and following.log is log:
            del self._followed[channel]
            self._behind.pop(following, None)
            self._subscription.drop(channel)

    def live(self, channel: bytes) -> None:
        """From now on, what is published on this channel is heard."""
        if (following := self._followed.get(channel)) is not None:
            self._read_on(following)

    def heard(self, channel: bytes, data: bytes) -> None:
        """Something was published on the channel of a reply."""
        following, message = self._followed.get(channel), wire.unpack(data)
        if following is None or message is None:
            return
        if message.entries is None or message.epoch > following.log.reply.epoch:
            following.look()
        if message.entries is None or message.epoch != following.log.reply.epoch:
            return
        following.heard_at = self._clock.monotonic()
        if not following.take(message.number, [wire.decode(value) for value in message.entries]):
            self._read_on(following)

    def _read_on(self, following: RemoteLogCursor) -> None:
        self._behind[following] = None
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
            except Exception:  # a defect that ended this task would cut off every reader of another replica's
                logger.exception("relay_defect")
                self.health.failed("a defect")

    async def _turn(self) -> None:
        now = self._clock.monotonic()
        if self._behind:
            await self._read()
        if self._news or now >= self._next_presence or self.health.lost_s:
            await self._tell_presence(now)
        if now >= self._next_probe:
            self._next_probe = now + TICK_S
            await self._probe(now)

    async def _read(self) -> None:
        """Read on in the streams of those that are behind; those that had a full answer still are."""
        behind = [(each, each.position + 1) for each in list(self._behind)[:RANGES_AT_ONCE]]
        for following, _ in behind:
            del self._behind[following]
        try:
            answers = await self._ask([each.next_range() for each, _ in behind])
        except BaseException:
            self._behind.update((each, None) for each, _ in behind)
            raise
        for (following, first), found in zip(behind, answers, strict=True):
            entries = entries_of(found, first)
            following.take(first, entries)
            if len(entries) == RANGE_ENTRIES and following.channel in self._followed:
                self._behind[following] = None
        if self._behind:
            self._due.set()

    async def _tell_presence(self, now: float) -> None:
        """Somebody reads these. Of who has just come that is told at once, of the others at each heartbeat."""
        everyone = now >= self._next_presence
        if everyone:
            self._next_presence = now + self._heartbeat_s
        self._news = False
        read = [each for each in self._followed.values() if each.tells_presence(everyone=everyone)]
        calls = [SEEN.call([each.channel for each in group], self._running_ttl_ms) for group in _groups(read)]
        try:
            answers = await self._pipeline.run(calls or [PING])
        except BaseException:
            self._news = bool(read)
            for each in read:
                each.visited = True
            raise
        refused = [str(answer) for answer in answers if isinstance(answer, ResponseError)]
        if refused:
            self.presence.failed(refused[0])
        elif calls or everyone:
            self.presence.worked()
        self.health.worked()

    async def _probe(self, now: float) -> None:
        """Ask how those stand of which nothing was heard."""
        silence_s = DEAF_SILENCE_S if self._subscription.health.lost_s else SILENCE_S
        silent = [each for each in self._followed.values() if now - each.heard_at >= silence_s]
        if not silent:
            return
        groups = _groups(silent)
        answers = await self._ask(
            [PROBE.call([key for each in group for key in (each.channel, each.stream)]) for group in groups]
        )
        for group, answer in zip(groups, answers, strict=True):
            for following, (last, ended) in zip(group, zip(answer[::2], answer[1::2], strict=True), strict=False):
                following.heard_at = now
                self._follow_probe(following, last=last, ended=bool(ended))

    def _follow_probe(self, following: RemoteLogCursor, *, last: int, ended: bool) -> None:
        """A stream that is shorter than what it has brought was lost, or has expired: its reply may be over."""
        if last > following.position:
            self._read_on(following)
        gone = last < following.position
        if ended or (gone and not following.gone):
            following.look()
        following.gone = gone

    async def _ask(self, commands: Sequence[bytes]) -> list[Any]:
        """The answers; empty where one command alone was refused. What Redis refuses at large is raised."""
        answers = await self._pipeline.run(commands)
        for i, answer in enumerate(answers):
            if is_about_one(answer):
                logger.error("relay_defect", extra={"fields": {"problem": str(answer)}})
                answers[i] = ()
            elif isinstance(answer, ResponseError):
                raise answer
        self.health.worked()
        return answers


def _groups(followings: Sequence[RemoteLogCursor]) -> list[Sequence[RemoteLogCursor]]:
    starts = range(0, len(followings), REPLIES_PER_CALL)
    return [followings[start : start + REPLIES_PER_CALL] for start in starts]
