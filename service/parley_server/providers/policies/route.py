"""Asks the models that may answer a reply: retries, failover to the next model, and one time limit around all tries.

It is one loop, because retry and failover share the deadline, the cancel and the sink. Only a provider's call and the
sleep between two tries are awaited, in the caller's task, so that a cancel ends either at once.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from parley_server.core.counts import credible
from parley_server.core.model import Finish, Model, Prompt
from parley_server.core.observer import NO_TARGET, AttemptEnded, AttemptObserver, Target
from parley_server.core.ports import Clock, Prompts, Provider, RouteSink
from parley_server.core.tracing import NO_TRACER, Tracer, within
from parley_server.errors import (
    Failure,
    InvalidRequest,
    ParleyError,
    ProviderContextTooLarge,
    ProviderError,
    ProviderUnavailable,
    Reason,
)
from parley_server.providers.policies.attempt import Attempt
from parley_server.providers.policies.breaker import Breaker, CoolDowns, Permit
from parley_server.providers.policies.recorded import RecordedSink
from parley_server.providers.policies.retry import (
    CREDIT_COOL_DOWN_S,
    FIRST_WAIT_S,
    MAX_WAIT_BEFORE_NEXT_S,
    MIN_LEFT_S,
    RULES,
    RetryBudget,
    wait_s,
)

logger = logging.getLogger("parley.provider")

OK = "OK"
CANCELLED = "CANCELLED"
TOTAL_PER_TRY = 1.5


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model that may answer, and what was observed in requests to it.

    first_token_s, idle_s: the limits of one try. first_token_total_s: the limit of all tries of a reply (None: 1.5
    times the longest limit of one try). retries: how often it is asked again if no other model is left.
    `fingerprint` returns that of the API key that a tenant's requests use. `target`: who is asked, for traces."""

    model: Model
    provider: Provider
    first_token_s: float
    idle_s: float
    first_token_total_s: float | None = None
    retries: int = 3
    retry_silence: bool = False
    breaker: Breaker
    budget: RetryBudget
    cool_downs: CoolDowns
    fingerprint: Callable[[str], str] = lambda _: ""
    target: Target = NO_TARGET

    def cool_down_key(self, prompt: Prompt) -> tuple[str, str, str]:
        """What a rate limit applies to."""
        return self.model.provider, self.model.name, self.fingerprint(prompt.tenant)


class ModelRoute:
    """Implements `Route` for one or more candidates. `jitter` returns a random number from 0 to 1."""

    def __init__(
        self,
        candidates: tuple[Candidate, ...],
        *,
        clock: Clock,
        observer: AttemptObserver | None = None,
        tracer: Tracer = NO_TRACER,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.candidates = candidates
        self.clock = clock
        self.observer = observer
        self.tracer = tracer
        self.jitter = jitter

    async def generate(self, prompts: Prompts, sink: RouteSink) -> Finish:
        """See `Route`."""
        return await _Search(self, prompts, sink).run()

    @property
    def first_token_total_s(self) -> float:
        """The time until the first token, in all tries together: the longest that is configured."""
        configured = [each.first_token_total_s for each in self.candidates if each.first_token_total_s is not None]
        return max(configured, default=TOTAL_PER_TRY * max(each.first_token_s for each in self.candidates))


class _Search:
    """The tries for one reply. `_error` is the failure of the last one."""

    def __init__(self, route: ModelRoute, prompts: Prompts, sink: RouteSink) -> None:
        self._route = route
        self._clock = route.clock
        self._observer = route.observer
        self._prompts = prompts
        self._sink = sink
        self._deadline_s = route.clock.monotonic() + route.first_token_total_s
        self._tries = 0
        self._attempt: Attempt | None = None
        self._error: ParleyError | None = None
        self._left_behind: tuple[str, str] | None = None
        self._refused_context = -1
        self._may_go_on = True

    async def run(self) -> Finish:
        candidates = self._route.candidates
        try:
            for candidate in candidates:
                finish = await self._ask(candidate, last=candidate is candidates[-1])
                if finish is not None:
                    return finish
                if not self._may_go_on:
                    break
            assert self._error is not None
            raise self._error
        finally:
            if self._attempt is not None:
                self._attempt.count()
            self._error = None  # its traceback refers to this object: no reference cycle may keep the reply in memory

    async def _ask(self, candidate: Candidate, *, last: bool) -> Finish | None:
        """Ask one model until it answers (the finish) or may not be asked again (None)."""
        model = candidate.model
        prompt = self._first_prompt(candidate, last=last)
        failures: Counter[Failure] = Counter()
        error: ProviderError | None = None
        retries = 0
        while prompt is not None and (permit := candidate.breaker.enter()) is not None:
            if error is None:
                self._begin(candidate)
            outcome = await self._try(candidate, prompt, permit)
            if isinstance(outcome, Finish):
                return outcome
            error = outcome
            failures[error.failure] += 1
            changed = self._changed_prompt(model, error, failures)
            delay_s = None if changed else self._retry_delay_s(candidate, error, failures, retries=retries, last=last)
            self._log(model, error, delay_s)
            if delay_s is not None:
                retries += 1
                self._observe_retry(model, error)
                await self._clock.sleep(delay_s)
            elif changed is None:
                break
            prompt = changed or prompt
        if error is not None:
            self._leave(model, error)
        elif prompt is not None:
            self._refuse(candidate)
        return None

    def _first_prompt(self, candidate: Candidate, *, last: bool) -> Prompt | None:
        """The prompt to begin with; None if the model is passed over."""
        model = candidate.model
        if model.context_tokens <= self._refused_context or (self._error is not None and self._left_s <= 0):
            return None
        if candidate.breaker.left_s and not last:
            self._pass_over(model, "breaker")
            return None
        prompt = self._prompt_of(model)
        if prompt is None or last or not candidate.cool_downs.cooling(candidate.cool_down_key(prompt)):
            return prompt
        self._pass_over(model, "cool_down")
        return None

    def _pass_over(self, model: Model, obstacle: str) -> None:
        """The next model is asked instead; the metric shows the first one that was not asked, or that failed."""
        self._left_behind = self._left_behind or (model.alias, obstacle)

    def _prompt_of(self, model: Model, *, with_kept: bool = True) -> Prompt | None:
        try:
            return self._prompts.of(model, with_kept=with_kept)
        except InvalidRequest as error:
            self._error = self._error or error
            return None

    def _changed_prompt(self, model: Model, error: ProviderError, failures: Counter[Failure]) -> Prompt | None:
        """Another prompt for the same model, once for each cause: without kept items, or shorter."""
        if failures[error.failure] > 1:
            return None
        if isinstance(error, ProviderContextTooLarge):
            limit, count = error.limit_tokens, error.prompt_tokens
            if not self._prompts.refused_as_too_long(model, limit_tokens=limit, prompt_tokens=count):
                return None
        elif error.failure is not Failure.KEPT_ITEMS:
            return None
        return self._prompt_of(model, with_kept=not failures[Failure.KEPT_ITEMS])

    def _retry_delay_s(
        self, candidate: Candidate, error: ProviderError, failures: Counter[Failure], *, retries: int, last: bool
    ) -> float | None:
        """Seconds until the same model is asked again with the same prompt; None if it is not."""
        allowed = candidate.retries if last else min(candidate.retries, 1)
        if retries >= allowed or failures[error.failure] > RULES[error.failure].retries or error.retry_forbidden:
            return None
        if candidate.breaker.is_open or (error.failure is Failure.SILENCE and not candidate.retry_silence):
            return None
        delay_s = wait_s(retries, asked_s=error.retry_after_s, random=self._route.jitter)
        if delay_s + MIN_LEFT_S > self._left_s or (not last and delay_s > MAX_WAIT_BEFORE_NEXT_S):
            return None
        return delay_s if candidate.budget.take() else None

    async def _try(self, candidate: Candidate, prompt: Prompt, permit: Permit) -> Finish | ProviderError:
        """One request. Raises the error if the answer had begun."""
        self._tries += 1
        span = self._route.tracer.attempt(prompt, candidate.target, self._tries)
        recorded = RecordedSink(self._sink) if span.needs_answer else None
        attempt = self._attempt = Attempt(
            recorded or self._sink,
            first_token_s=min(candidate.first_token_s, self._left_s),
            idle_s=candidate.idle_s,
            clock=self._clock,
            on_begin=permit.succeeded,
        )
        began_s = self._clock.monotonic()
        outcome, finish = Reason.INTERNAL.value, None
        try:
            with within(span):
                finish = await attempt.run(candidate.provider, prompt)
        except asyncio.CancelledError:
            outcome = CANCELLED
            raise
        except ParleyError as error:
            outcome = error.reason.value
            if not isinstance(error, ProviderError):
                raise
            # Both refer to frames that refer to the error, which would be another such cycle.
            error.__traceback__ = error.__context__ = None
            self._count_failure(candidate, prompt, error, permit)
            if attempt.begun:
                self._log(candidate.model, error, None)
                raise
            self._error = error
            return error
        else:
            permit.succeeded()
            outcome = OK
            return finish
        finally:
            permit.release()
            first_at_s, usage = attempt.first_content_at_s, attempt.last_usage
            ended = AttemptEnded(
                model=candidate.model,
                target=candidate.target,
                outcome=outcome,
                duration_s=self._clock.monotonic() - began_s,
                first_content_s=None if first_at_s is None else first_at_s - began_s,
                usage=usage if usage is not None and credible(usage) else None,
                finish=finish,
                answer=recorded.parts if recorded is not None else (),
            )
            span.end(ended)
            if self._observer is not None:
                self._observer.provider_attempt(ended)

    def _count_failure(self, candidate: Candidate, prompt: Prompt, error: ProviderError, permit: Permit) -> None:
        if RULES[error.failure].breaker:
            permit.failed()
        if error.failure is Failure.CREDIT:
            candidate.cool_downs.start(candidate.cool_down_key(prompt), CREDIT_COOL_DOWN_S)
        elif error.failure is Failure.RATE:
            candidate.cool_downs.start(candidate.cool_down_key(prompt), error.retry_after_s or FIRST_WAIT_S)

    def _begin(self, candidate: Candidate) -> None:
        """A model is asked for the first time."""
        model = candidate.model
        candidate.budget.first_try()
        self._sink.asks(model)
        if self._left_behind is not None and self._observer is not None:
            alias, why = self._left_behind
            self._observer.failed_over(alias, model.alias, why)
        self._left_behind = None

    def _leave(self, model: Model, error: ProviderError) -> None:
        """A model has failed and is not asked again."""
        self._may_go_on = RULES[error.failure].next_model
        self._left_behind = (model.alias, error.failure.value)
        if isinstance(error, ProviderContextTooLarge):
            self._refused_context = max(self._refused_context, model.context_tokens, error.limit_tokens or 0)

    def _refuse(self, candidate: Candidate) -> None:
        """The breaker does not let the last model be asked."""
        self._sink.asks(candidate.model)
        problem = f"{candidate.model.provider} has failed several times in a row and is not asked at present"
        self._error = ProviderUnavailable(problem, retry_after_s=candidate.breaker.left_s)

    def _observe_retry(self, model: Model, error: ProviderError) -> None:
        if self._observer is not None:
            self._observer.provider_retried(model.provider, error.failure.value)

    def _log(self, model: Model, error: ProviderError, delay_s: float | None) -> None:
        fields = {
            "reply_id": self._sink.reply_id,
            "model": model.alias,
            "provider": model.provider,
            "try": self._tries,
            "class": error.failure.value,
            "status": error.metadata.get("http_status"),
            "wait_s": delay_s,
        }
        level = logging.ERROR if RULES[error.failure].misconfigured else logging.WARNING
        logger.log(level, "provider_attempt", extra={"fields": fields})

    @property
    def _left_s(self) -> float:
        """Seconds until the first token must have arrived."""
        return self._deadline_s - self._clock.monotonic()
