"""The process of one worker: `python -m parley_server.workers INDEX SOCKET`. Its supervisor alone starts it.

`SOCKET` is the descriptor of the line to the supervisor. All else stands in the environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys

import uvloop

from parley_server.app import App
from parley_server.serving import WRONG_CONFIGURATION, CannotServe, Ending, run_server
from parley_server.settings import Settings, SettingsError, load_settings
from parley_server.telemetry.logs import configure_logging
from parley_server.workers.supervisor_protocol import HURRY, News, Ready, Refused, encode


def main(index: int, supervisor: socket.socket) -> int:
    """Serve until the supervisor says stop, or is gone; the exit status."""
    supervisor.setblocking(False)
    try:
        settings = load_settings(os.environ)
        configure_logging(settings.log_level, settings.log_format, worker=index)
        uvloop.run(_work(settings, supervisor))
    except (SettingsError, CannotServe) as error:
        _tell(supervisor, Refused(problem=str(error)))
        return WRONG_CONFIGURATION
    return 0


async def _work(settings: Settings, supervisor: socket.socket) -> None:
    ending = Ending()
    loop = asyncio.get_running_loop()
    # A signal may come to the whole group as well as by way of the supervisor: it is the same wish, not a second one.
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.ask)

    def heard() -> None:
        try:
            orders = supervisor.recv(64)
        except BlockingIOError:
            return
        except OSError:
            orders = b""
        if not orders:
            loop.remove_reader(supervisor)
        (ending.hurry if HURRY in orders else ending.ask)()

    def ready(app: App) -> None:
        _tell(supervisor, Ready(metrics_port=app.metrics_port))

    loop.add_reader(supervisor, heard)
    await run_server(settings, ending, ready=ready, share_port=True)


def _tell(supervisor: socket.socket, news: News) -> None:
    with contextlib.suppress(OSError):  # a supervisor that is gone is heard of on the line
        supervisor.sendall(encode(news))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), socket.socket(fileno=int(sys.argv[2]))))
