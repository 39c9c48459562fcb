"""Reserves ports on loopback that stay reserved while the server on them is stopped."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from functools import lru_cache
from pathlib import Path

# Below the range from which the kernel takes a client's port: a client that dials a port of that range over and over
# while nothing listens can connect to itself, and the port may be in use by a client when the server returns.
LOWEST, HIGHEST = 16_000, 32_000


def free_port() -> int:
    """An unused port of loopback, reserved among all tests of this user until this process ends."""
    chosen = random.SystemRandom()
    while True:
        port = chosen.randrange(LOWEST, HIGHEST)
        if _reserve(port) and _is_free(port):
            return port


_given: set[int] = set()


def _reserve(port: int) -> bool:
    """Several processes run tests at the same time, and a server takes its port only a second after this."""
    if port in _given:
        return False
    try:
        fcntl.lockf(_register(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    _given.add(port)
    return True


@lru_cache(maxsize=1)
def _register() -> int:
    """A file in which a locked byte marks a reserved port; the kernel unlocks the bytes of a process when it ends."""
    path = Path(tempfile.gettempdir()) / f"parley-test-ports-{os.geteuid()}"
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
