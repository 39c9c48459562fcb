"""A store on a file of its own for each test, and the core on it."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from parley_server.store import SqlStore, open_store
from parley_server.store.migrate import migrate

from tests.fakes import World
from tests.replicas import Cluster


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the newest schema, made once."""
    path = tmp_path_factory.mktemp("template") / "parley.db"
    migrate(f"sqlite+aiosqlite:///{path}")
    return path


@pytest.fixture
async def store(template: Path, tmp_path: Path) -> AsyncIterator[SqlStore]:
    for file in template.parent.iterdir():
        shutil.copy(file, tmp_path / file.name)
    opened = open_store(f"sqlite+aiosqlite:///{tmp_path / 'parley.db'}")
    await opened.start()
    yield opened
    await opened.close()


@pytest.fixture
async def make_world(store: SqlStore) -> AsyncIterator[Callable[..., World]]:
    made: list[World] = []

    def make(*given, **named) -> World:
        made.append(World(store, *given, **named))
        return made[-1]

    yield make
    for world in made:
        await world.aclose()


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world()


@pytest.fixture
async def cluster(store: SqlStore) -> AsyncIterator[Cluster]:
    made = Cluster(store)
    yield made
    await made.aclose()
