"""One worker as its supervisor sees it."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from parley_server.workers.supervisor_protocol import Ready, decode

logger = logging.getLogger("parley_server.workers")


@dataclass(frozen=True)
class WorkerExit:
    """How a process ended: its exit status, negative for a signal, and what it said of a start that was refused."""

    pid: int
    status: int
    problem: str = ""


class Worker:
    """One worker over all the processes that it has been. `metrics_port` is 0 while none of them serves."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.restarts = 0
        self.metrics_port = 0
        self.has_served = asyncio.Event()
        self._order = b""
        self._line: asyncio.StreamWriter | None = None

    def tell(self, order: bytes) -> None:
        """Give an order to its process, and to any that is being started."""
        self._order = order
        if self._line is not None and not self._line.is_closing():
            self._line.write(order)

    async def live(self, environment: Mapping[str, str]) -> WorkerExit:
        """Start a process and wait for its end."""
        ours, its = socket.socketpair()
        with its:
            try:
                process = await self._start(its, environment)
            except OSError as error:
                ours.close()
                return WorkerExit(pid=0, status=1, problem=f"cannot be started: {error.strerror}")
        news, self._line = await asyncio.open_unix_connection(sock=ours)
        try:
            if self._order:
                self._line.write(self._order)
            problem = await self._hear(news)
            return WorkerExit(pid=process.pid, status=await process.wait(), problem=problem)
        finally:
            self.metrics_port = 0
            self._line.close()
            self._line = None

    async def _start(self, line: socket.socket, environment: Mapping[str, str]) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # the working directory is no place to import from
            "-m",
            "parley_server.workers",
            str(self.index),
            str(line.fileno()),
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=(line.fileno(),),
            process_group=0,  # Ctrl-C is the supervisor's, which passes it on
        )

    async def _hear(self, news: asyncio.StreamReader) -> str:
        """Wait until it serves, or has ended; what it said of a refusal."""
        try:
            line = await news.readline()
        except ConnectionResetError:
            return ""
        if not line.endswith(b"\n"):
            return ""
        told = decode(line)
        if not isinstance(told, Ready):
            return told.problem
        self.metrics_port = told.metrics_port
        self.has_served.set()
        return ""
