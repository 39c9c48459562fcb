"""Parses a database URL: a SQLite file or a PostgreSQL server."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

_SQLITE = "sqlite+aiosqlite:///PATH"
_POSTGRESQL = "postgresql+asyncpg://USER:PASSWORD@HOST:PORT/DATABASE"


class StoreUnusable(Exception):
    """The store cannot be opened. The message says why, and what the operator must do."""


def sqlite_path(url: str) -> Path:
    """The file of `sqlite:///PATH` or `sqlite+aiosqlite:///PATH`. Raises StoreUnusable for anything else."""
    parsed = _parsed(url)
    if parsed.get_backend_name() != "sqlite":
        raise StoreUnusable(f"a database of kind {parsed.get_backend_name()!r} is not a file")
    path = parsed.database or ":memory:"
    if path == ":memory:" or path.startswith("file:"):
        raise StoreUnusable(f"the database must be a file: use {_SQLITE}")
    return Path(path)


def postgresql_url(url: str) -> URL:
    """The parts of `postgresql+asyncpg://USER:PASSWORD@HOST:PORT/DATABASE`. Raises StoreUnusable for anything else."""
    parsed = _parsed(url)
    if parsed.drivername not in ("postgresql", "postgresql+asyncpg"):
        raise StoreUnusable(
            f"a database of kind {parsed.drivername!r} is not supported: use {_SQLITE} or {_POSTGRESQL}"
        )
    return parsed.set(drivername="postgresql+asyncpg")


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except (ArgumentError, ValueError):
        raise StoreUnusable(f"the database URL is invalid: use {_SQLITE} or {_POSTGRESQL}") from None
