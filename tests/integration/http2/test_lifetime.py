"""How connections begin, age and end, and how the server stops."""

from __future__ import annotations

import asyncio
import gc
import socket
import weakref

import grpc
import pytest
from parley_server.rpc.http2 import frames
from parley_server.rpc.http2.connection import Connection
from parley_server.rpc.http2.frames import Code

from tests.integration.http2.peer import Peer, data, message, request_head


def ping(payload: bytes = b"12345678") -> bytes:
    return frames.frame(frames.PING, 0, 0, payload)


async def read_all(port: int, *sent: bytes) -> bytes:
    """What a stranger is answered, up to the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for each in sent:
        writer.write(each)
        await writer.drain()
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "PUT", "OPTIONS", "DELETE"])
async def test_http_1(serve, method):
    running = await serve()
    answer = await read_all(running.port, f"{method} / HTTP/1.1\r\nHost: x\r\n\r\n".encode(), b"x" * 300_000)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert body == b"This port speaks gRPC, over HTTP/2 from the first byte on.\n"


@pytest.mark.parametrize("greeting", [b"\x16\x03\x01\x02", b"SSH-2.0-x\r\n", frames.PREFACE[:-1] + b"!", b"\0"])
async def test_other_protocols(serve, greeting):
    assert await read_all((await serve()).port, greeting) == b""


@pytest.mark.parametrize("greeting", [b"", frames.PREFACE[:10], b"PRI"])
async def test_a_peer_that_does_not_greet(serve, greeting):
    running = await serve(greeting_s=0.1)
    peer = await Peer.connect(running.port)
    peer.send(greeting)
    assert await peer.until_closed() == []
    await running.until(lambda: not running.server.connections)


async def test_the_first_frame_is_settings(serve):
    for first in (ping(), frames.SETTINGS_ACK):
        peer = await Peer.connect((await serve()).port)
        peer.send(frames.PREFACE, first)
        assert await peer.until_closed() == [(0, Code.PROTOCOL_ERROR, "the first frame is not SETTINGS")]


async def test_a_silent_peer(serve, connect):
    running = await serve(keepalive_s=0.1, ping_s=0.1)
    peer = await connect(running)
    peer.pongs = False
    stream_id = peer.call("/t.T/Hang", b"")
    await running.services.started.wait()
    await peer.until_closed()
    assert peer.pings == 1
    assert not peer.answers[stream_id].over
    assert running.services.cancelled.is_set()
    await running.until_idle()


async def test_a_peer_that_answers_pings(serve, connect):
    running = await serve(keepalive_s=0.05, ping_s=0.05)
    peer = await connect(running)
    await peer.until(lambda: peer.pings == 6)
    assert (await peer.ask("/t.T/Echo", b"a")).messages == [b"a"]


async def test_a_farewell_in_two_steps(serve, connect):
    """What crosses the farewell is served; what is opened after the peer has seen it is refused, and safe to repeat."""
    running = await serve()
    peer = await connect(running)
    peer.pongs = False
    before = peer.call("/t.T/Hang", b"before")
    await running.services.started.wait()
    running.connection.go_away()
    await peer.until(lambda: peer.pings)
    crossing = peer.call("/t.T/Echo", b"crossing")
    assert (await peer.answer(crossing)).messages == [b"crossing"]
    assert peer.farewells == [(2**31 - 1, Code.NO_ERROR, "")]
    peer.send(frames.frame(frames.PING, frames.ACK, 0, b"\0\0\0\0\0\0\0\2"))
    late = peer.call("/t.T/Echo", b"late")
    assert (await peer.answer(late)).reset is Code.REFUSED_STREAM
    assert peer.farewells[1:] == [(crossing, Code.NO_ERROR, "")]
    running.services.release.set()
    assert (await peer.answer(before)).messages == [b"before"]
    await peer.until_closed()
    await running.until(lambda: not running.server.connections)


async def test_a_farewell_that_is_not_answered(serve, connect):
    running = await serve(ping_s=0.1)
    peer = await connect(running)
    peer.pongs = False
    running.connection.go_away()
    assert await peer.until_closed() == [(2**31 - 1, Code.NO_ERROR, ""), (0, Code.NO_ERROR, "")]


async def test_a_peer_that_says_farewell(serve, connect):
    running = await serve()
    peer = await connect(running)
    stream_id = peer.call("/t.T/Hang", b"last")
    peer.send(frames.go_away(0, Code.NO_ERROR))
    await peer.until(lambda: len(peer.farewells) == 2)
    running.services.release.set()
    assert (await peer.answer(stream_id)).messages == [b"last"]
    await peer.until_closed()


async def test_the_grace_of_an_old_connection(serve, connect):
    running = await serve(age_s=0.05, age_grace_s=0.1)
    peer = await connect(running)
    peer.call("/t.T/Hang", b"")
    await peer.until_closed()
    assert len(peer.farewells) == 2
    await running.services.cancelled.wait()
    await running.until_idle()


async def test_a_real_client_moves_on_from_old_connections_without_any_error(serve, channel):
    running = await serve(age_s=0.1)
    opened = channel(running)
    echo, split = opened.unary_unary("/t.T/Echo"), opened.unary_stream("/t.T/Split")
    seen: set[object] = set()

    async def calls():
        while len(seen) < 5:
            assert await echo(b"x" * 100, timeout=10) == b"x" * 100
            assert b"".join([each async for each in split(b"abc", timeout=10)]) == b"abc"
            seen.update(running.server.connections)

    async with asyncio.timeout(10):
        await asyncio.gather(*(calls() for _ in range(8)))
    await running.until_idle()


async def test_a_lost_connection_is_forgotten(serve, connect):
    running = await serve()
    peer = await connect(running)
    peer.call("/t.T/Hang", b"")
    await running.services.started.wait()
    gone = weakref.ref(running.connection)
    await peer.close()
    await running.services.cancelled.wait()
    await running.until_idle()
    running.services.contexts.clear()
    gc.collect()
    assert gone() is None


async def test_a_farewell_to_a_peer_that_has_gone(serve):
    running = await serve()
    with socket.create_connection(("127.0.0.1", running.port)) as peer:
        peer.sendall(frames.PREFACE + frames.settings())
        await running.until(lambda: running.server.connections and running.connection._greeted)
        running.connection.go_away()
        peer.recv(65536)  # so that closing it sends no reset
    # The loop has not heard of it yet, and what is written now makes the peer's kernel reset the connection at once.
    running.connection.refuse_new()
    await running.until(lambda: not running.server.connections)


async def test_a_peer_that_ends_its_half(serve, connect):
    running = await serve()
    peer = await connect(running)
    peer.call("/t.T/Hang", b"")
    await running.services.started.wait()
    peer.writer.write_eof()
    await peer.until_closed()
    await running.services.cancelled.wait()
    await running.until(lambda: not running.server.connections)


CANCELS = ["before its first step", "while it waits", "while it writes", "while its request comes", "while it reads"]


@pytest.mark.parametrize("when", CANCELS)
@pytest.mark.parametrize("how", ["reset", "lost"])
async def test_a_cancel_at_every_await(serve, connect, when, how):
    running = await serve()
    peer = await connect(running, (frames.INITIAL_WINDOW_SIZE, 10))
    peer.updates = False
    path = {"while it writes": "/t.T/Flood", "while it reads": "/t.T/Chat"}.get(when, "/t.T/Hang")
    whole = when not in ("while its request comes", "while it reads")
    stream_id = peer.next_id
    if when == "before its first step":
        head = peer.headers(stream_id, request_head(path)) + data(stream_id, message(b""), end=True)
        running.connection.data_received(head + (frames.reset(stream_id, Code.CANCEL) if how == "reset" else b""))
        if how == "lost":
            running.connection.abort()
        await running.until_idle()
        assert not running.services.started.is_set()
        return
    peer.call(path, b"3 100", end=whole)
    if when == "while its request comes":
        await running.until(lambda: running.connection.calls)
    else:
        await running.services.started.wait()
    if when == "while it writes":
        await peer.until(lambda: len(peer.answers[stream_id].body) == 10)
    if how == "reset":
        peer.send(frames.reset(stream_id, Code.CANCEL))
        await peer.round_trip()
    else:
        await peer.close()
    await running.until_idle()
    await running.until(lambda: how == "reset" or not running.server.connections)
    if when != "while its request comes":
        await running.services.cancelled.wait()
    assert not peer.answers[stream_id].over


async def test_a_real_client_cancels(serve, channel):
    running = await serve()
    call = channel(running).unary_unary("/t.T/Hang")(b"")
    await running.services.started.wait()
    call.cancel()
    await running.services.cancelled.wait()
    await running.until_idle()


async def test_a_generator_is_closed_with_its_call(serve, connect):
    """In the call's own task, not when the garbage collector finds it."""
    running = await serve()
    closed = []

    async def endless(request, context):
        try:
            while True:
                yield bytes(1000)
        finally:
            closed.append(asyncio.current_task() in running.server.tasks)

    peer = await connect(running)
    peer.updates = False
    stream_id = peer.call(running.add_stream(endless), b"")
    await peer.until(lambda: len(peer.answers[stream_id].body) == 65_535)
    peer.send(frames.reset(stream_id, Code.CANCEL))
    await running.until(lambda: not running.server.tasks)
    assert closed == [True]


# --- the server's end


async def stopping(running, grace_s: float) -> asyncio.Task[None]:
    task = asyncio.ensure_future(running.server.stop(grace_s))
    await asyncio.sleep(0)
    return task


async def test_a_stop_lets_calls_end(serve, connect):
    running = await serve()
    peer, idle = await connect(running), await connect(running)
    silent = await Peer.connect(running.port)
    await running.until(lambda: len(running.server.connections) == 3)
    peer.pongs = False  # so that its second farewell is the sign that only its call is waited for
    stream_id = peer.call("/t.T/Hang", b"last")
    await running.services.started.wait()
    stop = await stopping(running, 60.0)
    assert await silent.until_closed() == []  # to one who has not greeted nothing is said
    assert len(await idle.until_closed()) == 2
    await peer.until(lambda: len(peer.farewells) == 2)
    await asyncio.sleep(0)
    assert not stop.done()
    assert not peer.answers[stream_id].over
    with pytest.raises(ConnectionError):
        await Peer.connect(running.port)
    running.services.release.set()
    assert (await peer.answer(stream_id)).messages == [b"last"]
    assert (await peer.until_closed())[-1] == (stream_id, Code.NO_ERROR, "")
    async with asyncio.timeout(5):
        await stop
    assert not running.server.connections


async def test_what_crosses_a_stop_is_served(serve, connect):
    running = await serve()
    peer = await connect(running)
    peer.pongs = False
    stop = await stopping(running, 60.0)
    await peer.until(lambda: peer.farewells)
    assert (await peer.ask("/t.T/Echo", b"crossing")).messages == [b"crossing"]
    await peer.until_closed()
    async with asyncio.timeout(5):
        await stop


async def test_what_is_left_after_the_grace(serve, connect):
    running = await serve()
    peer = await connect(running)
    hanging, unfinished = peer.call("/t.T/Hang", b""), peer.call("/t.T/Echo", b"", end=False)
    await running.services.started.wait()
    stop = await stopping(running, 0.1)
    for each in (hanging, unfinished):
        assert (await peer.answer(each)).status == (14, "the server has shut down")
    await peer.until_closed()
    await stop
    assert running.services.cancelled.is_set()
    await running.until_idle()


async def test_a_stop_with_a_peer_that_does_not_listen(serve, connect):
    running = await serve()
    peer = await connect(running, (frames.INITIAL_WINDOW_SIZE, 2**31 - 1))
    peer.send(frames.window_update(0, 2**30))
    peer.call("/t.T/Flood", b"1000 1000000")
    await peer.writer.drain()
    peer.writer.transport.pause_reading()
    await running.until(lambda: running.connection.flow.paused)
    async with asyncio.timeout(5):
        await running.server.stop(0.1)
    await running.until(lambda: not running.server.connections)


async def test_two_stops(serve, connect):
    running = await serve()
    peer = await connect(running)
    peer.call("/t.T/Hang", b"")
    await running.services.started.wait()
    first, second = await stopping(running, 60.0), await stopping(running, 0.1)
    async with asyncio.timeout(5):
        await asyncio.gather(first, second, peer.until_closed())
    await running.server.stop(0.0)
    assert not running.server.connections


async def read_to_the_end(call) -> None:
    while await call.read():
        pass


async def test_a_stop_for_a_real_client(serve, channel):
    running = await serve()
    opened = channel(running)
    hanging = opened.unary_unary("/t.T/Hang")(b"", timeout=20)
    flood = opened.unary_stream("/t.T/Flood")(b"1000 100000", timeout=20)
    await running.services.started.wait()
    assert await flood.read()
    await running.server.stop(0.1)
    with pytest.raises(grpc.aio.AioRpcError):
        await read_to_the_end(flood)
    for call in (hanging, flood):
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
        assert await call.details() == "the server has shut down"


async def test_a_connection_that_comes_while_the_server_stops(serve):
    running = await serve()
    await running.server.stop(0.0)
    aborted = []

    class Transport(asyncio.Transport):
        def abort(self):
            aborted.append(self)

    late = Connection(running.server)
    late.connection_made(Transport())
    late.connection_lost(None)
    assert aborted
    assert not running.server.connections
