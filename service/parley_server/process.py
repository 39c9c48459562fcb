"""Settings of this operating system process. Imports no other module of Parley."""

from __future__ import annotations

import errno
import gc
import os
import resource
from typing import Final

GC_THRESHOLDS: Final = (10_000, 20, 20)


def raise_open_files() -> None:
    """Raise the limit of open files to the system's maximum, since each reply may need a socket to its client and one
    to its provider."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def terminal_closed() -> bool:
    """Whether standard input is a terminal that has closed."""
    try:
        os.tcgetpgrp(0)
    except OSError as error:
        return error.errno == errno.EIO
    return False


def collect_rarely() -> None:
    """Tune the garbage collection. Call it once the process has made what it needs until its end."""
    gc.collect()
    gc.freeze()  # objects of the start are never garbage, so later collections skip them
    # Tokens that logs keep count as new objects: with Python's own threshold of 700, hundreds of streams cause dozens
    # of collections a second, 9 % of the CPU. Ended replies leave no reference cycles.
    gc.set_threshold(*GC_THRESHOLDS)
