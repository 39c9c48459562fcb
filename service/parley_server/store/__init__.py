"""Conversations, messages and replies in SQL: `open_store` makes the Store port on a database URL.

Order of use: take the `lock.DatabaseLock`, `migrate.migrate`, `open_store`, `start`; at the end `close`, then the lock.
"""

from __future__ import annotations

from parley_server.store.location import sqlite_path
from parley_server.store.sqlite import SqliteDatabase
from parley_server.store.store import SqlStore

__all__ = ["SqlStore", "open_store"]


def open_store(url: str) -> SqlStore:
    """The store of `sqlite+aiosqlite:///PATH` or `sqlite:///PATH`, not yet started. Raises StoreUnusable."""
    return SqlStore(url, SqliteDatabase(sqlite_path(url)))
