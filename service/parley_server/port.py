"""A port that only the gRPC servers of one service share, in one process or in several."""

from __future__ import annotations

import errno
import socket
from types import TracebackType
from typing import Self

from parley_server.addresses import WILDCARDS, resolve
from parley_server.settings import Address


class SharedPort:
    """Reserves an address without listening, for the duration of its `with`. Servers of this user may listen there with
    SO_REUSEPORT. All other processes are refused, even before the first server listens and after the last one stops.

    `address` contains the port that the system chose for port 0. `targets` are the resolved addresses in gRPC's form.
    With `join`, another process of this user already holds the port. Raises OSError, with a message for the operator,
    if the port is in use otherwise.
    """

    def __init__(self, address: Address, *, join: bool = False) -> None:
        self.address = address
        self.targets: list[str] = []
        self._join = join
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        try:
            self._hold()
        except OSError as error:
            self._close()
            in_use = error.errno == errno.EADDRINUSE
            problem = "the port is in use" if in_use else (error.strerror or "no such address")
            raise OSError(f"cannot listen on {self.address}: {problem}") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._close()

    def _hold(self) -> None:
        absent: OSError | None = None
        for family, host in resolve(self.address.host):
            try:
                held = _hold(family, host, self.address.port, join=self._join)
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                absent = error  # a name may also resolve to an address that this machine lacks
                continue
            self._sockets.append(held)
            self.address = Address(host=self.address.host, port=int(held.getsockname()[1]))
            self.targets.append(str(Address(host=host, port=self.address.port)))
            if self.address.host in WILDCARDS:
                return
        if not self._sockets and absent is not None:
            raise absent

    def _close(self) -> None:
        for held in self._sockets:
            held.close()
        self._sockets.clear()
        self.targets.clear()


def _hold(family: socket.AddressFamily, host: str, port: int, *, join: bool) -> socket.socket:
    """A socket bound to the port, exclusively unless `join`. Afterwards, other sockets of this user may bind to the
    port with SO_REUSEPORT."""
    held = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family == socket.AF_INET6:
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
        if join:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            held.bind((host, port))
        elif port:
            _bind_alone(held, host, port)
        else:
            held.bind((host, 0))  # a free port
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError:
        held.close()
        raise
    return held


def _bind_alone(held: socket.socket, host: str, port: int) -> None:
    """Bind exclusively. SO_REUSEADDR ignores the ended connections of an earlier server, but also other sockets that
    are bound without listening. Only one of these can listen, which this socket does as proof. It turns the option off
    before it stops listening, so that no other socket can listen afterwards."""
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind((host, port))
    held.listen(1)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    held.shutdown(socket.SHUT_RD)
