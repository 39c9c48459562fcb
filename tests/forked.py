"""Starts `parley serve` in a fork of a process that has imported the server, which takes a third of the CPU time.

Nothing else differs from the command: the child has its own environment, working directory and standard streams, and
calls the command's `main`.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path

IMPORTED = ["parley_server.cli.serve", "parley_server.serving", "parley_server.store.migrate"]


class ForkedServer:
    """A server process, with the members of `asyncio.subprocess.Process` that tests use. `start` makes it."""

    def __init__(self, process: multiprocessing.context.ForkServerProcess, stderr: asyncio.StreamReader) -> None:
        assert process.pid is not None
        self.pid = process.pid
        self.stderr = stderr
        self.returncode: int | None = None
        self._process = process
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(process.sentinel, self._end)

    @classmethod
    async def start(cls, environment: dict[str, str], folder: Path) -> ForkedServer:
        """Start `parley serve` with exactly this environment."""
        await asyncio.to_thread(_wait_for_imports)
        reading, writing = os.pipe()
        stderr = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stderr), os.fdopen(reading, "rb", buffering=0)
        )
        with Connection(writing, readable=False) as its_stderr:
            process = _context().Process(target=_serve, args=(its_stderr, environment, str(folder)))
            process.start()
        return cls(process, stderr)

    async def wait(self) -> int:
        """Its exit status once it has ended; negative for the signal that ended it."""
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._process.sentinel)
        self.returncode = self._process.exitcode
        self._ended.set()


@lru_cache(maxsize=1)
def _context() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context


@lru_cache(maxsize=1)
def _wait_for_imports() -> None:
    """The first process starts once the modules have been imported."""
    process = _context().Process(target=_nothing)
    process.start()
    process.join()
    process.close()


def _nothing() -> None:
    """Runs in a child."""


def _serve(stderr: Connection, environment: dict[str, str], folder: str) -> None:
    """Runs in the child."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for own, standard in ((nothing, 0), (nothing, 1), (stderr.fileno(), 2)):
        os.dup2(own, standard)
    os.close(nothing)
    stderr.close()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["parley", "serve"]
    from parley_server.cli import main

    sys.exit(main())
