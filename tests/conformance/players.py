"""The clients, and their players as running processes."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, Self

from tests import watchdog
from tests.needs import missing
from tests.processes import clean_environment

ROOT = Path(__file__).parents[2]
LINE_BYTES = 256 * 1024 * 1024
LIMIT_S = 20.0
LAST = ("end", "error", "result", "ready", "closed", "taken", "abandoned")

# A client is one line here: its command, the file that its build makes, and how to build it.
PLAYERS: dict[str, tuple[list[str], str, str]] = {
    "python": ([sys.executable, "tests/conformance/player.py"], "tests/conformance/player.py", ""),
    "python-sync": (
        [sys.executable, "-m", "tests.conformance.sync_player"],
        "tests/conformance/sync_player.py",
        "",
    ),
    "node": (
        ["node", "--expose-gc", "clients/node/build/conformance/player.js"],
        "clients/node/build/conformance/player.js",
        "make clients",
    ),
    "java": (
        ["java", "-XX:TieredStopAtLevel=1", "-jar", "clients/java/conformance/target/player.jar"],
        "clients/java/conformance/target/player.jar",
        "make clients",
    ),
}

# Further forms in which a client reads a stream: the client, and the argument of its player. They play only the cases
# about leaving a stream, since each form has its own ways to do it; their results are in the column of their client.
FORMS: dict[str, tuple[str, str]] = {
    "java-publisher": ("java", "publisher"),
    "java-listener": ("java", "listener"),
}


def client_of(form: str) -> str:
    """The client of a form; a client is its own first form."""
    return FORMS.get(form, (form, ""))[0]


def command_of(client: str) -> list[str]:
    """The command that starts a player; the variable PARLEY_<CLIENT>_PLAYER replaces it."""
    if client in FORMS:
        whose, argument = FORMS[client]
        return [*command_of(whose), argument]
    own = os.environ.get(_variable(client))
    return shlex.split(own) if own else PLAYERS[client][0]


def _variable(client: str) -> str:
    return f"PARLEY_{client.upper().replace('-', '_')}_PLAYER"


def require(client: str) -> None:
    """Skip the test if the client's player cannot run on this machine; fail it in CI."""
    client = client_of(client)
    command, built, how = PLAYERS[client]
    if os.environ.get(_variable(client)):
        return
    if shutil.which(command[0]) is None:
        missing(command[0])
    if not (ROOT / built).exists():
        missing(f"the build of the {client} client", how)


class Player:
    """A player process, with the events that it has printed, by the id of the command. Use `async with`."""

    def __init__(self, client: str) -> None:
        self.client = client
        self.events: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self.stderr_lines: list[str] = []
        self._changed = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._reading: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *command_of(self.client),
            cwd=ROOT,
            env=clean_environment(no_proxy="127.0.0.1"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LINE_BYTES,
        )
        watchdog.watch(self._process.pid)
        self._reading = [asyncio.create_task(self._read()), asyncio.create_task(self._read_stderr())]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        if self.running:
            self._process.kill()
        await self._process.wait()
        await asyncio.gather(*self._reading)
        watchdog.forget(self._process.pid)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def exit(self) -> int:
        """Send `exit`; returns the exit status."""
        assert self._process is not None
        await self.send({"id": "exit", "op": "exit"})
        async with asyncio.timeout(LIMIT_S):
            return await self._process.wait()

    async def send(self, command: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command, separators=(",", ":")).encode() + b"\n")
        await self._process.stdin.drain()

    async def until(self, name: str, *, kind: str = "", count: int = 1, limit_s: float = LIMIT_S) -> None:
        """Wait until a command has caused `count` events of a kind, or, without a kind, its last event."""

        def reached() -> bool:
            kinds = [event["event"] for event in self.events[name]]
            if not kind:
                return bool(kinds) and kinds[-1] in LAST
            return kinds.count(kind) >= count

        try:
            async with asyncio.timeout(limit_s):
                while not reached():
                    ended = bool(self.events[name]) and self.events[name][-1]["event"] in LAST
                    assert self.running, f"the {self.client} player has ended: {self.stderr_tail}"
                    assert not (ended and kind), f"{name} ended without {count} x {kind}: {short(self.events[name])}"
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            what = f"{count} x {kind}" if kind else "its last event"
            raise AssertionError(
                f"{name} has not had {what} within {limit_s:g} s: {short(self.events[name])}\n{self.stderr_tail}"
            ) from None

    @property
    def stderr_tail(self) -> str:
        """The last 30 lines of its standard error."""
        return "\n".join(self.stderr_lines[-30:])

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            try:
                event = json.loads(line)
                self.events[event["id"]].append(event)
            except (ValueError, KeyError, TypeError):
                self.stderr_lines.append(f"not an event: {line[:300]!r}")
            self._changed.set()
        await self._process.wait()
        self._changed.set()

    async def _read_stderr(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        while line := await self._process.stderr.readline():
            self.stderr_lines.append(line.decode(errors="replace").rstrip())


def short(value: Any, length: int = 3000) -> str:
    """The value as JSON, cut to `length` characters, for messages."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= length else f"{text[:length]} ... ({len(text)} characters)"
