"""Many concurrent calls and streams, and callers that disconnect: no reply is lost, and no resource leaks."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import pytest
from parley.v1 import chat_pb2, chat_pb2_grpc

from tests.endurance import FULL, rounds
from tests.integration.process.watching import Watcher, reason_of, script, words
from tests.lanes import LOADED
from tests.processes import MIB, ServerProcess, clean_environment, open_channel, until

pytestmark = pytest.mark.xdist_group(LOADED)
CHANNELS = 4
CALLS = rounds(2000, short=400)
STREAMS = rounds(1000, short=200)
READERS = rounds(500, short=100)
SLOWER = 1.0 if FULL else 0.5
"""Fewer streams are open earlier, so that their texts may be shorter in time."""
RSS_LIMIT_BYTES = 600 * MIB  # the target is 300 MiB; only a leak reaches this limit

DISCONNECTING_CLIENT = """
import asyncio, sys
import grpc
from parley.v1 import chat_pb2, chat_pb2_grpc

async def main(address, channels, count, text):
    local = ("grpc.use_local_subchannel_pool", 1)
    stubs = [chat_pb2_grpc.ChatStub(grpc.aio.insecure_channel(address, options=[local])) for _ in range(channels)]
    calls = [stubs[n % channels].StreamReply(chat_pb2.ReplyRequest(text=text)) for n in range(count)]
    for call in calls:
        while (await call.read()).WhichOneof("event") != "text":
            pass
    print("reading", flush=True)
    await asyncio.gather(*map(read_on, calls))

async def read_on(call):
    while await call.read() is not grpc.aio.EOF:
        pass

asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
"""


@asynccontextmanager
async def stubs(address: str, count: int = CHANNELS):
    async with AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(open_channel(address)) for _ in range(count)]
        yield [chat_pb2_grpc.ChatStub(channel) for channel in channels]


def reader_of(number: int, count: int, **fields: float) -> Watcher:
    """A reader of a reply with a distinct text."""
    watcher = Watcher(chat_pb2.ReplyRequest(text=script(words(f"r{number}", count), **fields)))
    watcher.whole = words(f"r{number}", count)
    return watcher


@pytest.mark.timeout(180)
@pytest.mark.parametrize("max_replies", [2 * CALLS, CALLS // 4], ids=["all", "a-quarter"])
async def test_simultaneous_calls_complete_or_are_refused(tmp_path, max_replies: int) -> None:
    """Each call completes or is refused by the application; the transport drops none."""
    async with (
        ServerProcess(tmp_path, toml=f"[server]\nmax_replies = {max_replies}\n") as server,
        stubs(server.address) as chats,
    ):
        watchers = [reader_of(number, 3, delay_s=0.01) for number in range(CALLS)]
        calls = (watcher.start(chats[number % CHANNELS]) for number, watcher in enumerate(watchers))
        await asyncio.gather(*calls)
        ends = Counter((watcher.status, reason_of(watcher.error)) for watcher in watchers)
        print(dict(ends), f"RSS {server.rss_bytes() / MIB:.0f} MiB")
        complete = [watcher for watcher in watchers if watcher.status is grpc.StatusCode.OK]
        assert all(watcher.text == watcher.whole for watcher in complete)
        refused = ends[grpc.StatusCode.UNAVAILABLE, "OVERLOADED"]
        assert len(complete) + refused == CALLS, "the transport dropped calls"
        assert bool(refused) == (max_replies < CALLS)
        assert len(complete) >= min(max_replies, CALLS)
        await server.idle()
        assert server.rows("SELECT state, count(*) FROM reply GROUP BY 1") == [("COMPLETED", len(complete))]
        ids = {watcher.reply_id for watcher in complete}
        assert len(ids) == len(complete)
        assert not [each for each in server.events() if each["level"] == "error"]


@pytest.mark.timeout(180)
async def test_simultaneous_streams_complete_within_the_memory_limit(tmp_path) -> None:
    async with ServerProcess(tmp_path) as server, stubs(server.address) as chats:
        before = server.rss_bytes()
        watchers = [reader_of(number, 16, delay_s=0.5 * SLOWER) for number in range(STREAMS)]
        calls = [asyncio.create_task(each.start(chats[n % CHANNELS])) for n, each in enumerate(watchers)]

        async def all_open() -> bool:
            now = await server.metrics()
            return now["parley_replies_active"] == STREAMS == now["parley_readers_active"]

        await until(all_open, "all streams are open at the same time")
        open_rss = server.rss_bytes()
        await asyncio.gather(*calls)
        print(f"RSS {before / MIB:.0f} -> {open_rss / MIB:.0f} MiB open, {server.rss_bytes() / MIB:.0f} MiB after")
        assert Counter(watcher.status for watcher in watchers) == {grpc.StatusCode.OK: STREAMS}
        assert all(watcher.text == watcher.whole for watcher in watchers)
        assert max(open_rss, server.rss_bytes()) < RSS_LIMIT_BYTES
        await server.idle()
        assert server.rows("SELECT state, count(*) FROM reply GROUP BY 1") == [("COMPLETED", STREAMS)]
        assert server.rows("SELECT count(*) FROM checkpoint") == [(0,)]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("killed", [True, False], ids=["killed", "closed"])
async def test_disconnected_callers_leave_no_sockets_and_their_replies_continue(tmp_path, killed: bool) -> None:
    count, whole = READERS, words("w", 24)
    async with ServerProcess(tmp_path) as server:
        await server.metrics()
        sockets = server.open_files().count("socket")
        client = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            DISCONNECTING_CLIENT,
            server.address,
            str(CHANNELS),
            str(count),
            script(whole, delay_s=0.4 * SLOWER),
            env=clean_environment(),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert client.stdout is not None
        assert await client.stdout.readline() == b"reading\n"
        assert (await server.metrics())["parley_readers_active"] == count
        client.send_signal(signal.SIGKILL if killed else signal.SIGINT)
        await client.communicate()

        async def no_readers() -> bool:
            return (await server.metrics())["parley_readers_active"] == 0

        await until(no_readers, "no active readers", limit_s=10)
        assert (await server.metrics())["parley_replies_active"] == count, "replies ended with their readers"

        async def sockets_closed() -> bool:
            return server.open_files().count("socket") <= sockets

        await until(sockets_closed, "closed sockets", limit_s=10)
        await server.idle(limit_s=60)
        assert server.rows("SELECT state, count(*) FROM reply GROUP BY 1") == [("COMPLETED", count)]
        stored = server.rows("SELECT DISTINCT parts FROM message WHERE reply_id IS NOT NULL")
        assert len(stored) == 1
        assert whole in stored[0][0]
        metrics = await server.metrics()
        assert metrics["parley_calls_total{CANCELLED,/parley.v1.Chat/StreamReply}"] == count
