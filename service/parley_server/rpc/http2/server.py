"""The server: its ports, its methods and its end. `grpc.aio.Server`'s interface, as far as servicers need it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from parley_server.rpc.http2.call import Call
from parley_server.rpc.http2.connection import Connection
from parley_server.rpc.http2.headers import ENCODINGS, Head
from parley_server.rpc.http2.lifetime import Limits

BACKLOG = 4096
HANDSHAKE_S = 10.0
FAREWELL_S = 0.5


class Http2Server:
    """Serves gRPC on any number of addresses. Made within a running event loop."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.limits = limits or Limits()
        self.connections: set[Connection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self._handlers: dict[str, Any] = {}
        self._generic: list[Any] = []
        self._ports: list[tuple[socket.socket, asyncio.Server]] = []
        self._changed = asyncio.Event()
        self._stopping = False

    # --- what generated code and gRPC's own services call

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """The methods of a service, by name."""
        for method, handler in handlers.items():
            self._handlers[f"/{service}/{method}"] = handler

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        """Handlers that are asked for each method that is not known otherwise."""
        self._generic += handlers

    # --- ports

    async def listen(self, sockets: Sequence[socket.socket], tls: ssl.SSLContext | None = None) -> None:
        """Take connections on sockets that are bound."""
        for each in sockets:
            server = await self.loop.create_server(
                lambda: Connection(self),
                sock=each,
                backlog=BACKLOG,
                ssl=tls,
                ssl_handshake_timeout=HANDSHAKE_S if tls else None,
            )
            self._ports.append((each, server))
            if self._stopping:
                server.close()

    async def take(self, tls: ssl.SSLContext) -> None:
        """Connections that come from now on are made with this. None is missed in between, and those that stand stay.

        Raises OSError where there is no file descriptor for it; all is then as before.
        """
        before = list(self._ports)
        copies: list[socket.socket] = []
        try:
            # A copy of a socket has the same queue of callers.
            copies += (each.dup() for each, _ in before)
            await self.listen(copies, tls)
        except OSError:
            for _, server in self._ports[len(before) :]:
                server.close()
            del self._ports[len(before) :]
            for copy in copies:
                copy.close()
            raise
        self._ports = self._ports[len(before) :]
        for _, server in before:
            server.close()

    async def stop(self, grace_s: float) -> None:
        """Take no more calls; those that still run after `grace_s` are ended, with UNAVAILABLE."""
        self._stopping = True
        for _, server in self._ports:
            server.close()
        for connection in list(self.connections):
            connection.go_away()
        ends_at = self.loop.time() + grace_s
        await self._until(lambda: not self.connections, min(grace_s, FAREWELL_S))
        for connection in list(self.connections):
            connection.refuse_new()
        await self._until(self._is_idle, ends_at - self.loop.time())
        for connection in list(self.connections):
            for call in list(connection.calls.values()):
                call.end(grpc.StatusCode.UNAVAILABLE, "the server has shut down")
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for connection in list(self.connections):
            connection.close()
        await self._until(lambda: not self.connections, FAREWELL_S)
        for connection in list(self.connections):
            connection.abort()

    def opened(self, connection: Connection) -> None:
        """A connection has come; one that was on its way when the server stopped is not served."""
        self.connections.add(connection)
        if self._stopping:
            connection.abort()

    def closed(self, connection: Connection) -> None:
        """A connection has gone."""
        self.connections.discard(connection)
        self._changed.set()

    def ended(self, task: asyncio.Task[None]) -> None:
        """A call's task is over."""
        self.tasks.discard(task)
        if self._stopping:
            self._changed.set()

    def _is_idle(self) -> bool:
        return not self.tasks and not any(connection.calls for connection in self.connections)

    async def _until(self, condition: Callable[[], bool], limit_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, limit_s)):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()

    # --- calls

    def dispatch(self, call: Call, head: Head) -> None:
        """Give a call to its method, or say why it has none."""
        if head.method != "POST":
            call.refuse(405, "gRPC calls are POST")
            return
        if not head.is_grpc:
            call.refuse(415, "gRPC calls have the content-type application/grpc")
            return
        handler = self._handlers.get(head.path) or self._ask(head)
        if handler is None:
            call.end(grpc.StatusCode.UNIMPLEMENTED, f"there is no method {head.path}")
        elif head.encoding not in ENCODINGS:
            accepted = (("grpc-accept-encoding", ",".join(ENCODINGS)),)
            call.end(grpc.StatusCode.UNIMPLEMENTED, f"messages compressed by {head.encoding} are not read", accepted)
        else:
            call.begin(handler)

    def _ask(self, head: Head) -> Any:
        for generic in self._generic:
            handler = generic.service(_Details(head.path, head.metadata))
            if handler is not None:
                return handler
        return None


@dataclass(frozen=True)
class _Details:
    """As grpc.HandlerCallDetails."""

    method: str
    invocation_metadata: Any
