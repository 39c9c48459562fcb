"""Files with the text of conversations. Only their owner may read them, independently of the umask."""

from __future__ import annotations

import os
import stat
from pathlib import Path

OWNER_ALONE = 0o600


def open_private(path: Path) -> int:
    """Open a file for reading and writing, and create it if necessary. Returns its descriptor. Raises OSError.

    Must not be used for a SQLite database that this process has open, because closing any descriptor of the file
    releases SQLite's locks."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, OWNER_ALONE)
    try:
        close_to_others(path)
    except OSError:
        os.close(file)
        raise
    return file


def close_to_others(path: Path) -> bool:
    """Make an existing file readable and writable only by its owner. Raises OSError.

    Returns False, without a change, if the file belongs to another user."""
    found = path.stat()
    if stat.S_IMODE(found.st_mode) == OWNER_ALONE:
        return True
    if os.geteuid() not in (found.st_uid, 0):
        return False
    path.chmod(OWNER_ALONE)
    return True
