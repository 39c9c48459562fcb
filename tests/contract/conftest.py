"""The stores that the contract's tests run on."""

from __future__ import annotations

import shutil
import sqlite3

import pytest
from parley_server.store import open_store
from parley_server.store.migrate import migrate


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory):
    """An empty database with its schema, to be copied: a migration takes longer than most tests."""
    path = tmp_path_factory.mktemp("schema") / "empty.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(params=["sqlite"])
def store_url(request, migrated_file, tmp_path):
    path = tmp_path / "parley.db"
    shutil.copy(migrated_file, path)
    return f"sqlite+aiosqlite:///{path}"


@pytest.fixture
async def store(store_url):
    opened = open_store(store_url)
    await opened.start()
    yield opened
    await opened.close()


@pytest.fixture
def query(store_url):
    """Rows of a SELECT, for what no method of the port shows."""

    def run(sql: str, *parameters: object) -> list[tuple]:
        connection = sqlite3.connect(store_url.partition("///")[2])
        try:
            return connection.execute(sql, parameters).fetchall()
        finally:
            connection.close()

    return run
