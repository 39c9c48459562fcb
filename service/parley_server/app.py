"""Builds a whole server from its settings, and owns the order in which its parts start and stop.

This is the only place that names concrete parts. Nothing outlives `stop`. On a SQLite file the process is alone, and
has the file's lock; on PostgreSQL it is one of any number of replicas, each with a lease.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
from typing import TYPE_CHECKING

from parley_server.core.clock import SystemClock
from parley_server.core.cluster.lease_keeper import LeaseKeeper
from parley_server.core.cluster.remote_replies import RemoteReplies
from parley_server.core.cluster.takeover import Sweeper
from parley_server.core.conversations.service import Conversations
from parley_server.core.engine import Engine
from parley_server.core.ids import new_id
from parley_server.core.lease import FOR_EVER, Lease
from parley_server.core.limits import Capacity, limits_of
from parley_server.core.ports import Clock
from parley_server.core.replies.live import LiveReplies
from parley_server.core.replies.recovery import reconcile_forever, recover
from parley_server.core.replies.service import Replies
from parley_server.errors import StorageUnavailable
from parley_server.journal.embedded import EmbeddedRelay
from parley_server.providers.registry import Registry
from parley_server.rpc.call import CallEnvironment
from parley_server.rpc.identity import OpenAccess
from parley_server.rpc.server import GrpcServer
from parley_server.rpc.tls import Certificates
from parley_server.rpc.transport import options
from parley_server.settings import Settings, is_sqlite
from parley_server.store import open_store
from parley_server.store.engine.location import sqlite_path
from parley_server.store.engine.lock import DatabaseLock
from parley_server.store.migrate import migrate
from parley_server.telemetry.endpoint import MetricsEndpoint, serve_metrics
from parley_server.telemetry.loop import LoopMonitor
from parley_server.telemetry.observer import Telemetry

if TYPE_CHECKING:
    from parley_server.relay.redis import RedisRelay

logger = logging.getLogger("parley_server.app")

HEALTH_INTERVAL_S = 1.0
LAST_CALLS_S = 5.0
GC_THRESHOLDS = (10_000, 20, 20)


class App:
    """One server process. `start`, then `stop`; `port` is where it listens. To be made within its event loop.

    With `share_port`, other processes of this user may listen on the same port, as workers do."""

    def __init__(self, settings: Settings, *, clock: Clock | None = None, share_port: bool = False) -> None:
        self._settings = settings
        self._clock = clock or SystemClock()
        self._lock = DatabaseLock(sqlite_path(settings.database_url)) if is_sqlite(settings.database_url) else None
        self.telemetry = Telemetry()
        self._monitor = LoopMonitor(self.telemetry, self._clock)
        self.replica_id = "" if self._lock else new_id(self._clock.now_us())
        self._store = open_store(settings.database_url, replica_id=self.replica_id)
        self._relay = self._build_relay()
        self._registry = Registry(
            settings.providers,
            settings.models,
            settings.server.default_model,
            clock=self._clock,
            observer=self.telemetry,
        )
        limits = limits_of(settings.server)
        live_replies = LiveReplies(self._clock, limits)
        self._remote_replies = RemoteReplies(
            store=self._store, relay=self._relay, clock=self._clock, limits=limits, live_replies=live_replies
        )
        self.engine = Engine(
            store=self._store,
            relay=self._relay,
            catalog=self._registry,
            clock=self._clock,
            observer=self.telemetry,
            load=self._monitor,
            limits=limits,
            live_replies=live_replies,
            capacity=Capacity(limits, self._clock),
            remote_replies=self._remote_replies,
            replica_id=self.replica_id,
            lease=FOR_EVER if self._lock else Lease(self._clock.boottime),
        )
        self._lease_keeper = LeaseKeeper(self.engine, lease_s=settings.server.lease_s)
        self.replies = Replies(self.engine, hands_over=settings.redis_url is not None)
        self._server = GrpcServer(
            replies=self.replies,
            conversations=Conversations(self.engine),
            catalog=self._registry,
            environment=CallEnvironment(identities=OpenAccess(), observer=self.telemetry, clock=self._clock),
            heartbeat_s=settings.server.heartbeat_s,
            options=options(settings.server),
            share_port=share_port,
        )
        self.certificates: Certificates | None = None
        self._metrics: MetricsEndpoint | None = None
        self._background: list[asyncio.Task[None]] = []
        self._keeping: asyncio.Task[None] | None = None
        self._stopping = False
        self._hurried = asyncio.Event()
        self.port = 0

    def _build_relay(self) -> EmbeddedRelay | RedisRelay:
        server = self._settings.server
        if self._settings.redis_url is None:
            tail = sqlite_path(self._settings.database_url) if self._lock is not None else None
            return EmbeddedRelay(self._store, self._clock, interval_s=server.checkpoint_interval_s, tail=tail)
        from parley_server.relay.redis import RedisRelay  # a client that a process alone need not load

        relay = RedisRelay(
            self._settings.redis_url,
            self._store,
            self._clock,
            replica_id=self.replica_id,
            heartbeat_s=server.relay_heartbeat_s,
            retention_s=server.relay_retention_s,
        )
        self.telemetry.watch_relay(
            lambda: max(part.lost_s for part in relay.parts), lambda: len(self.engine.live_replies.followed)
        )
        return relay

    @property
    def metrics_port(self) -> int:
        """Where `/metrics` is served; 0 where it is not."""
        return self._metrics.port if self._metrics else 0

    async def start(self) -> None:
        """Take the database, bring its schema up to date, end what a dead process has left, then serve.

        Raises `StoreUnusable` (also where another server has the file, or the schema is too old), `RelayUnusable`,
        `StorageUnavailable` and `OSError`, with nothing left running.
        """
        if self._lock is not None:
            self._lock.acquire()
        try:
            await self._start()
        except BaseException:
            await self._close()
            raise

    async def stop(self, *, grace_s: float | None = None) -> None:
        """Drain: not ready any more, then no new replies, then running ones end or are ended with the text they have.

        `grace_s` None: the configured pause and grace."""
        server = self._settings.server
        self._stopping = True
        await self._server.refuse()
        if grace_s is None:
            await self._pause(server.drain_pause_s)
            grace_s = server.drain_grace_s
        await self.replies.drain(0.0 if self._hurried.is_set() else grace_s)
        await self._server.stop(LAST_CALLS_S)
        await self._close()

    def hurry(self) -> None:
        """End a drain's waiting now: what still runs is ended with the text it has."""
        self._hurried.set()
        self.replies.hurry()

    async def _start(self) -> None:
        _raise_open_files()
        if self._lock is not None:
            await asyncio.to_thread(migrate, self._settings.database_url)
        await self._store.start()
        if self._lock is None:
            await self._lease_keeper.begin()
            self._keeping = asyncio.create_task(self._lease_keeper.keep(), name="tenure")
        if isinstance(self._relay, EmbeddedRelay):
            await self._relay.load()
            if self._lock is not None:
                await recover(self.engine)
            self._relay.start()
        else:
            await self._relay.start(self._lease_keeper)
        if (address := self._settings.metrics_listen) is not None:
            self._metrics = serve_metrics(address.host, address.port, self.telemetry.registry)
        if (tls := self._settings.tls) is not None:
            self.certificates = Certificates(tls.certificate, tls.key, tls.client_ca)
        self.port = await self._server.listen(self._settings.listen, self.certificates)
        self._monitor.start()
        sweeper = Sweeper(self.engine, self._lease_keeper, interval_s=self._settings.server.sweep_interval_s)
        works = [reconcile_forever(self.engine)] if self._lock else [sweeper.run(), self._remote_replies.run()]
        if self.certificates is not None:
            works.append(self.certificates.keep(self._clock))
        self._background = [asyncio.create_task(work) for work in (*works, self._watch_database())]
        gc.collect()
        gc.freeze()  # what was loaded at start is never garbage: later collections need not look at it
        # Tokens that logs keep count as new objects: with Python's own threshold of 700, hundreds of streams cause
        # dozens of collections a second, 9 % of the CPU. Ended replies leave no reference cycles.
        gc.set_threshold(*GC_THRESHOLDS)
        await self._server.serve()
        logger.info("serving", extra={"fields": self._addresses()})

    async def _pause(self, pause_s: float) -> None:
        """Return after this long, or when there is a hurry."""
        waits = [asyncio.create_task(self._clock.sleep(pause_s)), asyncio.create_task(self._hurried.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _addresses(self) -> dict[str, str]:
        addresses = {"address": f"{self._settings.listen.host}:{self.port}"}
        if self.replica_id:
            addresses["replica"] = self.replica_id
        if (metrics := self._settings.metrics_listen) is not None:
            addresses["metrics"] = f"{metrics.host}:{self.metrics_port}"
        return addresses

    async def _close(self) -> None:
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._monitor.stop()
        await self._relay.stop()
        if self.engine.tasks:
            await asyncio.wait(self.engine.tasks, timeout=LAST_CALLS_S)
        await self._give_up_lease()
        await self._registry.close()
        await self._store.close()
        if self._metrics is not None:
            await asyncio.to_thread(self._metrics.close)
        if self._lock is not None:
            self._lock.release()
        logger.info("stopped")

    async def _give_up_lease(self) -> None:
        """Only once nothing is left that this replica owns."""
        if self._keeping is None:
            return
        self._keeping.cancel()
        await asyncio.gather(self._keeping, return_exceptions=True)
        await self._lease_keeper.end()

    async def _watch_database(self) -> None:
        """Not ready while the database cannot be asked."""
        ready = True
        while True:
            await self._clock.sleep(HEALTH_INTERVAL_S)
            try:
                await self._store.ping()
            except StorageUnavailable as error:
                if ready:
                    logger.error(  # noqa: TRY400 - expected while a database is away
                        "database_lost", extra={"fields": {"problem": error.message}}
                    )
                    await self._server.refuse()
                ready = False
            else:
                if not ready and not self._stopping:
                    logger.info("database_back")
                    await self._server.serve()
                ready = True


def _raise_open_files() -> None:
    """One reply takes a socket to its client and one to its provider: as many as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
