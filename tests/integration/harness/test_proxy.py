"""`Proxy` stalls and delays connections without changing a byte."""

import asyncio
import contextlib
import time

import pytest

from tests.proxy import Proxy

MIB = 1024 * 1024


@pytest.fixture
async def echo():
    """The port of a server that sends back what it gets, and ends when its client does."""
    served = set()

    async def answer(reader, writer):
        served.add(asyncio.current_task())
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while data := await reader.read(MIB):
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    for each in served:
        each.cancel()
    await asyncio.gather(*served)


async def ask(reader, writer, data):
    """Send, and read as much."""
    writer.write(data)
    return await asyncio.wait_for(reader.readexactly(len(data)), 5)


async def test_a_stalled_proxy_forwards_everything_later(echo):
    async with Proxy(echo) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        assert await ask(reader, writer, b"there") == b"there"
        proxy.stall()
        new_reader, new_writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"old")
        new_writer.write(b"new")
        silent = [asyncio.ensure_future(reader.readexactly(3)), asyncio.ensure_future(new_reader.readexactly(3))]
        done, _ = await asyncio.wait(silent, timeout=0.3)
        assert not done
        await proxy.restore()
        assert await asyncio.gather(*silent) == [b"old", b"new"]
        writer.close()
        new_writer.close()


async def test_latency_applies_in_each_direction_without_queueing(echo):
    async with Proxy(echo, latency_s=0.1) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        started = time.monotonic()
        for number in range(10):
            writer.write(b"%d" % number)
            await asyncio.sleep(0.01)
        assert await asyncio.wait_for(reader.readexactly(10), 5) == b"0123456789"
        assert 0.28 <= time.monotonic() - started < 0.8  # one after the other they would take 1.1 s
        proxy.latency_s = 0.0
        started = time.monotonic()
        assert await ask(reader, writer, b"three") == b"three"
        assert time.monotonic() - started < 0.2
        writer.close()
