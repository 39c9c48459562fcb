"""An `Http2Server` of small services on a real socket, in the test's loop: asyncio's and the one of production."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
import uvloop
from parley_server.rpc.http2 import Http2Server, Limits
from parley_server.rpc.http2.ports import bind

from tests.integration.http2.peer import Peer

LIMIT_S = 6.0


def pytest_asyncio_loop_factories(config, item):
    """Each test runs in either loop."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def same(payload: bytes) -> bytes:
    """The messages of these services are bytes."""
    return payload


@dataclass
class Services:
    """What the handlers below have seen, and what they wait for."""

    started: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    contexts: list[Any] = field(default_factory=list)
    runs: int = 0

    async def echo(self, request, context):
        """Its request."""
        self.runs += 1
        self.contexts.append(context)
        return request

    async def hang(self, request, context):
        """Its request, once released."""
        self.contexts.append(context)
        self.started.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return request

    async def split(self, request, context):
        """Every byte of the request as a message."""
        for each in request:
            yield bytes((each,))

    async def flood(self, request, context):
        """As many messages as the request says, of as many bytes: `b"3 100"`."""
        count, size = map(int, request.split())
        self.started.set()
        try:
            for number in range(count):
                await context.write(bytes((number % 256,)) * size)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def chat(self, requests, context):
        """Each request, as it comes."""
        self.started.set()
        try:
            async for request in requests:
                yield request
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        yield b"end"

    async def collect(self, requests, context):
        """All requests in one."""
        return b"+".join([request async for request in requests])


def handlers(services: Services) -> dict[str, Any]:
    """By name."""
    return {
        "Echo": grpc.unary_unary_rpc_method_handler(services.echo, same, same),
        "Hang": grpc.unary_unary_rpc_method_handler(services.hang, same, same),
        "Split": grpc.unary_stream_rpc_method_handler(services.split, same, same),
        "Flood": grpc.unary_stream_rpc_method_handler(services.flood, same, same),
        "Chat": grpc.stream_stream_rpc_method_handler(services.chat, same, same),
        "Collect": grpc.stream_unary_rpc_method_handler(services.collect, same, same),
    }


@dataclass
class Running:
    """A server, its port, its services."""

    server: Http2Server
    port: int
    services: Services

    def add(self, name: str, handler: Any) -> str:
        """One more method; its path."""
        self.server.add_registered_method_handlers("t.T", {name: handler})
        return f"/t.T/{name}"

    def add_unary(self, body: Any) -> str:
        """A method of one request and one response."""
        return self.add("Own", grpc.unary_unary_rpc_method_handler(body, same, same))

    def add_stream(self, body: Any) -> str:
        """A method of one request and many responses."""
        return self.add("OwnStream", grpc.unary_stream_rpc_method_handler(body, same, same))

    @property
    def connection(self) -> Any:
        """The only one."""
        (connection,) = self.server.connections
        return connection

    async def until(self, condition: Any) -> None:
        """Wait for something that the server does."""
        async with asyncio.timeout(LIMIT_S):
            while not condition():
                await asyncio.sleep(0.001)

    async def until_idle(self) -> None:
        """No call has left anything."""
        await self.until(lambda: not (self.server.tasks or any(each.calls for each in self.server.connections)))
        for connection in self.server.connections:
            assert not connection.flow.waiting
            assert not connection.held


@pytest.fixture
async def serve():
    """Starts a server: `await serve(streams=2, ...)`, limits as in `Limits`. Pings may come as often as they like."""
    problems: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    async with contextlib.AsyncExitStack() as stack:

        async def start(*, address="127.0.0.1:0", tls=None, share=False, **limits):
            server, services = Http2Server(Limits(**{"min_ping_interval_s": 0.0} | limits)), Services()
            server.add_registered_method_handlers("t.T", handlers(services))
            sockets = bind(address, share=share)
            port = sockets[0].getsockname()[1]
            await server.listen(sockets, tls)
            stack.push_async_callback(server.stop, 0.0)
            return Running(server, port, services)

        yield start
    assert problems == []  # nothing was raised where nobody catches it


@pytest.fixture
async def connect():
    """Opens a greeted `Peer`: `await connect(running, *settings)`."""
    peers = []

    async def start(running, *settings, **options):
        peers.append(await Peer.greeted(running.port, *settings, **options))
        return peers[-1]

    yield start
    for peer in peers:
        await peer.close()


@pytest.fixture
async def channel():
    """Opens a channel of grpc.aio: `channel(running)`."""
    channels = []

    def start(running, *options, credentials=None):
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0), *options)
        if credentials is None:
            channels.append(grpc.aio.insecure_channel(f"127.0.0.1:{running.port}", options=options))
        else:
            channels.append(grpc.aio.secure_channel(f"localhost:{running.port}", credentials, options=options))
        return channels[-1]

    yield start
    for each in channels:
        await each.close()
