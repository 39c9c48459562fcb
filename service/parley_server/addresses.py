"""What a host to listen on stands for. Imports nothing of the project."""

from __future__ import annotations

import socket
from typing import Final

WILDCARDS: Final = ("0.0.0.0", "::")  # noqa: S104 - either opens both families where there is IPv6


def resolve(host: str) -> list[tuple[socket.AddressFamily, str]]:
    """The addresses to open: for either wildcard the first that can be had, one for both families where there is IPv6;
    for localhost both loopbacks, whatever the machine's file of hosts says. Raises OSError for a name of nothing."""
    if host in WILDCARDS:
        return [(socket.AF_INET6, "::"), (socket.AF_INET, WILDCARDS[0])]
    if host == "localhost":
        return [(socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1")]
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found))
