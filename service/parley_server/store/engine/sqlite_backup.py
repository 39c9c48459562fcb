"""Copies a SQLite database while other processes use it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from parley_server.private_files import OWNER_ALONE
from parley_server.store.engine.location import StoreUnusable

PARTIAL = ".partial"
"""Suffix of the copy until it is complete."""
BUSY_S = 30.0


def back_up(source: Path, target: Path) -> int:
    """Copy the database as it is at one moment to a new file that only its owner can read; returns its size in bytes.

    The copy is complete, has passed SQLite's check and is on the disk before the file appears under its name. Raises
    StoreUnusable if there is no database or if the file exists, and OSError if the copy fails; then no file is left."""
    if not source.exists():
        raise StoreUnusable(f"there is no database at {source}")
    _refuse_existing(target)  # also a folder, such as ".", which has no name
    partial = target.with_name(target.name + PARTIAL)
    try:
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, OWNER_ALONE))
    except FileExistsError:
        problem = "another backup writes it, or was killed: delete it in that case"
        raise StoreUnusable(f"{partial} exists: {problem}") from None
    try:
        _copy(source, partial)
        _sync(partial)
        size = partial.stat().st_size
        _refuse_existing(target)
        partial.rename(target)
        _sync(target.parent)
    except sqlite3.Error as error:
        raise OSError(f"{source} cannot be copied to {target}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return size


def _copy(source: Path, partial: Path) -> None:
    with closing(sqlite3.connect(source, timeout=BUSY_S)) as reading, closing(sqlite3.connect(partial)) as writing:
        reading.execute("PRAGMA query_only = ON")
        # All pages in one step, in one read transaction. Writers continue meanwhile, since their changes go to the
        # write-ahead log. A copy in several steps would start again after each commit of another process.
        reading.backup(writing, pages=-1)
        # Otherwise the copy would need the files that SQLite creates beside a database with a write-ahead log.
        writing.execute("PRAGMA journal_mode = DELETE").fetchone()
        found = [problem for (problem,) in writing.execute("PRAGMA quick_check(1)")]
        if found != ["ok"]:
            raise OSError(f"the copy of {source} is damaged, and so is probably the database: {found[0]}")


def _refuse_existing(target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise StoreUnusable(f"{target} exists, and is not overwritten: choose another name, or delete it first")


def _sync(path: Path) -> None:
    """Wait until the file, or the folder with its entries, is on the disk."""
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
