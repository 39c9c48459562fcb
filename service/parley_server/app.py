"""Builds a server from its settings, and starts and stops its parts in order.

The mode (see `modes`) builds the store and the core. This module adds the parts that both modes have: providers, gRPC,
metrics, and the check of the database. After `stop`, no task, thread or connection is left.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING

from parley_server import __version__
from parley_server.auth.authenticator import Access
from parley_server.core.access import tenants_of
from parley_server.core.clock import SystemClock
from parley_server.core.limits import limits_of
from parley_server.core.ports import Clock
from parley_server.core.provider_keys import KeyCache, ProviderKeys
from parley_server.core.retention import Retention
from parley_server.core.status import StatusParts, StatusReports
from parley_server.core.tracing import NO_TRACER, Tracer
from parley_server.cores import Parts
from parley_server.errors import NotConfigured, StorageUnavailable
from parley_server.modes import Cluster, Standalone, choose_mode
from parley_server.process import collect_rarely, raise_open_files
from parley_server.providers.registry import Registry
from parley_server.reloading import Reloader
from parley_server.rpc.call import CallEnvironment
from parley_server.rpc.server import GrpcServer
from parley_server.rpc.tls import Certificates
from parley_server.rpc.transport import options
from parley_server.secrets.fernet import FernetCipher
from parley_server.settings import Settings, SettingsSource
from parley_server.telemetry.endpoint import MetricsEndpoint, serve_metrics
from parley_server.telemetry.loop import LoopMonitor
from parley_server.telemetry.observer import Telemetry
from parley_server.ui import page_server

if TYPE_CHECKING:
    from parley_server.telemetry.otel.tracer import OtelTracer

logger = logging.getLogger("parley_server.app")

# Load balancers must stop sending calls soon after the database is lost, and the check costs one trivial query.
HEALTH_INTERVAL_S = 1.0
LAST_CALLS_S = 5.0
LAST_SPANS_S = 3.0
"""How long a stop waits for the collector of traces."""


class App:
    """One server process: call `start`, then `stop`. `port` is the port of gRPC. Must be created in its event loop.

    With `share_port`, other processes of this user may listen on the same port, as workers do. `source`: where
    `settings` come from; changes there are applied while the server runs, and at once when `reload_requested` is set.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock | None = None,
        share_port: bool = False,
        source: SettingsSource | None = None,
        reload_requested: asyncio.Event | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock or SystemClock()
        self.telemetry = Telemetry(genai_metrics=settings.genai_metrics)
        self._exporting = _open_tracer(settings, self.telemetry)
        self._tracer: Tracer = self._exporting or NO_TRACER
        self._monitor = LoopMonitor(self.telemetry, self._clock)
        key_cache = KeyCache()
        self._registry = self._open_registry(key_cache)
        self.telemetry.watch_models(self._registry.models)
        self._tenants = tenants_of(settings.tenants)
        self._access = Access(settings, self._tenants, clock=self._clock, observer=self.telemetry)
        self.mode = self._choose_mode()
        self.replies = self.mode.core.replies
        self._provider_keys = self._open_provider_keys(key_cache)
        self._retention = Retention(
            self.mode.store,
            self._clock,
            self.telemetry,
            conversations_days=settings.retention.conversations_days,
            usage_days=settings.retention.usage_days,
            on_erased=self.mode.core.conversations.erased,
        )
        self.status_reports = self._status_reports()
        self._server = self._grpc_server(share_port=share_port)
        self.certificates: Certificates | None = None
        self._metrics: MetricsEndpoint | None = None
        self._page = page_server(settings)
        self._reloader: Reloader | None = None
        if source is not None:
            self._reloader = Reloader(
                settings, source, use=self._use, tidy=self._tidy, clock=self._clock, observer=self.telemetry
            )
        self._reload_requested = reload_requested or asyncio.Event()
        self._background: list[asyncio.Task[None]] = []
        self._stopping = False
        self._hurried = asyncio.Event()
        self.port = 0

    def _choose_mode(self) -> Standalone | Cluster:
        settings = self._settings
        parts = Parts(
            catalog=self._registry,
            clock=self._clock,
            observer=self.telemetry,
            load=self._monitor,
            limits=limits_of(settings.server),
            tenants=self._tenants,
            summary_model=settings.server.summary_model,
            usage_days=settings.retention.usage_days,
            tracer=self._tracer,
        )
        return choose_mode(settings, parts, self.telemetry)

    def _open_registry(self, stored_keys: KeyCache) -> Registry:
        settings = self._settings
        return Registry(
            settings.providers,
            settings.models,
            settings.server.default_model,
            clock=self._clock,
            observer=self.telemetry,
            stored_keys=stored_keys,
            tracer=self._tracer,
        )

    def _open_provider_keys(self, cache: KeyCache) -> ProviderKeys:
        encryption_keys = self._settings.encryption_keys
        return ProviderKeys(
            store=self.mode.store,
            cache=cache,
            cipher=FernetCipher(encryption_keys) if encryption_keys else None,
            rules=self._registry,
            clock=self._clock,
            observer=self.telemetry,
        )

    def _grpc_server(self, *, share_port: bool) -> GrpcServer:
        core, server = self.mode.core, self._settings.server
        return GrpcServer(
            replies=self.replies,
            conversations=core.conversations,
            catalog=self._registry,
            tenants=self._tenants,
            quotas=core.quotas,
            usage_reports=core.usage_reports,
            provider_keys=self._provider_keys,
            status_reports=self.status_reports,
            environment=CallEnvironment(
                authenticator=self._access, observer=self.telemetry, clock=self._clock, tracer=self._tracer
            ),
            heartbeat_s=server.heartbeat_s,
            options=options(server),
            reflection=server.reflection,
            share_port=share_port,
        )

    def _status_reports(self) -> StatusReports:
        core = self.mode.core
        return StatusReports(
            StatusParts(
                version=__version__,
                replica_id=self.mode.replica_id,
                database=self.mode.database,
                time_limit_s=self._settings.server.time_limit_s,
                clock=self._clock,
                store=self.mode.store,
                rules=core.rules,
                live_replies=core.live_replies,
                lease=core.lease,
                load=self._monitor,
                draining=lambda: core.acceptances.draining is not None,
                relay=self.mode.relay_parts,
                breakers=self._registry.breakers,
            )
        )

    @property
    def metrics_port(self) -> int:
        """The port of `/metrics`; 0 if metrics are off."""
        return self._metrics.port if self._metrics else 0

    @property
    def page_url(self) -> str:
        """The address of the chat page; empty if it is off."""
        return self._page.url if self._page else ""

    async def start(self) -> None:
        """Start the mode (see `modes`), then serve.

        Raises `StoreUnusable` (also if another server uses the file, or the schema is too old), `RelayUnusable`,
        `StorageUnavailable` and `OSError`. What was started before the error is stopped.
        """
        try:
            await self._start()
        except BaseException:  # a cancelled start, too, must free the lock, the lease and the connections
            await self._close()
            raise

    async def stop(self, *, grace_s: float | None = None) -> None:
        """Drain: set readiness to NOT_SERVING, pause, refuse new replies, wait up to `grace_s` seconds for running
        ones, and end the others with their text so far.

        Without `grace_s`, the configured pause and grace are used; with it, there is no pause."""
        server = self._settings.server
        self._stopping = True
        # New replies are still accepted during the pause, because load balancers need some time to notice the change.
        await self._server.refuse()
        if grace_s is None:
            await self._pause(server.drain_pause_s)
            grace_s = server.drain_grace_s
        await self.replies.drain(0.0 if self._hurried.is_set() else grace_s)
        # The calls end after the replies, so that each reader still gets its terminal chunk.
        await self._server.stop(LAST_CALLS_S)
        await self._close()
        logger.info("stopped")

    def hurry(self) -> None:
        """Skip the rest of the drain: running replies are ended at once with their text so far."""
        self._hurried.set()
        self.replies.hurry()

    async def _start(self) -> None:
        raise_open_files()
        self._warn_of_retirements()
        # The port opens last: a call must find the store ready, and a fault in the rest must appear before any call.
        await self.mode.start()
        await self._provider_keys.load()
        if (address := self._settings.metrics_listen) is not None:
            self._metrics = serve_metrics(address.host, address.port, self.telemetry.registry)
        if (tls := self._settings.tls) is not None:
            self.certificates = certificates = Certificates(tls.certificate, tls.key, tls.client_ca)
            self.telemetry.watch_certificates(lambda: certificates.ends_s)
        local = self._page.open() if self._page else ""
        self.port = await self._server.listen(self._settings.listen, self.certificates, local=local)
        self._monitor.start()
        await self._access.keep()
        works = [*self.mode.background(), self._provider_keys.run(), self._retention.run()]
        if self._reloader is not None:
            works.append(self._reloader.run(self._reload_requested))
        if self.certificates is not None:
            works.append(self.certificates.keep(self._clock))
        self._background = [asyncio.create_task(work, name=_name(work)) for work in (*works, self._watch_database())]
        for task in self._background:
            task.add_done_callback(_log_defect)
        collect_rarely()
        await self._server.serve()
        if self._page is not None:
            await self._page.serve()
        logger.info("serving", extra={"fields": self._addresses()})

    def _use(self, settings: Settings) -> None:
        """Use these models, providers, tenants and issuers for all later calls. Raises `NotConfigured`."""
        models = self._registry.prepare(settings.providers, settings.models, settings.server.default_model)
        access = self._access.prepare(settings)
        tenants = tenants_of(settings.tenants)
        # From here on nothing can fail, and nothing waits: no call sees the new tenants with the old models.
        self._registry.use(models)
        self._access.use(access)
        self._tenants.replace(tenants)
        self.mode.core.summaries.alias = settings.server.summary_model

    async def _tidy(self) -> None:
        """Close what a reload has removed, and load certificates whose files have changed."""
        self.status_reports.configuration_time_us = self._clock.now_us()
        self._warn_of_retirements()
        try:
            if self.certificates is not None:
                await self.certificates.look()
            await self._registry.close_retired()
        finally:  # a connection that cannot be closed must not keep the public keys of a new issuer from being read
            await self._access.keep()

    def _warn_of_retirements(self) -> None:
        for model in self._registry.retiring():
            event = "model_retired" if model.retire_time_us <= self._clock.now_us() else "model_retires"
            logger.warning(event, extra={"fields": {"model": model.alias, "provider_model": model.name}})

    async def _pause(self, pause_s: float) -> None:
        """Wait for this time, or until `hurry` is called."""
        waits = [asyncio.create_task(self._clock.sleep(pause_s)), asyncio.create_task(self._hurried.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _addresses(self) -> dict[str, str]:
        addresses = {"address": f"{self._settings.listen.host}:{self.port}"}
        if self.mode.replica_id:
            addresses["replica"] = self.mode.replica_id
        if (metrics := self._settings.metrics_listen) is not None:
            addresses["metrics"] = f"{metrics.host}:{self.metrics_port}"
        if self._page is not None:
            addresses["page"] = self._page.url
        return addresses

    async def _close(self) -> None:
        if self._page is not None:  # after gRPC, so that its readers have received the end of each reply
            await self._page.stop()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._monitor.stop()
        # The providers close after the mode, whose last tasks may still end their calls.
        await self.mode.stop()
        await self._registry.close()
        await self._access.close()
        if self._exporting is not None:  # after everything that has spans
            await asyncio.to_thread(self._exporting.close, LAST_SPANS_S)
        if self._metrics is not None:  # last, so that the whole drain can be observed
            await asyncio.to_thread(self._metrics.close)

    async def _watch_database(self) -> None:
        """Set readiness to NOT_SERVING while the database is unavailable."""
        ready = True
        while True:
            await self._clock.sleep(HEALTH_INTERVAL_S)
            try:
                await self.mode.store.ping()
            except StorageUnavailable as error:
                if ready:
                    logger.error(  # noqa: TRY400 - not a bug, so no traceback
                        "database_lost", extra={"fields": {"problem": error.message}}
                    )
                    await self._server.refuse()
                ready = False
            else:
                if not ready and not self._stopping:  # a drain must not become ready again
                    logger.info("database_restored")
                    await self._server.serve()
                ready = True


def _name(work: Coroutine[None, None, None]) -> str:
    """The name of background work, such as "Retention.run"."""
    return str(getattr(work, "__qualname__", "background"))


def _log_defect(task: asyncio.Task[None]) -> None:
    """Log the exception that has ended background work, since nothing starts it again and nothing awaits it."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("background_work_ended", exc_info=error, extra={"fields": {"work": task.get_name()}})


def _open_tracer(settings: Settings, telemetry: Telemetry) -> OtelTracer | None:
    """A tracer, if the environment asks for traces. Raises `NotConfigured`."""
    if (tracing := settings.tracing) is None:
        return None
    try:  # here, because a server without traces does not load OpenTelemetry
        from parley_server.telemetry.otel.tracer import OtelTracer
    except ModuleNotFoundError as error:
        problem = f"{tracing.asked_by} asks for traces, but {error.name} is not installed"
        raise NotConfigured(f"{problem}: pip install parley-server[otel], or set OTEL_TRACES_EXPORTER=none") from None
    try:
        return OtelTracer(
            content=tracing.content,
            queue=tracing.queue,
            batch=tracing.batch,
            interval_s=tracing.interval_s,
            count=telemetry.spans_counted,
        )
    except Exception as error:  # the library raises exceptions of its own for some values, and ValueError for others
        raise NotConfigured(f"traces cannot be exported with these OTEL_ variables: {error}") from error
