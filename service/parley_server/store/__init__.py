"""Conversations, messages and replies in SQL. `open_store` creates the Store port for a database URL.

On SQLite, a process acquires the `DatabaseLock`, calls `migrate`, `open_store` and `start`, and at the end `close`
before it releases the lock. On PostgreSQL, the deployment runs `migrate` once; each process then calls `open_store`,
`start` and `close`.
"""

from __future__ import annotations

from parley_server.settings import is_sqlite
from parley_server.store.engine.location import postgresql_url, sqlite_path
from parley_server.store.engine.sqlite import SqliteDatabase
from parley_server.store.replicas import connection_name
from parley_server.store.store import SqlStore

__all__ = ["SqlStore", "open_store"]


def open_store(url: str, *, replica_id: str = "") -> SqlStore:
    """Create the store for `sqlite+aiosqlite:///PATH` or `postgresql+asyncpg://...`; call `start` before use.

    The PostgreSQL connections carry `replica_id` in their name, so that a replica that takes over can terminate them
    and free their locks. Raises StoreUnusable."""
    if is_sqlite(url):
        return SqlStore(url, SqliteDatabase(sqlite_path(url)))
    from parley_server.store.engine.postgres import (
        PostgresDatabase,  # imported here so that SQLite does not need the PostgreSQL driver
    )

    return SqlStore(url, PostgresDatabase(postgresql_url(url), name=connection_name(replica_id)))
