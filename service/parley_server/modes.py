"""The two modes of a server: each builds the store, the journal and the core, and starts and stops them in order.

`Standalone` is one process with a SQLite file. `Cluster` is any number of replicas on PostgreSQL, which follow each
other's replies if Redis is configured. `choose_mode` chooses once; no other code distinguishes the modes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING

from parley_server.core.ids import new_id
from parley_server.core.ports import Clock
from parley_server.core.replies.journal import Journal
from parley_server.core.status_values import RelayPart
from parley_server.core.usage.rollup import UsageRollup
from parley_server.cores import ClusterCore, Parts, StandaloneCore
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


class Standalone:
    """One process with a SQLite file, which it locks."""

    database = "SQLite"
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
        self._rollup = UsageRollup(self.store, parts.clock, parts.observer, rows=SQLITE_ROLLUP_ROWS)

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

    def relay_parts(self) -> list[RelayPart]:
        """None: there are no other replicas."""
        return []

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

    database = "PostgreSQL"

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
        self._rollup = UsageRollup(self.store, parts.clock, parts.observer, rows=POSTGRES_ROLLUP_ROWS)
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

    def relay_parts(self) -> list[RelayPart]:
        """The parts of the connection to Redis; empty without Redis."""
        parts = () if self._redis is None else self._redis.parts
        return [RelayPart(name=part.part, lost_s=part.lost_s) for part in parts]

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
