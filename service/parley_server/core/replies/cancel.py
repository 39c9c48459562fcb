"""Cancels a reply, wherever it runs. The request is stored first; a message to the owner only speeds it up."""

from __future__ import annotations

from parley_server.core.model import FinishReason, Identity, Reply
from parley_server.core.ports import Clock, Store
from parley_server.core.replies.elsewhere import RepliesElsewhere
from parley_server.core.replies.endings import Cancel
from parley_server.core.replies.live import LiveReplies
from parley_server.core.replies.log import Log
from parley_server.core.store_types import CancelTarget


class CancelRequests:
    """Stores cancel requests and passes them on to whoever generates the reply."""

    def __init__(self, *, store: Store, clock: Clock, live_replies: LiveReplies, elsewhere: RepliesElsewhere) -> None:
        self._store = store
        self._clock = clock
        self._live_replies = live_replies
        self._elsewhere = elsewhere

    async def store(
        self, identity: Identity, target: CancelTarget, kind: FinishReason, reason: str
    ) -> tuple[Reply, Log | None] | None:
        """The reply, and the log that will end (None: the reply has ended). None if the request id is unknown.

        Raises `ReplyNotFound`, `ConversationNotFound`, `StorageUnavailable`.
        """
        reply = await self._store.request_cancel(identity, target, kind, reason, self._clock.now_us())
        if reply is None:
            return None
        generation = self._live_replies.running.get(reply.id)
        if generation is not None:
            generation.cancel(Cancel(finish=kind, reason=reason))
            return reply, generation.log
        if reply.state.terminal:
            return reply, None
        log = self._live_replies.find(identity, reply.id)
        if log is not None and log.ended:
            return reply, log  # it ended while the request was stored
        return reply, await self._elsewhere.cancel(reply)
