"""Fixtures: a store with an empty database for each test, and the core on it."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from parley_server.store import SqlStore, open_store
from parley_server.store.engine import sqlite
from parley_server.store.engine.sqlite import open_engine
from parley_server.store.migrate import migrate
from sqlalchemy import Engine

from tests.fakes import CoreHarness
from tests.replicas import Cluster


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the newest schema, made once."""
    path = tmp_path_factory.mktemp("template") / "parley.db"
    migrate(f"sqlite+aiosqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def prepared_engines() -> dict[bool, Engine]:
    """The engines of the store, by `read_only`. They are shared by all tests because each one caches compiled SQL."""
    return {}


@pytest.fixture
async def store(
    template: Path, memory_folder: Path, prepared_engines: dict[bool, Engine], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[SqlStore]:
    def prepared(path: Path, *, read_only: bool) -> Engine:
        if read_only not in prepared_engines:
            prepared_engines[read_only] = open_engine(path, read_only=read_only)
        return prepared_engines[read_only]

    monkeypatch.setattr(sqlite, "open_engine", prepared)
    path = memory_folder / "core.db"
    for file in memory_folder.glob("core.db*"):
        file.unlink()
    shutil.copy(template, path)
    opened = open_store(f"sqlite+aiosqlite:///{path}")
    await opened.start()
    yield opened
    await opened.close()


@pytest.fixture
async def make_harness(store: SqlStore) -> AsyncIterator[Callable[..., CoreHarness]]:
    made: list[CoreHarness] = []

    def make(*given, **named) -> CoreHarness:
        made.append(CoreHarness(store, *given, **named))
        return made[-1]

    yield make
    for harness in made:
        await harness.aclose()


@pytest.fixture
def harness(make_harness: Callable[..., CoreHarness]) -> CoreHarness:
    return make_harness()


@pytest.fixture
async def cluster(store: SqlStore) -> AsyncIterator[Cluster]:
    made = Cluster(store)
    yield made
    await made.aclose()
