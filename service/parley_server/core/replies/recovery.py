"""Ends replies that the store holds as running although no task generates them.

These are: all of them when a process that is alone starts, replies whose task failed by a defect, and replies that were
taken over from dead replicas.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

import msgspec

from parley_server.core.content import answer_of
from parley_server.core.cost import cost_nano_usd
from parley_server.core.events import Entry
from parley_server.core.model import Identity, Reply, State
from parley_server.core.observer import Observer
from parley_server.core.ports import Catalog, Clock, Store
from parley_server.core.quotas.rules import charge_of
from parley_server.core.replies.endings import (
    Cancel,
    Ending,
    answer_message,
    completed_usage,
    ending_of_cancel,
    internal_error,
)
from parley_server.core.replies.finalise import finalise
from parley_server.core.replies.journal import UnstoredText
from parley_server.core.replies.live import LiveReplies
from parley_server.core.replies.log import TAKEOVER_GAP, Log
from parley_server.core.store_types import Finalisation, Finalised, Unfinished
from parley_server.core.tasks import Tasks, done_within
from parley_server.core.tracing import NO_TRACER, Tracer, within
from parley_server.errors import ModelNotFound, ReplyNotFound, StorageUnavailable

logger = logging.getLogger("parley.recovery")

FIRST_EPOCH = 1
RETRY_S = 0.5
RECALL_LIMIT_S = 3.0
"""Longer than a relay takes by its own limits."""


class Recovery:
    """Ends running replies without a task, with the text that is durable.

    `unstored` holds text that the store does not have, `on_ended` receives the logs of replies that were taken over and
    have ended, `owner` is the id of this replica (empty: the process is alone). `ending` holds the ids of taken-over
    replies that are being ended; `reconcile` skips them.
    """

    def __init__(
        self,
        *,
        store: Store,
        catalog: Catalog,
        clock: Clock,
        observer: Observer,
        tasks: Tasks,
        live_replies: LiveReplies,
        interval_s: float,
        unstored: UnstoredText | None = None,
        on_ended: Callable[[Log], None] | None = None,
        owner: str = "",
        tracer: Tracer = NO_TRACER,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._clock = clock
        self._observer = observer
        self._tasks = tasks
        self._live_replies = live_replies
        self._interval_s = interval_s
        self._unstored = unstored
        self._on_ended = on_ended
        self._owner = owner
        self._tracer = tracer
        self.ending: set[str] = set()

    async def recover(self) -> int:
        """End every reply of the previous process with its durable text, before the server is ready. Returns how many.

        A reply that cannot be ended is logged and left to `run`, so that it does not keep the server from starting.
        Raises `StorageUnavailable`."""
        reply_ids = await self._store.unfinished_ids()
        for reply_id in reply_ids:
            try:
                await self._recover_one(reply_id)
            except StorageUnavailable:
                raise
            except Exception:  # the defect of one reply must not keep the others from ending
                logger.exception("recovery_failed", extra={"fields": {"reply_id": reply_id}})
        if reply_ids:
            logger.warning("replies_recovered", extra={"fields": {"replies": len(reply_ids)}})
        return len(reply_ids)

    async def _recover_one(self, reply_id: str) -> None:
        for unfinished in await self._store.unfinished(1, reply_id):
            whole = await self._with_published(unfinished)
            await self.end_unfinished(whole, _ending_of(whole))

    async def reconcile(self, epochs: dict[str, int] | None = None) -> None:
        """End those unfinished replies of this process that have no task.

        `epochs` holds the epochs of the replies to check, by id (None: all unfinished ones). If the task of a reply
        failed after its end was stored, its log is ended, too."""
        if epochs is None:
            epochs = dict.fromkeys(await self._store.unfinished_ids(), FIRST_EPOCH)
        for reply_id, epoch in epochs.items():
            generation = self._live_replies.running.get(reply_id)
            at_work = generation is not None and not generation.dead and generation.log.reply.epoch == epoch
            if at_work or reply_id in self.ending:
                continue
            try:
                await self._end_without_task(reply_id)
            except StorageUnavailable:
                raise
            except Exception:  # the same
                logger.exception("reconciliation_failed", extra={"fields": {"reply_id": reply_id}})
        for generation in [each for each in self._live_replies.running.values() if each.dead]:
            outcome = await self._stored(generation.log.reply)
            ended = outcome is None or outcome.reply.state.terminal
            if ended and generation.dead:
                generation.announce(outcome)

    async def reconcile_once(self, epochs: dict[str, int] | None = None) -> None:
        """Reconcile; log a failure instead of raising it."""
        try:
            await self.reconcile(epochs)
        except StorageUnavailable as error:
            logger.warning("reconciliation_postponed", extra={"fields": {"problem": error.message}})
        except Exception:  # the next run may succeed
            logger.exception("reconciliation_failed")

    async def run(self) -> None:
        """Reconcile at each interval until cancelled."""
        while True:
            await self._clock.sleep(self._interval_s)
            await self.reconcile_once()

    async def _end_without_task(self, reply_id: str) -> None:
        """End it as FAILED / INTERNAL, or as taken over if the answer of its takeover was lost."""
        for unfinished in await self._store.unfinished(1, reply_id):
            if unfinished.reply.owner != self._owner:
                continue
            if unfinished.reply.epoch > FIRST_EPOCH:
                await self.end_taken_over(unfinished)
                continue
            logger.error("reply_task_missing", extra={"fields": {"reply_id": reply_id}})
            ending = _ending_of(unfinished) if unfinished.cancel is not None else _defect(reply_id)
            await self.end_unfinished(await self._with_published(unfinished), ending)

    async def end_taken_over(self, unfinished: Unfinished) -> None:
        """End a reply that this replica has taken over, with the longest text that is durable. Waits for the store."""
        outcome, span = "failed", self._tracer.takeover(unfinished.reply)
        try:
            with within(span):
                outcome = await self._end_taken_over(unfinished)
        finally:
            span.end(outcome)

    async def _end_taken_over(self, unfinished: Unfinished) -> str:
        """The outcome: "ended", "erased", or "lost" (another replica has ended it, or taken it over again)."""
        reply = unfinished.reply
        self.ending.add(reply.id)
        try:
            unfinished = await self._with_published(unfinished)
            outcome = await self._persistently(unfinished)
        finally:
            self.ending.discard(reply.id)
        if outcome is None:
            return "erased"
        if not outcome.reply.state.terminal:
            return "lost"
        if self._on_ended is not None:
            self._on_ended(Log.of_ended(outcome.reply))
        if outcome.reply.epoch != reply.epoch:
            return "lost"
        fields = {"reply_id": reply.id, "sequence": unfinished.durable_sequence}
        logger.warning("reply_taken_over", extra={"fields": fields})
        self._observer.reply_taken_over()
        return "ended"

    async def _with_published(self, unfinished: Unfinished) -> Unfinished:
        """Add the text that the store does not have."""
        if self._unstored is None:
            return unfinished
        published = await self._published(self._unstored, unfinished.reply, after=unfinished.durable_sequence)
        return msgspec.structs.replace(
            unfinished,
            entries=unfinished.entries + published,
            durable_sequence=unfinished.durable_sequence + len(published),
        )

    async def _published(self, unstored: UnstoredText, reply: Reply, *, after: int) -> tuple[Entry, ...]:
        """Text that the store does not have; empty if it cannot be read in time, so that the reply ends anyway."""
        asking = self._tasks.spawn(unstored.take_over(reply.id, reply.epoch, after=after), f"recall-{reply.id}")
        if not await done_within(asking, RECALL_LIMIT_S, self._clock):
            asking.cancel()
            logger.error("text_recall_timed_out", extra={"fields": {"reply_id": reply.id}})
            return ()
        error = None if asking.cancelled() else asking.exception()
        if asking.cancelled() or error is not None:
            logger.error("text_recall_failed", exc_info=error, extra={"fields": {"reply_id": reply.id}})
            return ()
        return asking.result()

    async def _persistently(self, unfinished: Unfinished) -> Finalised | None:
        while True:
            try:
                return await self.end_unfinished(unfinished, _ending_of(unfinished))
            except StorageUnavailable:
                await self._clock.sleep(RETRY_S)

    async def _stored(self, reply: Reply) -> Finalised | None:
        try:
            stored = await self._store.get_reply(Identity(tenant=reply.tenant), reply.id)
        except ReplyNotFound:
            return None
        return Finalised(reply=stored, won=False)

    async def end_unfinished(self, unfinished: Unfinished, ending: Ending) -> Finalised | None:
        """End a reply with the durable part of its log, and with sequence numbers that no reader can have seen."""
        reply = unfinished.reply
        now_us = self._clock.now_us()
        answer = answer_of(unfinished.entries)
        usage = completed_usage(answer.usage, unfinished.prompt_tokens, answer)
        with contextlib.suppress(ModelNotFound):
            prices = self._catalog.model(reply.model).prices
            usage = msgspec.structs.replace(usage, cost_nano_usd=cost_nano_usd(usage, prices))
        return await finalise(
            self._store,
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
                charge=charge_of(usage, ending.state, has_content=bool(answer.parts)),
            ),
        )


def _ending_of(unfinished: Unfinished) -> Ending:
    """CANCELLED if a cancel is stored, else FAILED / OWNER_LOST."""
    return ending_of_cancel(Cancel(finish=unfinished.cancel, reason=unfinished.reply.cancel_reason), started=True)


def _defect(reply_id: str) -> Ending:
    return Ending(state=State.FAILED, error=internal_error(reply_id))
