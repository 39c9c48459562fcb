"""The HTTP server of the chat page, in the event loop of the gRPC server."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

import parley
import uvicorn
from parley.asgi import end_streams

from parley_server.addresses import WILDCARDS, resolve
from parley_server.settings import Address
from parley_server.ui.guard import LOOPBACK_NAMES, Guard, api_key
from parley_server.ui.routes import application
from parley_server.ui.socket_folder import SOCKET, make_socket_folder

LOOPBACK_OF: Final = dict(zip(WILDCARDS, ("127.0.0.1", "::1"), strict=True))
BACKLOG: Final = 100
LAST_ANSWERS_S: Final = 1.0
"""For the ends of answers that browsers still have to read."""


class PageServer:
    """Serves the page: call `open`, then `serve`, then `stop`. `address` has the port that the system chose for port 0.

    hosts: further names that browsers may use. asks_key: requests need an API key, which calls of gRPC then contain."""

    def __init__(self, listen: Address, *, hosts: Collection[str], asks_key: bool) -> None:
        self.address = listen
        self._target = ""
        self._hosts = {*LOOPBACK_NAMES, str(listen).rpartition(":")[0].lower(), *hosts}
        self._asks_key = asks_key
        self._sockets: list[socket.socket] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._running: _Running | None = None

    @property
    def url(self) -> str:
        """The address to open in a browser of this machine."""
        host = LOOPBACK_OF.get(self.address.host, self.address.host)
        return f"http://{Address(host=host, port=self.address.port)}/"

    def open(self) -> str:
        """Open the port, whose connections wait until `serve`. Returns the path of the Unix socket on which gRPC must
        listen before that; only this user can open it. Raises OSError, with a message for the operator.

        The page does not use the port of gRPC: with `[tls]`, it would need the name in the certificate, and
        with `client_ca` to have a certificate of its own."""
        self._folder = make_socket_folder()
        try:
            self._open()
        except OSError as error:
            in_use = error.errno == errno.EADDRINUSE
            problem = "the port is in use" if in_use else (error.strerror or "no such address")
            raise OSError(f"cannot serve the chat page on {self.address}: {problem}") from error
        self._target = str(Path(self._folder.name, SOCKET))
        return self._target

    async def serve(self) -> None:
        """Answer requests from now on."""
        client = parley.Client(f"unix:{self._target}", api_key=api_key.get if self._asks_key else None)
        routes = application(client, asks_key=self._asks_key)
        self._running = _Running(client, Guard(routes, hosts=self._hosts, asks_key=self._asks_key), self._sockets)

    async def stop(self) -> None:
        """End all requests and close the port. Further calls change nothing."""
        if self._running is not None:
            await self._running.stop()
            self._running = None
        self._close()

    def _open(self) -> None:
        absent: OSError | None = None
        for family, host in resolve(self.address.host):
            try:
                opened = _listen(family, host, self.address.port)
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                absent = error  # a name may also resolve to an address that this machine lacks
                continue
            self._sockets.append(opened)
            self.address = Address(host=self.address.host, port=int(opened.getsockname()[1]))
            if self.address.host in WILDCARDS:
                return
        if not self._sockets and absent is not None:
            raise absent

    def _close(self) -> None:
        for opened in self._sockets:
            opened.close()
        self._sockets.clear()
        if self._folder is not None:
            self._folder.cleanup()


class _Running:
    """uvicorn in a task, and the client that it uses. Must be created in its event loop."""

    def __init__(self, client: parley.Client, guard: Guard, sockets: list[socket.socket]) -> None:
        self._client = client
        config = uvicorn.Config(
            guard,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
        )
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve(sockets))

    async def stop(self) -> None:
        """End all requests, those of browsers that do not read after a second."""
        self._server.should_exit = True
        await end_streams()  # before the client is closed, which browsers would see as a failure
        await self._client.close()
        await asyncio.wait({self._serving}, timeout=LAST_ANSWERS_S)
        for connection in list(self._server.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await self._serving


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals to the process, which drains gRPC first."""
        yield


def _listen(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
        opened.bind((host, port))
        opened.listen(BACKLOG)
        opened.setblocking(False)
    except OSError:
        opened.close()
        raise
    return opened
