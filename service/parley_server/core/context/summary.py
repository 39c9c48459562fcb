"""Summaries of long conversations, which stand in later prompts in place of the oldest messages.

They are written in the background while a reply streams, so that no reply waits for one. Until the next USER message
after it, a prompt drops what does not fit.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from parley_server.core.context.estimate import Estimator
from parley_server.core.context.fold import Fold, SummaryPrompts, fold_of
from parley_server.core.context.prompts import TurnPrompts
from parley_server.core.cost import cost_nano_usd, estimate_tokens
from parley_server.core.counts import credible
from parley_server.core.ids import new_id
from parley_server.core.model import Model, Overflow, Usage
from parley_server.core.observer import Observer
from parley_server.core.ports import Catalog, Clock, Prompts, Store
from parley_server.core.store_types import Summary
from parley_server.core.tasks import Tasks, done_within
from parley_server.core.tracing import NO_TRACER, Tracer, within
from parley_server.errors import ParleyError

logger = logging.getLogger("parley.context")

MAX_RUNNING = 4
TIME_LIMIT_S = 60.0


class Summaries:
    """Writes summaries in background tasks, at most `MAX_RUNNING` at once. `alias` names the model that writes them
    (empty: the model that answers), and may be replaced at any time. `busy`: the process drains or is overloaded."""

    def __init__(
        self,
        *,
        store: Store,
        catalog: Catalog,
        clock: Clock,
        observer: Observer,
        tasks: Tasks,
        estimator: Estimator,
        busy: Callable[[], bool],
        alias: str = "",
        tracer: Tracer = NO_TRACER,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._clock = clock
        self._observer = observer
        self._tasks = tasks
        self._estimator = estimator
        self._busy = busy
        self.alias = alias
        self._tracer = tracer
        self._running: dict[str, asyncio.Task[None]] = {}

    def begin(self, prompts: Prompts, model: Model) -> None:
        """The model has begun to answer these prompts: summarize their history, if that is to be and it is long.

        All work is done in a task, so that the first token is sent before."""
        if not isinstance(prompts, TurnPrompts) or prompts.source.conversation.context.overflow is Overflow.DROP_OLDEST:
            return
        if not self._busy():
            self._tasks.spawn(self._summarize(prompts, model), f"summary-{prompts.source.conversation.id}")

    def stop(self) -> None:
        """Give up the running summaries: the process stops."""
        for task in list(self._running.values()):
            task.cancel()

    async def _summarize(self, prompts: TurnPrompts, model: Model) -> None:
        fold, task = fold_of(prompts, model), asyncio.current_task()
        if fold is None or fold.conversation_id in self._running:
            return
        if len(self._running) >= MAX_RUNNING:
            self._observer.summarized("skipped")
            return
        assert task is not None
        self._running[fold.conversation_id] = task
        outcome, span = "cancelled", self._tracer.summary(fold.conversation_id)
        try:
            with within(span):
                outcome = await self._within_limit(fold, model)
        finally:
            self._running.pop(fold.conversation_id)
            span.end(outcome)
            self._observer.summarized(outcome)

    async def _within_limit(self, fold: Fold, model: Model) -> str:
        """The outcome. A failure is logged; the next turn tries again."""
        problem = "there was no text within the time limit"
        writing = self._tasks.spawn(self._write(fold, model), f"write-summary-{fold.conversation_id}")
        try:
            if await done_within(writing, TIME_LIMIT_S, self._clock):
                return writing.result()
            outcome = "timeout"
        except ParleyError as error:
            outcome, problem = "failed", error.message
        except Exception as error:  # noqa: BLE001 - the reply does not depend on it
            outcome, problem = "failed", repr(error)
        finally:
            writing.cancel()
        fields = {"conversation_id": fold.conversation_id, "problem": problem}
        logger.warning("summary_failed", extra={"fields": fields})
        return outcome

    async def _write(self, fold: Fold, answering: Model) -> str:
        # The catalog may have changed since the model was asked.
        model = self._catalog.model(self.alias or answering.alias)
        prompts = SummaryPrompts(fold, self._estimator)
        prompt = prompts.of(model)
        collected = _Collected(new_id(self._clock.now_us()))
        await self._catalog.route((model,)).generate(prompts, collected)
        text = "".join(collected.texts).strip()
        if not text:
            return "failed"
        now_us = self._clock.now_us()
        summary = Summary(
            tenant=fold.tenant,
            conversation_id=fold.conversation_id,
            message_id=prompts.covered,
            text=text,
            model=model.alias,
            create_time_us=now_us,
        )
        usage = collected.counted or Usage(
            prompt_tokens=prompt.likely_tokens, completion_tokens=estimate_tokens(text), estimated=True
        )
        if usage.cost_nano_usd is None:
            usage = msgspec.structs.replace(usage, cost_nano_usd=cost_nano_usd(usage, model.prices))
        stored = await self._store.add_summary(summary, usage, usage_id=collected.reply_id, provider=model.provider)
        return "stored" if stored else "erased"


class _Collected:
    """Implements `RouteSink`: the text and the usage of a summary. Everything else of an answer is dropped.

    `reply_id` is the id under which the usage is stored."""

    def __init__(self, reply_id: str) -> None:
        self.reply_id = reply_id
        self.texts: list[str] = []
        self.counted: Usage | None = None

    def asks(self, model: Model) -> None:
        """See `RouteSink`."""

    def text(self, text: str) -> None:
        """See `Sink`."""
        self.texts.append(text)

    def reasoning(self, text: str, signature: bytes = b"") -> None:
        """See `Sink`."""

    def tool_call(self, index: int, call_id: str, name: str, arguments: str) -> None:
        """See `Sink`."""

    def usage(self, usage: Usage) -> None:
        """See `Sink`."""
        self.counted = usage if credible(usage) else self.counted

    def keep(self, origin: str, item: str) -> None:
        """See `Sink`."""

    def flush(self) -> None:
        """See `Sink`."""
