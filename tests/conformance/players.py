"""The clients, and a player as a running process."""

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

# Other forms in which a client reads a stream: whose they are, and the argument of its player. They play the cases of
# letting go, since each has ways of its own, and stand in their client's column.
FORMS: dict[str, tuple[str, str]] = {
    "java-publisher": ("java", "publisher"),
    "java-listener": ("java", "listener"),
}


def client_of(form: str) -> str:
    """Whose form it is; a client is its own first form."""
    return FORMS.get(form, (form, ""))[0]


def command_of(client: str) -> list[str]:
    """How to start its player; the variable PARLEY_<CLIENT>_PLAYER holds another command."""
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
    """A player, and all that it has printed, by the id of the command. Use `async with`."""

    def __init__(self, client: str) -> None:
        self.client = client
        self.events: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self.words: list[str] = []
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
        self._reading = [asyncio.create_task(self._read()), asyncio.create_task(self._read_words())]
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
        """Ask it to end; its status."""
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
        """Wait until a command has caused so many events of a kind, or, without a kind, its last one."""

        def there() -> bool:
            kinds = [event["event"] for event in self.events[name]]
            if not kind:
                return bool(kinds) and kinds[-1] in LAST
            return kinds.count(kind) >= count

        try:
            async with asyncio.timeout(limit_s):
                while not there():
                    ended = bool(self.events[name]) and self.events[name][-1]["event"] in LAST
                    assert self.running, f"the {self.client} player has ended: {self.told}"
                    assert not (ended and kind), f"{name} ended without {count} x {kind}: {short(self.events[name])}"
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            what = f"{count} x {kind}" if kind else "its last event"
            raise AssertionError(
                f"{name} has not had {what} within {limit_s:g} s: {short(self.events[name])}\n{self.told}"
            ) from None

    @property
    def told(self) -> str:
        """The end of what it has written for people."""
        return "\n".join(self.words[-30:])

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            try:
                event = json.loads(line)
                self.events[event["id"]].append(event)
            except (ValueError, KeyError, TypeError):
                self.words.append(f"not an event: {line[:300]!r}")
            self._changed.set()
        await self._process.wait()
        self._changed.set()

    async def _read_words(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        while line := await self._process.stderr.readline():
            self.words.append(line.decode(errors="replace").rstrip())


def short(value: Any, length: int = 3000) -> str:
    """For a message to people."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= length else f"{text[:length]} ... ({len(text)} characters)"
