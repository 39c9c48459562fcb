"""Files that hold the text of conversations: their owner alone may read them, whatever the umask."""

from __future__ import annotations

import os
import stat
from pathlib import Path

OWNER_ALONE = 0o600


def open_private(path: Path) -> int:
    """A descriptor for reading and writing, of a file that is made where there is none. Raises OSError.

    Not for a SQLite database that this process has open: closing any descriptor of it drops SQLite's locks."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, OWNER_ALONE)
    try:
        close_to_others(path)
    except OSError:
        os.close(file)
        raise
    return file


def close_to_others(path: Path) -> bool:
    """Make an existing file readable and writable by its owner alone. Raises OSError.

    False: it belongs to another user, who alone can change that. It stays as it is."""
    found = path.stat()
    if stat.S_IMODE(found.st_mode) == OWNER_ALONE:
        return True
    if os.geteuid() not in (found.st_uid, 0):
        return False
    path.chmod(OWNER_ALONE)
    return True
