"""Settings of this operating system process. Imports no other module of Parley."""

from __future__ import annotations

import errno
import gc
import os
import resource
import signal
from typing import Final

GC_THRESHOLDS: Final = (10_000, 20, 20)
SIGNALLED: Final = 128
"""Added to the number of a signal, it is the exit status of a process that the signal has ended, as in shells."""


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


def outlive_hangups() -> None:
    """Ignore SIGHUP, unless the terminal has closed. An event loop replaces this handler while it runs.

    SIGHUP requests a reload, and by default it ends a process. A process that starts reads its configuration anyway,
    and one that stops must still exit with its own status."""
    signal.signal(signal.SIGHUP, _end_without_terminal)


def _end_without_terminal(number: int, _: object) -> None:
    if terminal_closed():
        raise SystemExit(SIGNALLED + number)


def collect_rarely() -> None:
    """Tune the garbage collection. Call it once the process has made what it needs until its end."""
    gc.collect()
    gc.freeze()  # objects of the start are never garbage, so later collections skip them
    # Tokens that logs keep count as new objects: with Python's own threshold of 700, hundreds of streams cause dozens
    # of collections a second, 9 % of the CPU. Ended replies leave no reference cycles.
    gc.set_threshold(*GC_THRESHOLDS)
