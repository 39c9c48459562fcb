"""Ends replies that are not terminal although no task works on them: all of them at start, defects while running, and
what was taken over from dead replicas.
"""

from __future__ import annotations

import contextlib
import logging

import msgspec

from parley_server.core.content import answer_of
from parley_server.core.cost import cost_nano_usd
from parley_server.core.engine import Engine, done_within
from parley_server.core.events import Entry
from parley_server.core.model import Identity, Reply, State
from parley_server.core.replies.endings import (
    Ending,
    Stop,
    answer_message,
    completed_usage,
    defect,
    ending_of_stop,
)
from parley_server.core.replies.finalise import finalise
from parley_server.core.replies.log import TAKEOVER_GAP, Log
from parley_server.core.store_types import Finalisation, Finalised, Unfinished
from parley_server.errors import ModelNotFound, ReplyNotFound, StorageUnavailable

logger = logging.getLogger("parley.recovery")

FIRST_EPOCH = 1
RETRY_S = 0.5
RECALL_LIMIT_S = 3.0
"""More than the relay promises."""


async def recover(engine: Engine) -> int:
    """End every reply that a dead process has left, with its durable text; how many there were. Before SERVING.

    One that cannot be ended is logged and left to the reconciliation, so that it does not keep the server from
    starting. Raises `StorageUnavailable`."""
    reply_ids = await engine.store.unfinished_ids()
    for reply_id in reply_ids:
        try:
            await _recover_one(engine, reply_id)
        except StorageUnavailable:
            raise
        except Exception:  # a defect of one reply's end; the others have to end, and the server to start
            logger.exception("recover_defect", extra={"fields": {"reply_id": reply_id}})
    if reply_ids:
        logger.warning("recovered", extra={"fields": {"replies": len(reply_ids)}})
    return len(reply_ids)


async def _recover_one(engine: Engine, reply_id: str) -> None:
    for unfinished in await engine.store.unfinished(1, reply_id):
        whole = await _with_published(engine, unfinished)
        await end_unfinished(engine, whole, _ending_of(whole))


async def reconcile(engine: Engine, epochs: dict[str, int] | None = None) -> None:
    """End those of these unfinished replies (None: of all) that are this process's, but have no task. The readers of
    one whose task has died are told how it is stored. `epochs` holds the replies' epochs by their ids."""
    if epochs is None:
        epochs = dict.fromkeys(await engine.store.unfinished_ids(), FIRST_EPOCH)
    for reply_id, epoch in epochs.items():
        generation = engine.live_replies.running.get(reply_id)
        at_work = generation is not None and not generation.dead and generation.log.reply.epoch == epoch
        if at_work or reply_id in engine.ending:
            continue
        try:
            await _end_without_task(engine, reply_id)
        except StorageUnavailable:
            raise
        except Exception:  # one that cannot be ended must not keep the others from it
            logger.exception("reconcile_defect", extra={"fields": {"reply_id": reply_id}})
    for generation in [each for each in engine.live_replies.running.values() if each.dead]:
        outcome = await _stored(engine, generation.log.reply)
        ended = outcome is None or outcome.reply.state.terminal
        if ended and generation.dead:
            generation.announce(outcome)


async def reconcile_once(engine: Engine, epochs: dict[str, int] | None = None) -> None:
    """The same, for a task of its own."""
    try:
        await reconcile(engine, epochs)
    except StorageUnavailable as error:
        logger.warning("reconcile_later", extra={"fields": {"problem": error.message}})
    except Exception:  # the next one may do better, and nobody awaits this one
        logger.exception("reconcile_defect")


async def reconcile_forever(engine: Engine) -> None:
    """Reconcile at each interval until cancelled."""
    while True:
        await engine.clock.sleep(engine.limits.reconcile_interval_s)
        await reconcile_once(engine)


async def _end_without_task(engine: Engine, reply_id: str) -> None:
    """As INTERNAL, a defect, but nobody waits for ever; what was taken over, and its takeover was not heard of, as
    that."""
    for unfinished in await engine.store.unfinished(1, reply_id):
        if unfinished.reply.owner != engine.replica_id:
            continue
        if unfinished.reply.epoch > FIRST_EPOCH:
            await end_taken_over(engine, unfinished)
            continue
        logger.error("reply_without_task", extra={"fields": {"reply_id": reply_id}})
        ending = _ending_of(unfinished) if unfinished.cancel is not None else _defect(reply_id)
        await end_unfinished(engine, await _with_published(engine, unfinished), ending)


async def end_taken_over(engine: Engine, unfinished: Unfinished) -> None:
    """End what a dead replica has left and this one has taken over, with the longest text that is durable. A store that
    is away is waited for."""
    reply = unfinished.reply
    engine.ending.add(reply.id)
    try:
        unfinished = await _with_published(engine, unfinished)
        outcome = await _persistently(engine, unfinished)
    finally:
        engine.ending.discard(reply.id)
    if outcome is None or not outcome.reply.state.terminal:
        return  # erased, or taken over once more
    engine.relay.ended(Log.of_ended(outcome.reply))
    if outcome.reply.epoch == reply.epoch:
        logger.warning("taken_over", extra={"fields": {"reply_id": reply.id, "sequence": unfinished.durable_sequence}})
        engine.observer.reply_taken_over()


async def _with_published(engine: Engine, unfinished: Unfinished) -> Unfinished:
    """With what the relay has beyond what the store has."""
    published = await _published(engine, unfinished.reply, after=unfinished.durable_sequence)
    return msgspec.structs.replace(
        unfinished,
        entries=unfinished.entries + published,
        durable_sequence=unfinished.durable_sequence + len(published),
    )


async def _published(engine: Engine, reply: Reply, *, after: int) -> tuple[Entry, ...]:
    """What the relay holds of a log. A relay that hangs, or has a defect, keeps no reply from its end."""
    asking = engine.spawn(engine.relay.take_over(reply.id, reply.epoch, after=after), f"recall-{reply.id}")
    if not await done_within(asking, RECALL_LIMIT_S, engine.clock):
        asking.cancel()
        logger.error("recall_hangs", extra={"fields": {"reply_id": reply.id}})
        return ()
    error = None if asking.cancelled() else asking.exception()
    if asking.cancelled() or error is not None:
        logger.error("recall_defect", exc_info=error, extra={"fields": {"reply_id": reply.id}})
        return ()
    return asking.result()


async def _persistently(engine: Engine, unfinished: Unfinished) -> Finalised | None:
    while True:
        try:
            return await end_unfinished(engine, unfinished, _ending_of(unfinished))
        except StorageUnavailable:
            await engine.clock.sleep(RETRY_S)


async def _stored(engine: Engine, reply: Reply) -> Finalised | None:
    try:
        stored = await engine.store.get_reply(Identity(tenant=reply.tenant), reply.id)
    except ReplyNotFound:
        return None
    return Finalised(reply=stored, won=False)


async def end_unfinished(engine: Engine, unfinished: Unfinished, ending: Ending) -> Finalised | None:
    """End a reply with the durable part of its log, and numbers that no reader can have seen."""
    reply = unfinished.reply
    now_us = engine.clock.now_us()
    answer = answer_of(unfinished.entries)
    usage = completed_usage(answer.usage, (), answer)
    with contextlib.suppress(ModelNotFound):
        prices = engine.catalog.resolve(reply.model)[0].prices
        usage = msgspec.structs.replace(usage, cost_nano_usd=cost_nano_usd(usage, prices))
    return await finalise(
        engine.store,
        Finalisation(
            reply_id=reply.id,
            epoch=reply.epoch,
            state=ending.state,
            finish_reason=ending.finish,
            error=ending.error,
            usage=usage,
            message=answer_message(reply, answer.parts, ending.state, now_us) if answer.is_message else None,
            model=reply.model,
            provider=reply.provider,
            cancel_reason=ending.cancel_reason,
            last_sequence=unfinished.durable_sequence + TAKEOVER_GAP + 1,
            first_token_time_us=reply.first_token_time_us,
            end_time_us=now_us,
            text_length=answer.text_length,
        ),
    )


def _ending_of(unfinished: Unfinished) -> Ending:
    """CANCELLED where that was asked for, else OWNER_LOST."""
    return ending_of_stop(Stop(finish=unfinished.cancel, reason=unfinished.reply.cancel_reason), started=True)


def _defect(reply_id: str) -> Ending:
    return Ending(state=State.FAILED, error=defect(reply_id))
