"""What a call is answered: messages, statuses, and refusals, however its bytes arrive."""

from __future__ import annotations

import asyncio
import gzip
import random
import zlib

import grpc
import pytest
from parley_server.rpc.http2 import frames
from parley_server.rpc.http2.frames import Code

from tests.integration.http2.conftest import same
from tests.integration.http2.peer import Peer, data, message, request_head

KIB, MIB = 1024, 1024 * 1024
OPTIONS = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))


async def test_a_call(serve, connect):
    running = await serve()
    peer = await connect(running)
    answer = await peer.ask("/t.T/Echo", b"hello")
    assert (answer.messages, answer.status, answer.reset) == ([b"hello"], (0, ""), None)
    assert answer.order == ["headers", "data", "headers"]
    assert answer.blocks == [
        {
            ":status": "200",
            "content-type": "application/grpc",
            "grpc-accept-encoding": "identity,gzip,deflate",
        },
        {"grpc-status": "0"},
    ]
    assert (await peer.ask("/t.T/Split", b"abc")).messages == [b"a", b"b", b"c"]
    await running.until_idle()


@pytest.mark.parametrize("pieces", ["bytes", "random"])
async def test_however_its_bytes_are_split(serve, pieces):
    running = await serve()
    peer = await Peer.connect(running.port)
    head = peer.encoder.encode(request_head("/t.T/Echo", ("x-long", "x" * 300)))
    padded = bytes((9,)) + message(b"one" * 30) + bytes(9)
    whole = b"".join(
        [
            frames.PREFACE,
            frames.settings((frames.INITIAL_WINDOW_SIZE, 50)),
            frames.frame(frames.HEADERS, 0, 1, head[:5]),
            frames.frame(frames.CONTINUATION, 0, 1, head[5:20]),
            frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, head[20:]),
            frames.frame(frames.PING, 0, 0, b"12345678"),
            frames.frame(frames.DATA, frames.PADDED | frames.END_STREAM, 1, padded),
        ]
    )
    at = 0
    while at < len(whole):
        size = 1 if pieces == "bytes" else random.randint(1, 40)
        running_before = at
        running.server.loop.call_soon(peer.send, whole[running_before : running_before + size])
        await asyncio.sleep(0)
        at += size
    answer = await peer.answer(1)
    assert (answer.messages, answer.status) == ([b"one" * 30], (0, ""))
    await peer.close()


async def test_splits_are_taken_one_by_one(serve, connect):
    """Straight into the connection, where no socket puts the pieces together again."""
    running = await serve()
    peer = await connect(running)
    head = peer.headers(1, request_head("/t.T/Echo"))
    for each in head + data(1, message(b"abc"), end=True):
        running.connection.data_received(bytes((each,)))
    assert (await peer.answer(1)).messages == [b"abc"]


@pytest.mark.parametrize("size", [0, 1, 16_379, 16_380, 65_530, 65_531, 300 * KIB])
async def test_messages_of_all_sizes(serve, connect, size):
    running = await serve()
    peer = await connect(running)
    payload = random.randbytes(size)
    first, second = peer.call("/t.T/Echo", payload), peer.call("/t.T/Echo", payload)
    assert (await peer.answer(first)).messages == (await peer.answer(second)).messages == [payload]


async def test_large_messages_of_a_real_client(serve, channel):
    running = await serve()
    call = channel(running, *OPTIONS).unary_unary("/t.T/Echo")
    payload = random.randbytes(8 * MIB)
    assert await call(payload) == payload


async def test_frames_as_large_as_the_peer_takes(serve, connect):
    running = await serve()
    peer = await connect(running, (frames.MAX_FRAME_SIZE, 2**24 - 1), (frames.INITIAL_WINDOW_SIZE, 2**31 - 1))
    peer.send(frames.window_update(0, 2**30))
    answer = await peer.ask("/t.T/Flood", b"1 1000000")
    assert answer.messages == [b"\0" * 1_000_000]
    assert answer.order.count("data") == -(-1_000_005 // (4 * frames.MAX_FRAME_BYTES))


async def test_metadata_of_a_real_client(serve, channel):
    running = await serve()

    async def show(request, context):
        await context.send_initial_metadata((("x-first", "1"), ("x-first", "2"), ("y-bin", b"\0\xff")))
        await context.abort(
            grpc.StatusCode.NOT_FOUND,
            "no such thing: 50 % Käse\n\u2603",
            (("x-last", "3"), ("grpc-status-details-bin", b"\x08\x05")),
        )

    path = running.add_unary(show)
    sent = (("a", "1"), ("b-bin", b"\xfe\0"), ("a", "2"), ("c", ""))
    call = channel(running).unary_unary(path)(b"", metadata=sent, timeout=10)
    assert list(await call.initial_metadata()) == [("x-first", "1"), ("x-first", "2"), ("y-bin", b"\0\xff")]
    assert await call.code() is grpc.StatusCode.NOT_FOUND
    assert await call.details() == "no such thing: 50 % Käse\n\u2603"
    assert list(await call.trailing_metadata()) == [("x-last", "3"), ("grpc-status-details-bin", b"\x08\x05")]

    await channel(running).unary_unary("/t.T/Echo")(b"", metadata=sent, timeout=10)
    (context,) = running.services.contexts
    got = [(name, value) for name, value in context.invocation_metadata() if name != "user-agent"]
    assert sorted(got, key=lambda pair: pair[0]) == [("a", "1"), ("a", "2"), ("b-bin", b"\xfe\0"), ("c", "")]
    assert 9 < context.time_remaining() < 11


async def test_trailers_of_many_frames(serve, channel):
    running = await serve()
    trailers = (("x-large", "y" * 100_000), ("z-bin", bytes(20_000)))

    async def refuse(request, context):
        await context.write(b"first")
        await context.abort(grpc.StatusCode.DATA_LOSS, "m" * 20_000, trailers)

    call = channel(running, ("grpc.max_metadata_size", MIB), ("grpc.absolute_max_metadata_size", MIB))
    answer = call.unary_stream(running.add_stream(refuse))(b"", timeout=10)
    assert await answer.read() == b"first"
    assert await answer.code() is grpc.StatusCode.DATA_LOSS
    assert await answer.details() == "m" * 20_000
    assert tuple(await answer.trailing_metadata()) == trailers


async def test_a_real_client_may_measure_its_bandwidth(serve, channel):
    """Its pings while it downloads and uploads are no offence, however quickly they come."""
    running = await serve(min_ping_interval_s=60.0)
    opened = channel(running, *OPTIONS)
    sizes = [len(each) async for each in opened.unary_stream("/t.T/Flood")(b"200 100000", timeout=20)]
    assert sizes == [100_000] * 200
    collect = opened.stream_unary("/t.T/Collect")
    assert len(await collect(iter([bytes(MIB)] * 30), timeout=20)) == 30 * MIB + 29
    for _ in range(200):
        await opened.unary_unary("/t.T/Echo")(b"x" * 10_000, timeout=20)
    assert len(running.server.connections) == 1


@pytest.mark.parametrize("bad", [("Upper", "x"), ("x", "line\nbreak"), ("x", "ü"), ("x-bin", "text"), ("x", b"bytes")])
async def test_metadata_that_no_client_would_take_is_a_defect(serve, connect, bad, caplog):
    running = await serve()

    async def refuse(request, context):
        await context.abort(grpc.StatusCode.NOT_FOUND, "no", (bad,))

    answer = await (await connect(running)).ask(running.add_unary(refuse), b"")
    assert answer.status == (2, "the call ended by a defect of the server")
    assert "call_defect" in caplog.text
    await running.until_idle()


async def test_a_status_with_half_a_character(serve, connect):
    running = await serve()

    async def refuse(request, context):
        await context.abort(grpc.StatusCode.NOT_FOUND, "\ud83d!")

    assert (await (await connect(running)).ask(running.add_unary(refuse), b"")).status == (5, "?!")


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        ("405", {"method": "GET"}),
        ("415", {"content_type": "application/json"}),
        ("415", {"content_type": ""}),
        ("415", {"content_type": "application/grpc-web+proto"}),
    ],
)
async def test_what_is_no_grpc(serve, connect, status, fields):
    running = await serve()
    peer = await connect(running)
    peer.send(peer.headers(1, request_head("/t.T/Echo", **fields)), data(1, b"x" * 100, end=True))
    answer = await peer.answer(1)
    assert answer.blocks == [{":status": status, "content-type": "text/plain"}]
    assert answer.body
    assert answer.ended
    await running.until_idle()


@pytest.mark.parametrize("content_type", ["application/grpc", "application/grpc+proto", "application/grpc;x=y"])
async def test_content_types_of_grpc(serve, connect, content_type):
    peer = await connect(await serve())
    peer.send(peer.headers(1, request_head("/t.T/Echo", content_type=content_type)), data(1, message(b"a"), end=True))
    assert (await peer.answer(1)).messages == [b"a"]


async def test_an_unknown_method(serve, connect):
    peer = await connect(await serve())
    answer = await peer.ask("/t.T/N\u00f6", b"x")
    assert (answer.status, answer.order) == ((12, "there is no method /t.T/N\u00f6"), ["headers"])
    assert answer.blocks[0][":status"] == "200"


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "a request is one message, not none"),
        (message(b"a") + message(b"b"), "a request is one message, not several"),
        (message(b"abc")[:-1], "the request ended within a message"),
        (b"\0\0", "the request ended within a message"),
        (message(b"x", compressed=True), "a message is compressed, and the call does not say how"),
    ],
)
async def test_requests_that_are_not_one_message(serve, connect, body, problem):
    running = await serve()
    peer = await connect(running)
    peer.send(peer.headers(1, request_head("/t.T/Echo")), data(1, body, end=True))
    assert (await peer.answer(1)).status == (13, problem)
    assert running.services.runs == 0
    await running.until_idle()


async def test_messages_without_end_are_not_kept(serve, connect):
    running = await serve()
    peer = await connect(running)
    peer.send(peer.headers(1, request_head("/t.T/Echo")), data(1, message(b"a") + message(b"b")))
    answer = await peer.answer(1)
    assert answer.status == (13, "a request is one message, not several")
    await peer.round_trip()
    assert answer.reset is Code.NO_ERROR


async def test_a_request_that_is_not_of_its_type(serve, connect):
    running = await serve()

    def broken(payload):
        raise ValueError(payload)

    for handler in (
        grpc.unary_unary_rpc_method_handler(running.services.echo, broken, same),
        grpc.stream_stream_rpc_method_handler(running.services.chat, broken, same),
    ):
        answer = await (await connect(running)).ask(running.add("Broken", handler), b"x")
        assert answer.status == (13, "the request is not a message of its method's type")
    await running.until_idle()


def compressed(encoding: str, payload: bytes) -> bytes:
    return gzip.compress(payload) if encoding == "gzip" else zlib.compress(payload)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_compressed_requests(serve, connect, encoding):
    running = await serve(message_bytes=10 * KIB)
    peer = await connect(running)

    async def ask(body, path="/t.T/Echo"):
        stream_id, peer.next_id = peer.next_id, peer.next_id + 2
        peer.send(peer.headers(stream_id, request_head(path, ("grpc-encoding", encoding))))
        peer.send(data(stream_id, body, end=True))
        return await peer.answer(stream_id)

    def packed(payload):
        return message(compressed(encoding, payload), compressed=True)

    assert (await ask(packed(b"abc" * 1000))).messages == [b"abc" * 1000]
    assert (await ask(packed(b""))).messages == [b""]
    assert (await ask(packed(bytes(10 * KIB)))).messages == [bytes(10 * KIB)]
    assert (await ask(message(b"plain"))).messages == [b"plain"]
    assert (await ask(packed(b"a") + packed(b"b"), "/t.T/Collect")).messages == [b"a+b"]
    too_large = (8, f"received message larger than max ({10 * KIB + 1} vs. {10 * KIB})")
    assert (await ask(packed(bytes(10 * KIB + 1)))).status == too_large
    assert (await ask(packed(bytes(10 * MIB)))).status == too_large
    assert (await ask(packed(bytes(10 * MIB)), "/t.T/Collect")).status == too_large
    whole = compressed(encoding, b"abc" * 1000)
    for broken in (whole[:-1], whole[:-9], whole + b"x", b"", b"\0\1\2"):
        assert (await ask(message(broken, compressed=True))).status == (13, f"a message is not {encoding}")
    await running.until_idle()


async def test_an_unknown_encoding(serve, connect):
    running = await serve()
    peer = await connect(running)
    answer = await peer.ask("/t.T/Echo", b"", more=[("grpc-encoding", "br")])
    assert answer.status == (12, "messages compressed by br are not read")
    assert answer.blocks[0]["grpc-accept-encoding"] == "identity,gzip,deflate"


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compression_of_a_real_client(serve, channel, compression):
    call = channel(await serve()).unary_unary("/t.T/Echo")
    assert await call(b"a" * 100_000, compression=compression, timeout=10) == b"a" * 100_000


async def test_a_message_over_the_limit(serve, channel):
    """Refused by its length alone, long before the client has sent it; the client reports the status, not a reset."""
    running = await serve(message_bytes=10 * KIB)
    call = channel(running, *OPTIONS).unary_unary("/t.T/Echo")
    for _ in range(3):
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call(bytes(8 * MIB), timeout=10)
        assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert failed.value.details() == f"received message larger than max ({8 * MIB} vs. {10 * KIB})"
    assert await call(bytes(10 * KIB), timeout=10) == bytes(10 * KIB)
    assert len(running.server.connections) == 1
    await running.until_idle()


async def test_a_handler_that_raises(serve, connect, caplog):
    running = await serve()

    async def fail(request, context):
        if request:
            await context.write(request)
        raise ValueError("SENTINEL")

    peer = await connect(running)
    for request in (b"", b"x"):
        answer = await peer.ask(running.add_stream(fail), request)
        assert answer.status == (2, "the call ended by a defect of the server")
    assert "SENTINEL" in caplog.text


async def test_a_handler_that_goes_on_after_the_end(serve, connect):
    running = await serve()
    done = asyncio.Event()

    async def stubborn(request, context):
        await context.write(b"one")
        try:
            await context.abort(grpc.StatusCode.ABORTED, "enough")
        except Exception:  # noqa: BLE001 - that is what it must not do
            await context.write(b"two")
            await context.write(bytes(MIB))
            await context.send_initial_metadata((("a", "b"),))
        done.set()

    peer = await connect(running)
    answer = await peer.ask(running.add_stream(stubborn), b"")
    await done.wait()
    await peer.round_trip()
    assert (answer.messages, answer.status) == ([b"one"], (10, "enough"))
    await running.until_idle()


async def test_a_handler_that_is_cancelled_from_within(serve, connect):
    running = await serve()

    async def leak(request, context):
        asyncio.current_task().cancel()
        await asyncio.sleep(0)

    peer = await connect(running)
    assert (await peer.ask(running.add_unary(leak), b"")).reset is Code.CANCEL
    await running.until_idle()


async def test_a_write_that_is_given_up_halfway_ends_the_call(serve, connect):
    """Another message after half of one would be garbage."""
    running = await serve()

    async def hasty(request, context):
        with_limit = asyncio.create_task(context.write(bytes(100_000)))
        await running.services.release.wait()
        with_limit.cancel()
        await asyncio.wait([with_limit])
        await context.write(b"next")

    peer = await connect(running)
    peer.updates = False
    stream_id = peer.call(running.add_stream(hasty), b"")
    await peer.until(lambda: len(peer.answers[stream_id].body) == 65_535)
    running.services.release.set()
    answer = await peer.answer(stream_id)
    assert (answer.reset, len(answer.body)) == (Code.CANCEL, 65_535)
    await running.until_idle()


async def test_a_write_that_is_given_up_before_it_began_does_no_harm(serve, connect):
    running = await serve()

    async def hasty(request, context):
        waiting = asyncio.create_task(context.write(b"never"))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        await context.write(b"next")

    peer = await connect(running, (frames.INITIAL_WINDOW_SIZE, 0))
    stream_id = peer.call(running.add_stream(hasty), b"")
    await peer.until(lambda: peer.answers[stream_id].blocks)
    peer.send(frames.window_update(stream_id, 1000))
    assert (await peer.answer(stream_id)).messages == [b"next"]


@pytest.mark.parametrize("timeout", ["1m", "20000u", "1n", "0S"])
async def test_a_deadline(serve, connect, timeout):
    running = await serve()
    peer = await connect(running)
    answer = await peer.ask("/t.T/Hang", b"", more=[("grpc-timeout", timeout)])
    assert answer.status == (4, "Deadline Exceeded")
    await running.until_idle()
    if running.services.started.is_set():
        assert running.services.cancelled.is_set()


async def test_a_deadline_passes_before_the_request_is_there(serve, connect):
    running = await serve()
    peer = await connect(running)
    stream_id = peer.call("/t.T/Echo", more=[("grpc-timeout", "10m")], end=False)
    assert (await peer.answer(stream_id)).status == (4, "Deadline Exceeded")
    peer.send(data(stream_id, message(b"late"), end=True))
    assert (await peer.ask("/t.T/Echo", b"next")).messages == [b"next"]
    assert not peer.farewells


async def test_the_longest_deadline(serve, connect):
    peer = await connect(await serve())
    assert (await peer.ask("/t.T/Echo", b"a", more=[("grpc-timeout", "99999999H")])).messages == [b"a"]


async def test_a_deadline_within_a_message(serve, channel):
    """A real client sees the status, though half a message went before."""
    running = await serve()
    call = channel(running).unary_stream("/t.T/Flood")(b"1000 1000000", timeout=0.3)
    assert await call.read()
    assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await running.until_idle()


async def test_a_bidirectional_stream(serve, channel):
    running = await serve()
    call = channel(running).stream_stream("/t.T/Chat")(timeout=10)
    for each in (b"a", b"b"):
        await call.write(each)
        assert await call.read() == each
    await call.done_writing()
    assert await call.read() == b"end"
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK
    collect = channel(running).stream_unary("/t.T/Collect")
    assert await collect(iter([b"a", b"b", b""]), timeout=10) == b"a+b+"
    await running.until_idle()


async def test_a_request_stream_that_ends_by_trailers(serve, connect):
    peer = await connect(await serve())
    stream_id = peer.call("/t.T/Collect", b"a", end=False)
    peer.send(peer.headers(stream_id, [("x-checksum", "1")], end=True))
    assert (await peer.answer(stream_id)).messages == [b"a"]


async def test_an_early_end_of_a_request_stream(serve, channel):
    """The handler does not read on; the client, which still sends, sees its status."""
    running = await serve()

    async def first(requests, context):
        async for request in requests:
            return request
        return b""

    path = running.add("First", grpc.stream_unary_rpc_method_handler(first, same, same))

    async def endless():
        while True:
            yield bytes(100_000)

    call = channel(running).stream_unary(path)
    for _ in range(3):
        assert await call(endless(), timeout=10) == bytes(100_000)
    await running.until_idle()
    assert len(running.server.connections) == 1
