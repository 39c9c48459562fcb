"""Ends replies that are not terminal although no task works on them: all of them at start, defects while running."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable

import msgspec

from parley_server.core.content import answer_of
from parley_server.core.cost import cost_nano_usd
from parley_server.core.endings import Ending, Stop, answer_message, defect, ending_of_stop, estimated_usage
from parley_server.core.engine import Engine
from parley_server.core.log import TAKEOVER_GAP
from parley_server.core.model import Identity, Reply, State
from parley_server.core.records import Finalisation, Finalised, Unfinished
from parley_server.errors import ModelNotFound, ReplyNotFound, StorageUnavailable

log = logging.getLogger("parley.recovery")

BATCH = 100


async def recover(engine: Engine) -> int:
    """End every reply that a dead process has left, with its durable text; how many there were. Before SERVING."""
    count = 0
    while left := await engine.store.unfinished(BATCH):
        for unfinished in left:
            stop = Stop(finish=unfinished.cancel, reason=unfinished.reply.cancel_reason)
            await end_unfinished(engine, unfinished, ending_of_stop(stop, started=True))
        count += len(left)
    if count:
        log.warning("recovered", extra={"fields": {"replies": count}})
    return count


async def reconcile(engine: Engine, unfinished_ids: Iterable[str] | None = None) -> None:
    """End those of these unfinished replies (None: of all) that are this process's, but have no task, as INTERNAL: a
    defect, but nobody waits for ever. The readers of one whose task has died are told how it is stored."""
    for reply_id in await engine.store.unfinished_ids() if unfinished_ids is None else unfinished_ids:
        generation = engine.shelf.running.get(reply_id)
        if (generation is not None and not generation.dead) or reply_id in engine.ending:
            continue
        for unfinished in await engine.store.unfinished(BATCH, reply_id):
            if unfinished.reply.owner != engine.replica_id:
                continue
            log.error("reply_without_task", extra={"fields": {"reply_id": reply_id}})
            cancelled = unfinished.cancel is not None
            stop = Stop(finish=unfinished.cancel, reason=unfinished.reply.cancel_reason)
            ending = ending_of_stop(stop, started=True) if cancelled else _defect(reply_id)
            await end_unfinished(engine, unfinished, ending)
    for generation in [each for each in engine.shelf.running.values() if each.dead]:
        outcome = await _stored(engine, generation.log.reply)
        ended = outcome is None or outcome.reply.state.terminal
        if ended and generation.dead:
            generation.announce(outcome)


async def reconcile_forever(engine: Engine) -> None:
    """Reconcile at each interval until cancelled."""
    while True:
        await engine.clock.sleep(engine.limits.reconcile_interval_s)
        try:
            await reconcile(engine)
        except StorageUnavailable as error:
            log.warning("reconcile_later", extra={"fields": {"problem": error.message}})
        except Exception:
            log.exception("reconcile_defect")


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
    usage = answer.usage or estimated_usage((), answer)
    with contextlib.suppress(ModelNotFound):
        prices = engine.catalog.resolve(reply.model)[0].prices
        usage = msgspec.structs.replace(usage, cost_nano_usd=cost_nano_usd(usage, prices))
    return await engine.store.finalise(
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
        )
    )


def _defect(reply_id: str) -> Ending:
    return Ending(state=State.FAILED, error=defect(reply_id))
