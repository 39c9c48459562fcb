"""The relay between replicas on Redis or Valkey: publishes this replica's logs and follows those of other replicas.

Redis serves readers on other replicas with low latency. Durability comes from the store alone, so replies continue
while Redis is unavailable.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from redis.exceptions import ResponseError

from parley_server.core.cluster.peers import ReplyOwner
from parley_server.core.events import Entry
from parley_server.core.model import Reply
from parley_server.core.ports import Clock, Store
from parley_server.core.replies.log import Log
from parley_server.journal.checkpoints import Checkpoints
from parley_server.relay import wire
from parley_server.relay.erasure import ERASED_PER_CALL, erase_commands
from parley_server.relay.health import Health
from parley_server.relay.outbox import Outbox
from parley_server.relay.publisher import Publisher
from parley_server.relay.rates import RedisRateLimiter
from parley_server.relay.redis_check import RelayUnusable, connector
from parley_server.relay.redis_pipeline import RedisPipeline, RelayAway
from parley_server.relay.remote_log_cursor import RANGE_ENTRIES, StreamReading, entries_of
from parley_server.relay.remote_log_reader import RemoteLogReader
from parley_server.relay.scripts import CANCEL, TAKE_OVER, command, groups
from parley_server.relay.server_check import ask_server
from parley_server.relay.subscription import Subscription

logger = logging.getLogger("parley.relay")

RECALL_S = 2.0
"""Limit of reading a log back. After it, the text comes from checkpoints, so that a slow Redis delays no takeover."""
CHECK_AGAIN_S = 1.0
CANCEL_FOR_S = 30.0
"""By then, a live owner has found the cancel request in the database at a renewal of its lease."""
PRESENCE_LATE_S = 1.0
"""Time by which a follower's report of its readers may be late."""


class RedisRelay:
    """Implements `Journal` and `Peers` of the core, with three connections to Redis for all replies and readers.
    `rates` has a connection of its own, once it is used.

    New entries of all replies are published every `flush_interval_s`, and made durable every `checkpoint_interval_s` or
    after `checkpoint_bytes` of one reply. Redis keeps a running reply for `running_ttl_s` after its owner's last
    heartbeat, and an ended reply for `retention_s`.
    """

    def __init__(
        self,
        url: str,
        store: Store,
        clock: Clock,
        *,
        replica_id: str,
        checkpoint_interval_s: float = 2.0,
        checkpoint_bytes: int = 8192,
        flush_interval_s: float = 0.05,
        heartbeat_s: float = 3.0,
        retention_s: float = 600.0,
        running_ttl_s: float = 600.0,
        refuses_uncounted: bool = False,
    ) -> None:
        """`refuses_uncounted`: `rates` refuses all messages while Redis is lost. Raises RelayUnusable if `url` is not
        a Redis URL."""
        connect = connector(url)
        self._clock = clock
        self._channel = wire.replica_channel(replica_id)
        self._running_ttl_ms = round(running_ttl_s * 1000)
        self._untold_s = heartbeat_s + PRESENCE_LATE_S
        # Appends have their own connection, so that they do not wait behind reads of long logs. The connection with the
        # subscriptions cannot run other commands in version 2 of Redis' protocol.
        self._publishing = RedisPipeline(connect, f"parley-publish-{replica_id}")
        self._asking = RedisPipeline(connect, f"parley-ask-{replica_id}")
        self._subscription = Subscription(
            connect,
            f"parley-subscribe-{replica_id}",
            clock,
            on_message=self._heard,
            on_live=lambda channel: self._remote_log_reader.live(channel),
        )
        self._checkpoints = Checkpoints(store, clock, interval_s=checkpoint_interval_s, max_bytes=checkpoint_bytes)
        self._publisher = Publisher(
            self._publishing,
            clock,
            replica=self._channel,
            on_growth=self._checkpoints.mark,
            flush_interval_s=flush_interval_s,
            heartbeat_s=heartbeat_s,
            retention_s=retention_s,
            running_ttl_s=running_ttl_s,
        )
        self._remote_log_reader = RemoteLogReader(
            self._asking, self._subscription, clock, heartbeat_s=heartbeat_s, running_ttl_s=running_ttl_s
        )
        self._outbox = Outbox(self._asking, clock)
        rate_pipeline = RedisPipeline(connect, f"parley-rate-{replica_id}")
        self.rates = RedisRateLimiter(rate_pipeline, clock, refuses_alone=refuses_uncounted)
        self._owned: ReplyOwner
        self._checking: asyncio.Task[None] | None = None

    @property
    def parts(self) -> tuple[Health, ...]:
        """The health of each part, for metrics."""
        remote_log_reader = self._remote_log_reader
        return (
            self._publisher.health,
            remote_log_reader.health,
            remote_log_reader.presence,
            self._subscription.health,
            self._outbox.health,
            self.rates.health,
        )

    async def start(self, owned: ReplyOwner) -> None:
        """Begin; `owned` receives the events of this replica's replies. If Redis is unreachable, it is checked later in
        the background. Raises RelayUnusable if Redis answers but cannot be used."""
        self._owned = owned
        try:
            await ask_server(self._asking)
        except RelayAway as away:
            logger.warning("relay_connect_failed", extra={"fields": {"problem": str(away)}})
            self._checking = asyncio.get_running_loop().create_task(self._check_later(), name="relay-check")
        except RelayUnusable:
            await self._asking.close()
            raise
        self._subscription.add(self._channel)
        self._subscription.add(wire.ERASED_CHANNEL)
        self._checkpoints.start()
        self._publisher.start(owned)
        self._remote_log_reader.start()
        self._subscription.start()
        self._outbox.start()

    async def stop(self) -> None:
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.gather(self._checking, return_exceptions=True)
        # The readers end first, since nothing waits for them. The others then send what is left, so their connections
        # close last.
        await asyncio.gather(self._remote_log_reader.stop(), self._subscription.stop(), self.rates.stop())
        await asyncio.gather(self._publisher.stop(), self._outbox.stop(), self._checkpoints.stop())
        await asyncio.gather(self._publishing.close(), self._asking.close())

    def open(self, log: Log) -> None:
        self._checkpoints.open(log)
        self._publisher.open(log)

    def close(self, log: Log) -> None:
        """Stop checkpoints of the log. Its numbered entries are still published."""
        self._checkpoints.close(log)

    def ended(self, log: Log) -> None:
        self._publisher.ended(log)

    @property
    def unreachable_s(self) -> float:
        """Includes the time for which Redis refuses writes, since the owners cannot publish then."""
        return max(self._remote_log_reader.health.lost_s, self._remote_log_reader.presence.lost_s)

    def follow(self, log: Log, *, wanted: Callable[[], bool], look: Callable[[], None]) -> None:
        self._remote_log_reader.follow(log, wanted=wanted, look=look)

    def read(self, log: Log) -> None:
        self._remote_log_reader.read(log)

    def unfollow(self, log: Log) -> None:
        self._remote_log_reader.unfollow(log)

    async def recall(self, reply_id: str) -> tuple[Entry, ...]:
        return await self._read_writer(reply_id, command("HGET", wire.reply_key(reply_id), "writer"))

    async def take_over(self, reply_id: str, epoch: int, *, after: int = 0) -> tuple[Entry, ...]:
        fence = TAKE_OVER.call([wire.reply_key(reply_id)], epoch, self._running_ttl_ms)
        # Entries are numbered from 1 on, so that the first one wanted has the index `after`.
        return (await self._read_writer(reply_id, fence))[after:]

    async def idle_s(self, reply_id: str) -> float | None:
        """Counts only the time for which this replica and Redis were connected without a break, less the interval in
        which a following replica reports its readers."""
        try:
            async with asyncio.timeout(RECALL_S):
                known, time = await self._asking.run(
                    [command("HMGET", wire.reply_key(reply_id), "since", "seen"), command("TIME")]
                )
        except (RelayAway, TimeoutError):
            return None
        health = self._publisher.health
        if health.lost_s or isinstance(known, ResponseError) or isinstance(time, ResponseError):
            return None
        # Both times are by Redis' clock, because the clocks of replicas differ. An absent key means that nothing is
        # known about readers, and not that there are none: Redis may have lost it.
        last_ms = max((int(each) for each in known if each), default=0)
        if not last_ms:
            return None
        now_s = int(time[0]) + int(time[1]) / 1e6
        return max(0.0, min(now_s - last_ms / 1000, health.works_s) - self._untold_s)

    def publish_cancel(self, reply: Reply) -> None:
        call = CANCEL.call(
            [wire.reply_key(reply.id)], self._running_ttl_ms, wire.replica_channel(reply.owner), reply.id
        )
        self._outbox.post([call], for_s=CANCEL_FOR_S)

    def erase(self, reply_ids: tuple[str, ...]) -> None:
        self._publisher.forget(reply_ids)
        for some in groups(reply_ids, ERASED_PER_CALL):
            self._outbox.post(erase_commands(some, self._running_ttl_ms), for_s=self._running_ttl_ms / 1000)

    async def _read_writer(self, reply_id: str, ask_writer: bytes) -> tuple[Entry, ...]:
        """All entries of the last writer; empty if that takes longer than `RECALL_S`. One retry covers a connection
        that broke since its last use."""
        with contextlib.suppress(RelayAway, TimeoutError):
            async with asyncio.timeout(RECALL_S):
                try:
                    return await self._read_once(reply_id, ask_writer)
                except RelayAway:
                    return await self._read_once(reply_id, ask_writer)
        return ()

    async def _read_once(self, reply_id: str, ask_writer: bytes) -> tuple[Entry, ...]:
        (writer,) = await self._asking.run([ask_writer])
        if not isinstance(writer, bytes):
            return ()
        reading, entries = StreamReading(reply_id, int(writer)), list[Entry]()
        while True:
            (found,) = await self._asking.run([reading.next_range()])
            some = [] if isinstance(found, ResponseError) else entries_of(found, reading.position + 1)
            entries += some
            reading.position += len(some)
            if len(some) < RANGE_ENTRIES:
                return tuple(entries)

    def _heard(self, channel: bytes, data: bytes) -> None:
        if channel == self._channel:
            self._owned.cancel_requested(data.decode(errors="replace"))
        elif channel == wire.ERASED_CHANNEL:
            erased = wire.unpack_replies(data)
            self._publisher.forget(erased)
            self._owned.erased(erased)
        else:
            self._remote_log_reader.heard(channel, data)

    async def _check_later(self) -> None:
        while True:
            await self._clock.sleep(CHECK_AGAIN_S)
            try:
                await ask_server(self._asking)
            except RelayAway:
                continue
            except RelayUnusable as unusable:
                logger.error("relay_check_failed", extra={"fields": {"problem": str(unusable)}})  # noqa: TRY400 - not a bug
            return
