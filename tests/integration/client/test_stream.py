"""Streams of the Python client over real sockets: cut at any chunk, refused, abandoned or closed."""

import asyncio
import contextlib
import gc

import grpc
import parley
import pytest
from parley.events import Accepted, Finished, Reconnecting, Text
from parley.v1 import resources_pb2

from tests.clock import settle
from tests.scripted_server import Abort, Break, Cut, Headers, Wait, accepted, finished, refusal, running, text, texts

UNAVAILABLE = Abort(grpc.StatusCode.UNAVAILABLE)
QUICK = parley.Backoff(first_s=0.001, max_s=0.01, max_elapsed_s=10.0)
LONG = parley.Backoff(first_s=30.0, max_s=30.0, max_elapsed_s=600.0)
USAGE = resources_pb2.Usage(prompt_tokens=3, completion_tokens=5)
ACCEPTED = Accepted(
    "reply-1", "conversation-1", "message-2", ("message-1",), "scripted", replayed=False, ignored_settings=("seed",)
)
LOG = [*texts("Hel", "lo ", "wor", "ld"), finished(5)]
END = Finished("STOP", "Hello world", "spare", "", USAGE, "typewriter")


@pytest.fixture
async def server():
    async with running(with_proxy=True) as scripted:
        scripted.log = list(LOG)
        yield scripted


@pytest.fixture
async def client(server):
    async with parley.Client(server.address, backoff=QUICK) as client:
        yield client


async def read(stream):
    """All events except Reconnecting."""
    return [event async for event in stream if not isinstance(event, Reconnecting)]


CUTS = [
    None,
    UNAVAILABLE,
    refusal(grpc.StatusCode.UNAVAILABLE, "DRAINING", retry_after_s=0.01),
    refusal(grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE"),
    refusal(grpc.StatusCode.ABORTED, "OWNER_LOST"),
    Abort(grpc.StatusCode.CANCELLED),
    Abort(grpc.StatusCode.INTERNAL),
    Abort(grpc.StatusCode.UNKNOWN),
    Abort(grpc.StatusCode.DEADLINE_EXCEEDED),
    Break(),
]


@pytest.mark.parametrize("how", CUTS, ids=str)
@pytest.mark.parametrize("after", [1, 2, 3, 4, 5])
async def test_a_stream_cut_at_any_chunk_continues_without_loss(server, client, after, how):
    server.cuts.append(Cut(after, how))
    events = await read(client.stream_reply("Hi"))
    assert events == [ACCEPTED, *[Text(piece) for piece in ("Hel", "lo ", "wor", "ld")], END]
    first, second = server.calls
    if isinstance(how, Break) and second.method == "StreamReply":
        assert first.request == second.request  # the connection broke before `accepted` arrived
        return
    assert second.method == "ResumeReply"
    reached = second.request.after_sequence
    assert reached <= after - 1 if isinstance(how, Break) else reached == after - 1


@pytest.mark.parametrize("how", [None, UNAVAILABLE, Break(), Abort(grpc.StatusCode.CANCELLED)], ids=str)
async def test_a_cut_before_accepted_retries_with_the_same_request_id(server, client, how):
    server.scripts.append([Headers(), how] if how else [Headers()])
    assert (await read(client.stream_reply("Hi")))[-1] == END
    first, second = server.calls
    assert (first.method, second.method) == ("StreamReply", "StreamReply")
    assert first.request == second.request
    assert first.request.request_id


@pytest.mark.parametrize("reason", ["DRAINING", "OVERLOADED", "STORAGE_UNAVAILABLE"])
async def test_a_retryable_refusal_is_retried_with_the_same_request_id(server, client, reason):
    server.scripts.append([refusal(grpc.StatusCode.UNAVAILABLE, reason, retryable=True, retry_after_s=0.2)])
    events = [event async for event in client.stream_reply("Hi")]
    assert isinstance(events[0], Reconnecting)
    assert (events[0].attempt, events[0].delay_s, events[0].error.reason) == (1, 0.2, reason)
    assert [call.request.request_id for call in server.calls] == [server.calls[0].request.request_id] * 2


async def _break(stream):
    async for event in stream:
        if isinstance(event, Text):
            break


async def _leave_the_context(stream):
    async with stream:
        await _break(stream)


async def _close(stream):
    await _break(stream)
    await stream.aclose()


async def _cancel_the_reader(stream):
    await _break(stream)
    task = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("leave", [_break, _leave_the_context, _close, _cancel_the_reader])
async def test_leaving_a_stream_ends_its_call_on_the_server_at_once(server, client, leave):
    server.scripts.append([accepted(), text(1, "Hel"), Wait(asyncio.Event())])
    gc.disable()
    try:
        await leave(client.stream_reply("Hi"))
        async with asyncio.timeout(1):
            await server.calls[0].cancelled.wait()
    finally:
        gc.enable()


between_attempts = pytest.mark.parametrize("between_attempts", [False, True])


async def waiting_reader(server, client, between_attempts):
    """A stream, and a task that waits for its next chunk or for the next attempt to connect."""
    server.scripts.append(
        [accepted(), *([UNAVAILABLE] if between_attempts else [text(1, "Hel"), Wait(asyncio.Event())])]
    )
    stream = client.acting_for("ben").stream_reply("Hi")
    assert isinstance(await anext(stream), Accepted)
    assert isinstance(await anext(stream), Reconnecting if between_attempts else Text)
    reader = asyncio.create_task(read(stream))
    await settle()
    return stream, reader


@between_attempts
async def test_closing_a_stream_ends_its_reader_without_an_error(server, between_attempts):
    async with parley.Client(server.address, backoff=LONG) as client:
        stream, reader = await waiting_reader(server, client, between_attempts)
        await stream.aclose()
        assert await asyncio.wait_for(reader, 5.0) == []


@between_attempts
async def test_closing_the_client_fails_its_readers(server, between_attempts):
    client = parley.Client(server.address, backoff=LONG)
    _, reader = await waiting_reader(server, client, between_attempts)
    await client.close()
    with pytest.raises(parley.Unavailable, match="closed"):
        await asyncio.wait_for(reader, 5.0)


async def test_a_read_that_timed_out_can_be_repeated_without_loss(server, client):
    server.cuts.append(Cut(2, Wait(asyncio.Event())))
    stream = client.stream_reply("Hi")
    assert [await anext(stream), await anext(stream)] == [ACCEPTED, Text("Hel")]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await anext(stream)
    assert await read(stream) == [*[Text(piece) for piece in ("lo ", "wor", "ld")], END]


async def test_flow_control_stops_the_server_for_a_slow_reader(server, client):
    piece = "x" * 65536
    chunks = texts(*[piece] * 800)
    server.scripts.append([accepted(), *chunks, finished(801)])
    stream = client.stream_reply("Hi")
    await _break(stream)
    call = server.calls[0]
    written = -1
    while written != call.written:
        written = call.written
        await asyncio.sleep(0.1)
    assert written < 400  # 25 MiB; gRPC's own window is at most some 8 MiB
    rest = await read(stream)
    assert rest[-1].text == piece * 800


async def test_stream_backoff_applies_once_a_reply_is_accepted(server):
    never = parley.Backoff(max_elapsed_s=0.0)
    async with parley.Client(server.address, backoff=never, stream_backoff=QUICK) as client:
        server.cuts.append(Cut(after=2, how=UNAVAILABLE))
        assert (await read(client.stream_reply("Hi")))[-1] == END
        assert server.methods() == ["StreamReply", "ResumeReply"]
        server.scripts.append([UNAVAILABLE])
        with pytest.raises(parley.Unavailable) as refused:
            await read(client.stream_reply("Hi"))
        assert not isinstance(refused.value, parley.ConnectionLost)
        assert server.methods()[2:] == ["StreamReply"]
