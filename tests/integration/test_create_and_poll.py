"""Replies without a stream: CreateReply, PollReply and GetReply."""

import asyncio
import time

import grpc
import pytest
from parley.v1 import chat_pb2

from tests.clock import until
from tests.integration.served import CANCELLED, FAILED, PENDING, STREAMING, ask, error_reason, text_of
from tests.upstream import Hang, Script, Wait, done, finish, refusal, role, text

HANGING = Script([role(), text("on and"), Hang()])


async def test_create_returns_shortly_before_its_deadline(server, upstream):
    upstream.reply_with(HANGING)
    began = time.monotonic()
    reply = await server.create("Say it", timeout_s=1.0)
    assert 0.4 < time.monotonic() - began < 1.0
    assert (reply.state, text_of(reply)) == (STREAMING, "on and")
    assert reply.id in server.running


async def test_a_failed_reply_is_returned_with_status_ok(server, upstream):
    upstream.reply_with(refusal(429, retry_after="7"))
    call = server.chat.CreateReply(ask())
    reply = await call
    assert await call.code() == grpc.StatusCode.OK
    assert (reply.state, reply.error.reason) == (FAILED, error_reason("PROVIDER_RATE_LIMITED"))
    assert reply.error.code == grpc.StatusCode.ABORTED.value[0]
    assert (reply.error.retryable, reply.error.retry_after.seconds) == (True, 7)
    assert reply == await server.get(reply.id)


async def test_create_reply_returns_a_cancelled_reply(server, upstream):
    upstream.reply_with(HANGING)
    creating = asyncio.create_task(server.create("Say it", request_id="k"))
    await until(lambda: any(generation.log.last_sequence for generation in server.running.values()))
    cancelled = await server.cancel(request_id="k", reason="stop")
    assert await creating == cancelled
    assert (cancelled.state, cancelled.cancel_reason) == (CANCELLED, "stop")


async def test_polls_with_the_cursor_return_each_entry_once(server, upstream):
    steps = [asyncio.Event() for _ in range(3)]
    upstream.reply_with(
        Script(
            [role(), text("a"), Wait(steps[0]), text("b"), Wait(steps[1]), text("c"), Wait(steps[2]), finish(), done()]
        )
    )
    created = await server.create(wait=0)
    cursor, got = 0, ""
    for expected, step in zip("abc", steps, strict=True):
        page = await server.poll(created.id, cursor, gather=0)
        assert [chunk.text for chunk in page.chunks] == [expected]
        assert (page.after_sequence, page.reply.state) == (page.chunks[-1].sequence, STREAMING)
        assert not page.reply.HasField("message")
        cursor, got = page.after_sequence, got + expected
        step.set()
    page = await server.poll(created.id, cursor)
    reply = await server.get(created.id)
    assert [chunk.WhichOneof("event") for chunk in page.chunks] == ["finished"]
    assert (page.reply, page.after_sequence) == (reply, reply.last_sequence)
    assert text_of(page.reply) == got
    again = await server.poll(created.id, page.after_sequence)
    assert list(again.chunks) == list(page.chunks)
    whole = await server.poll(created.id)
    assert "".join(chunk.text for chunk in whole.chunks) == got
    assert whole.reply == reply


async def test_a_poll_with_no_wait_returns_at_once(server, upstream):
    upstream.reply_with(Script([role(), Hang()]))
    created = await server.create(wait=0)
    page = await server.poll(created.id, 0, wait=0)
    assert (list(page.chunks), page.after_sequence, page.reply.state) == ([], 0, PENDING)


@pytest.mark.parametrize(("fields", "seconds"), [({}, 20.0), ({"wait": 3}, 3.0), ({"wait": 60}, 60.0)])
async def test_a_poll_waits_for_the_requested_time(serve, clock, upstream, fields, seconds):
    server = await serve(clock=clock, provider="timeouts = { first_token = 600 }")
    upstream.reply_with(Script([role(), Hang()]))
    created = await server.create(wait=0)
    polling = asyncio.create_task(server.poll(created.id, **fields))
    await until(lambda: server.running[created.id].reader_count.readers == 1)
    await clock.advance(seconds - 0.1)
    assert not polling.done()
    await clock.advance(0.2)
    page = await polling
    assert (list(page.chunks), page.after_sequence) == ([], 0)


async def test_a_gathering_poll_returns_when_the_reply_ends(server, upstream):
    go = asyncio.Event()
    upstream.reply_with(Script([role(), text("a"), Wait(go), finish(), done()]))
    created = await server.create(wait=0)
    polling = asyncio.create_task(server.poll(created.id, gather=60))
    await until(lambda: server.running[created.id].reader_count.readers == 1)
    go.set()
    page = await polling
    assert [chunk.WhichOneof("event") for chunk in page.chunks] == ["text", "finished"]


async def test_a_poll_returns_shortly_before_its_deadline(server, upstream):
    upstream.reply_with(Script([role(), Hang()]))
    created = await server.create(wait=0)
    began = time.monotonic()
    page = await server.chat.PollReply(chat_pb2.PollReplyRequest(reply_id=created.id), timeout=0.8)
    assert 0.2 < time.monotonic() - began < 0.8
    assert (list(page.chunks), page.reply.state) == ([], PENDING)


async def test_a_poll_of_a_failed_reply_returns_its_error(server, upstream):
    upstream.reply_with(refusal(400))
    created = await server.create(wait=0)
    page = await server.poll(created.id)
    assert [chunk.WhichOneof("event") for chunk in page.chunks] == ["failed"]
    assert page.chunks[0].failed.error == page.reply.error
    assert page.reply.error.reason == error_reason("PROVIDER_REJECTED")


async def test_a_poll_gathers_entries_for_200_ms(serve, clock, upstream):
    server = await serve(clock=clock)
    more, last = asyncio.Event(), asyncio.Event()
    upstream.reply_with(Script([role(), text("a"), Wait(more), text("b"), Wait(last), text("c"), Hang()]))
    created = await server.create(wait=0)
    await until(lambda: server.running[created.id].log.last_sequence == 1)
    polling = asyncio.create_task(server.poll(created.id))
    await until(lambda: server.running[created.id].reader_count.readers == 1)
    await clock.advance(0.1)
    more.set()
    await until(lambda: server.running[created.id].log.last_sequence == 2)
    await clock.advance(0.09)
    assert not polling.done()
    await clock.advance(0.02)
    page = await polling
    assert ("".join(chunk.text for chunk in page.chunks), page.after_sequence) == ("ab", 2)
