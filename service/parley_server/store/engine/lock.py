"""Limits a SQLite database to one process. The lock is an flock, which the system frees when the process ends."""

from __future__ import annotations

import fcntl
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from parley_server.private_files import open_private
from parley_server.store.engine.location import StoreUnusable


class DatabaseLock:
    """An exclusive lock on the file `PATH.lock` beside the database. The file names the holder and is never removed."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(path.name + ".lock")
        self._file: int | None = None

    def acquire(self) -> None:
        """Take the lock without waiting. Raises StoreUnusable, which names the holder."""
        file = self._open()
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(file, 1024, 0).decode(errors="replace").strip()
            os.close(file)
            raise StoreUnusable(f"the database is in use by {holder or 'another process'} ({self._path})") from None
        except OSError as error:
            os.close(file)
            raise StoreUnusable(f"{self._path} cannot be locked: {error.strerror}") from error
        os.ftruncate(file, 0)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()} since {since}\n".encode(), 0)
        self._file = file

    def release(self) -> None:
        """Free the lock. Does nothing if it is not held."""
        # The file stays. If it were removed, one process could lock the removed file and another one a new file.
        file, self._file = self._file, None
        if file is not None:
            os.ftruncate(file, 0)
            os.close(file)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _open(self) -> int:
        try:
            return open_private(self._path)
        except OSError as error:
            raise StoreUnusable(f"{self._path} cannot be opened: {error.strerror}") from error
