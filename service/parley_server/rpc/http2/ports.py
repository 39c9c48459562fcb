"""Sockets that are bound, to listen on."""

from __future__ import annotations

import errno
import socket

from parley_server.addresses import WILDCARDS, resolve

ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def bind(address: str, *, share: bool) -> list[socket.socket]:
    """A socket for each address that `host:port` stands for, all on one port; port 0 lets the system choose it.

    `share` lets other sockets of this user listen there as well. Raises OSError.
    """
    name, _, port = address.rpartition(":")
    host, chosen = name.strip("[]"), int(port)
    bound: list[socket.socket] = []
    absent: OSError | None = None
    for family, where in resolve(host):
        try:
            bound.append(_bind(family, where, chosen, share=share))
        except OSError as error:
            if error.errno not in ABSENT:
                for each in bound:
                    each.close()
                raise
            absent = error  # a name may also stand for an address that this machine has not got
            continue
        chosen = int(bound[0].getsockname()[1])
        if host in WILDCARDS:
            break
    if not bound:
        raise absent or OSError(errno.EADDRNOTAVAIL, "no such address")
    return bound


def _bind(family: socket.AddressFamily, host: str, port: int, *, share: bool) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named, else asyncio leaves Nagle's wait on
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
        opened.bind((host, port))
        opened.setblocking(False)
    except OSError:
        opened.close()
        raise
    return opened
