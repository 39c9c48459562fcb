"""During a drain, new replies are refused, other calls are served, and readers get a GoAway."""

import asyncio

import grpc
from parley.v1 import chat_pb2

from tests.clock import until
from tests.integration.served import CANCELLED, STREAMING, ask, error_reason, reason, refused, text_of
from tests.upstream import Hang, Script, role, text

HANGING = Script([role(), text("so far"), Hang()])


async def begin_drain(server, watch, grace_s=10.0):
    """Begin to stop the server, and wait until the reader has received GoAway."""
    stopping = server.begin_stop(grace_s)
    await watch.until(lambda watch: "go_away" in watch.kinds)
    return stopping


async def test_a_drain_refuses_new_replies_and_serves_other_calls(server, upstream):
    upstream.reply_with(HANGING)
    caller = server.caller()
    watch = await server.stream().until_text("so far")
    stopping = await begin_drain(server, watch)
    assert not await caller.ready()
    assert not await caller.ready("parley.v1.Chat")
    assert await caller.ready("liveness")
    for call in (caller.chat.StreamReply(ask()), caller.chat.CreateReply(ask())):
        error = await refused(call)
        assert (error.code, error.reason, error.retry_after_s) == (grpc.StatusCode.UNAVAILABLE, "DRAINING", 1.0)
    assert (await caller.get(watch.reply_id)).state == STREAMING
    page = await caller.poll(watch.reply_id)
    assert [chunk.text for chunk in page.chunks] == ["so far"]
    late = await caller.resume(watch.reply_id).until_text("so far")
    assert "go_away" not in late.kinds
    assert (await caller.conversation(watch.conversation_id)).active_reply_id == watch.reply_id
    assert (await caller.cancel(watch.reply_id)).state == CANCELLED
    await watch.end()
    await late.end()
    assert watch.terminal == late.terminal
    assert watch.terminal.finished.reason == reason("CANCELLED")
    await asyncio.wait_for(stopping, 3.0)


async def test_waiting_calls_return_the_reply_so_far_at_a_drain(server, upstream):
    upstream.reply_with(Script([role(), text("so far"), Hang()]))
    creating = asyncio.create_task(server.create())
    await until(lambda: any(one.log.last_sequence for one in server.running.values()))
    (reply_id,) = server.running
    polling = asyncio.create_task(server.poll(reply_id, 1, wait=60))
    await until(lambda: server.running[reply_id].reader_count.readers == 2)
    stopping = server.begin_stop(10.0)
    reply, page = await asyncio.wait_for(creating, 3.0), await asyncio.wait_for(polling, 3.0)
    assert (reply.state, text_of(reply)) == (STREAMING, "so far")
    assert (list(page.chunks), page.reply.state) == ([], STREAMING)
    assert reply_id in server.running
    server.app.hurry()
    await stopping


async def test_hurry_ends_the_grace_at_once(server, upstream):
    upstream.reply_with(HANGING)
    watch = await server.stream().until_text("so far")
    stopping = await begin_drain(server, watch, 60.0)
    server.app.hurry()
    await asyncio.wait_for(stopping, 5.0)
    await watch.end()
    assert watch.terminal.failed.error.reason == error_reason("OWNER_LOST")


async def test_readers_that_follow_go_away_do_not_orphan_the_reply(serve, clock, upstream):
    server = await serve(clock=clock)
    upstream.reply_with(HANGING)
    watch = await server.stream(on_disconnect=chat_pb2.DISCONNECT_POLICY_CANCEL).until_text("so far")
    server.begin_stop(50.0)
    await watch.until(lambda watch: "go_away" in watch.kinds)
    watch.call.cancel()
    await until(lambda: server.running[watch.reply_id].reader_count.readers == 0)
    await clock.advance(30)
    assert watch.reply_id in server.running
