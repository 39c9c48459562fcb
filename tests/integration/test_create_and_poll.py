"""Replies without a stream: CreateReply with every wait, PollReply with its cursor, GetReply."""

import asyncio
import time

import grpc
import pytest
from parley.v1 import chat_pb2

from tests.clock import until
from tests.integration.served import (
    CANCELLED,
    COMPLETED,
    FAILED,
    LIMIT_S,
    PENDING,
    STREAMING,
    ask,
    error_reason,
    reason,
    text_of,
)
from tests.upstream import Hang, Script, Wait, answer, done, finish, reasoning, refusal, role, text, usage

HANGING = Script([role(), text("on and"), Hang()])


async def test_create_waits_for_the_end(server, upstream):
    reply = await server.create("Say it")
    assert (reply.state, text_of(reply), reply.finish_reason) == (COMPLETED, "Hello, world", reason("STOP"))
    assert reply == await server.get(reply.id)
    page = await server.messages(reply.conversation_id)
    assert [text_of(message) for message in page.messages] == ["Hello, world", "Say it"]


async def test_create_without_a_wait_returns_at_once(server, upstream):
    go = asyncio.Event()
    upstream.reply_with(Script([Wait(go), *answer("late").steps]))
    reply = await server.create("Say it", wait=0)
    assert (reply.state, reply.HasField("message"), reply.last_sequence) == (PENDING, False, 0)
    assert (await server.conversation(reply.conversation_id)).active_reply_id == reply.id
    go.set()
    watch = await server.resume(reply.id).end()
    assert watch.text == "late"


async def test_create_returns_what_there_is_when_its_wait_is_over(serve, clock, upstream):
    server = await serve(clock=clock)
    upstream.reply_with(HANGING)
    creating = asyncio.create_task(server.create("Say it", wait=5))
    await until(lambda: any(one.log.last_sequence and one.reader_count.readers for one in server.running.values()))
    await clock.advance(4.9)
    assert not creating.done()
    await clock.advance(0.2)
    reply = await creating
    assert (reply.state, text_of(reply), reply.message.partial) == (STREAMING, "on and", True)
    assert reply.id in server.running


async def test_create_returns_shortly_before_its_deadline(server, upstream):
    upstream.reply_with(HANGING)
    began = time.monotonic()
    reply = await server.create("Say it", timeout_s=1.0)
    assert 0.4 < time.monotonic() - began < 1.0
    assert (reply.state, text_of(reply)) == (STREAMING, "on and")
    assert reply.id in server.running


async def test_a_reply_that_fails_is_an_ok_answer(server, upstream):
    upstream.reply_with(refusal(429, retry_after="7"))
    call = server.chat.CreateReply(ask())
    reply = await call
    assert await call.code() == grpc.StatusCode.OK
    assert (reply.state, reply.error.reason) == (FAILED, error_reason("PROVIDER_RATE_LIMITED"))
    assert (reply.error.code, reply.error.retryable, reply.error.retry_after.seconds) == (
        grpc.StatusCode.ABORTED.value[0],
        True,
        7,
    )
    assert reply == await server.get(reply.id)


async def test_create_sees_a_cancel(server, upstream):
    upstream.reply_with(HANGING)
    creating = asyncio.create_task(server.create("Say it", request_id="k"))
    await until(lambda: any(generation.log.last_sequence for generation in server.running.values()))
    cancelled = await server.cancel(request_id="k", reason="stop")
    assert await creating == cancelled
    assert (cancelled.state, cancelled.cancel_reason) == (CANCELLED, "stop")


async def test_a_poll_walks_through_the_log(server, upstream):
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


async def test_a_poll_waits_for_the_first_chunk(server, upstream):
    go = asyncio.Event()
    upstream.reply_with(Script([Wait(go), role(), text("late"), Hang()]))
    created = await server.create(wait=0)
    polling = asyncio.create_task(server.poll(created.id, gather=0))
    await until(lambda: server.running[created.id].reader_count.readers == 1)
    assert not polling.done()
    go.set()
    page = await polling
    assert [chunk.text for chunk in page.chunks] == ["late"]


async def test_a_poll_with_no_wait_returns_at_once(server, upstream):
    upstream.reply_with(Script([role(), Hang()]))
    created = await server.create(wait=0)
    page = await server.poll(created.id, 0, wait=0)
    assert (list(page.chunks), page.after_sequence, page.reply.state) == ([], 0, PENDING)


@pytest.mark.parametrize(("fields", "seconds"), [({}, 20.0), ({"wait": 3}, 3.0), ({"wait": 60}, 60.0)])
async def test_a_poll_waits_as_long_as_it_was_told(serve, clock, upstream, fields, seconds):
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


async def test_a_poll_gathers(serve, clock, upstream):
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


async def test_a_poll_that_gathers_ends_with_the_reply(server, upstream):
    go = asyncio.Event()
    upstream.reply_with(Script([role(), text("a"), Wait(go), finish(), done()]))
    created = await server.create(wait=0)
    polling = asyncio.create_task(server.poll(created.id, gather=60))
    await until(lambda: server.running[created.id].reader_count.readers == 1)
    go.set()
    page = await polling
    assert [chunk.WhichOneof("event") for chunk in page.chunks] == ["text", "finished"]


async def test_reasoning_is_polled_by_who_asks(server, upstream):
    upstream.reply_with(Script([role(), reasoning("hm"), Hang()]))
    created = await server.create(wait=0)
    await until(lambda: server.running[created.id].log.last_sequence == 1)
    plain = await server.poll(created.id, wait=0)
    assert (list(plain.chunks), plain.after_sequence) == ([], 1)
    full = await server.poll(created.id, wait=0, reasoning=True)
    assert [chunk.reasoning.text for chunk in full.chunks] == ["hm"]


async def test_a_poll_returns_shortly_before_its_deadline(server, upstream):
    upstream.reply_with(Script([role(), Hang()]))
    created = await server.create(wait=0)
    began = time.monotonic()
    page = await server.chat.PollReply(chat_pb2.PollReplyRequest(reply_id=created.id), timeout=0.8)
    assert 0.2 < time.monotonic() - began < 0.8
    assert (list(page.chunks), page.reply.state) == ([], PENDING)


async def test_a_poll_of_a_failed_reply(server, upstream):
    upstream.reply_with(refusal(400))
    created = await server.create(wait=0)
    page = await server.poll(created.id)
    assert [chunk.WhichOneof("event") for chunk in page.chunks] == ["failed"]
    assert page.chunks[0].failed.error == page.reply.error
    assert page.reply.error.reason == error_reason("PROVIDER_REJECTED")


async def test_polls_and_streams_add_up_to_one_text(server, upstream):
    words = [f"{n} " for n in range(300)]
    upstream.reply_with(Script([role(), *[text(word) for word in words], finish(), usage(), done()]))
    watch = server.stream()
    reply_id = (await watch.accepted()).reply_id
    got, cursor = "", 0
    async with asyncio.timeout(LIMIT_S):
        while True:
            page = await server.poll(reply_id, cursor, gather=0)
            got += "".join(chunk.text for chunk in page.chunks)
            assert page.after_sequence >= cursor
            cursor = page.after_sequence
            if page.chunks and page.chunks[-1].HasField("finished"):
                break
    await watch.end()
    assert got == watch.text == "".join(words) == text_of(page.reply)
