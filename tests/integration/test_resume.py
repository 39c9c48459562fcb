"""ResumeReply at every cursor, during and after a reply, with one or many readers, fast or slow."""

import asyncio

import pytest
from parley.v1 import chat_pb2

from tests.clock import until
from tests.integration.served import CANCELLED, LIMIT_S, Watch, ask, text_of
from tests.upstream import Hang, Pause, Script, Wait, done, finish, reasoning, role, text, tool_call, usage

PIECES = [
    reasoning("hm "),
    reasoning("so. "),
    *[text(f"{n} ") for n in range(8)],
    tool_call(0, "{}", call_id="c", name="f"),
]


def content(chunks):
    """The concatenated contents of chunks, by kind."""
    return (
        "".join(chunk.reasoning.text for chunk in chunks),
        "".join(chunk.text for chunk in chunks),
        "".join(chunk.tool_call.arguments for chunk in chunks),
        [chunk.usage for chunk in chunks if chunk.HasField("usage")],
        [chunk for chunk in chunks if chunk.WhichOneof("event") in ("finished", "failed")],
    )


async def paced(server, upstream):
    """The first reader of a reply with one log entry for each piece, and the event that lets the reply end."""
    steps = [asyncio.Event() for _ in PIECES]
    go = asyncio.Event()
    script = [role()]
    for step, piece in zip(steps, PIECES, strict=True):
        script += [Wait(step), piece]
    upstream.reply_with(Script([*script, Wait(go), finish("tool_calls"), usage(), done()]))
    watch = server.stream(reasoning=True)
    for number, step in enumerate(steps, 1):
        step.set()
        await watch.until(lambda watch, number=number: watch.sequence == number)
    assert [chunk.sequence for chunk in watch.log] == list(range(1, len(PIECES) + 1))
    return watch, go


async def test_every_cursor_while_it_runs_and_after(server, upstream):
    first, go = await paced(server, upstream)
    during = [server.resume(first.reply_id, n, reasoning=True) for n in range(len(PIECES) + 1)]
    for watch in during:
        await watch.until(lambda watch: watch.sequence == len(PIECES))
        assert watch.chunks[0].WhichOneof("event") == "accepted"
    go.set()
    await first.end()
    last = first.terminal.sequence
    assert last == len(PIECES) + 2
    for n, watch in enumerate(during):
        await watch.end()
        assert watch.chunks[0].sequence == n
        assert content(watch.chunks) == content([chunk for chunk in first.chunks if chunk.sequence > n])
    for n in range(last + 1):
        watch = await server.resume(first.reply_id, n, reasoning=True).end()
        assert watch.terminal == first.terminal
        if n == last:
            assert watch.log == [first.terminal]
        else:
            assert content(watch.chunks) == content([chunk for chunk in first.chunks if chunk.sequence > n])
            assert watch.log[0].sequence > n


async def test_a_cursor_beyond_the_end_waits_then_gets_a_snapshot(serve, clock, upstream):
    server = await serve(clock=clock)
    go = asyncio.Event()
    upstream.reply_with(Script([role(), text("all"), Wait(go), finish(), done()]))
    first = await server.stream().until_text("all")
    ahead = server.resume(first.reply_id, 1000)
    await ahead.accepted()
    await clock.advance(16.0)
    await ahead.until(lambda watch: watch.kinds == ["accepted", "heartbeat"])
    assert {chunk.sequence for chunk in ahead.chunks} == {1000}
    go.set()
    await first.end()
    await ahead.end()
    assert ahead.kinds == ["accepted", "heartbeat", "snapshot", "finished"]
    assert (ahead.text, ahead.chunks[-1]) == ("all", first.terminal)
    assert ahead.chunks[2].snapshot == await server.get(first.reply_id)
    again = await server.resume(first.reply_id, 1000).end()
    assert again.kinds == ["accepted", "snapshot", "finished"]


async def test_a_cursor_just_ahead_waits_for_the_next_sequence(server, upstream):
    go = asyncio.Event()
    upstream.reply_with(Script([role(), text("a"), Wait(go), text("b"), Pause(0.01), text("c"), finish(), done()]))
    first = await server.stream().until_text("a")
    ahead = server.resume(first.reply_id, 2)
    await ahead.accepted()
    go.set()
    await ahead.end()
    await first.end()
    assert [chunk.text for chunk in ahead.chunks if chunk.text] == ["c"]
    assert ahead.terminal == first.terminal


@pytest.mark.parametrize("how", ["evicted", "restarted"])
async def test_a_resume_after_the_log_is_gone_gets_a_snapshot(serve, upstream, how):
    server = await serve(ended_logs_ttl_s=0) if how == "evicted" else await serve()
    first, go = await paced(server, upstream)
    go.set()
    await first.end()
    stored = await server.get(first.reply_id)
    if how == "restarted":
        server = await server.restart()
    last = first.terminal.sequence
    assert await server.get(first.reply_id) == stored
    for n in range(last + 2):
        watch = await server.resume(first.reply_id, n).end()
        assert watch.chunks[-1] == first.terminal
        if n in (last - 1, last):
            assert watch.log == [first.terminal]
        else:
            assert [chunk.WhichOneof("event") for chunk in watch.log] == ["snapshot", "finished"]
            assert watch.log[0] == chat_pb2.TokenChunk(sequence=last - 1, snapshot=stored)
        assert watch.chunks[0].accepted == first.chunks[0].accepted


async def test_a_reply_interrupted_by_a_stop_keeps_its_text(server, upstream):
    upstream.reply_with(Script([role(), text("so far"), Hang()]))
    first = await server.stream().until_text("so far")
    server = await server.restart()
    await first.end()
    assert (await server.resume(first.reply_id, 1).end()).kinds == ["accepted", "failed"]
    watch = await server.resume(first.reply_id).end()
    assert (watch.text, watch.kinds) == ("so far", ["accepted", "snapshot", "failed"])
    reply = await server.get(first.reply_id)
    assert (text_of(reply), reply.message.partial) == ("so far", True)
    assert reply.error.metadata == {}
    assert reply.error.message == "the server stopped before the reply was complete; the text so far is kept"
    assert not (await server.conversation(first.conversation_id)).active_reply_id


async def test_reconnects_in_mid_replay_add_up(server, upstream):
    """P4: a reader that resumes again and again receives everything exactly once."""
    words = [f"{n} " for n in range(500)]
    upstream.reply_with(Script([role(), *[text(word) for word in words], finish(), done()]))
    first = server.stream()
    reply_id = (await first.accepted()).reply_id
    got, cursor, connects = "", 0, 0
    while True:
        call = server.chat.ResumeReply(chat_pb2.ResumeReplyRequest(reply_id=reply_id, after_sequence=cursor))
        connects += 1
        read = 0
        async for chunk in call:
            assert chunk.sequence >= cursor
            got += chunk.text
            cursor = chunk.sequence
            read += 1
            if read == 1 + connects % 7:
                break
        if chunk.HasField("finished"):
            break
        call.cancel()
    assert got == "".join(words)
    assert connects > 1
    await first.end()


async def test_many_readers_have_prefixes_of_one_text(server, upstream):
    go = asyncio.Event()
    upstream.reply_with(Script([role(), *[text(f"{n} ") for n in range(50)], Wait(go), finish(), done()]))
    callers = [server.caller() for _ in range(5)]
    first = server.stream()
    reply_id = (await first.accepted()).reply_id
    readers = [callers[i % 5].resume(reply_id) for i in range(30)]
    whole = "".join(f"{n} " for n in range(50))
    for watch in readers:
        await watch.until_text(whole)
    assert server.running[reply_id].reader_count.readers == 31
    go.set()
    for watch in [first, *readers]:
        await watch.end()
        assert (watch.text, watch.terminal) == (whole, first.terminal)


async def test_a_stalled_reader_delays_no_other(server, upstream):
    """P32: flow control blocks one reader only, which later receives the whole rest in merged chunks."""
    hold = asyncio.Event()
    word = "0123456789abcde " * 32
    count = 3000
    upstream.reply_with(Script([role(), Wait(hold), *[text(word) for _ in range(count)], finish(), done()]))
    quick = server.stream()
    reply_id = (await quick.accepted()).reply_id
    window = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024)]
    slow = server.caller(options=window).chat.ResumeReply(chat_pb2.ResumeReplyRequest(reply_id=reply_id))
    assert (await slow.read()).HasField("accepted")
    hold.set()
    await quick.end()
    assert quick.text == word * count
    assert server.app.mode.core.live_replies.running == {}
    chunks = []
    while not chunks or not chunks[-1].HasField("finished"):
        chunks.append(await asyncio.wait_for(slow.read(), LIMIT_S))
    assert "".join(chunk.text for chunk in chunks) == word * count
    assert chunks[-1] == quick.terminal
    assert len(chunks) < len(quick.log) / 2
    assert max(chunk.ByteSize() for chunk in chunks) <= 1024 * 1024 + 100


async def test_a_disconnected_reader_is_removed(server, upstream):
    upstream.reply_with(Script([role(), text("on and"), Hang()]))
    first = await server.stream().until_text("on and")
    log = server.running[first.reply_id].log
    for _ in range(10):
        watch = await server.resume(first.reply_id).until_text("on and")
        watch.call.cancel()
        await watch.end()
    await until(lambda: server.running[first.reply_id].reader_count.readers == 1)
    assert len(log._waiting) == 1
    assert (await server.cancel(first.reply_id)).state == CANCELLED


async def test_a_stream_that_is_cut_does_not_cut_the_reply(server, upstream):
    go = asyncio.Event()
    upstream.reply_with(Script([role(), text("on "), Wait(go), text("and on"), finish(), done()]))
    caller = server.caller()
    watch = await Watch(caller.chat.StreamReply(ask(), timeout=0.3)).until_text("on ")
    await watch.end()  # its deadline
    await caller.channel.close()
    assert watch.reply_id in server.running
    go.set()
    await until(lambda: not server.running)
    assert text_of(await server.get(watch.reply_id)) == "on and on"
