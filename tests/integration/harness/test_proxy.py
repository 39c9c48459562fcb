"""The wire of `Proxy` changes no byte, and is cut, stalled and slow when it is told to."""

import asyncio
import contextlib
import random
import time

import asyncpg
import pytest
from redis.asyncio import Redis

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


async def test_every_byte_passes_and_so_does_the_end(echo):
    data = random.Random(1).randbytes(8 * MIB)
    async with Proxy(echo) as proxy:
        for latency_s in (0.0, 0.01):
            proxy.latency_s = latency_s
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)

            async def send(writer=writer):
                writer.write(data)
                await writer.drain()
                writer.write_eof()

            sending = asyncio.create_task(send())
            assert await reader.read() == data
            await sending
            writer.close()
            await writer.wait_closed()
        assert proxy.accepted == 2
        assert proxy.bytes == {"to_target": 2 * len(data), "to_client": 2 * len(data)}
        async with asyncio.timeout(5):
            while proxy.connections:
                await asyncio.sleep(0.01)


async def test_a_cut_resets_and_refuses_until_it_is_restored(echo):
    async with Proxy(echo) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        assert await ask(reader, writer, b"there") == b"there"
        assert proxy.connections == 1
        await proxy.cut()
        assert proxy.connections == 0
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(1), 5)
        writer.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", proxy.port)
        await proxy.restore()
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        assert await ask(reader, writer, b"again") == b"again"
        writer.close()


async def test_a_stall_keeps_all_and_forwards_it_later(echo):
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


async def test_latency_holds_each_way_and_pieces_do_not_wait_for_one_another(echo):
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


async def test_a_target_that_is_away_looks_like_a_reset(echo):
    async with Proxy(1) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(1), 5)
        writer.close()


async def test_postgres_and_redis_pass(shared_postgres, shared_redis):
    async with Proxy(shared_postgres.port) as before_postgres, Proxy(shared_redis.port) as before_redis:
        connection = await asyncpg.connect(shared_postgres.url(port=before_postgres.port).replace("+asyncpg", ""))
        assert await connection.fetchval("SELECT repeat('x', 1000000)") == "x" * 1_000_000
        async with Redis.from_url(shared_redis.url(port=before_redis.port)) as client:
            await client.set("word", "x" * 1_000_000)
            assert await client.get("word") == b"x" * 1_000_000
            before_redis.stall()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.get("word"), 0.1)
        await before_postgres.cut()
        with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, ConnectionError)):
            await connection.fetchval("SELECT 1")
