"""Cancel by every target and in every phase: the readers' chunks, the stored reply, the end of the provider call."""

import asyncio
import socket
import time

import grpc
import pytest
from parley.v1 import chat_pb2

from tests.clock import until
from tests.integration.served import CANCELLED, COMPLETED, Watch, ask, reason, refused, text_of
from tests.upstream import Hang, Script, Wait, done, finish, role, text, usage

HANGING = Script([role(), text("on and"), Hang()])
ABORT_LIMIT_S = 0.25

PHASES = {
    "before headers": Script([], before_head=[Hang()]),
    "before the first token": Script([role(), Hang()]),
    "within the text": HANGING,
    "before the finish": Script([role(), text("on and"), usage(), Hang()]),
}


async def reach(server, upstream, phase, **fields):
    """Start a reply, and wait until it is in this phase."""
    upstream.reply_next(PHASES[phase])
    watch = server.stream(**fields)
    await watch.accepted()
    await until(lambda: upstream.requests)
    if "text" in phase or "finish" in phase:
        await watch.until_text("on and")
    return watch


@pytest.mark.parametrize("by", ["reply_id", "request_id", "conversation_id"])
@pytest.mark.parametrize("phase", PHASES)
async def test_a_cancel_in_any_phase(server, upstream, phase, by):
    watch = await reach(server, upstream, phase, request_id="my-key")
    other = server.resume(watch.reply_id)
    await other.accepted()
    names = {"reply_id": watch.reply_id, "request_id": "my-key", "conversation_id": watch.conversation_id}
    cancelled_at = time.monotonic()
    reply = await server.cancel(**{by: names[by]}, reason="user pressed stop")
    end = (reason("CANCELLED"), "user pressed stop")
    assert (reply.state, reply.finish_reason, reply.cancel_reason) == (CANCELLED, *end)
    assert reply == await server.get(watch.reply_id)
    await until(lambda: upstream.aborts)
    assert upstream.aborts[0].at - cancelled_at < ABORT_LIMIT_S
    await watch.end()
    await other.end()
    assert watch.terminal == other.terminal
    finished = watch.terminal.finished
    assert (finished.reason, finished.cancel_reason) == end
    assert watch.terminal.sequence == reply.last_sequence
    assert await watch.code() == grpc.StatusCode.OK
    if watch.text:
        assert (text_of(reply), reply.message.partial) == (watch.text, True)
    else:
        assert not reply.HasField("message")
    assert not (await server.conversation(watch.conversation_id)).active_reply_id
    assert server.sql("select count(*) from usage") == [(1,)]


@pytest.fixture
def unresponsive_port():
    """A port with a full backlog: connection attempts neither succeed nor fail."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for client in (first, second):
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


async def test_a_cancel_while_connecting_to_the_provider_returns_at_once(serve, unresponsive_port):
    server = await serve(url=f"http://127.0.0.1:{unresponsive_port}/v1")
    watch = server.stream()
    await watch.accepted()
    began = time.monotonic()
    reply = await server.cancel(watch.reply_id)
    assert time.monotonic() - began < 1.0
    assert (reply.state, reply.HasField("message")) == (CANCELLED, False)
    await watch.end()
    assert watch.terminal.finished.reason == reason("CANCELLED")


@pytest.mark.parametrize("rpc", ["StreamReply", "CreateReply"])
async def test_a_cancel_before_its_request_cancels_that_request(server, upstream, rpc):
    error = await refused(server.chat.Cancel(chat_pb2.CancelRequest(request_id="k", reason="too late")))
    assert (error.reason, error.code) == ("REPLY_NOT_FOUND", grpc.StatusCode.NOT_FOUND)
    request = ask("Say it", request_id="k")
    if rpc == "CreateReply":
        reply = await server.chat.CreateReply(request)
    else:
        watch = await Watch(server.chat.StreamReply(request)).end()
        assert watch.kinds == ["accepted", "finished"]
        finished = watch.terminal.finished
        assert (finished.reason, finished.cancel_reason) == (reason("CANCELLED"), "too late")
        assert (watch.terminal.sequence, watch.chunks[0].accepted.replayed) == (1, False)
        reply = await server.get(watch.reply_id)
    assert (reply.state, reply.finish_reason, reply.cancel_reason) == (CANCELLED, reason("CANCELLED"), "too late")
    assert (reply.last_sequence, reply.HasField("message")) == (1, False)
    assert not upstream.requests
    page = await server.messages(reply.conversation_id)
    assert [text_of(message) for message in page.messages] == ["Say it"]
    again = await Watch(server.chat.StreamReply(request)).end()
    assert (again.reply_id, again.chunks[0].accepted.replayed) == (reply.id, True)
    next_ = await server.stream(conversation_id=reply.conversation_id).end()
    assert next_.text == "Hello, world"


async def test_an_early_cancel_applies_only_to_its_end_user(server):
    ada, ben = server.caller("ada"), server.caller("ben")
    await refused(ada.chat.Cancel(chat_pb2.CancelRequest(request_id="k")))
    watch = await ben.stream(request_id="k").end()
    assert watch.terminal.finished.reason == reason("STOP")
    watch = await ada.stream(request_id="k").end()
    assert watch.terminal.finished.reason == reason("CANCELLED")


async def test_a_cancel_by_another_end_user_is_not_found_and_cancels_nothing(server, upstream):
    ada, ben = server.caller("ada"), server.caller("ben")
    upstream.reply_with(HANGING)
    watch = await ada.stream(request_id="k").until_text("on and")
    targets = [{"reply_id": watch.reply_id}, {"request_id": "k"}, {"conversation_id": watch.conversation_id}]
    for target in targets:
        error = await refused(ben.chat.Cancel(chat_pb2.CancelRequest(**target)))
        assert error.code == grpc.StatusCode.NOT_FOUND
    assert watch.reply_id in server.running
    assert server.sql("select cancel_requested from reply") == [(None,)]
    assert (await server.cancel(watch.reply_id)).state == CANCELLED  # the tenant itself may


async def test_provider_text_after_a_cancel_is_never_shown(server, upstream):
    """G9, for a provider that does not notice the closed connection and continues to write."""
    for i in range(10):
        go = asyncio.Event()
        upstream.reply_next(Script([role(), text("seen"), Wait(go), *[text("unseen")] * 50, finish(), done()]))
        watch = await server.stream().until_text("seen")
        cancelling = asyncio.create_task(server.cancel(watch.reply_id))
        for _ in range(i):
            await asyncio.sleep(0)
        reply = await cancelling
        go.set()
        await watch.end()
        late = await server.resume(watch.reply_id).end()
        assert watch.text == late.text == text_of(reply) == "seen"


async def test_the_partial_text_is_what_readers_received(server, upstream):
    for i in range(20):
        upstream.reply_next(Script([role(), *[text(f"{n} ") for n in range(400)], Hang()]))
        watch = server.stream()
        other = server.resume((await watch.accepted()).reply_id)
        await watch.until(lambda watch, some=i * 20: len(watch.text) > some)
        reply = await server.cancel(watch.reply_id)
        await watch.end()
        await other.end()
        stored = server.sql("select parts from message where reply_id = ?", reply.id)
        assert watch.text == other.text == text_of(reply)
        assert watch.text in stored[0][0]
        assert watch.terminal == other.terminal


async def test_a_cancel_races_the_end(server, upstream):
    """There is one terminal chunk, the same for all readers and in the database."""
    outcomes = set()
    for i in range(60):
        go = asyncio.Event()
        upstream.reply_next(Script([role(), text("a"), Wait(go), text("b"), finish(), usage(), done()]))
        watch = await server.stream().until_text("a")
        other = await server.resume(watch.reply_id).until_text("a")
        asyncio.get_running_loop().call_later(i * 0.0001, go.set)
        await asyncio.sleep(0.003)
        reply = await server.cancel(watch.reply_id)
        await watch.end()
        await other.end()
        assert watch.terminal == other.terminal
        assert watch.terminal.finished.reason == reply.finish_reason
        assert watch.terminal.finished.usage == reply.usage
        assert watch.terminal.sequence == reply.last_sequence
        assert watch.text == other.text == text_of(reply)
        assert (await server.resume(watch.reply_id, reply.last_sequence).end()).log == [watch.terminal]
        assert await server.get(watch.reply_id) == reply
        outcomes.add(reply.state)
    assert outcomes == {CANCELLED, COMPLETED}
    assert server.sql("select count(*), count(distinct reply_id) from message where reply_id != ''") == [(60, 60)]
    assert server.sql("select count(*) from usage") == [(60,)]
    assert server.sql("select count(*) from checkpoint") == [(0,)]


async def test_a_cancel_during_acceptance_is_applied(server, upstream):
    """A cancel by request_id at any time cancels the reply, also where it was refused as unknown."""
    found = 0
    upstream.reply_with(HANGING)
    for steps in range(50):
        key = f"key-{steps}"
        watch = server.stream(request_id=key)
        for _ in range(steps):
            await asyncio.sleep(0)
        [outcome] = await asyncio.gather(server.cancel(request_id=key, reason="early"), return_exceptions=True)
        if isinstance(outcome, grpc.aio.AioRpcError):
            assert outcome.code() == grpc.StatusCode.NOT_FOUND
        else:
            assert outcome.state == CANCELLED
            found += 1
        await watch.end()
        assert watch.terminal.finished.reason == reason("CANCELLED")
        assert watch.terminal.finished.cancel_reason == "early"
    assert found
    assert not server.running
