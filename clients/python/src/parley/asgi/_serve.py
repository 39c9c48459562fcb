"""Runs an application with uvicorn, and ends its streams when the process gets a signal to stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Generator
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from parley.asgi._response import end_streams

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Requests that are no streams end on their own within this time.
_GRACE_S = 10

# How long a browser may leave data unacknowledged. The comments of `ReplyResponse` make sure that there is data, so
# that a browser whose network has gone is noticed; by default, Linux takes 15 minutes.
_UNACKNOWLEDGED_MS = 60_000


async def serve(app: ASGIApp, *, host: str = "127.0.0.1", port: int = 8000, name: str = "chat", **options: Any) -> None:
    """Serves until SIGINT or SIGTERM, and prints one line with the address when it is ready. Port 0: any free port.

    On a signal it takes no further connections, ends open replies' streams (browsers attach again to another
    process), and returns once the other requests have been answered, at the latest after 10 seconds. On Linux, a
    browser whose network has gone is noticed within about a minute. `options` are further ones of `uvicorn.Config`.
    """
    settings: dict[str, Any] = {
        "log_level": "warning",
        "access_log": False,
        "server_header": False,
        "timeout_graceful_shutdown": _GRACE_S,
        **options,
    }
    await _Server(uvicorn.Config(app, host=host, port=port, **settings), name).serve()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, name: str) -> None:
        super().__init__(config)
        self._name = name

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        # uvicorn would raise the signal again after a clean stop, which ends the process with the signal's status.
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._stop)
        try:
            yield
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        for listener in self.servers[0].sockets if hasattr(socket, "TCP_USER_TIMEOUT") else ():
            # Accepted connections inherit it.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        sys.stdout.write(f"{self._name} listens on http://{f'[{host}]' if ':' in host else host}:{port}\n")
        sys.stdout.flush()

    async def shutdown(self, sockets: Any = None) -> None:
        ending = asyncio.create_task(_end_streams_repeatedly())
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()

    def _stop(self) -> None:
        self.should_exit = True


async def _end_streams_repeatedly() -> None:
    """Also ends the streams of requests that had just arrived."""
    while True:
        await asyncio.sleep(0.05)
        await end_streams()
