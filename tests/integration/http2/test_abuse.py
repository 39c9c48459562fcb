"""Peers that mean harm: their connection ends, with a reason, and others are served meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
from parley_server.rpc.http2 import connection, frames
from parley_server.rpc.http2.frames import Code

from tests.integration.http2.peer import data, message, request_head

KIB, MIB = 1024, 1024 * 1024
PATIENCE_S = 1.0
"""How long another caller may wait while one floods, in a loop that also runs the flood."""


async def others_are_served(peer, over):
    """The longest that a caller on another connection has waited until it is over."""
    longest = 0.0
    while True:
        began = time.monotonic()
        assert (await peer.ask("/t.T/Echo", b"me")).messages == [b"me"]
        longest = max(longest, time.monotonic() - began)
        if over.done():
            return longest


def opened_and_reset(peer):
    stream_id, peer.next_id = peer.next_id, peer.next_id + 2
    head = peer.headers(stream_id, request_head("/t.T/Hang")) + data(stream_id, message(b""), end=True)
    return head + frames.reset(stream_id, Code.CANCEL)


def made_to_reset(peer):
    """The peer breaks a rule of the stream, so that the server resets it."""
    stream_id, peer.next_id = peer.next_id, peer.next_id + 2
    head = peer.headers(stream_id, request_head("/t.T/Hang")) + data(stream_id, message(b""), end=True)
    return head + frames.window_update(stream_id, 0)


def malformed(peer):
    stream_id, peer.next_id = peer.next_id, peer.next_id + 2
    return peer.headers(stream_id, [("Upper", "case")], end=True)


FLOODS = {
    "rapid reset": opened_and_reset,
    "made you reset": made_to_reset,
    "malformed": malformed,
    "ping": lambda peer: frames.frame(frames.PING, 0, 0, bytes(8)),
    "settings": lambda peer: frames.settings((frames.INITIAL_WINDOW_SIZE, 70_000)),
    "empty settings": lambda peer: frames.settings(),
    "empty data": lambda peer: frames.frame(frames.DATA, 0, 1),
    "priority": lambda peer: frames.frame(frames.PRIORITY, 0, 5, bytes(5)),
    "goaway": lambda peer: frames.go_away(0, Code.NO_ERROR),
    "unknown": lambda peer: frames.frame(77, 0, 0, b"grease"),
    "resets of nothing": lambda peer: frames.reset(1, Code.CANCEL),
}


@pytest.mark.parametrize("kind", FLOODS)
async def test_floods(serve, connect, kind):
    running = await serve()
    other = await connect(running)
    peer = await connect(running)
    if kind == "resets of nothing":
        await peer.ask("/t.T/Echo", b"")
    else:
        peer.call("/t.T/Hang", end=False)  # stream 1, to flood
    over = asyncio.create_task(peer.until_closed())
    served = asyncio.create_task(others_are_served(other, over))
    for _ in range(500):
        if peer.closed:
            break
        peer.send(*(FLOODS[kind](peer) for _ in range(100)))
        with contextlib.suppress(ConnectionError):
            await peer.writer.drain()
        await asyncio.sleep(0)
    farewells = await over
    assert farewells[-1][1:] == (Code.ENHANCE_YOUR_CALM, "too many frames that carry nothing")
    assert await served < PATIENCE_S
    assert len(running.services.contexts) < 4_000 + running.services.runs
    await running.until_idle()


async def continuations(peer, size):
    head = peer.encoder.encode(request_head("/t.T/Echo"))
    peer.send(frames.frame(frames.HEADERS, 0, 1, head))
    for _ in range(100_000):
        if peer.closed:
            return
        peer.send(*(frames.frame(frames.CONTINUATION, 0, 1, b"\0\1a\1b"[:size]) for _ in range(100)))
        await asyncio.sleep(0)


@pytest.mark.parametrize("size", [0, 5])
async def test_continuations_without_end(serve, connect, size):
    running = await serve()
    peer = await connect(running)
    over = asyncio.create_task(peer.until_closed())
    await continuations(peer, size)
    problem = "too many frames that carry nothing" if size == 0 else "a header block is too large"
    assert (await over)[-1][1] is Code.ENHANCE_YOUR_CALM
    assert size or peer.farewells[-1][2] == problem


def literal(name: bytes, value: bytes, *, indexed: bool = False) -> bytes:
    assert len(name) < 127
    assert len(value) < 127 + 128 * 128
    size = (
        bytes((len(value),))
        if len(value) < 127
        else bytes((127, (len(value) - 127) % 128 | 128, (len(value) - 127) // 128))
    )
    return (b"\x40" if indexed else b"\0") + bytes((len(name),)) + name + size + value


BLOCKS = {
    "many indexed": (literal(b"a", b"x" * 4000, indexed=True) + b"\xbe" * 100, Code.ENHANCE_YOUR_CALM),
    "many small": (b"\x82" * 2000, Code.ENHANCE_YOUR_CALM),
    "a table resized for ever": (b"\x20" * 16_000, Code.COMPRESSION_ERROR),
    "a table resized at length": (b"\x3f\xe1\x1f" * 3, Code.COMPRESSION_ERROR),
    "a huge table": (b"\x3f\xe1\xff\x03", Code.COMPRESSION_ERROR),
    "a huge number": (b"\x7f" + b"\xff" * 100, Code.COMPRESSION_ERROR),
    "a huge length": (b"\0\x7f\xff\xff\xff\x7f", Code.COMPRESSION_ERROR),
    "an index of nothing": (b"\xff\x80\x01", Code.COMPRESSION_ERROR),
    "cut off": (b"\x40", Code.COMPRESSION_ERROR),
}


@pytest.mark.parametrize("kind", BLOCKS)
async def test_header_bombs(serve, connect, kind):
    running = await serve()
    peer = await connect(running)
    block, code = BLOCKS[kind]
    peer.send(frames.frame(frames.HEADERS, frames.END_HEADERS, 1, block))
    assert (await peer.until_closed())[-1][1] is code
    assert (await (await connect(running)).ask("/t.T/Echo", b"a")).messages == [b"a"]


async def test_a_table_may_be_resized_twice(serve, connect):
    peer = await connect(await serve())
    block = b"\x20\x3f\xe1\x1f" + peer.encoder.encode(request_head("/t.T/None"))
    peer.send(frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 1, block))
    assert (await peer.answer(1)).status[0] == 12


@pytest.mark.parametrize("length", ["9" * 5000, "-1", "1e3", "+1", "", "1_0"])
async def test_lengths_that_are_none(serve, connect, length):
    peer = await connect(await serve())
    head = [*request_head("/t.T/Echo"), ("content-length", length)]
    peer.send(peer.headers(1, head), data(1, message(b"a"), end=True))
    assert (await peer.answer(1)).reset is Code.PROTOCOL_ERROR
    assert (await peer_asks_again(peer)) == [b"a"]


async def peer_asks_again(peer):
    peer.next_id = 3
    return (await peer.ask("/t.T/Echo", b"a")).messages


async def test_many_window_sizes_in_one_frame(serve, connect):
    """Each would have to be applied to every call; only the last one is."""
    running = await serve()
    peer = await connect(running)
    for _ in range(1_000):
        peer.call("/t.T/Hang", end=False)
    await peer.round_trip()
    sizes = [(frames.INITIAL_WINDOW_SIZE, size % 1000) for size in range(2_700)]
    began = time.process_time()
    for _ in range(20):
        running.connection.data_received(frames.settings(*sizes))
    assert time.process_time() - began < 1.0
    assert {call.window for call in running.connection.calls.values()} == {2_699 % 1000}


async def test_too_many_pings(serve, connect):
    running = await serve(min_ping_interval_s=60.0)
    peer = await connect(running)
    ping = frames.frame(frames.PING, 0, 0, bytes(8))
    for _ in range(10):  # while it is answered, it may measure
        peer.send(ping)
        await peer.ask("/t.T/Echo", b"a")
    peer.send(ping * 4)
    assert (await peer.until_closed())[-1][1:] == (Code.ENHANCE_YOUR_CALM, "too_many_pings")


async def test_more_calls_than_allowed(serve, connect):
    running = await serve(streams=2)
    peer = await connect(running)
    first, second = peer.call("/t.T/Hang", b"1"), peer.call("/t.T/Hang", b"2")
    refused = peer.call("/t.T/Hang", b"3", b"x" * 100_000)
    assert (await peer.answer(refused)).reset is Code.REFUSED_STREAM
    running.services.release.set()
    assert (await peer.answer(first)).messages == [b"1"]
    assert (await peer.answer(second)).messages == [b"2"]
    assert (await peer.ask("/t.T/Echo", b"4")).messages == [b"4"]
    await running.until_idle()


async def test_a_real_client_waits_for_room(serve, channel):
    running = await serve(streams=2)
    call = channel(running).unary_unary("/t.T/Hang")
    calls = [asyncio.ensure_future(call(b"x", timeout=10)) for _ in range(6)]
    await running.until(lambda: len(running.server.tasks) == 2)
    running.services.release.set()
    assert await asyncio.gather(*calls) == [b"x"] * 6


async def test_what_was_sent_before_a_reset_is_ignored(serve, connect):
    """A large upload that is refused has much on its way: that is no offence, and neither are its trailers."""
    running = await serve(message_bytes=KIB)
    peer = await connect(running)
    for _ in range(5):
        stream_id = peer.call("/t.T/Echo", end=False)
        peer.send(data(stream_id, message(bytes(2 * KIB))))
        assert (await peer.answer(stream_id)).status[0] == 8
        peer.send(*[frames.frame(frames.DATA, 0, stream_id, b"x" * 100)] * 1_000)
        peer.send(peer.headers(stream_id, [("x-checksum", "1")], end=True))
        await peer.round_trip()
    assert (await peer.ask("/t.T/Echo", b"a")).messages == [b"a"]
    assert not peer.farewells
    assert peer.granted[0] > 0  # what was ignored is given back nevertheless


async def test_what_is_remembered_of_resets_is_bounded(serve, connect, monkeypatch):
    monkeypatch.setattr(connection, "REMEMBERED", 10)
    running = await serve()
    peer = await connect(running)
    for _ in range(20):
        stream_id = peer.call("/t.T/None", end=False)
        await peer.answer(stream_id)
    assert list(running.connection._cut) == list(range(21, 41, 2))


@pytest.mark.parametrize("end", ["deadline", "cancel"])
async def test_thousands_of_calls_may_end_at_once(serve, connect, end, monkeypatch):
    """When a deadline passes, a proxy resets all the calls that had it. That is no flood."""
    monkeypatch.setattr(connection, "YOUNG_S", 0.0)
    running = await serve()
    peer = await connect(running)
    more = [("grpc-timeout", "1m")] if end == "deadline" else []
    calls = [peer.call("/t.T/Hang", b"", more=more) for _ in range(3_000)]
    if end == "deadline":
        for each in calls:
            await peer.answer(each)
    else:
        await peer.round_trip()
    peer.send(*(frames.reset(each, Code.CANCEL) for each in calls))
    assert (await peer.ask("/t.T/Echo", b"a")).messages == [b"a"]
    await running.until_idle()


async def test_the_largest_request_head(serve, connect):
    running = await serve()
    peer = await connect(running)
    assert (await peer.ask("/t.T/Echo", b"a", more=[("x-large", "x" * 14_000)])).messages == [b"a"]
    peer.send(frames.frame(frames.HEADERS, frames.END_HEADERS, 3, peer.encoder.encode([("x", "y" * 33_000)])))
    assert (await peer.until_closed())[-1][1] is Code.FRAME_SIZE_ERROR
