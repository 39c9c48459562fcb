"""A migrated database file for each test."""

from __future__ import annotations

import pytest
from parley_server.store import open_store
from parley_server.store.migrate import migrate


@pytest.fixture
def path(tmp_path):
    return tmp_path / "parley.db"


@pytest.fixture
def url(path):
    made = f"sqlite+aiosqlite:///{path}"
    migrate(made)
    return made


@pytest.fixture
async def store(url):
    opened = open_store(url)
    await opened.start()
    yield opened
    await opened.close()
