"""Generates one reply in a task of its own: the provider writes into the log, then the reply ends exactly once.

The task belongs to the process, not to a call. Nothing is awaited per token.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from parley_server.core.content import Answer, answer_of
from parley_server.core.context.estimate import Estimator
from parley_server.core.context.summary import Summaries
from parley_server.core.cost import cost_nano_usd
from parley_server.core.lease import NEVER, Lease
from parley_server.core.limits import Limits
from parley_server.core.model import Finish, FinishReason, Message, Part, Prices, Reply, ReplyError, State, Usage
from parley_server.core.ports import Clock, Prompts, Route, Store, Timer
from parley_server.core.quota_values import QuotaState
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
from parley_server.core.replies.log import Log, Reader
from parley_server.core.replies.readers import ReaderCount
from parley_server.core.replies.sink import FlushWindow, LogSink
from parley_server.core.store_types import Finalisation, Finalised
from parley_server.core.tasks import Tasks, done_within, unbroken
from parley_server.core.tracing import NO_SPAN, NO_TRACER, ReplySpan, Tracer, within
from parley_server.errors import ParleyError, ProviderError, StorageUnavailable

logger = logging.getLogger("parley.reply")

MAX_RETRY_S = 2.0


def as_it_stands(log: Log, now_us: int) -> Reply:
    """The running reply, with the text that readers may have seen."""
    reply, first = log.reply, log.first_token_time_us or log.reply.first_token_time_us
    parts = answer_of(log.numbered()).parts
    return msgspec.structs.replace(
        reply,
        state=State.STREAMING if first or log.last_sequence else State.PENDING,
        message=answer_message(reply, parts, State.STREAMING, now_us) if parts else None,
        last_sequence=log.last_sequence,
        first_token_time_us=first,
    )


class Bookkeeper(Protocol):
    """Keeps account of a reply's life. Called in this order, each once."""

    def started(self, generation: Generation) -> None:
        """Its acceptance is committed, and its task starts."""

    def finalising(self, generation: Generation) -> None:
        """Its end is about to be stored, with the whole text."""

    def ended(self, generation: Generation, overhead_s: float) -> None:
        """Its log has ended as the reply is stored, or the reply was erased."""


@dataclass(frozen=True, kw_only=True)
class GenerationParts:
    """What the generations of a process share.

    `idle_elsewhere_s` returns for at least how many seconds a reply has had no reader on other replicas; None: unknown.
    It is not set if no other replica can have readers."""

    store: Store
    bookkeeper: Bookkeeper
    tasks: Tasks
    clock: Clock
    limits: Limits
    window: FlushWindow
    lease: Lease
    estimator: Estimator
    summaries: Summaries
    tracer: Tracer = NO_TRACER
    idle_elsewhere_s: Callable[[str], Awaitable[float | None]] | None = None


class Generation:
    """Generates one accepted reply: `start` it after the commit, `cancel` it at any time; its log contains the end.

    `quota` is the tightest limit that its acceptance has touched."""

    def __init__(
        self,
        parts: GenerationParts,
        *,
        reply: Reply,
        route: Route,
        prompts: Prompts,
        prompt_size: int,
        orphan_ttl_s: float,
        time_limit_s: float,
    ) -> None:
        self.log = Log(reply, lease=parts.lease)
        self.reader_count = ReaderCount(
            parts.clock,
            ttl_s=orphan_ttl_s,
            max_readers=parts.limits.max_readers_per_reply,
            on_orphaned=lambda: self._leave_orphaned(orphan_ttl_s),
        )
        self._parts = parts
        self._reply = reply
        self._route = route
        self._prompts = prompts
        self.prompt_size = prompt_size
        self._time_limit_s = time_limit_s
        self._sink = LogSink(
            self.log,
            parts.clock,
            window=parts.window,
            max_bytes=parts.limits.max_reply_bytes,
            on_full=lambda: self.cancel(Cancel(finish=FinishReason.MAX_TOKENS)),
            on_first=self._begun,
        )
        self.quota: QuotaState | None = None
        self._span: ReplySpan = NO_SPAN
        self.task: asyncio.Task[None] | None = None
        self._producing: asyncio.Task[Finish] | None = None
        self._concluding: asyncio.Task[None] | None = None
        self._cancel: Cancel | None = None
        self._produced: asyncio.Future[None] | None = None
        self._written: Finalisation | None = None
        self._overhead_s = 0.0
        self._ended_s = 0.0

    @property
    def reply(self) -> Reply:
        """The reply with its message so far."""
        if self.log.ended:
            return self.log.reply
        return as_it_stands(self.log, self._parts.clock.now_us())

    @property
    def dead(self) -> bool:
        """Whether its task is over and the reply has not ended: a defect, which `Recovery.reconcile` repairs."""
        tasks = (self.task, self._concluding)
        return self.task is not None and not self.log.over and all(task is None or task.done() for task in tasks)

    def start(self, overhead_s: float) -> None:
        """Ask the provider; `overhead_s` is the time that the acceptance took. Call it after the commit."""
        self._overhead_s = overhead_s
        self._span = self._parts.tracer.reply(self._reply)
        with within(self._span):
            self._parts.bookkeeper.started(self)
            self.task = self._parts.tasks.spawn(self._run(), f"reply-{self._reply.id}")
            self.task.add_done_callback(self._mend)

    def enter(self) -> None:
        """A reader joins. Raises `TooManyReaders`."""
        self.reader_count.enter()

    def leave(self) -> None:
        """A reader leaves."""
        self.reader_count.leave()

    def touch(self) -> None:
        """A poll reads it."""
        self.reader_count.touch()

    @property
    def lost(self) -> bool:
        """Whether another replica has taken it over."""
        return self.log.lease is NEVER

    def lose(self) -> None:
        """Another replica has taken the reply over: only the end that it stores is still shown here."""
        self.log.lease = NEVER
        self.cancel(Cancel(finish=None))

    def cancel(self, cancel: Cancel) -> None:
        """End it, unless it is ending already. No later text is shown."""
        provider_done = self._producing is not None and self._producing.done()
        if self._cancel is not None or self.log.sealed or provider_done:
            return
        self._cancel = cancel
        self._sink.seal()
        self._end_production()

    def _leave_orphaned(self, ttl_s: float) -> None:
        """End it if it has had no reader on other replicas either for `ttl_s`."""
        self._parts.tasks.spawn(self._end_unread(ttl_s), f"orphan-{self._reply.id}")

    async def _end_unread(self, ttl_s: float) -> None:
        idle_elsewhere_s = self._parts.idle_elsewhere_s
        idle_s = math.inf if idle_elsewhere_s is None else await idle_elsewhere_s(self._reply.id)
        if idle_s is None or idle_s < ttl_s:
            self.reader_count.seen(idle_s or 0.0)
        elif self.reader_count.orphaned:
            self.cancel(Cancel(finish=FinishReason.ORPHANED, reason="nobody was reading"))

    async def _run(self) -> None:
        try:
            ending = await self._produce()
        except asyncio.CancelledError:
            await unbroken(self._begin_end(self._cancelled()))
            raise
        except Exception as error:  # noqa: BLE001 - this task owns the reply: whatever happens, the reply ends
            ending = self._defect(error)
        await unbroken(self._begin_end(ending))

    def _mend(self, _: asyncio.Task[None]) -> None:
        """End the reply if its task was cancelled before its first step."""
        if self._concluding is None:
            self._sink.seal()
            self._begin_end(self._cancelled())
        self.log.wake()

    def _begin_end(self, ending: Ending) -> asyncio.Task[None]:
        self._concluding = self._parts.tasks.spawn(self._conclude(ending), f"end-{self._reply.id}")
        self._concluding.add_done_callback(lambda _: self.log.wake())
        return self._concluding

    async def until_over(self) -> None:
        """Return when it has ended or is `dead`."""
        reader = Reader(self.log, self.log.last_sequence)
        while not self.log.over and not self.dead:
            await reader.wait()
            reader.position = self.log.last_sequence

    async def _produce(self) -> Ending:
        """Let the provider write until it ends or the reply is cancelled, then close its call."""
        if self._cancel is not None:
            return self._cancelled()
        produced = self._produced = asyncio.get_running_loop().create_future()
        producing = self._ask_provider()
        limit = self._limit_time()
        try:
            await produced
        finally:
            limit.cancel()
            self._sink.seal()
            ended_s = self._parts.clock.monotonic()
            await self._close(producing)
            self._ended_s = ended_s
        return self._result(producing)

    def _ask_provider(self) -> asyncio.Task[Finish]:
        asking = self._route.generate(self._prompts, self._sink)
        self._producing = asyncio.get_running_loop().create_task(asking, name=f"provider-{self._reply.id}")
        self._producing.add_done_callback(self._provider_done)
        return self._producing

    def _begun(self) -> None:
        if self._sink.asked is not None:
            with within(self._span):  # and not within that of the attempt
                self._parts.summaries.begin(self._prompts, self._sink.asked)

    def _provider_done(self, producing: asyncio.Task[Finish]) -> None:
        if not producing.cancelled():
            producing.exception()  # mark the error as retrieved: a provider may end after its reply
        self._end_production()

    def _limit_time(self) -> Timer:
        clock = self._parts.clock
        return clock.call_at(
            clock.monotonic() + self._time_limit_s, lambda: self.cancel(Cancel(finish=FinishReason.TIME_LIMIT))
        )

    def _end_production(self) -> None:
        if self._produced is not None and not self._produced.done():
            self._produced.set_result(None)

    async def _close(self, producing: asyncio.Task[Finish]) -> None:
        """Close the provider's call, and wait for that until the time limit."""
        if producing.done():
            return
        producing.cancel()
        if not await done_within(producing, self._parts.limits.provider_close_s, self._parts.clock):
            logger.error("provider_close_timed_out", extra={"fields": {"reply_id": self._reply.id}})

    def _result(self, producing: asyncio.Task[Finish]) -> Ending:
        """How it ended. If the provider's task is cancelled without a `Cancel`, that is a defect."""
        if self._cancel is not None:
            return self._cancelled()
        error = asyncio.CancelledError() if producing.cancelled() else producing.exception()
        if error is None:
            finish = producing.result()
            filtered = finish.reason is FinishReason.CONTENT_FILTER  # free before the first token
            return Ending(
                state=State.COMPLETED,
                finish=finish.reason,
                provider_reason=finish.provider_reason,
                billed=not filtered,
            )
        if isinstance(error, ParleyError):
            billed = isinstance(error, ProviderError) and error.billed
            return Ending(state=State.FAILED, error=ReplyError.of(error), billed=billed)
        return self._defect(error)

    def _defect(self, error: BaseException) -> Ending:
        logger.error("reply_task_failed", exc_info=error, extra={"fields": {"reply_id": self._reply.id}})
        return Ending(state=State.FAILED, error=internal_error(self._reply.id))

    def _cancelled(self) -> Ending:
        cancel = self._cancel or Cancel(finish=None)
        return ending_of_cancel(cancel, started=bool(self.log.first_token_time_us))

    async def _conclude(self, ending: Ending) -> None:
        """Store the end, then append the terminal entry and wake the readers."""
        self._sink.seal()
        clock = self._parts.clock
        self._parts.bookkeeper.finalising(self)
        finalisation = self._written = self._finalisation(ending, answer_of(self.log.content()))
        delay_s = 0.1
        while True:
            try:
                outcome = await finalise(self._parts.store, finalisation)
            except StorageUnavailable as error:
                logger.warning(
                    "finalisation_postponed", extra={"fields": {"reply_id": self._reply.id, "problem": error.message}}
                )
            else:
                if outcome is None or outcome.reply.state.terminal:
                    break
                self.log.lease = NEVER  # taken over, and not ended by the other replica yet
            await clock.sleep(delay_s)
            delay_s = min(delay_s * 2, MAX_RETRY_S)
        self.announce(outcome)

    def announce(self, outcome: Finalised | None) -> None:
        """End the log as the reply is stored (None: it was erased). Called once, last."""
        if outcome is None:
            self.log.erase()
        elif outcome.won or self._is_own(outcome.reply):
            self.log.finish(outcome.reply)
        else:
            self.log.replace(outcome.reply)
        if self._ended_s:
            self._overhead_s += self._parts.clock.monotonic() - self._ended_s
        with within(self._span):  # `Recovery` may have called this
            self._parts.bookkeeper.ended(self, self._overhead_s)
        self._span.end(self.log.reply)

    @property
    def items_kept(self) -> str:
        """What has become of the wire items for the next request of the tool turn: see `Observer.items_kept`. Empty if
        there are none."""
        if self._written is not None and self._written.kept is not None:
            return "stored"
        return "too_large" if self._sink.kept_too_large else ""

    def _is_own(self, stored: Reply) -> bool:
        """Whether the stored end is the one that this task wrote: its commit succeeded, and the answer was lost.

        A takeover writes another last sequence."""
        written = self._written
        return written is not None and (written.end_time_us, written.last_sequence) == (
            stored.end_time_us,
            stored.last_sequence,
        )

    def _finalisation(self, ending: Ending, answer: Answer) -> Finalisation:
        first = self.log.first_token_time_us
        usage = self._usage(ending, answer)
        return Finalisation(
            reply_id=self._reply.id,
            epoch=self._reply.epoch,
            state=ending.state,
            finish_reason=ending.finish,
            provider_reason=ending.provider_reason,
            error=ending.error,
            usage=usage,
            message=self._message(answer.parts, ending.state) if answer.is_message else None,
            kept=self._sink.kept if ending.state is State.COMPLETED and answer.has_call else None,
            model=self.log.reply.model,
            provider=self.log.reply.provider,
            cancel_reason=ending.cancel_reason,
            last_sequence=self.log.closing_sequence,
            first_token_time_us=first,
            end_time_us=self._parts.clock.now_us(),
            text_length=answer.text_length,
            charge=charge_of(usage, ending.state, has_content=bool(answer.parts)),
        )

    def _message(self, parts: tuple[Part, ...], state: State) -> Message:
        return answer_message(self._reply, parts, state, self._parts.clock.now_us())

    def _usage(self, ending: Ending, answer: Answer) -> Usage:
        """The provider's count, or an estimate if the provider was asked and may have charged."""
        usage, asked, prompt = self._sink.last_usage or answer.usage, self._sink.asked, self._prompts.asked
        if usage is not None and prompt is not None and prompt.model == asked:
            usage = self._parts.estimator.counted(prompt, usage)
        if usage is not None or (asked is not None and (ending.billed or answer.parts)):
            usage = completed_usage(usage, prompt.likely_tokens if prompt else 0, answer)
        else:
            usage = Usage()
        prices = asked.prices if asked is not None else Prices()
        return msgspec.structs.replace(usage, cost_nano_usd=cost_nano_usd(usage, prices))
