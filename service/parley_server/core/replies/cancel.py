"""Asking a reply to stop, wherever it runs. The wish is stored first; what tells the owner of it is only faster."""

from __future__ import annotations

from parley_server.core.engine import Engine
from parley_server.core.model import FinishReason, Identity, Reply
from parley_server.core.replies.endings import Stop
from parley_server.core.replies.log import Log
from parley_server.core.replies.recovery import reconcile
from parley_server.core.store_types import CancelTarget


async def ask_to_stop(
    engine: Engine, identity: Identity, target: CancelTarget, kind: FinishReason, reason: str
) -> tuple[Reply, Log | None] | None:
    """The reply, and the log that will tell its end (None: it has ended). None where the request id is not known.

    Raises `ReplyNotFound`, `ConversationNotFound`, `StorageUnavailable`.
    """
    reply = await engine.store.request_cancel(identity, target, kind, reason, engine.clock.now_us())
    if reply is None:
        return None
    generation = engine.live_replies.running.get(reply.id)
    if generation is not None:
        generation.stop(Stop(finish=kind, reason=reason))
        return reply, generation.log
    if reply.state.terminal:
        return reply, None
    if not engine.replica_id:
        await reconcile(engine)  # a row without a task
        return reply, None
    ended = engine.live_replies.find(identity, reply.id)
    if ended is not None and ended.ended:
        return reply, ended  # while the wish was stored
    engine.relay.publish_cancel(reply)
    return reply, engine.remote_replies.follow(reply)
