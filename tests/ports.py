"""Ports of this machine that stay free while whoever listens there is away."""

from __future__ import annotations

import random
import socket

# Below the range from which the kernel takes a client's port: a client that dials a port of that range over and over
# while nobody listens is at last connected to itself, and another's connection may sit on it when the server returns.
LOWEST, HIGHEST = 18_000, 32_000


def free_port() -> int:
    """A port of loopback that nobody has just now."""
    chosen = random.SystemRandom()
    while True:
        port = chosen.randrange(LOWEST, HIGHEST)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
