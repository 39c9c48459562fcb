"""The two modes of a server: each builds the store, the journal and the core, and starts and stops them in order.

`Standalone` is one process with a SQLite file. `Cluster` is any number of replicas on PostgreSQL, which follow each
other's replies if Redis is configured. `choose_mode` chooses once; no other code distinguishes the modes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from parley_server.core.access import Tenants
from parley_server.core.cluster.lease_keeper import LeaseKeeper
from parley_server.core.cluster.peers import Peers
from parley_server.core.cluster.remote_replies import RemoteReplies
from parley_server.core.cluster.takeover import Sweeper
from parley_server.core.context.estimate import Estimator
from parley_server.core.context.summary import Summaries
from parley_server.core.conversations.service import Conversations
from parley_server.core.ids import new_id
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
from parley_server.core.usage.reports import UsageReports
from parley_server.core.usage.rollup import UsageRollup
from parley_server.journal.journals import CheckpointJournal, StandaloneJournal
from parley_server.settings import Settings, is_sqlite
from parley_server.store import open_store
from parley_server.store.engine.location import sqlite_path
from parley_server.store.engine.lock import DatabaseLock
from parley_server.store.migrate import migrate
from parley_server.telemetry.observer import Telemetry

if TYPE_CHECKING:
    from parley_server.relay.redis import RedisRelay

# For finalisations that still run. What is not stored by then is ended at the next start, or by another replica.
LAST_TASKS_S = 5.0
SQLITE_ROLLUP_ROWS, POSTGRES_ROLLUP_ROWS = 500, 2000
"""SQLite has one writer, which must not be held for more than 10 ms."""


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
            tenants=parts.tenants,
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
        self.quotas = Quotas(self.rules, self.admission, store, parts.clock)
        self.usage_reports = UsageReports(store)
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
        parts, store = self._parts, self.store
        estimator = Estimator(parts.observer)
        self.summaries = Summaries(
            store=store,
            catalog=parts.catalog,
            clock=parts.clock,
            observer=parts.observer,
            tasks=self.tasks,
            estimator=estimator,
            busy=lambda: parts.load.overloaded or self.acceptances.draining is not None,
            alias=parts.summary_model,
        )
        return GenerationParts(
            store=store,
            bookkeeper=self.live_replies,
            tasks=self.tasks,
            clock=parts.clock,
            limits=parts.limits,
            # The load is read at each flush: entries are held open only while the loop is busy.
            window=FlushWindow(parts.clock, utilisation=lambda: parts.load.utilisation),
            lease=self.lease,
            estimator=estimator,
            summaries=self.summaries,
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


class Standalone:
    """One process with a SQLite file, which it locks."""

    replica_id = ""

    def __init__(self, settings: Settings, parts: Parts) -> None:
        # Nothing is opened here: the file may belong to another process until `start` has the lock.
        path = sqlite_path(settings.database_url)
        self._url = settings.database_url
        self._lock = DatabaseLock(path)
        self.store = open_store(settings.database_url)
        self._journal = StandaloneJournal(
            self.store, parts.clock, path=path, interval_s=settings.server.checkpoint_interval_s
        )
        self.core = StandaloneCore(
            parts, self.store, self._journal, unstored=self._journal, on_ended=self._journal.ended
        )
        self._rollup = UsageRollup(self.store, parts.clock, rows=SQLITE_ROLLUP_ROWS)

    async def start(self) -> None:
        """Lock the file, update its schema, and end the replies of the last process. Raises `StoreUnusable`,
        `StorageUnavailable`, OSError."""
        # The lock excludes every other process, so that all running replies in the file belong to a dead one. Recovery
        # needs the text that `load` reads; `start` of the journal discards it.
        self._lock.acquire()
        await asyncio.to_thread(migrate, self._url)
        await self.store.start()
        await self._journal.load()
        await self.core.recovery.recover()
        self._journal.start()

    def background(self) -> list[Coroutine[None, None, None]]:
        """The work to run in the background until the server stops."""
        return [self.core.recovery.run(), self._rollup.run()]

    async def stop(self) -> None:
        """Write the remaining text, then close and unlock the file."""
        await self._journal.stop()
        self.core.summaries.stop()
        await self.core.tasks.wait(LAST_TASKS_S)
        await self.store.close()
        self._lock.release()  # last: the next process opens the file as soon as it has the lock


class Cluster:
    """One of several replicas on PostgreSQL, with a lease.

    Without Redis, readers cannot follow a reply on another replica; they only see its stored end."""

    def __init__(self, settings: Settings, parts: Parts, telemetry: Telemetry) -> None:
        server = settings.server
        self.replica_id = new_id(parts.clock.now_us())
        self.store = open_store(settings.database_url, replica_id=self.replica_id)
        self._redis: RedisRelay | None = None
        self._checkpoints: CheckpointJournal | None = None
        journal: Journal
        if settings.redis_url is None:
            journal = self._checkpoints = CheckpointJournal(
                self.store, parts.clock, interval_s=server.checkpoint_interval_s
            )
        else:
            journal = self._redis = self._open_redis(settings, settings.redis_url, parts.clock)
        self.core = ClusterCore(
            parts,
            self.store,
            journal,
            replica_id=self.replica_id,
            lease_s=server.lease_s,
            sweep_interval_s=server.sweep_interval_s,
            peers=self._redis,
            limiter=None if self._redis is None else self._redis.rates,
        )
        if (redis := self._redis) is not None:
            telemetry.watch_relay(
                lambda: max(part.lost_s for part in redis.parts), lambda: len(self.core.live_replies.followed)
            )
        self._rollup = UsageRollup(self.store, parts.clock, rows=POSTGRES_ROLLUP_ROWS)
        self._counts_messages = parts.tenants.count_messages
        self._keeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Take the lease, and connect to the other replicas. Raises `StoreUnusable`, `StorageUnavailable`,
        `RelayUnusable`."""
        # The schema is not migrated here: the deployment does that once, while replicas of the older release still run.
        # The lease comes first, since a reply of a replica without one could be taken over at once.
        await self.store.start()
        await self.core.lease_keeper.begin()
        self._keeping = asyncio.create_task(self.core.lease_keeper.keep(), name="lease")
        if self._checkpoints is not None:
            self._checkpoints.start()
        if self._redis is not None:
            await self._redis.start(self.core.lease_keeper)
            if self._counts_messages:
                self._redis.rates.start()

    def background(self) -> list[Coroutine[None, None, None]]:
        """The work to run in the background until the server stops."""
        return [self.core.sweeper.run(), self.core.remote_replies.run(), self._rollup.run()]

    async def stop(self) -> None:
        """Write the remaining text, then give up the lease and close the connections."""
        for journal in (self._checkpoints, self._redis):
            if journal is not None:
                await journal.stop()
        self.core.summaries.stop()
        await self.core.tasks.wait(LAST_TASKS_S)
        await self._give_up_lease()
        await self.store.close()

    async def _give_up_lease(self) -> None:
        """Must be called after all replies have ended: afterwards, other replicas take over the rest."""
        if self._keeping is None:
            return
        self._keeping.cancel()
        await asyncio.gather(self._keeping, return_exceptions=True)
        await self.core.lease_keeper.end()

    def _open_redis(self, settings: Settings, url: str, clock: Clock) -> RedisRelay:
        from parley_server.relay.redis import RedisRelay  # servers without Redis need not load its client

        return RedisRelay(
            url,
            self.store,
            clock,
            replica_id=self.replica_id,
            heartbeat_s=settings.server.relay_heartbeat_s,
            retention_s=settings.server.relay_retention_s,
            refuses_uncounted=settings.server.limits_without_redis == "refuse",
        )


def choose_mode(settings: Settings, parts: Parts, telemetry: Telemetry) -> Standalone | Cluster:
    """The mode for the database URL: SQLite or PostgreSQL. Raises `StoreUnusable`, `RelayUnusable`."""
    if is_sqlite(settings.database_url):
        return Standalone(settings, parts)
    return Cluster(settings, parts, telemetry)
