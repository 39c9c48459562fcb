"""A TCP proxy between a client and a service on loopback, which a test can cut, stall and slow down.

It knows no protocol, and changes no byte and no order: PostgreSQL, Redis and gRPC pass alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from typing import Self

from tests.ports import free_port

HOST = "127.0.0.1"
READ_BYTES = 64 * 1024
QUEUED_BYTES = 1024 * 1024
RESET = b"\x01\x00\x00\x00\x00\x00\x00\x00"  # struct linger: on, for 0 s


class Proxy:
    """`async with Proxy(target_port) as proxy:` listens on `proxy.port` for as long as it is entered.

    `latency_s` may change at any time, and holds for each piece of data in each direction, so that a round trip takes
    twice as long, with at most 1 MiB under way. `accepted` counts connections, `bytes` what was forwarded.
    """

    def __init__(self, target_port: int, *, latency_s: float = 0.0) -> None:
        self.target_port = target_port
        self.latency_s = latency_s
        self.port = free_port()
        self.accepted = 0
        self.bytes = {"to_target": 0, "to_client": 0}
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server: asyncio.Server | None = None
        self._wires: set[asyncio.Task[None]] = set()

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._wires)

    @property
    def address(self) -> str:
        """Where clients connect."""
        return f"{HOST}:{self.port}"

    async def __aenter__(self) -> Self:
        await self.restore()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()

    async def cut(self) -> None:
        """Reset all connections and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        await self.reset()

    async def reset(self) -> None:
        """Reset the connections that are open; new ones are welcome."""
        wires = list(self._wires)
        for wire in wires:
            wire.cancel()
        await asyncio.gather(*wires, return_exceptions=True)

    async def restore(self) -> None:
        """Take connections on the same port, and forward again what was stalled."""
        self._flowing.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, HOST, self.port, backlog=1024)

    def stall(self) -> None:
        """Go on taking connections and data, and forward nothing, neither bytes nor ends, until `restore`."""
        self._flowing.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None:  # it was under way when the wire was cut
            _reset(writer)
            return
        self.accepted += 1
        wire = asyncio.current_task()
        assert wire is not None
        self._wires.add(wire)
        ends = [writer]
        try:
            await self._flowing.wait()
            there, back = await asyncio.open_connection(HOST, self.target_port)
            ends.append(back)
            await self._join(reader, writer, there=there, back=back)
        except (OSError, asyncio.CancelledError):
            # One end has gone, or the wire was cut: asyncio's stream server would report either as an error.
            for end in ends:
                _reset(end)
        finally:
            self._wires.discard(wire)
            for end in ends:
                end.close()

    async def _join(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        there: asyncio.StreamReader,
        back: asyncio.StreamWriter,
    ) -> None:
        """Forward until both have said that they end; OSError where one has gone without."""
        try:
            async with asyncio.TaskGroup() as directions:
                directions.create_task(self._forward(reader, back, "to_target"))
                directions.create_task(self._forward(there, writer, "to_client"))
        except* OSError as gone:
            raise ConnectionResetError from gone

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counter: str) -> None:
        """Copy one direction until its end, which is passed on."""
        _no_delay(writer)
        line = _Line()
        async with asyncio.TaskGroup() as both:
            both.create_task(self._take(reader, line))
            both.create_task(self._deliver(line, writer, counter))

    async def _take(self, reader: asyncio.StreamReader, line: _Line) -> None:
        now = asyncio.get_running_loop().time
        while True:
            data = await reader.read(READ_BYTES)
            await line.put(now() + self.latency_s, data)
            if not data:
                return

    async def _deliver(self, line: _Line, writer: asyncio.StreamWriter, counter: str) -> None:
        now = asyncio.get_running_loop().time
        while True:
            due, data = await line.get()
            if (left := due - now()) > 0:
                await asyncio.sleep(left)
            await self._flowing.wait()
            if not data:
                with contextlib.suppress(OSError):  # the other end has gone altogether
                    writer.write_eof()
                return
            self.bytes[counter] += len(data)
            writer.write(data)
            await writer.drain()


class _Line:
    """What is on its way, with the time at which it is due; a bounded number of bytes, so that backpressure passes."""

    def __init__(self) -> None:
        self._pieces: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self._changed = asyncio.Condition()

    async def put(self, due: float, data: bytes) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._bytes < QUEUED_BYTES)
            self._pieces.append((due, data))
            self._bytes += len(data)
            self._changed.notify_all()

    async def get(self) -> tuple[float, bytes]:
        async with self._changed:
            await self._changed.wait_for(lambda: bool(self._pieces))
            due, data = self._pieces.popleft()
            self._bytes -= len(data)
            self._changed.notify_all()
        return due, data


def _no_delay(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close without a farewell: the peer sees a reset, also where data was on its way."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()
