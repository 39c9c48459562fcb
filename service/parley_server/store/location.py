"""Where a database is, from its URL. Only SQLite files are known to this release."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError


class StoreUnusable(Exception):
    """The store cannot be opened as things stand; the message tells the operator why, and what to do."""


def sqlite_path(url: str) -> Path:
    """The file of `sqlite:///PATH` or `sqlite+aiosqlite:///PATH`. Raises StoreUnusable for anything else."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise StoreUnusable("the database URL is not one: use sqlite+aiosqlite:///PATH") from None
    if parsed.get_backend_name() != "sqlite":
        raise StoreUnusable(
            f"a database of kind {parsed.get_backend_name()!r} is not supported: use sqlite+aiosqlite:///PATH"
        )
    path = parsed.database or ":memory:"
    if path == ":memory:" or path.startswith("file:"):
        raise StoreUnusable("the database must be a file: use sqlite+aiosqlite:///PATH")
    return Path(path)


def is_sqlite(url: str) -> bool:
    """Whether the URL names a SQLite file, which belongs to one process alone."""
    return url.startswith("sqlite")
