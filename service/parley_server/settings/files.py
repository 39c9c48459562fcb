"""Reads the files that a configuration consists of, so that a wrong path is a fault and never ends the reader."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

MIB = 1024 * 1024
MOST_BYTES = 16 * MIB
"""The largest file of a configuration. A file that is larger was named by mistake, and could fill the memory."""


def is_file(path: Path) -> bool:
    """Whether it is a regular file, or a link to one. False, too, if that cannot be found out: `Path.is_file` raises
    OSError for a folder without permission and for a name that is too long."""
    return stat.S_ISREG(_mode(path))


def is_stream(path: Path) -> bool:
    """Whether it is a pipe, a socket or a device, which can be read once, or blocks its reader."""
    mode = _mode(path)
    return bool(mode) and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def read_limited(path: Path, most: int = MOST_BYTES) -> bytes:
    """The content. Raises OSError, also for a file of more than `most` bytes."""
    with path.open("rb") as content:
        read = content.read(most + 1)
    if len(read) > most:
        raise OSError(errno.EFBIG, f"is larger than {most // MIB} MiB", str(path))
    return read


def _mode(path: Path) -> int:
    """The type and the permissions; 0 if they cannot be read."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):  # ValueError: the path contains the character NUL
        return 0
