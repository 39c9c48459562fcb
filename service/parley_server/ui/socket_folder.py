"""The private folder of the Unix socket through which the chat page calls gRPC."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
from pathlib import Path
from typing import Final

PREFIX: Final = "parley-ui-"
SOCKET: Final = "grpc"


def make_socket_folder() -> tempfile.TemporaryDirectory[str]:
    """A new folder that only this user can open. Removes those of servers that ended without removing theirs, as after
    SIGKILL."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if _is_abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)  # another server may remove it at the same time
    return tempfile.TemporaryDirectory(prefix=PREFIX)


def _is_abandoned(folder: Path) -> bool:
    """Whether it is a folder of this user in which no server listens. One without a socket may belong to a server that
    starts at present, so that it stays."""
    try:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            return False
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            probe.connect(str(folder / SOCKET))
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False
