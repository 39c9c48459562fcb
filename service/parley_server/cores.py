"""Builds the core of a server from its parts: for a single process, or for one replica of a cluster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from parley_server.core.access import Tenants
from parley_server.core.cluster.lease_keeper import LeaseKeeper
from parley_server.core.cluster.peers import Peers
from parley_server.core.cluster.remote_replies import RemoteReplies
from parley_server.core.cluster.takeover import Sweeper
from parley_server.core.context.estimate import Estimator
from parley_server.core.context.summary import Summaries
from parley_server.core.conversations.service import Conversations
from parley_server.core.lease import FOR_EVER, Lease
from parley_server.core.limits import Limits
from parley_server.core.observer import LoopLoad, Observer
from parley_server.core.ports import Catalog, Clock, RateLimiter, Store
from parley_server.core.quotas.rules import QuotaRules
from parley_server.core.quotas.service import Quotas
from parley_server.core.rates.admission import Admission
from parley_server.core.rates.memory import MemoryRateLimiter
from parley_server.core.replies.accept import Acceptances
from parley_server.core.replies.cancel import CancelRequests
from parley_server.core.replies.elsewhere import NoReplicas, RepliesElsewhere
from parley_server.core.replies.generate import GenerationParts
from parley_server.core.replies.journal import Journal, UnstoredText
from parley_server.core.replies.live import LiveReplies
from parley_server.core.replies.log import Log
from parley_server.core.replies.recovery import Recovery
from parley_server.core.replies.service import Replies
from parley_server.core.replies.sink import FlushWindow
from parley_server.core.tasks import Tasks
from parley_server.core.tracing import NO_TRACER, Tracer
from parley_server.core.usage.reports import UsageReports


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts that the core of both modes needs."""

    catalog: Catalog
    clock: Clock
    observer: Observer
    load: LoopLoad
    limits: Limits
    tenants: Tenants = field(default_factory=Tenants)
    summary_model: str = ""
    usage_days: int = 0
    tracer: Tracer = NO_TRACER


class _Core:
    """Builds the parts that both modes have in the same way. A subclass adds `elsewhere`, then calls `_serve`."""

    def __init__(
        self,
        parts: Parts,
        store: Store,
        journal: Journal,
        *,
        lease: Lease = FOR_EVER,
        owner: str = "",
        unstored: UnstoredText | None = None,
        on_ended: Callable[[Log], None] | None = None,
        limiter: RateLimiter | None = None,
    ) -> None:
        self._parts = parts
        self.store = store
        self.lease = lease
        self.owner = owner
        self.tasks = Tasks()
        self.admission = Admission(
            limiter=limiter or MemoryRateLimiter(parts.clock),
            store=store,
            clock=parts.clock,
            observer=parts.observer,
            tasks=self.tasks,
        )
        self.rules = QuotaRules(parts.tenants, output_tokens=parts.limits.hold_output_tokens)
        self.live_replies = LiveReplies(
            clock=parts.clock, limits=parts.limits, observer=parts.observer, journal=journal, on_ended=on_ended
        )
        self.recovery = Recovery(
            store=store,
            catalog=parts.catalog,
            clock=parts.clock,
            observer=parts.observer,
            tasks=self.tasks,
            live_replies=self.live_replies,
            interval_s=parts.limits.reconcile_interval_s,
            unstored=unstored,
            on_ended=on_ended,
            owner=owner,
            tracer=parts.tracer,
        )
        self._estimator = Estimator(parts.observer)
        self.summaries = Summaries(
            store=store,
            catalog=parts.catalog,
            clock=parts.clock,
            observer=parts.observer,
            tasks=self.tasks,
            estimator=self._estimator,
            busy=lambda: parts.load.overloaded or self.acceptances.draining is not None,
            alias=parts.summary_model,
            tracer=parts.tracer,
        )

    # Not part of `__init__`, because what a subclass passes as `elsewhere` needs the parts that are built there.
    def _serve(self, elsewhere: RepliesElsewhere, *, peers: Peers | None = None) -> None:
        parts, store = self._parts, self.store
        cancel_requests = CancelRequests(
            store=store, clock=parts.clock, live_replies=self.live_replies, elsewhere=elsewhere
        )
        self.acceptances = Acceptances(
            store=store,
            catalog=parts.catalog,
            tenants=parts.tenants,
            clock=parts.clock,
            limits=parts.limits,
            load=parts.load,
            observer=parts.observer,
            lease=self.lease,
            tasks=self.tasks,
            live_replies=self.live_replies,
            cancel_requests=cancel_requests,
            generation_parts=self._generation_parts(peers),
            rules=self.rules,
            admission=self.admission,
            owner=self.owner,
        )
        self.replies = Replies(
            acceptances=self.acceptances,
            store=store,
            clock=parts.clock,
            limits=parts.limits,
            observer=parts.observer,
            tasks=self.tasks,
            live_replies=self.live_replies,
            elsewhere=elsewhere,
            cancel_requests=cancel_requests,
            hands_over=peers is not None,
        )
        self.quotas = Quotas(parts.tenants, self.rules, self.admission, store, parts.clock)
        self.usage_reports = UsageReports(store, parts.clock, usage_days=parts.usage_days)
        self.conversations = Conversations(
            store=store,
            catalog=parts.catalog,
            tenants=parts.tenants,
            clock=parts.clock,
            limits=parts.limits,
            live_replies=self.live_replies,
            cancel_requests=cancel_requests,
            observer=parts.observer,
            on_erased=None if peers is None else peers.erase,
        )

    def _generation_parts(self, peers: Peers | None) -> GenerationParts:
        parts = self._parts
        return GenerationParts(
            store=self.store,
            bookkeeper=self.live_replies,
            tasks=self.tasks,
            clock=parts.clock,
            limits=parts.limits,
            # The load is read at each flush: entries are held open only while the loop is busy.
            window=FlushWindow(parts.clock, utilisation=lambda: parts.load.utilisation),
            lease=self.lease,
            estimator=self._estimator,
            summaries=self.summaries,
            tracer=parts.tracer,
            idle_elsewhere_s=None if peers is None else peers.idle_s,
        )


class StandaloneCore(_Core):
    """The core of a single process, which owns every reply without a lease."""

    def __init__(
        self,
        parts: Parts,
        store: Store,
        journal: Journal,
        *,
        unstored: UnstoredText | None = None,
        on_ended: Callable[[Log], None] | None = None,
    ) -> None:
        super().__init__(parts, store, journal, unstored=unstored, on_ended=on_ended)
        self._serve(NoReplicas(store, self.recovery))


class ClusterCore(_Core):
    """The core of one replica: it owns its replies while it holds a lease, follows replies of other replicas, and takes
    over those of dead ones."""

    def __init__(
        self,
        parts: Parts,
        store: Store,
        journal: Journal,
        *,
        replica_id: str,
        lease_s: float,
        sweep_interval_s: float,
        peers: Peers | None,
        limiter: RateLimiter | None = None,
    ) -> None:
        super().__init__(
            parts,
            store,
            journal,
            lease=Lease(parts.clock.boottime),  # includes the time in which the machine was suspended
            owner=replica_id,
            unstored=peers,
            on_ended=None if peers is None else peers.ended,
            limiter=limiter,
        )
        self.lease_keeper = LeaseKeeper(
            replica_id,
            store=store,
            clock=parts.clock,
            observer=parts.observer,
            tasks=self.tasks,
            lease=self.lease,
            live_replies=self.live_replies,
            recovery=self.recovery,
            lease_s=lease_s,
        )
        self.sweeper = Sweeper(
            replica_id,
            store=store,
            clock=parts.clock,
            tasks=self.tasks,
            lease=self.lease,
            lease_keeper=self.lease_keeper,
            recovery=self.recovery,
            interval_s=sweep_interval_s,
        )
        self.remote_replies = RemoteReplies(
            store=store, peers=peers, clock=parts.clock, limits=parts.limits, live_replies=self.live_replies
        )
        self._serve(self.remote_replies, peers=peers)
