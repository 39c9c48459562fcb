"""Starts the workers, restarts those that exit, and passes stop signals on.

Each worker is a new program and not a fork, since the supervisor has threads. The supervisor itself serves only the
metrics.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from contextlib import ExitStack, suppress

from prometheus_client import CollectorRegistry

from parley_server.core.clock import SystemClock
from parley_server.exit_status import CANNOT_RUN
from parley_server.port import SharedPort
from parley_server.process import terminal_closed
from parley_server.reloading import changes, warn_of_restart
from parley_server.settings import Address, Settings, SettingsError, SettingsSource, change_of
from parley_server.telemetry.endpoint import MetricsEndpoint, serve_metrics
from parley_server.telemetry.logs import configure_logging
from parley_server.workers.metrics import WorkersCollector
from parley_server.workers.supervisor_protocol import HURRY, STOP
from parley_server.workers.worker import Worker, WorkerExit

logger = logging.getLogger("parley_server.workers")

# Pauses before a restart: short after a single crash, longer in a crash loop, which would take CPU from the others.
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0
SETTLED_S = 60.0
PAGE_WORKER = 0
SET_FOR_WORKERS = ("listen", "metrics_listen", "ui_listen", "database_url")
"""Settings that the supervisor sets in the environment of its workers, over those of the configuration."""


def supervise(settings: Settings, source: SettingsSource, *, config: str = "") -> int:
    """Run `settings.workers` servers on one port until a signal stops them. `config` is the path of the configuration
    file if it was given as an argument.

    Returns the exit status: 0 if all workers exited with 0, 2 if one could not start, otherwise 1."""
    configure_logging(settings.log_level, settings.log_format)
    with ExitStack() as held:
        try:
            # Held until the end, so that no other program can take the port while all workers restart.
            port = held.enter_context(SharedPort(settings.listen))
            supervisor = Supervisor(settings, port.address, _environment(settings, port.address, config), source)
            endpoint = supervisor.serve_metrics()
        except OSError as error:
            _refuse(error.strerror or str(error))
            return CANNOT_RUN
        if endpoint is not None:
            held.callback(endpoint.close)
        return asyncio.run(supervisor.run())


class Supervisor:
    """Keeps the workers running until a signal, then drains them together. A second signal skips the drain."""

    def __init__(
        self, settings: Settings, address: Address, environment: dict[str, str], source: SettingsSource
    ) -> None:
        self._settings = settings
        self._source = source
        self._reload_requested = asyncio.Event()
        self._metrics_listen = settings.metrics_listen
        self._page_listen = settings.ui_listen
        self._address = address
        self._environment = environment
        self._workers = [Worker(index) for index in range(settings.workers)]
        self._addresses: dict[str, str | int] = {"address": str(address), "workers": settings.workers}
        self._stopping = asyncio.Event()
        self._announced = False
        self._status = 0

    def serve_metrics(self) -> MetricsEndpoint | None:
        """Open the metrics endpoint; None if none is configured. Raises OSError."""
        if (listen := self._metrics_listen) is None:
            return None
        registry = CollectorRegistry()
        registry.register(WorkersCollector(self._workers))
        endpoint = serve_metrics(listen.host, listen.port, registry)
        self._addresses["metrics"] = str(Address(host=listen.host, port=endpoint.port))
        return endpoint

    async def run(self) -> int:
        """Run the workers until all have exited; the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stop)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload)
        beside = [asyncio.create_task(work) for work in (self._announce(), self._watch_configuration())]
        try:
            await asyncio.gather(*(self._keep(worker) for worker in self._workers))
        finally:
            for task in beside:
                task.cancel()
        logger.info("workers_stopped", extra={"fields": {"status": self._status}})
        return self._status

    def _stop(self) -> None:
        order = HURRY if self._stopping.is_set() else STOP
        self._stopping.set()
        for worker in self._workers:
            worker.stop(order)

    def _reload(self) -> None:
        if terminal_closed():
            self._stop()
            return
        self._reload_requested.set()
        for worker in self._workers:
            worker.reload()

    async def _watch_configuration(self) -> None:
        """Log changes that need a restart, of what the supervisor sets for its workers. They see and log all others."""
        async for _ in changes(self._source, self._reload_requested, SystemClock()):
            with suppress(SettingsError):  # the workers log its faults
                waiting = change_of(self._settings, await asyncio.to_thread(self._source.load)).waiting
                warn_of_restart(tuple(key for key in waiting if key in SET_FOR_WORKERS))

    async def _announce(self) -> None:
        # Operators and scripts take the line as the sign that the port accepts calls, so it waits for all workers.
        for worker in self._workers:
            await worker.has_served.wait()
        self._announced = True
        page = self._workers[PAGE_WORKER].page_url
        logger.info("serving", extra={"fields": self._addresses | ({"page": page} if page else {})})
        sys.stderr.write(f"Parley serves on {self._address} with {len(self._workers)} workers; Ctrl-C stops it\n")
        if page:
            sys.stderr.write(f"The chat page is {page}\n")
        sys.stderr.flush()

    async def _keep(self, worker: Worker) -> None:
        """Start the worker, and restart it when it exits, until a stop.

        If a worker cannot start before all have served once, all are stopped, since the cause is the same for each.
        Later, the others go on serving while the operator repairs the cause."""
        pause_s = FIRST_PAUSE_S
        while not self._stopping.is_set():
            began_s = time.monotonic()
            ended = await worker.run_once(self._environment | self._page_of(worker))
            if self._stopping.is_set():
                # One worker whose drain failed is enough to report it.
                self._status = self._status or int(ended.status != 0)
            elif ended.status == CANNOT_RUN and not self._announced:
                self._status = CANNOT_RUN
                _refuse(ended.problem or "a worker could not start")
                self._stop()
            else:
                # A worker that has run for long is not in a crash loop: start over with the short pause.
                if time.monotonic() - began_s > SETTLED_S:
                    pause_s = FIRST_PAUSE_S
                await self._pause_after(worker, ended, pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _page_of(self, worker: Worker) -> dict[str, str]:
        """The setting of the chat page, which a single worker serves: its port cannot be shared."""
        serves = self._page_listen is not None and worker.index == PAGE_WORKER
        return {"PARLEY_UI_LISTEN": str(self._page_listen) if serves else ""}

    async def _pause_after(self, worker: Worker, ended: WorkerExit, pause_s: float) -> None:
        fields = {"worker": worker.index, "pid": ended.pid, "status": ended.status, "restart_s": pause_s}
        level = logging.ERROR if ended.status else logging.INFO
        logger.log(level, "worker_exited", extra={"fields": {**fields, "problem": ended.problem}})
        try:
            async with asyncio.timeout(pause_s):
                await self._stopping.wait()
        except TimeoutError:
            worker.restarts += 1


def _environment(settings: Settings, address: Address, config: str) -> dict[str, str]:
    """The environment of the workers: the supervisor's own, plus the settings from its arguments.

    Settings are not passed as arguments, since other users of the machine can read those."""
    environment = {**os.environ, "PARLEY_LISTEN": str(address), "PARLEY_DATABASE_URL": settings.database_url}
    # Each worker serves its metrics on a free port; the supervisor merges them on the configured one.
    environment["PARLEY_METRICS_LISTEN"] = "127.0.0.1:0" if settings.metrics_listen else ""
    if config:
        environment["PARLEY_CONFIG"] = config
    return environment


def _refuse(problem: str) -> None:
    sys.stderr.write(f"parley serve: {problem}\n")
