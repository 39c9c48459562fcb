"""When a changed configuration is read, and what a fault or a defect leaves as it was."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from parley_server.errors import NotConfigured
from parley_server.reloading import LOOK_S, SETTLED_S, Reloader
from parley_server.settings import Settings, SettingsSource, load_settings

from tests.clock import ManualClock, until

REFUSED_S = 5.0
"""A removed key must be refused within this time."""
TOML = '[tenants.shop]\napi_keys_sha256 = ["{digest}"]\n'


class Server:
    """What a `Reloader` changes. `defect` is raised by the next use, `untidy` by the next tidying."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "parley.toml"
        self.write("ab")
        self.clock = ManualClock()
        self.used: list[Settings] = []
        self.outcomes: list[str] = []
        self.loaded_at_us: list[int] = []
        self.waiting: list[int] = []
        self.tidied = 0
        self.defect: Exception | None = None
        self.untidy: Exception | None = None
        self.requested = asyncio.Event()
        source = SettingsSource(lambda: load_settings({"PARLEY_CONFIG": str(self.file)}), str(self.file))
        self.reloader = Reloader(source.load(), source, use=self._use, tidy=self._tidy, clock=self.clock, observer=self)

    def write(self, digest: str, more: str = "") -> None:
        other = self.file.with_name("other")
        other.write_text(more + TOML.format(digest=digest * 32))
        other.replace(self.file)

    def configuration_loaded(self, now_us: int, *, waiting: int) -> None:
        self.loaded_at_us.append(now_us)
        self.waiting.append(waiting)

    def configuration_reloaded(self, outcome: str) -> None:
        self.outcomes.append(outcome)

    async def reload(self) -> str:
        """Request a reload; its outcome."""
        before = len(self.outcomes)
        self.requested.set()
        await self.outcome(before + 1)
        return self.outcomes[-1]

    async def outcome(self, count: int) -> None:
        """Let time pass until there are so many outcomes; threads read the files meanwhile."""
        async with asyncio.timeout(10):
            while len(self.outcomes) < count:
                await asyncio.sleep(0.001)
                await self.clock.advance(SETTLED_S / 5)

    @property
    def waits_for_the_rest(self) -> bool:
        """Whether a look has found a change, and the next one is near."""
        return self.clock.next_due <= self.clock.monotonic() + SETTLED_S

    def _use(self, settings: Settings) -> None:
        defect, self.defect = self.defect, None
        if defect is not None:
            raise defect
        self.used.append(settings)

    async def _tidy(self) -> None:
        self.tidied += 1
        untidy, self.untidy = self.untidy, None
        if untidy is not None:
            raise untidy


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    made = Server(tmp_path)
    running = asyncio.create_task(made.reloader.run(made.requested))
    await asyncio.sleep(0)
    yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def keys_of(settings: Settings) -> tuple[str, ...]:
    return settings.tenants["shop"].api_keys_sha256


def test_a_change_is_found_and_read_in_time() -> None:
    assert LOOK_S + SETTLED_S < REFUSED_S - 0.5, "the rest is for reading and applying"


async def test_a_change_is_used_after_the_next_look_without_a_request(server: Server) -> None:
    await server.clock.advance(LOOK_S - 0.1)
    server.write("cd")
    assert not server.waits_for_the_rest
    await server.clock.advance(0.1)
    await until(lambda: server.waits_for_the_rest)
    await server.outcome(1)
    assert server.outcomes == ["applied"]
    assert [keys_of(each) for each in server.used] == [("cd" * 32,)]
    assert server.tidied == 1
    for _ in range(3):
        await server.clock.advance(LOOK_S)
        await until(lambda: server.clock.waiting == 1)
    assert server.outcomes == ["applied"], "a look without a change is no reload"


async def test_a_file_that_is_written_in_steps_is_read_once_it_is_complete(server: Server) -> None:
    server.requested.set()
    server.file.write_text("")
    await until(lambda: server.waits_for_the_rest)
    server.file.write_text("[tenants.shop]\n")
    await server.clock.advance(SETTLED_S)
    await until(lambda: server.waits_for_the_rest)
    server.write("cd")
    await server.outcome(1)
    assert server.outcomes == ["applied"]
    assert [keys_of(each) for each in server.used] == [("cd" * 32,)]


async def test_a_request_without_a_change_is_reported(server: Server, caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    assert await server.reload() == "unchanged"
    assert server.used == []
    assert [record.getMessage() for record in caplog.records] == ["config_unchanged"]


async def test_a_fault_changes_nothing_and_the_next_file_is_compared_with_what_is_in_use(
    server: Server, caplog: Any
) -> None:
    server.write("xy")
    assert await server.reload() == "faulty"
    server.defect = NotConfigured("the script of the provider s is wrong")
    server.write("cd")
    assert await server.reload() == "faulty"
    assert server.used == []
    faults = [record.fields["faults"] for record in caplog.records if record.getMessage() == "config_faulty"]
    assert faults == [
        ["tenants.shop.api_keys_sha256.0: must be 64 hexadecimal digits, the SHA-256 of a key"],
        ["the script of the provider s is wrong"],
    ]
    assert len(server.loaded_at_us) == 1, "only that of the start"
    server.write("ef")
    assert await server.reload() == "applied"
    assert keys_of(server.used[-1]) == ("ef" * 32,)
    server.write("ab")
    assert await server.reload() == "applied", "it is compared with the last one in use, not with that of the start"


async def test_a_request_reports_a_fault_again(server: Server) -> None:
    server.write("xy")
    assert await server.reload() == "faulty"
    assert await server.reload() == "faulty", "the file is the same, and still has the fault"


async def test_a_path_that_cannot_be_looked_at_does_not_end_later_reloads(server: Server) -> None:
    long = f'[providers.up]\nkind = "openai"\napi_key = "file:{"x" * 300}"\n[models.m]\nprovider = "up"\nname = "m"\n'
    server.write("cd", more=long)
    assert await server.reload() == "faulty"
    server.write("ef")
    assert await server.reload() == "applied"


async def test_a_defect_ends_neither_the_server_nor_later_reloads(server: Server, caplog: Any) -> None:
    server.defect = RuntimeError("a defect")
    server.write("cd")
    assert await server.reload() == "faulty"
    server.untidy = RuntimeError("another defect")
    server.write("ef")
    assert await server.reload() == "applied"
    server.write("cd")
    assert await server.reload() == "applied"
    assert [keys_of(each) for each in server.used] == [("ef" * 32,), ("cd" * 32,)]
    logged = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert logged == ["config_reload_failed", "config_tidy_failed"]


async def test_keys_that_need_a_restart_are_named_and_not_used(server: Server, caplog: Any) -> None:
    server.write("ab", more='log_level = "debug"\n')
    assert await server.reload() == "unchanged"
    assert server.used == []
    server.write("cd", more='log_level = "debug"\n')
    assert await server.reload() == "applied"
    assert server.used[-1].log_level == "info"
    named = [record.fields["keys"] for record in caplog.records if record.getMessage() == "config_needs_restart"]
    assert named == [["log_level"], ["log_level"]]
    server.write("cd")
    assert await server.reload() == "unchanged"
    assert server.waiting == [0, 1, 1, 0], "a change that is taken back needs no restart"
