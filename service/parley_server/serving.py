"""One server in this process, from its start to its end: alone, or as one of several on a port that they share."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable

import uvloop

from parley_server.app import App
from parley_server.errors import NotConfigured, StorageUnavailable
from parley_server.settings import Settings
from parley_server.store.engine.location import StoreUnusable
from parley_server.telemetry.logs import configure_logging

WRONG_CONFIGURATION = 2


class CannotServe(Exception):
    """A start that was refused; the message tells the operator why."""


class Ending:
    """What a server is asked for: first to drain, then to hurry."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.hurried = asyncio.Event()

    def ask(self) -> None:
        """Drain; asked again, the same."""
        self.asked.set()

    def hurry(self) -> None:
        """Drain, and wait for nothing."""
        self.asked.set()
        self.hurried.set()

    def ask_or_hurry(self) -> None:
        """Drain; asked again, hurry."""
        (self.hurry if self.asked.is_set() else self.ask)()


def serve(settings: Settings) -> int:
    """Run a server alone in this process until a signal stops it; the exit status."""
    configure_logging(settings.log_level, settings.log_format)
    try:
        uvloop.run(_serve_alone(settings))
    except CannotServe as error:
        sys.stderr.write(f"parley serve: {error}\n")
        return WRONG_CONFIGURATION
    return 0


async def run_server(
    settings: Settings, ending: Ending, *, ready: Callable[[App], None], share_port: bool = False
) -> None:
    """Start a server, tell `ready`, and run it until its ending has been asked for and has come. Raises CannotServe."""
    try:
        app = App(settings, share_port=share_port)
        await app.start()
    except _refusals(settings) as error:
        raise CannotServe(str(error)) from error
    ready(app)
    await ending.asked.wait()
    stopping, hurrying = asyncio.create_task(app.stop()), asyncio.create_task(ending.hurried.wait())
    await asyncio.wait({stopping, hurrying}, return_when=asyncio.FIRST_COMPLETED)
    hurrying.cancel()
    if not stopping.done():
        app.hurry()
    await stopping


def _refusals(settings: Settings) -> tuple[type[Exception], ...]:
    """What a start may be refused by."""
    refusals = (StoreUnusable, StorageUnavailable, NotConfigured, OSError)
    if settings.redis_url is None:
        return refusals
    from parley_server.relay.redis_check import RelayUnusable  # with a client that a process alone need not load

    return (*refusals, RelayUnusable)


async def _serve_alone(settings: Settings) -> None:
    ending = Ending()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ending.ask_or_hurry)

    def announce(app: App) -> None:
        sys.stderr.write(f"Parley serves on {settings.listen.host}:{app.port}; Ctrl-C stops it\n")
        sys.stderr.flush()

    await run_server(settings, ending, ready=announce)
