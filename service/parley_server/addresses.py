"""Resolves hosts to listen on. Imports no other module of Parley."""

from __future__ import annotations

import socket
from typing import Final

WILDCARDS: Final = ("0.0.0.0", "::")  # noqa: S104 - either opens both address families if the machine has IPv6


def resolve(host: str) -> list[tuple[socket.AddressFamily, str]]:
    """The addresses of a host, to open in this order.

    For a wildcard, only the first one that can be opened is needed; with IPv6, it covers both families. `localhost` is
    both loopback addresses, independently of the machine's hosts file. Raises OSError for an unknown name."""
    if host in WILDCARDS:
        return [(socket.AF_INET6, "::"), (socket.AF_INET, WILDCARDS[0])]
    if host == "localhost":
        return [(socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1")]
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found))
