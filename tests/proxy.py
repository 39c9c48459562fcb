"""A TCP proxy between a client and a service on loopback that a test can cut, stall and slow down.

It forwards bytes unchanged and works with any protocol over TCP.
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

    latency_s: the delay of data in each direction, so that a round trip takes twice as long; can change at any time. At
    most 1 MiB is delayed. accepted: the number of connections so far. bytes: the forwarded bytes by direction.
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
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._tasks)

    @property
    def address(self) -> str:
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
        """Reset the open connections and accept new ones."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def restore(self) -> None:
        """Accept connections on the same port, and forward stalled data."""
        self._flowing.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, HOST, self.port, backlog=1024)

    def stall(self) -> None:
        """Accept connections and data, but forward neither data nor ends until `restore`."""
        self._flowing.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None:  # it arrived while the proxy was being cut
            _reset(writer)
            return
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        ends = [writer]
        try:
            await self._flowing.wait()
            there, back = await asyncio.open_connection(HOST, self.target_port)
            ends.append(back)
            await self._join(reader, writer, there=there, back=back)
        except (OSError, asyncio.CancelledError):
            # One end closed, or the proxy was cut. asyncio's stream server would report either as an error.
            for end in ends:
                _reset(end)
        finally:
            self._tasks.discard(task)
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
        """Forward until both directions have ended. Raises OSError if one end disconnects before."""
        try:
            async with asyncio.TaskGroup() as directions:
                directions.create_task(self._forward(reader, back, "to_target"))
                directions.create_task(self._forward(there, writer, "to_client"))
        except* OSError as gone:
            raise ConnectionResetError from gone

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counter: str) -> None:
        """Copy one direction, including its end."""
        _no_delay(writer)
        queue = _DelayQueue()
        async with asyncio.TaskGroup() as both:
            both.create_task(self._take(reader, queue))
            both.create_task(self._deliver(queue, writer, counter))

    async def _take(self, reader: asyncio.StreamReader, queue: _DelayQueue) -> None:
        now = asyncio.get_running_loop().time
        while True:
            data = await reader.read(READ_BYTES)
            await queue.put(now() + self.latency_s, data)
            if not data:
                return

    async def _deliver(self, queue: _DelayQueue, writer: asyncio.StreamWriter, counter: str) -> None:
        now = asyncio.get_running_loop().time
        while True:
            due, data = await queue.get()
            if (left := due - now()) > 0:
                await asyncio.sleep(left)
            await self._flowing.wait()
            if not data:
                with contextlib.suppress(OSError):  # the other end has disconnected
                    writer.write_eof()
                return
            self.bytes[counter] += len(data)
            writer.write(data)
            await writer.drain()


class _DelayQueue:
    """Delayed data with due times. The number of bytes is bounded, so that backpressure reaches the sender."""

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
    end: socket.socket | None = writer.get_extra_info("socket")  # None: the connection has been closed
    if end is not None:
        with contextlib.suppress(ValueError):  # uvloop: the same
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a TCP reset, also if data is queued."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError, ValueError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()
