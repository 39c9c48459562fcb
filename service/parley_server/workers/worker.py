"""A worker in the supervisor: starts its process, sends it orders and waits for its exit."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from parley_server.workers.supervisor_protocol import RELOAD, Ready, decode

logger = logging.getLogger("parley_server.workers")


@dataclass(frozen=True)
class WorkerExit:
    """The exit of a worker's process. `status` is negative for a signal; `problem` says why a start was refused."""

    pid: int
    status: int
    problem: str = ""


class Worker:
    """One worker across its restarts. `metrics_port` is 0 while no process of it serves. `page_url`: the address of the
    chat page, if this worker serves it."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.restarts = 0
        self.metrics_port = 0
        self.page_url = ""
        self.has_served = asyncio.Event()
        self._order = b""
        self._connection: asyncio.StreamWriter | None = None

    def stop(self, order: bytes) -> None:
        """Send an order to stop to the process; one that is being started receives it as well."""
        self._order = order
        self._write(order)

    def reload(self) -> None:
        """Have the process look for a changed configuration now. One that is being started reads it anyway."""
        self._write(RELOAD)

    def _write(self, order: bytes) -> None:
        if self._connection is not None and not self._connection.is_closing():
            self._connection.write(order)

    async def run_once(self, environment: Mapping[str, str]) -> WorkerExit:
        """Start a process and wait for its exit."""
        ours, its = socket.socketpair()
        # The child inherits its end. The copy here is closed, because the stream would otherwise outlive the child.
        with its:
            try:
                process = await self._start(its, environment)
            except OSError as error:
                ours.close()
                return WorkerExit(pid=0, status=1, problem=f"cannot be started: {error.strerror}")
        reports, self._connection = await asyncio.open_unix_connection(sock=ours)
        try:
            if self._order:  # it came during the start, when there was no connection
                self._connection.write(self._order)
            problem = await self._read_report(reports)
            return WorkerExit(pid=process.pid, status=await process.wait(), problem=problem)
        finally:
            self.metrics_port = 0
            self._connection.close()
            self._connection = None

    async def _start(self, connection: socket.socket, environment: Mapping[str, str]) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # do not import from the working directory
            "-m",
            "parley_server.workers",
            str(self.index),
            str(connection.fileno()),
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=(connection.fileno(),),
            process_group=0,  # Ctrl-C reaches only the supervisor, which passes it on
        )

    async def _read_report(self, reports: asyncio.StreamReader) -> str:
        """Wait until the process serves or has ended. Returns the problem if it refused to start, otherwise ""."""
        try:
            line = await reports.readline()
        except ConnectionResetError:
            return ""
        if not line.endswith(b"\n"):  # it died before its report was complete
            return ""
        report = decode(line)
        if not isinstance(report, Ready):
            return report.problem
        self.metrics_port = report.metrics_port
        self.page_url = report.page_url
        self.has_served.set()
        return ""
