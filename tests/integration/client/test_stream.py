"""Streams over real sockets: cut anywhere, refused, silent, abandoned; the text is exact and the end is one."""

import asyncio
import contextlib
import gc

import grpc
import parley
import pytest
from parley import errors
from parley.events import Accepted, Finished, Reconnecting, Snapshot, Text
from parley.v1 import chat_pb2, resources_pb2

from tests.clock import settle
from tests.scripted_server import (
    Abort,
    Break,
    Cut,
    Headers,
    Wait,
    accepted,
    failed,
    finished,
    refusal,
    reply_error,
    running,
    snapshot,
    text,
    texts,
)

UNAVAILABLE = Abort(grpc.StatusCode.UNAVAILABLE)
QUICK = parley.Backoff(first_s=0.001, max_s=0.01, max_elapsed_s=10.0)
FOR_EVER = parley.Backoff(first_s=30.0, max_s=30.0, max_elapsed_s=600.0)
USAGE = resources_pb2.Usage(prompt_tokens=3, completion_tokens=5)
ACCEPTED = Accepted("reply-1", "conversation-1", "message-2", ("message-1",), "scripted", replayed=False)
LOG = [*texts("Hel", "lo ", "wor", "ld"), finished(5)]
END = Finished("STOP", "Hello world", "scripted", "", USAGE)


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
    """All events but the notes about reconnecting."""
    return [event async for event in stream if not isinstance(event, Reconnecting)]


async def test_a_whole_reply(server, client):
    stream = client.stream_reply("Hi", model="scripted", request_id="r1")
    assert await read(stream) == [ACCEPTED, *[Text(piece) for piece in ("Hel", "lo ", "wor", "ld")], END]
    assert (stream.reply_id, stream.conversation_id, stream.text) == ("reply-1", "conversation-1", "Hello world")
    assert stream.finished == END
    assert server.calls[0].request == chat_pb2.ReplyRequest(request_id="r1", text="Hi", model="scripted")
    assert not server.calls[0].cancelled.is_set()


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
async def test_cut_at_every_chunk_boundary(server, client, after, how):
    server.cuts.append(Cut(after, how))
    events = await read(client.stream_reply("Hi"))
    assert events == [ACCEPTED, *[Text(piece) for piece in ("Hel", "lo ", "wor", "ld")], END]
    first, second = server.calls
    if isinstance(how, Break) and second.method == "StreamReply":
        assert first.request == second.request  # not even `accepted` came through before the connection broke
        return
    assert second.method == "ResumeReply"
    reached = second.request.after_sequence
    assert reached <= after - 1 if isinstance(how, Break) else reached == after - 1


async def test_cut_after_every_single_chunk(server, client):
    server.cuts.extend(Cut(2, Break()) for _ in range(3))
    stream = client.stream_reply("Hi")
    assert await read(stream) == [ACCEPTED, *[Text(piece) for piece in ("Hel", "lo ", "wor", "ld")], END]


@pytest.mark.parametrize("how", [None, UNAVAILABLE, Break(), Abort(grpc.StatusCode.CANCELLED)], ids=str)
async def test_cut_between_headers_and_accepted_asks_again_with_the_same_key(server, client, how):
    server.scripts.append([Headers(), how] if how else [Headers()])
    assert (await read(client.stream_reply("Hi")))[-1] == END
    first, second = server.calls
    assert (first.method, second.method) == ("StreamReply", "StreamReply")
    assert first.request == second.request
    assert first.request.request_id


@pytest.mark.parametrize("reason", ["DRAINING", "OVERLOADED", "STORAGE_UNAVAILABLE"])
async def test_a_refusal_for_now_is_repeated_with_the_same_key(server, client, reason):
    server.scripts.append([refusal(grpc.StatusCode.UNAVAILABLE, reason, retryable=True, retry_after_s=0.2)])
    events = [event async for event in client.stream_reply("Hi")]
    assert isinstance(events[0], Reconnecting)
    assert (events[0].attempt, events[0].delay_s, events[0].error.reason) == (1, 0.2, reason)
    assert [call.request.request_id for call in server.calls] == [server.calls[0].request.request_id] * 2


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", errors.InvalidRequest),
        (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", errors.Unauthenticated),
        (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", errors.ModelNotFound),
        (grpc.StatusCode.ABORTED, "REPLY_IN_PROGRESS", errors.ReplyInProgress),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED", errors.RateLimited),
        (grpc.StatusCode.INTERNAL, "INTERNAL", errors.InternalError),
    ],
)
async def test_a_refusal_for_good_is_raised_at_once(server, client, code, reason, kind):
    server.scripts.append([refusal(code, reason)])
    with pytest.raises(kind) as caught:
        await read(client.stream_reply("Hi"))
    assert (caught.value.code, caught.value.message) == (code, "as scripted")
    assert len(server.calls) == 1


async def test_go_away_then_end_resumes_elsewhere(server, client):
    go_away = chat_pb2.TokenChunk(sequence=2, go_away=chat_pb2.GoAway())
    draining = refusal(grpc.StatusCode.UNAVAILABLE, "DRAINING")
    server.scripts.append([accepted(), *LOG[:2], go_away, draining])
    assert (await read(client.stream_reply("Hi")))[-1] == END
    assert server.calls[1].request == chat_pb2.ResumeReplyRequest(
        reply_id="reply-1", after_sequence=2, stream_options=chat_pb2.StreamOptions()
    )


async def test_a_snapshot_replaces_what_was_lost(server, client):
    server.scripts.append([accepted(), text(1, "Hel"), text(2, "lost"), UNAVAILABLE])
    server.scripts.append([accepted(sequence=2), snapshot(65537, "Hello"), finished(65538)])
    stream = client.stream_reply("Hi")
    events = await read(stream)
    assert [type(event) for event in events] == [Accepted, Text, Text, Snapshot, Finished]
    assert (events[3].text, events[4].text, stream.text) == ("Hello", "Hello", "Hello")


async def test_a_failed_reply_raises_with_its_text(server, client):
    error = reply_error(grpc.StatusCode.ABORTED, "PROVIDER_TRUNCATED", retryable=True)
    server.scripts.append([accepted(), text(1, "half"), failed(2, error), Abort(grpc.StatusCode.ABORTED, error)])
    stream = client.stream_reply("Hi")
    with pytest.raises(parley.ReplyFailed) as caught:
        await read(stream)
    failure = caught.value
    assert (failure.reason, failure.text, failure.message_id) == ("PROVIDER_TRUNCATED", "half", "message-2")
    assert (failure.retryable, failure.usage) == (True, resources_pb2.Usage(prompt_tokens=3))
    assert await read(stream) == []
    assert len(server.calls) == 1
    assert not server.calls[0].cancelled.is_set()


async def test_repeated_terminals_end_once(server, client):
    server.scripts.append([accepted(), text(1, "Hello world"), finished(2), finished(2), finished(3)])
    assert await read(client.stream_reply("Hi")) == [ACCEPTED, Text("Hello world"), END]


async def test_resume_reads_on_from_a_cursor(server, client):
    events = await read(client.resume("reply-1", after_sequence=3))
    assert events == [ACCEPTED, Text("ld"), Finished("STOP", "ld", "scripted", "", USAGE)]
    assert await read(client.resume("reply-1", after_sequence=5)) == [
        ACCEPTED,
        Finished("STOP", "", "scripted", "", USAGE),
    ]


async def test_it_gives_up_after_acceptance_with_what_is_needed_to_go_on(server):
    now = [0.0]

    async def sleep(delay_s):
        now[0] += delay_s

    server.scripts.append([accepted(), text(1, "Hel"), UNAVAILABLE])
    server.scripts.extend([accepted(sequence=1), UNAVAILABLE] for _ in range(100))
    backoff = parley.Backoff(max_elapsed_s=10.0, sleep=sleep, clock=lambda: now[0])
    async with parley.Client(server.address, backoff=backoff) as client:
        with pytest.raises(parley.ConnectionLost) as caught:
            await read(client.stream_reply("Hi"))
    lost = caught.value
    assert (lost.reply_id, lost.sequence, lost.text, lost.retryable) == ("reply-1", 1, "Hel", True)
    assert 5.0 <= now[0] <= 10.0


async def test_no_server_is_unavailable():
    async with parley.Client("127.0.0.1:1", backoff=parley.Backoff(max_elapsed_s=0.0)) as client:
        with pytest.raises(parley.Unavailable):
            await read(client.stream_reply("Hi"))


async def test_a_server_that_comes_back_is_found_within_the_backoff():
    async with running() as first:
        first.scripts.append([accepted(), text(1, "Hel"), Wait(asyncio.Event())])
        port = int(first.address.rpartition(":")[2])
        client = parley.Client(first.address, backoff=parley.Backoff(first_s=0.05, max_s=0.2))
        stream = client.stream_reply("Hi")
        assert [await anext(stream), await anext(stream)] == [ACCEPTED, Text("Hel")]
    assert isinstance(await anext(stream), Reconnecting)
    assert isinstance(await anext(stream), Reconnecting)
    async with asyncio.timeout(5), running(port=port) as second:
        second.log = list(LOG)
        assert (await read(stream))[-1] == END
        await client.close()


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
async def test_leaving_ends_the_call_on_the_server_at_once(server, client, leave):
    server.scripts.append([accepted(), text(1, "Hel"), Wait(asyncio.Event())])
    gc.disable()
    try:
        await leave(client.stream_reply("Hi"))
        async with asyncio.timeout(1):
            await server.calls[0].cancelled.wait()
    finally:
        gc.enable()


async def test_closing_ends_a_reader_in_another_task_without_an_error(server, client):
    server.scripts.append([accepted(), text(1, "Hel"), Wait(asyncio.Event())])
    stream = client.stream_reply("Hi")
    await _break(stream)
    reader = asyncio.create_task(read(stream))
    await settle()
    await stream.aclose()
    assert await reader == []


async def test_closing_wakes_a_reader_between_two_attempts(server):
    server.scripts.append([accepted(), UNAVAILABLE])
    async with parley.Client(server.address, backoff=FOR_EVER) as client:
        stream = client.stream_reply("Hi")
        assert isinstance([await anext(stream), await anext(stream)][1], Reconnecting)
        reader = asyncio.create_task(read(stream))
        await settle()
        await stream.aclose()
        assert await asyncio.wait_for(reader, 5.0) == []


async def test_closing_the_client_wakes_a_reader_between_two_attempts(server):
    server.scripts.append([accepted(), UNAVAILABLE])
    client = parley.Client(server.address, backoff=FOR_EVER)
    stream = client.acting_for("ben").stream_reply("Hi")
    assert isinstance([await anext(stream), await anext(stream)][1], Reconnecting)
    reader = asyncio.create_task(read(stream))
    await settle()
    await client.close()
    with pytest.raises(parley.Unavailable, match="closed"):
        await asyncio.wait_for(reader, 5.0)


async def test_closing_the_client_fails_its_readers(server):
    server.scripts.append([accepted(), text(1, "Hel"), Wait(asyncio.Event())])
    client = parley.Client(server.address, backoff=QUICK)
    stream = client.stream_reply("Hi")
    await _break(stream)
    reader = asyncio.create_task(read(stream))
    await settle()
    await client.close()
    with pytest.raises(parley.Unavailable, match="closed"):
        await reader


async def test_a_step_that_ran_out_of_time_may_be_repeated_without_loss(server, client):
    server.cuts.append(Cut(2, Wait(asyncio.Event())))
    stream = client.stream_reply("Hi")
    assert [await anext(stream), await anext(stream)] == [ACCEPTED, Text("Hel")]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await anext(stream)
    assert await read(stream) == [*[Text(piece) for piece in ("lo ", "wor", "ld")], END]


async def test_silence_is_a_cut(server):
    server.cuts.append(Cut(2, Wait(asyncio.Event())))
    async with parley.Client(server.address, backoff=QUICK, silence_s=0.1) as client:
        assert (await read(client.stream_reply("Hi")))[-1] == END
    assert server.methods() == ["StreamReply", "ResumeReply"]


async def test_an_attempts_time_limit_is_a_cut(server):
    server.cuts.append(Cut(2, Wait(asyncio.Event())))
    async with parley.Client(server.address, backoff=QUICK, attempt_timeout_s=0.2) as client:
        assert (await read(client.stream_reply("Hi")))[-1] == END
    assert server.methods() == ["StreamReply", "ResumeReply"]


async def test_cancel_before_and_after_acceptance(server, client):
    stopped = resources_pb2.Reply(id="reply-1", state=resources_pb2.Reply.STATE_CANCELLED)
    server.unary["Cancel"] = [refusal(grpc.StatusCode.NOT_FOUND, "REPLY_NOT_FOUND"), stopped]
    go_on = asyncio.Event()
    end = finished(2, resources_pb2.FINISH_REASON_CANCELLED, "enough")
    server.scripts.append([accepted(), text(1, "Hel"), Wait(go_on), end])
    stream = client.stream_reply("Hi", request_id="r1")
    assert await stream.cancel("early") is None
    await _break(stream)
    assert await stream.cancel("enough") == stopped
    go_on.set()
    assert await read(stream) == [Finished("CANCELLED", "Hel", "scripted", "enough", USAGE)]
    assert [call.request for call in server.calls if call.method == "Cancel"] == [
        chat_pb2.CancelRequest(request_id="r1", reason="early"),
        chat_pb2.CancelRequest(reply_id="reply-1", reason="enough"),
    ]


async def test_a_slow_reader_holds_back_the_server_and_not_memory(server, client):
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
