"""Runs one server in this process until it is stopped: alone, or as a worker on a shared port."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable

import uvloop

from parley_server.app import App
from parley_server.errors import NotConfigured, StorageUnavailable
from parley_server.exit_status import CANNOT_RUN
from parley_server.process import terminal_closed
from parley_server.settings import Settings, SettingsSource
from parley_server.store.engine.location import StoreUnusable
from parley_server.telemetry.logs import configure_logging


class CannotServe(Exception):
    """The server cannot start. The message says why."""


class Requests:
    """What an operator requests of a running server: to reload its configuration, and to stop, first with a drain, then
    optionally without the rest of it."""

    def __init__(self) -> None:
        self.reload_requested = asyncio.Event()
        self.drain_requested = asyncio.Event()
        self.hurry_requested = asyncio.Event()

    def reload(self) -> None:
        """Look for a changed configuration now."""
        self.reload_requested.set()

    def reload_or_drain(self) -> None:
        """The reaction to SIGHUP, which the system also sends when the terminal of a process closes."""
        (self.drain if terminal_closed() else self.reload)()

    def drain(self) -> None:
        """Stop with a drain. Further calls change nothing."""
        self.drain_requested.set()

    def hurry(self) -> None:
        """Stop without waiting for running replies."""
        self.drain_requested.set()
        self.hurry_requested.set()

    def drain_or_hurry(self) -> None:
        """Drain on the first call, hurry on the second: the reaction to a signal."""
        (self.hurry if self.drain_requested.is_set() else self.drain)()


def serve(settings: Settings, source: SettingsSource) -> int:
    """Run one server in this process until a signal stops it; the exit status."""
    configure_logging(settings.log_level, settings.log_format)
    try:
        uvloop.run(_serve_alone(settings, source))
    except CannotServe as error:
        sys.stderr.write(f"parley serve: {error}\n")
        return CANNOT_RUN
    return 0


async def run_server(
    settings: Settings,
    source: SettingsSource,
    requests: Requests,
    *,
    ready: Callable[[App], None],
    share_port: bool = False,
) -> None:
    """Start a server, call `ready`, and run it until `requests` have stopped it. Raises CannotServe."""
    try:
        app = App(settings, share_port=share_port, source=source, reload_requested=requests.reload_requested)
        logging.getLogger().addHandler(app.telemetry.log_line_counter)
        await app.start()
    except _refusals(settings) as error:
        raise CannotServe(str(error)) from error
    ready(app)
    await requests.drain_requested.wait()
    # The stop itself is never cancelled: a hurry only shortens its waits, so that all replies are still stored.
    stopping, hurrying = asyncio.create_task(app.stop()), asyncio.create_task(requests.hurry_requested.wait())
    await asyncio.wait({stopping, hurrying}, return_when=asyncio.FIRST_COMPLETED)
    hurrying.cancel()
    if not stopping.done():
        app.hurry()
    await stopping


def _refusals(settings: Settings) -> tuple[type[Exception], ...]:
    """The exceptions that mean that a server cannot start."""
    refusals = (StoreUnusable, StorageUnavailable, NotConfigured, OSError)
    if settings.redis_url is None:
        return refusals
    from parley_server.relay.redis_check import RelayUnusable  # a standalone process does not load redis-py

    return (*refusals, RelayUnusable)


async def _serve_alone(settings: Settings, source: SettingsSource) -> None:
    requests, loop = Requests(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, requests.drain_or_hurry)
    loop.add_signal_handler(signal.SIGHUP, requests.reload_or_drain)

    def announce(app: App) -> None:
        sys.stderr.write(f"Parley serves on {settings.listen.host}:{app.port}; Ctrl-C stops it\n")
        if app.page_url:
            sys.stderr.write(f"The chat page is {app.page_url}\n")
        sys.stderr.flush()

    await run_server(settings, source, requests, ready=announce)
