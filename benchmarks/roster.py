"""The systems that can be measured, with their start functions and the installed programs that they need."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import msgspec
import pytest

from benchmarks import gateways, parleys
from benchmarks.systems import RunningSystem, Upstream
from tests.services import require_postgres, require_redis

Start = Callable[[Path, Upstream, list[str]], RunningSystem]


def _postgres() -> str:
    return _missing(require_postgres)


def _services() -> str:
    return _missing(require_postgres) or _missing(require_redis)


def _missing(require: Callable[[], object]) -> str:
    try:
        require()
    except (pytest.skip.Exception, pytest.fail.Exception) as missing:
        return str(missing)
    return ""


class System(msgspec.Struct, frozen=True, kw_only=True):
    """A measurable system. `missing` returns the reason why it cannot run here, or an empty string. A `lasting` system
    keeps no data between loads, so it is started only once."""

    name: str
    title: str
    start: Start
    missing: Callable[[], str] = lambda: ""
    lasting: bool = False


SYSTEMS = {
    system.name: system
    for system in (
        System(name="parley", title="Parley", start=parleys.start_embedded),
        System(name="parley-postgres", title="Parley on PostgreSQL", start=parleys.start_postgres, missing=_postgres),
        System(
            name="parley-redis", title="Parley on PostgreSQL and Redis", start=parleys.start_redis, missing=_services
        ),
        System(
            name="parley-redis-far",
            title="the same, Redis 200 ms away",
            start=parleys.start_far_redis,
            missing=_services,
        ),
        System(name="bare", title="bare grpc.aio", start=parleys.start_bare),
        System(
            name="litellm",
            title="LiteLLM",
            start=gateways.start_litellm,
            missing=lambda: "" if gateways.litellm_version() else "not installed; `make bench-full` installs it",
            lasting=True,
        ),
        System(
            name="portkey",
            title="Portkey",
            start=gateways.start_portkey,
            missing=lambda: "" if gateways.portkey_version() else "not installed; `make bench-full` installs it",
            lasting=True,
        ),
    )
}


class Roster:
    """Starts systems, each in a new folder, and stops them at the end of the `with` statement."""

    def __init__(self, folder: Path, upstream: Upstream, models: list[str]) -> None:
        self._folder = folder
        self._upstream = upstream
        self._models = models
        self._lasting: dict[str, RunningSystem] = {}
        self._started = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for system in self._lasting.values():
            system.stop()

    @contextmanager
    def running(self, names: list[str]) -> Iterator[dict[str, RunningSystem]]:
        """The named systems; only lasting ones are not restarted."""
        running: dict[str, RunningSystem] = {}
        try:
            for name in names:
                running[name] = self._lasting.get(name) or self._start(name)
            yield running
        finally:
            for name, system in running.items():
                if name not in self._lasting:
                    system.stop()

    def _start(self, name: str) -> RunningSystem:
        self._started += 1
        folder = self._folder / f"{name}-{self._started}"
        folder.mkdir(parents=True)
        system = SYSTEMS[name].start(folder, self._upstream, self._models)
        if SYSTEMS[name].lasting:
            self._lasting[name] = system
        return system


def versions(names: list[str]) -> dict[str, str]:
    """The versions of gateways, PostgreSQL and Redis, if one of these systems uses them."""
    known = {
        "LiteLLM": ("litellm", gateways.litellm_version),
        "Portkey": ("portkey", gateways.portkey_version),
        "PostgreSQL": ("parley-postgres", _postgres_version),
        "Redis": ("parley-redis", _redis_version),
    }
    return {title: version() for title, (name, version) in known.items() if name in names}


def _postgres_version() -> str:
    binary = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    return _version_of([str(binary[-1]) if binary else "postgres", "--version"])


def _redis_version() -> str:
    return _version_of(["redis-server", "--version"])


def _version_of(command: list[str]) -> str:
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"\d+(\.\d+)+", printed)
    return found[0] if found else printed.strip()
