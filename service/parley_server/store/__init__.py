"""Conversations, messages and replies in SQL: `open_store` makes the Store port on a database URL.

Order of use on SQLite: take the `lock.DatabaseLock`, `migrate.migrate`, `open_store`, `start`; at the end `close`, then
the lock. On PostgreSQL: `migrate.migrate` once, by whoever deploys; then `open_store`, `start`, `close` everywhere.
"""

from __future__ import annotations

from parley_server.settings import is_sqlite
from parley_server.store.engine.location import postgresql_url, sqlite_path
from parley_server.store.engine.sqlite import SqliteDatabase
from parley_server.store.replicas import connection_name
from parley_server.store.store import SqlStore

__all__ = ["SqlStore", "open_store"]


def open_store(url: str, *, replica_id: str = "") -> SqlStore:
    """The store of `sqlite+aiosqlite:///PATH` or `postgresql+asyncpg://...`, not yet started. Raises StoreUnusable.

    A replica's connections bear its name, so that who takes over from it can end what it has left locked."""
    if is_sqlite(url):
        return SqlStore(url, SqliteDatabase(sqlite_path(url)))
    from parley_server.store.engine.postgres import (
        PostgresDatabase,  # a driver that a process with a file need not load
    )

    return SqlStore(url, PostgresDatabase(postgresql_url(url), name=connection_name(replica_id)))
