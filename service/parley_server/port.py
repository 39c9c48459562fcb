"""A port that several gRPC servers of one service share, in one process or in several, and nobody else."""

from __future__ import annotations

import errno
import socket
from types import TracebackType
from typing import Self

from parley_server.addresses import WILDCARDS, resolve
from parley_server.settings import Address


class SharedPort:
    """Holds the address without listening, from the `with` on to its end: servers of this user may listen there with
    SO_REUSEPORT, and everybody else is refused, also before the first of them listens and after the last.

    `address` has the port that the system chose where none was given; `targets` are the addresses that it stands for,
    as gRPC writes them. With `join`, somebody else of this user holds the port already. Raises OSError, with a message
    for the operator, where somebody else has it.
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
                absent = error  # a name may also stand for an address that this machine has not got
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
    """A socket that is bound to the port, alone unless it joins others, and then lets others of this user in that ask
    for the same."""
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
            held.bind((host, 0))  # a port that nobody else has
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError:
        held.close()
        raise
    return held


def _bind_alone(held: socket.socket, host: str, port: int) -> None:
    """SO_REUSEADDR looks past the ended connections of the server before this one, but also past others that have only
    bound the port. Of those, one alone gets to listen; the option is off before this one listens no more, so that none
    can after it."""
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind((host, port))
    held.listen(1)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    held.shutdown(socket.SHUT_RD)
