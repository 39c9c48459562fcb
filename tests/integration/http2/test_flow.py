"""Flow control: what waits, for whom, in which order, and what it holds meanwhile."""

from __future__ import annotations

import asyncio
import random

import grpc
import pytest
from parley_server.rpc.http2 import frames
from parley_server.rpc.http2.frames import Code

from tests.integration.http2.conftest import same
from tests.integration.http2.peer import data, message

KIB, MIB = 1024, 1024 * 1024
WINDOW = (frames.INITIAL_WINDOW_SIZE, 0)


def give(stream_id: int, size: int) -> bytes:
    return frames.window_update(stream_id, size)


async def test_a_window_that_opens_byte_by_byte(serve, connect):
    running = await serve()
    peer = await connect(running, WINDOW)
    peer.updates = False
    payload = random.randbytes(100)
    stuck = peer.call("/t.T/Echo", payload)
    answer = peer.answers[stuck]
    other = peer.call("/t.T/Echo", b"other")
    peer.send(give(other, 1000))
    assert (await peer.answer(other)).messages == [b"other"]
    assert (answer.order, running.connection.flow.waiting) == (["headers"], 0)  # it waits for its peer alone
    for size in range(1, 106):
        peer.send(give(stuck, 1))
        await peer.until(lambda size=size: len(answer.body) == size)
    assert (await peer.answer(stuck)).messages == [payload]
    await running.until_idle()


@pytest.mark.parametrize("window", [0, 1])
@pytest.mark.parametrize("end", ["reset", "lost", "deadline", "stop"])
async def test_what_frees_a_writer(serve, connect, window, end):
    running = await serve()
    peer = await connect(running, (frames.INITIAL_WINDOW_SIZE, window))
    peer.updates = False
    more = [("grpc-timeout", "50m")] if end == "deadline" else []
    stream_id = peer.call("/t.T/Flood", b"1000 1000", more=more)
    await peer.until(lambda: len(peer.answers[stream_id].body) == window and peer.answers[stream_id].blocks)
    if end == "reset":
        peer.send(frames.reset(stream_id, Code.CANCEL))
    elif end == "lost":
        await peer.close()
    elif end == "deadline":
        assert (await peer.answer(stream_id)).status == (4, "Deadline Exceeded")
    else:
        await running.server.stop(0.0)
        assert (await peer.answer(stream_id)).status == (14, "the server has shut down")
    await running.services.cancelled.wait()
    await running.until_idle()


async def test_a_connections_window_is_shared_in_turn(serve, connect):
    """One long message does not keep the others waiting, and nobody waits for a call that its own peer holds up."""
    running = await serve()
    peer = await connect(running)
    peer.updates = False
    long = peer.call("/t.T/Flood", b"1 1000000")
    peer.send(give(long, 2_000_000))
    await peer.until(lambda: len(peer.answers[long].body) == 65_535)
    held_up = peer.call("/t.T/Flood", b"1 200000")
    small = [peer.call("/t.T/Echo", b"s" * 20) for _ in range(20)]
    await peer.round_trip()
    assert all(not peer.answers[each].body for each in small)
    peer.send(give(0, 16_384 + 16_384 + 20 * 25))
    for each in small:
        assert (await peer.answer(each)).messages == [b"s" * 20]
    peer.send(give(0, 2_000_000))
    assert (await peer.answer(long)).messages == [b"\0" * 1_000_000]
    assert len(peer.answers[held_up].body) == 65_535
    peer.send(give(held_up, 200_000))
    assert (await peer.answer(held_up)).messages == [b"\0" * 200_000]
    await running.until_idle()


async def test_many_small_updates_wake_only_those_that_they_are_for(serve, connect):
    running = await serve()
    peer = await connect(running)
    peer.updates = False
    first = peer.call("/t.T/Flood", b"1 65530")
    await peer.answer(first)
    waiting = [peer.call("/t.T/Echo", b"x" * 95) for _ in range(200)]
    flow = running.connection.flow
    await peer.until(lambda: all(peer.answers[each].blocks for each in waiting))
    await running.until(lambda: flow.waiting == 200)
    for number, each in enumerate(waiting):
        peer.send(give(0, 100))
        assert (await peer.answer(each)).messages == [b"x" * 95]
        assert flow.waiting == 199 - number
    await running.until_idle()


async def test_the_initial_window_changes_while_calls_run(serve, connect):
    running = await serve()
    peer = await connect(running, (frames.INITIAL_WINDOW_SIZE, 1000))
    peer.updates = False
    stream_id = peer.call("/t.T/Flood", b"1 5000")
    answer = peer.answers[stream_id]

    async def resize(*sizes):
        settled = peer.settled
        peer.send(frames.settings(*((frames.INITIAL_WINDOW_SIZE, size) for size in sizes)))
        await peer.until(lambda: peer.settled > settled)
        await peer.round_trip()

    await peer.until(lambda: len(answer.body) == 1000)
    await resize(1500)
    assert len(answer.body) == 1500
    await resize(100)  # its window is -1400 now
    peer.send(give(stream_id, 1400))
    await peer.round_trip()
    assert len(answer.body) == 1500
    peer.send(give(stream_id, 1))
    await peer.until(lambda: len(answer.body) == 1501)
    await resize(0, 50_000, 99, 100)  # the last one counts
    assert len(answer.body) == 1501
    await resize(10_000)
    assert (await peer.answer(stream_id)).messages == [b"\0" * 5000]
    await running.until_idle()


@pytest.mark.parametrize("size", [2**31 - 1, 2**31])
async def test_windows_that_are_too_large(serve, connect, size):
    running = await serve()
    peer = await connect(running)
    stream_id = peer.call("/t.T/Hang", b"")
    peer.send(give(stream_id, 1), frames.settings((frames.INITIAL_WINDOW_SIZE, size)))
    assert (await peer.until_closed())[-1][1] is Code.FLOW_CONTROL_ERROR
    await running.until_idle()


async def test_a_peer_that_never_reads(serve, connect):
    """Its answers wait in its writers, not in memory; the silence ends it."""
    running = await serve(keepalive_s=0.2, ping_s=0.2)
    peer = await connect(running, (frames.INITIAL_WINDOW_SIZE, 2**31 - 1))
    peer.send(give(0, 2**30))
    for _ in range(50):
        peer.call("/t.T/Flood", b"100 1000000")
    await peer.writer.drain()
    peer.writer.transport.pause_reading()
    connection = running.connection
    await running.until(lambda: connection.flow.paused and len(connection.calls) == 50)
    assert connection._transport.get_write_buffer_size() < 256 * KIB
    await running.until(lambda: not running.server.connections)
    await running.until_idle()


async def test_a_peer_that_asks_and_never_reads(serve, connect):
    """Statuses need no window; what they may pile up is bounded nevertheless."""
    running = await serve()
    peer = await connect(running)
    peer.writer.transport.pause_reading()
    peer.writer.transport.set_write_buffer_limits(MIB)
    connection = running.connection
    head = peer.headers(0, [(":path", "/" + "n" * 1000)])  # the encoder's table is not used below
    assert head
    largest = 0
    while running.server.connections:
        for _ in range(100):
            peer.call("/t.T/" + "n" * 1000, b"")
        await asyncio.sleep(0)
        largest = max(largest, connection._transport.get_write_buffer_size())
    assert largest < 8 * MIB
    assert connection.closed
    await running.until_idle()


async def test_a_peer_that_breaks_the_rules_and_never_reads(serve, connect):
    """The farewell cannot be written; nobody waits for it."""
    running = await serve(ping_s=0.1)
    peer = await connect(running, (frames.INITIAL_WINDOW_SIZE, 2**31 - 1))
    peer.send(give(0, 2**30))
    peer.call("/t.T/Flood", b"1000 1000000")
    await peer.writer.drain()
    peer.writer.transport.pause_reading()
    connection = running.connection
    await running.until(lambda: connection.flow.paused)
    peer.send(frames.frame(frames.PUSH_PROMISE, 0, 1))
    await running.until(lambda: not running.server.connections)
    await running.until_idle()


async def test_a_paused_reader_gets_everything(serve, connect):
    running = await serve()
    peer = await connect(running, (frames.INITIAL_WINDOW_SIZE, 2**31 - 1))
    peer.send(give(0, 2**30))
    peer.updates = False
    calls = [peer.call("/t.T/Flood", b"30 50000") for _ in range(5)]
    await peer.writer.drain()
    peer.writer.transport.pause_reading()
    await running.until(lambda: running.connection.flow.paused)
    peer.writer.transport.resume_reading()
    for each in calls:
        assert (await peer.answer(each)).messages == [bytes((number,)) * 50_000 for number in range(30)]
    await running.until_idle()


async def test_a_request_that_is_not_taken_holds_its_peer_back(serve, connect):
    """A servicer that does not read its requests keeps a window of them, not all."""
    running = await serve()

    async def slow(requests, context):
        await running.services.release.wait()
        return str(len([request async for request in requests])).encode()

    path = running.add("Slow", grpc.stream_unary_rpc_method_handler(slow, same, same))
    peer = await connect(running)
    stream_id = peer.call(path, end=False)
    sent, payload = 0, message(b"x" * 16_000)
    while sent + len(payload) <= MIB + peer.granted[stream_id]:
        peer.send(data(stream_id, payload))
        sent += len(payload)
        await peer.round_trip()
    assert sent < 2 * MIB
    running.services.release.set()
    await peer.until(lambda: MIB + peer.granted[stream_id] >= sent + MIB // 2)
    peer.send(data(stream_id, payload, end=True))
    assert (await peer.answer(stream_id)).messages == [str(sent // len(payload) + 1).encode()]


async def test_what_requests_may_hold_together(serve, connect):
    running = await serve(held_bytes=2 * MIB)
    peer = await connect(running)
    for _ in range(16):
        stream_id = peer.call("/t.T/Echo", end=False)
        peer.send(data(stream_id, message(bytes(MIB))[: MIB // 2]))
    await peer.until(lambda: any(answer.reset for answer in peer.answers.values()))
    await peer.round_trip()
    assert {answer.reset for answer in peer.answers.values()} == {Code.ENHANCE_YOUR_CALM, None}
    assert 2 * MIB <= running.connection.held <= 2 * MIB + 16_384
    for stream_id in [each for each, answer in peer.answers.items() if not answer.over]:
        peer.send(frames.reset(stream_id, Code.CANCEL))
    assert (await peer.ask("/t.T/Echo", b"small")).messages == [b"small"]
    assert running.connection.held == 0


async def test_more_data_than_a_stream_may_send(serve, connect):
    running = await serve()

    async def deaf(requests, context):
        await running.services.release.wait()

    path = running.add("Deaf", grpc.stream_unary_rpc_method_handler(deaf, same, same))
    peer = await connect(running)
    stream_id = peer.call(path, end=False)
    peer.send(data(stream_id, message(bytes(600 * KIB)) + 12 * message(bytes(100 * KIB))))
    answer = await peer.answer(stream_id)
    assert answer.reset is Code.FLOW_CONTROL_ERROR
    await running.until_idle()


async def test_a_table_that_shrinks_is_emptied(serve, connect):
    """As nghttp2, Netty and this library's decoder ask for it; the next block says so, and only that one."""
    running = await serve()
    peer = await connect(running, (frames.HEADER_TABLE_SIZE, 0))
    peer.decoder.max_allowed_table_size = 0
    for _ in range(2):
        assert (await peer.ask("/t.T/Echo", b"a")).status == (0, "")
    peer.send(frames.settings((frames.HEADER_TABLE_SIZE, 4096), (frames.HEADER_TABLE_SIZE, 100)))
    assert (await peer.ask("/t.T/None", b"")).status == (12, "there is no method /t.T/None")
    assert peer.decoder.header_table_size == 0


async def test_one_call_of_a_real_client_does_not_hold_up_another(serve, channel):
    running = await serve()
    opened = channel(running)
    slow = opened.unary_stream("/t.T/Flood")(b"1000 100000")
    await slow.read()
    for _ in range(20):
        assert await opened.unary_unary("/t.T/Echo")(b"quick", timeout=10) == b"quick"
    slow.cancel()
    await running.services.cancelled.wait()
    await running.until_idle()


async def test_a_socket_that_takes_little(serve, connect):
    """Everything arrives in order through a small buffer."""
    running = await serve()
    peer = await connect(running)
    running.connection._transport.set_write_buffer_limits(high=1000)
    calls = [peer.call("/t.T/Flood", b"200 %d" % size) for size in (10, 3_000, 20_000)]
    for each, size in zip(calls, (10, 3_000, 20_000), strict=True):
        assert (await peer.answer(each)).messages == [bytes((number,)) * size for number in range(200)]
    await running.until_idle()
