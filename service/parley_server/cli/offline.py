"""Opens the database for commands that change it: on SQLite in place of a server, on PostgreSQL beside servers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

from parley_server.settings import Settings, is_sqlite
from parley_server.store import SqlStore, open_store
from parley_server.store.engine.location import StoreUnusable, sqlite_path
from parley_server.store.engine.lock import DatabaseLock


@asynccontextmanager
async def opened_store(settings: Settings) -> AsyncIterator[SqlStore]:
    """The store, under the lock of a SQLite file. Raises `StoreUnusable`, `StorageUnavailable`."""
    url = settings.database_url
    if is_sqlite(url) and not sqlite_path(url).exists():
        raise StoreUnusable(f"there is no database at {sqlite_path(url)}")
    with DatabaseLock(sqlite_path(url)) if is_sqlite(url) else nullcontext():
        store = open_store(url)
        try:
            await store.start()
            yield store
        finally:
            await store.close()
