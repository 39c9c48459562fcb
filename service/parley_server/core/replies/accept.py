"""Accepts requests: checks them, commits the reply and its input in one transaction, then starts the generation.

The provider is asked after the commit, so that a request whose commit fails costs nothing. The process runs an
acceptance as one unit: a call that is cancelled in between leaves a running reply, never a row without a task. A
refusal first checks whether the request is the retry of one that was accepted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass

from parley_server.core.access import TenantPolicy, Tenants
from parley_server.core.lease import Lease
from parley_server.core.limits import Limits
from parley_server.core.model import FinishReason, Model, Reply
from parley_server.core.observer import LoopLoad, Observer
from parley_server.core.ports import Catalog, Clock, Store
from parley_server.core.quotas.rules import QuotaRules, refusal, states_of, tightest
from parley_server.core.rates.admission import Admission, Entry
from parley_server.core.replies.cancel import CancelRequests
from parley_server.core.replies.generate import Generation, GenerationParts
from parley_server.core.replies.live import LiveReplies
from parley_server.core.replies.log import Log, Reader
from parley_server.core.replies.plan import Plan, make_plan
from parley_server.core.replies.prompt_sources import PromptSources, image_not_found
from parley_server.core.requests import ReplyPayload, ReplyRequest
from parley_server.core.store_types import (
    Acceptance,
    Accepted,
    AcceptOutcome,
    Busy,
    CancelTarget,
    ConversationGone,
    ConversationTaken,
    HeadMoved,
    ImageGone,
    OverQuota,
    PromptSource,
    Replayed,
)
from parley_server.core.tasks import Tasks, done_within
from parley_server.core.tenant_catalog import catalog_for
from parley_server.core.tracing import within
from parley_server.errors import (
    ConversationExists,
    ConversationNotFound,
    Draining,
    LimitsUnavailable,
    ParleyError,
    QuotaExceeded,
    ReplyInProgress,
    ReplyNotFound,
    RequestIdReused,
    StorageUnavailable,
)

REPORT_UNKNOWN_S = 5.0
"""Deadline, from the start of acceptance, for reporting an unknown commit outcome; one final check may follow."""
FINAL_CHECK_S = 0.5
CHECK_INTERVAL_S = 0.1
ABSENT_AFTER_S = 1.0
"""A reply that is not found is looked up again after this time: a database that was suspended may still commit it."""
MAX_TRIES = 3


@dataclass(frozen=True)
class _Terms:
    """What the configuration says about one request when it arrives. A reload does not change it."""

    catalog: Catalog
    policy: TenantPolicy


class Acceptances:
    """Accepts requests. While `draining` is set, it refuses all but retries of accepted ones. `owner` is the id of this
    replica (empty: the process is alone)."""

    def __init__(
        self,
        *,
        store: Store,
        catalog: Catalog,
        tenants: Tenants,
        clock: Clock,
        limits: Limits,
        load: LoopLoad,
        observer: Observer,
        lease: Lease,
        tasks: Tasks,
        live_replies: LiveReplies,
        cancel_requests: CancelRequests,
        generation_parts: GenerationParts,
        rules: QuotaRules,
        admission: Admission,
        owner: str = "",
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._tenants = tenants
        self._clock = clock
        self._limits = limits
        self._load = load
        self._observer = observer
        self._lease = lease
        self._tasks = tasks
        self._live_replies = live_replies
        self._cancel_requests = cancel_requests
        self._generation_parts = generation_parts
        self._sources = PromptSources(store=store, clock=clock, live_replies=live_replies)
        self._rules = rules
        self._admission = admission
        self._owner = owner
        self.draining: Draining | None = None

    def accept(self, request: ReplyRequest) -> Coroutine[None, None, Generation | Replayed]:
        """A new running reply, or the reply that the same request has started. Raises every refusal.

        The configuration counts as it is at this call, even if the work begins later: the caller has just been
        identified by it."""
        return self._accept_by(request, _Terms(self._catalog.current(), self._tenants.policy(request.identity.tenant)))

    async def _accept_by(self, request: ReplyRequest, terms: _Terms) -> Generation | Replayed:
        began = self._clock.monotonic()
        entry = self._admission.entry(request, terms.policy)
        try:
            return await self._accept(request, entry, terms, began)
        except ParleyError as refusal:
            entry.accepted = isinstance(refusal, StorageUnavailable) and refusal.outcome_unknown
            if _may_be_known(refusal) and (known := await self._known(request)) is not None:
                return known
            self._observer.refused(refusal.reason)
            if isinstance(refusal, QuotaExceeded):
                self._observer.quota_exceeded(refusal.metadata.get("limit", ""))
            raise
        finally:
            await entry.end()

    async def _accept(self, request: ReplyRequest, entry: Entry, terms: _Terms, began: float) -> Generation | Replayed:
        self._check_room(0)
        if self._load.overloaded:
            raise self._live_replies.capacity.overloaded("the server is too busy for new replies: retry later")
        entry.begin()
        for tries_left in reversed(range(MAX_TRIES)):
            source = await self._sources.read(request, terms.catalog)
            candidates = _candidates(request, source, terms)
            await self._sources.check_results(request, source)
            plan = self._plan(request, source, candidates, terms)
            await entry.check(source)
            if running := source.conversation.active_reply_id:
                self._check_room(plan.prompt_size)
                await self._check_quota(request, plan.acceptance)
                if (known := await self._make_way(request, running)) is not None:
                    return known
                source = await self._sources.read(request, terms.catalog)
                await self._sources.check_results(request, source)
                plan = self._plan(request, source, candidates, terms)
            generation = self._generation(request.payload, plan, terms)
            self._check_room(plan.prompt_size)
            outcome = await self._commit(generation, plan.acceptance, began)
            if isinstance(outcome, Accepted):
                entry.accepted = True
                quotas = states_of(plan.acceptance.quotas, outcome.uses) if outcome.uses else []
                generation.quota = tightest([*entry.states, *quotas])
                return generation
            if isinstance(outcome, Replayed):
                return self._same(request, outcome)
            if isinstance(outcome, Busy):
                if not tries_left:  # do not interrupt without a further try
                    raise _in_progress(outcome.reply_id)
                await self._check_quota(request, plan.acceptance)
                if (known := await self._make_way(request, outcome.reply_id)) is not None:
                    return known
                continue
            if isinstance(outcome, OverQuota):
                # A reply that ended between the refusal and the look at its use may have left room: try again.
                if (refused := _over_quota(plan.acceptance, outcome)) is not None:
                    raise refused
            elif not isinstance(outcome, HeadMoved):
                raise _refusal(outcome)
        raise ReplyInProgress("the conversation or a quota kept changing: retry", retry_after_s=0.5)

    def _check_room(self, prompt_size: int) -> None:
        if self.draining is not None:
            raise self.draining
        if not self._lease.held:
            raise StorageUnavailable("this replica cannot reach the database")
        self._live_replies.capacity.check(prompt_size)

    async def _known(self, request: ReplyRequest) -> Replayed | None:
        if not request.request_id:
            return None
        clock = self._clock
        known = await self._store.find_request(request.identity, request.request_id, clock.now_us())
        return None if known is None else self._same(request, known)

    def _same(self, request: ReplyRequest, known: Replayed) -> Replayed:
        if known.payload_hash != request.payload.payload_hash():
            raise RequestIdReused("this request_id came before, with another payload")
        if known.reply is None:
            raise ReplyNotFound
        return known

    async def _make_way(self, request: ReplyRequest, running: str) -> Replayed | None:
        """Interrupt the running reply, if the request allows it, and wait for its end. If this request has started that
        reply, return it instead."""
        if not request.payload.interrupt:
            raise _in_progress(running)
        if (known := await self._known(request)) is not None:
            return known
        target = CancelTarget(reply_id=running)
        reason = "interrupted by another request"
        try:
            asked = await self._cancel_requests.store(request.identity, target, FinishReason.INTERRUPTED, reason)
        except ReplyNotFound:
            return None
        if asked is None or asked[1] is None:
            return None
        if not await ended_within(asked[1], self._limits.interrupt_wait_s, self._clock):
            raise ReplyInProgress(
                "the interrupted reply has not ended yet", retry_after_s=1.0, metadata={"reply_id": running}
            )
        return None

    async def _check_quota(self, request: ReplyRequest, acceptance: Acceptance) -> None:
        """Refuse a request for its quota before it interrupts another reply. The acceptance decides exactly."""
        if acceptance.plan.held is None or not request.payload.interrupt:
            return
        uses = await self._store.read_quotas(acceptance.reply.tenant, acceptance.plan.held.rows)
        refused = refusal(acceptance.quotas, uses, acceptance.plan.held, acceptance.now_us)
        if refused is not None:
            raise refused

    def _plan(self, request: ReplyRequest, source: PromptSource, candidates: tuple[Model, ...], terms: _Terms) -> Plan:
        return make_plan(
            request,
            source,
            candidates,
            policy=terms.policy,
            estimator=self._generation_parts.estimator,
            rules=self._rules,
            owner=self._owner,
            now_us=self._clock.now_us(),
        )

    def _generation(self, payload: ReplyPayload, plan: Plan, terms: _Terms) -> Generation:
        limits = self._limits
        ttl_s = limits.orphan_ttl_s if payload.orphan_ttl_s is None else payload.orphan_ttl_s
        return Generation(
            self._generation_parts,
            reply=plan.acceptance.reply,
            route=terms.catalog.route(plan.candidates),
            prompts=plan.prompts,
            prompt_size=plan.prompt_size,
            orphan_ttl_s=limits.disconnect_cancel_s if payload.cancel_on_disconnect else ttl_s,
            time_limit_s=payload.time_limit_s or limits.time_limit_s,
        )

    async def _commit(self, generation: Generation, acceptance: Acceptance, began: float) -> AcceptOutcome:
        """Commit; where the outcome is `Accepted`, the generation runs, or is over. Raises `StorageUnavailable`.

        The generation is registered before its transaction, so that a cancel finds it as soon as it is durable, and a
        drain that starts now waits for it."""
        self._live_replies.claim(generation)
        asked_at = self._clock.boottime()
        try:
            outcome = await self._store.accept(acceptance)
        except BaseException as error:
            if isinstance(error, StorageUnavailable) and error.outcome_unknown:
                return await self._find_out(generation, acceptance, began)
            self._live_replies.discard(generation)
            raise
        if not isinstance(outcome, Accepted):
            self._live_replies.discard(generation)
        elif self._lease.since > asked_at:  # another replica may have taken it over meanwhile
            return await self._find_out(generation, acceptance, began)
        else:
            self._begin(generation, outcome.reply, began)
        return outcome

    async def _find_out(self, generation: Generation, acceptance: Acceptance, began: float) -> AcceptOutcome:
        """Read the outcome of a commit from the database, which is retried until it answers.

        The caller waits until `REPORT_UNKNOWN_S`; a reply that turns out to be accepted after that begins all the same,
        and the caller's retry finds it."""
        clock = self._clock
        work = self._begin_if_stored(generation, acceptance, began)
        finding = self._tasks.spawn(work, f"find-out-{acceptance.reply.id}")
        left_s = max(FINAL_CHECK_S, began + REPORT_UNKNOWN_S - clock.monotonic())
        if await done_within(finding, left_s, clock):
            return finding.result()
        finding.add_done_callback(lambda done: _leave_unread(generation, done))
        raise StorageUnavailable(outcome_unknown=True)

    async def _begin_if_stored(self, generation: Generation, acceptance: Acceptance, began: float) -> AcceptOutcome:
        try:
            reply = await self._read_back(generation, acceptance)
        except BaseException:
            self._live_replies.discard(generation)
            raise
        self._begin(generation, reply, began)
        return Accepted(reply=reply)

    async def _read_back(self, generation: Generation, acceptance: Acceptance) -> Reply:
        """The stored reply. Raises `StorageUnavailable` if there is none, or if the process stops first."""
        store, clock = self._store, self._clock
        missed_at: float | None = None
        while True:
            try:
                return await store.get_reply(acceptance.identity, acceptance.reply.id)
            except ReplyNotFound:
                missed_at = missed_at or clock.monotonic()
                if clock.monotonic() >= missed_at + ABSENT_AFTER_S:
                    raise StorageUnavailable from None
            except StorageUnavailable:
                if generation.log.sealed:  # the process stops
                    raise
            await clock.sleep(CHECK_INTERVAL_S)

    def _begin(self, generation: Generation, reply: Reply, began: float) -> None:
        """Start the accepted reply. One that was cancelled before it was accepted, or that another replica has ended,
        is over without a call to a provider."""
        overhead_s = self._clock.monotonic() - began
        if not reply.state.terminal:
            planned = generation.log.reply
            if (reply.owner, reply.epoch) != (planned.owner, planned.epoch):
                generation.lose()
            generation.start(overhead_s)
            return
        span = self._generation_parts.tracer.reply(reply)
        with within(span):
            generation.log.replace(reply)
            self._live_replies.ended_unstarted(generation, overhead_s)
        span.end(reply)


def _candidates(request: ReplyRequest, source: PromptSource, terms: _Terms) -> tuple[Model, ...]:
    """The models that may answer. Raises `ModelNotFound`."""
    catalog = catalog_for(terms.catalog, terms.policy)
    return catalog.candidates(request.payload.model or source.conversation.model, request.payload.fallback_models)


def _leave_unread(generation: Generation, finding: asyncio.Task[AcceptOutcome]) -> None:
    """Start the time without readers: the caller, which was the first reader, has left."""
    if not finding.cancelled() and finding.exception() is None:
        generation.reader_count.enter()
        generation.reader_count.leave()


async def ended_within(log: Log, wait_s: float, clock: Clock) -> bool:
    """Whether a log ends within this time."""
    reader = Reader(log, log.last_sequence)
    deadline = clock.monotonic() + wait_s
    timer = clock.call_at(deadline, reader.wake)
    try:
        while not log.over and clock.monotonic() < deadline:
            reader.position = log.last_sequence
            await reader.wait()
    finally:
        timer.cancel()
    return log.ended or log.erased


def _may_be_known(refusal: ParleyError) -> bool:
    """Whether the request may be the retry of an accepted one, and a look into the database can decide it."""
    if isinstance(refusal, LimitsUnavailable):
        return True
    return not isinstance(refusal, RequestIdReused | StorageUnavailable)


def _in_progress(reply_id: str) -> ReplyInProgress:
    metadata = {"reply_id": reply_id}
    return ReplyInProgress("another reply runs in this conversation", retry_after_s=1.0, metadata=metadata)


def _over_quota(acceptance: Acceptance, outcome: OverQuota) -> QuotaExceeded | None:
    """The refusal; None if the uses that were read after it leave enough."""
    assert acceptance.plan.held is not None
    return refusal(acceptance.quotas, outcome.uses, acceptance.plan.held, acceptance.now_us)


def _refusal(outcome: AcceptOutcome) -> ParleyError:
    if isinstance(outcome, ConversationTaken):
        return ConversationExists("a conversation of this id exists already")
    if isinstance(outcome, ConversationGone):
        return ConversationNotFound()
    assert isinstance(outcome, ImageGone)
    return image_not_found(outcome.image_id)
