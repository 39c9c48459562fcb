"""Follows replies that other replicas generate: one log for each, shared by all its readers here.

Text comes from the owner through `Peers`. Whether a reply has ended is decided by the store alone.
"""

from __future__ import annotations

import asyncio
import logging
import math

from parley_server.core.cluster.peers import Peers
from parley_server.core.limits import Limits
from parley_server.core.model import Identity, Reply
from parley_server.core.ports import Clock, Store
from parley_server.core.replies.live import LiveReplies
from parley_server.core.replies.log import Log
from parley_server.core.replies.remote import RemoteReply
from parley_server.errors import ReplyNotFound, StorageUnavailable

logger = logging.getLogger("parley.remote_replies")

CHECK_INTERVAL_S = 1.0
UNREACHABLE_LIMIT_S = 10.0


class RemoteReplies:
    """Implements `RepliesElsewhere`. While `run` runs, it checks in one query which followed replies have ended."""

    def __init__(
        self, *, store: Store, peers: Peers | None, clock: Clock, limits: Limits, live_replies: LiveReplies
    ) -> None:
        self._store = store
        self._peers = peers
        self._clock = clock
        self._limits = limits
        self._live_replies = live_replies
        self._news = asyncio.Event()
        self._hinted: set[str] = set()
        self._next_check = 0.0
        self._recalling: dict[str, asyncio.Task[Log]] = {}

    def follow(self, reply: Reply) -> Log:
        """The log of a reply of another replica, followed until the reply ends or has had no reader for a while.

        Only `LiveReplies.reading` counts as a reader, not this call."""
        followed = self._live_replies.followed.get(reply.id)
        if followed is None:
            followed = self._live_replies.followed[reply.id] = self._remote_reply(reply)
            if self._peers is not None:
                self._peers.follow(followed.log, wanted=lambda: followed.wanted, look=lambda: self._hint(reply.id))
        followed.keep()
        return followed.log

    async def find(self, identity: Identity, reply: Reply) -> Log | Reply:  # noqa: ARG002 - the caller has found it
        """See `RepliesElsewhere`."""
        return self.follow(reply)

    async def cancel(self, reply: Reply) -> Log | None:
        """See `RepliesElsewhere`. Without peers, the owner finds the request when it renews its lease."""
        if self._peers is not None:
            self._peers.publish_cancel(reply)
        return self.follow(reply)

    async def ended(self, reply: Reply) -> Log:
        """See `RepliesElsewhere`. Concurrent callers share one read of what peers have kept of the log."""
        peers = self._peers
        expired = self._clock.now_us() - reply.end_time_us >= self._limits.relay_retention_s * 1e6
        if peers is None or expired or peers.unreachable_s > 0:
            return Log.of_ended(reply)
        recalling = self._recalling.get(reply.id)
        if recalling is None:
            recalling = asyncio.get_running_loop().create_task(self._recall(peers, reply), name=f"recall-{reply.id}")
            self._recalling[reply.id] = recalling
            recalling.add_done_callback(lambda _: self._recalling.pop(reply.id))
        return await asyncio.shield(recalling)

    def _remote_reply(self, reply: Reply) -> RemoteReply:
        on_read = None if self._peers is None else self._peers.read
        return RemoteReply(reply, self._clock, self._limits, on_read=on_read)

    async def _recall(self, peers: Peers, reply: Reply) -> Log:
        found = Log.of_other(reply)
        for entry in await peers.recall(reply.id):
            found.append(entry)
        if not found.last_sequence or found.last_sequence != reply.last_sequence - 1:
            return Log.of_ended(reply)
        found.finish(reply)
        self._live_replies.keep(found)
        return found

    async def run(self) -> None:
        """Check for ends at each interval, and when peers report one, until cancelled."""
        while True:
            await self._pause()
            try:
                await self._check()
            except StorageUnavailable as error:
                logger.warning("remote_check_postponed", extra={"fields": {"problem": error.message}})
            except Exception:  # without this task, readers would never get an end
                logger.exception("remote_check_failed")
            self._drop_unused()

    def _hint(self, reply_id: str) -> None:
        """Check this reply soon: it may have ended."""
        self._hinted.add(reply_id)
        self._news.set()

    async def _pause(self) -> None:
        timer = self._clock.call_at(self._next_check, self._news.set)
        try:
            await self._news.wait()
        finally:
            timer.cancel()
            self._news.clear()

    async def _check(self) -> None:
        """Check all followed replies when it is time, otherwise only those that may have ended."""
        followed, now = dict(self._live_replies.followed), self._clock.monotonic()
        hinted, self._hinted = self._hinted, set()
        if now >= self._next_check:
            self._next_check = now + CHECK_INTERVAL_S
        else:
            followed = {reply_id: followed[reply_id] for reply_id in hinted if reply_id in followed}
        if not followed:
            return
        running = {each.reply_id for each in await self._store.standings(list(followed)) if not each.terminal}
        ended = [follower for reply_id, follower in followed.items() if reply_id not in running]
        results = await asyncio.gather(*[self._finish(follower) for follower in ended], return_exceptions=True)
        for error in results:
            if error is not None:
                raise error

    async def _finish(self, follower: RemoteReply) -> None:
        """End the log as the reply is stored, with its whole text if peers still have it."""
        found = follower.log
        try:
            reply = await self._store.get_reply(Identity(tenant=found.reply.tenant), found.reply.id)
        except ReplyNotFound:
            self._drop(follower)
            found.erase()
            return
        behind = found.last_sequence < reply.last_sequence - 1
        kept = await self._peers.recall(reply.id) if behind and self._peers is not None else ()
        self._drop(follower)
        for entry in kept[found.last_sequence :]:
            found.append(entry)
        if found.last_sequence == reply.last_sequence - 1:
            found.finish(reply)
        else:
            found.replace(reply)
        self._live_replies.keep(found)

    def _drop_unused(self) -> None:
        """Stop following replies without readers, and those that could not be followed for too long."""
        now = self._clock.monotonic()
        for follower in list(self._live_replies.followed.values()):
            unreachable_s = math.inf if self._peers is None else self._peers.unreachable_s
            silent_s = min(unreachable_s, now - follower.since)
            if not follower.kept:
                self._drop(follower)
                follower.log.break_off(StorageUnavailable("the reply is not followed here any more: resume it"))
            elif silent_s >= UNREACHABLE_LIMIT_S:
                self._drop(follower)
                follower.log.break_off(
                    StorageUnavailable("the reply runs on another replica, which cannot be reached: retry later")
                )

    def _drop(self, follower: RemoteReply) -> None:
        if self._peers is not None:
            self._peers.unfollow(follower.log)
        if self._live_replies.followed.get(follower.log.reply.id) is follower:
            del self._live_replies.followed[follower.log.reply.id]
