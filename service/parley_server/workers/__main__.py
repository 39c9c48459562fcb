"""The process of one worker: `python -m parley_server.workers INDEX SOCKET`, started by the supervisor.

`SOCKET` is the file descriptor of the connection to the supervisor. The settings come from the environment.
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
from parley_server.exit_status import CANNOT_RUN
from parley_server.process import outlive_hangups
from parley_server.serving import CannotServe, Requests, run_server
from parley_server.settings import Settings, SettingsError, SettingsSource, load_settings
from parley_server.telemetry.logs import configure_logging
from parley_server.workers.supervisor_protocol import HURRY, RELOAD, STOP, Ready, Refused, WorkerReport, encode


def main(index: int, supervisor: socket.socket) -> int:
    """Serve until the supervisor sends a stop or its connection ends; the exit status."""
    supervisor.setblocking(False)
    outlive_hangups()
    try:
        source = SettingsSource(lambda: load_settings(os.environ), os.environ.get("PARLEY_CONFIG", ""))
        settings = source.load()
        configure_logging(settings.log_level, settings.log_format, worker=index)
        uvloop.run(_work(settings, source, supervisor))
    except (SettingsError, CannotServe) as error:
        _send(supervisor, Refused(problem=str(error)))
        return CANNOT_RUN
    return 0


async def _work(settings: Settings, source: SettingsSource, supervisor: socket.socket) -> None:
    requests, loop = Requests(), asyncio.get_running_loop()
    # A signal to the whole process group reaches the worker twice, directly and through the supervisor. It must not
    # count as a second stop, which would skip the drain.
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, requests.drain)
    loop.add_signal_handler(signal.SIGHUP, requests.reload)

    def receive_order() -> None:
        try:
            orders = supervisor.recv(64)
        except BlockingIOError:
            return
        except OSError:
            orders = b""
        if not orders:  # the supervisor has died: drain, since no one else could stop this process
            loop.remove_reader(supervisor)
        if RELOAD in orders:
            requests.reload()
        if HURRY in orders:
            requests.hurry()
        elif STOP in orders or not orders:
            requests.drain()

    def ready(app: App) -> None:
        _send(supervisor, Ready(metrics_port=app.metrics_port, page_url=app.page_url))

    loop.add_reader(supervisor, receive_order)
    await run_server(settings, source, requests, ready=ready, share_port=True)


def _send(supervisor: socket.socket, report: WorkerReport) -> None:
    with contextlib.suppress(OSError):  # `receive_order` notices when the supervisor has died
        supervisor.sendall(encode(report))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), socket.socket(fileno=int(sys.argv[2]))))
