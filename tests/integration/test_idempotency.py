"""A request_id starts exactly one reply, for any number of calls with it, at any time."""

import asyncio
import uuid

import grpc
import pytest
from parley.v1 import chat_pb2, resources_pb2

from tests.clock import until
from tests.integration.served import CANCELLED, LIMIT_S, Watch, ask, duration, refused, text_of
from tests.upstream import Hang, Script, Wait, answer, role, text

HANGING = Script([role(), text("on and"), Hang()])


async def test_a_retry_attaches_from_the_first_chunk(server, upstream):
    go = asyncio.Event()
    upstream.reply_with(Script([role(), text("Hel"), Wait(go), *answer("lo").steps]))
    request = ask("Say it")
    first = await Watch(server.chat.StreamReply(request)).until_text("Hel")
    second = await Watch(server.chat.StreamReply(request)).until_text("Hel")
    created = server.chat.CreateReply(request)
    go.set()
    await first.end()
    await second.end()
    assert (first.text, second.text) == ("Hello", "Hello")
    assert first.terminal == second.terminal
    replayed = chat_pb2.Accepted()
    replayed.CopyFrom(first.chunks[0].accepted)
    replayed.replayed = True
    assert (first.chunks[0].accepted.replayed, second.chunks[0].accepted) == (False, replayed)
    reply = await created
    assert (reply.id, text_of(reply)) == (first.reply_id, "Hello")
    assert len(upstream.requests) == 1
    assert server.sql("select count(*) from message") == [(2,)]


@pytest.mark.parametrize("restart", [False, True])
async def test_a_retry_after_the_end_returns_the_same_reply(server, upstream, restart):
    request = ask("Say it")
    first = await Watch(server.chat.StreamReply(request)).end()
    before = await server.get(first.reply_id)
    if restart:
        server = await server.restart()
    second = await Watch(server.chat.StreamReply(request)).end()
    assert (second.reply_id, second.text, second.terminal) == (first.reply_id, first.text, first.terminal)
    assert (second.kinds == ["accepted", "snapshot", "finished"]) == restart
    assert await server.get(first.reply_id) == before == await server.chat.CreateReply(request)
    assert len(upstream.requests) == 1


async def test_a_stream_attaches_to_the_reply_of_create_reply(server, upstream):
    upstream.reply_with(HANGING)
    request = ask("Say it", wait=0)
    reply = await server.chat.CreateReply(request)
    streaming = chat_pb2.ReplyRequest.FromString(request.SerializeToString())
    streaming.ClearField("wait")
    streaming.stream_options.heartbeat.CopyFrom(duration(20))
    watch = await Watch(server.chat.StreamReply(streaming)).until_text("on and")
    assert (watch.reply_id, watch.chunks[0].accepted.replayed) == (reply.id, True)
    assert len(upstream.requests) == 1


async def test_a_request_id_with_another_payload_is_refused(server, upstream):
    fields = {"sampling": chat_pb2.Sampling(temperature=0.5), "labels": {"a": "1", "b": "2"}, "system": ["S"]}
    request_id = str(uuid.uuid4())
    first = await server.stream("One", request_id=request_id, **fields).end()
    others = [
        {"text": "Two"},
        {"model": "test"},
        {"labels": {"a": "1"}},
        {"system": ["S", "T"]},
        {"sampling": chat_pb2.Sampling(temperature=0.5, seed=0)},
        {"conversation_id": first.conversation_id},
        {"time_limit": 5},
        {"orphan_ttl": 300},
        {"concurrency": chat_pb2.CONCURRENCY_POLICY_INTERRUPT},
        {"on_disconnect": chat_pb2.DISCONNECT_POLICY_CANCEL},
        {"new_conversation": resources_pb2.Conversation(title="T")},
    ]
    for other in others:
        changed = ask(**({"text": "One"} | fields | other), request_id=request_id)
        error = await refused(server.chat.StreamReply(changed))
        assert (error.code, error.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED"), other
        assert (await refused(server.chat.CreateReply(changed))).reason == "REQUEST_ID_REUSED"
    same = ask("One", request_id=request_id, **(fields | {"labels": {"b": "2", "a": "1"}}), heartbeat=3, reasoning=True)
    again = await Watch(server.chat.StreamReply(same)).end()
    assert again.reply_id == first.reply_id
    assert len(upstream.requests) == 1


async def test_text_and_its_long_form_are_one_payload(server, upstream):
    request_id = str(uuid.uuid4())
    first = await server.stream("One", request_id=request_id).end()
    message = resources_pb2.Message(role=resources_pb2.ROLE_USER, parts=[resources_pb2.Part(text="One")])
    again = await server.stream("", input=[message], request_id=request_id).end()
    assert again.reply_id == first.reply_id


async def test_a_retry_is_not_refused_because_of_its_own_reply(serve, upstream):
    server = await serve(max_replies=1)
    created = await server.new_conversation()
    upstream.reply_with(HANGING)
    for policy in (chat_pb2.CONCURRENCY_POLICY_REJECT, chat_pb2.CONCURRENCY_POLICY_INTERRUPT):
        request = ask("Say it", conversation_id=created.id, concurrency=policy)
        first = await Watch(server.chat.StreamReply(request)).until_text("on and")
        again = await Watch(server.chat.StreamReply(request)).until_text("on and")  # OVERLOADED, REPLY_IN_PROGRESS
        assert again.reply_id == first.reply_id
        assert (await server.get(first.reply_id)).state != CANCELLED
        await server.cancel(first.reply_id)


async def test_a_retry_while_draining_attaches(server, upstream):
    go = asyncio.Event()
    upstream.reply_with(Script([role(), text("Hel"), Wait(go), *answer("lo").steps]))
    request = ask("Say it")
    first = await Watch(server.chat.StreamReply(request)).until_text("Hel")
    draining = asyncio.create_task(server.app.replies.drain(10.0))
    await first.until(lambda watch: "go_away" in watch.kinds)
    again = await Watch(server.chat.StreamReply(request)).until_text("Hel")
    assert (await refused(server.chat.StreamReply(ask()))).reason == "DRAINING"
    go.set()
    await again.end()
    await draining
    assert (again.reply_id, again.text) == (first.reply_id, "Hello")


async def test_fifty_equal_requests_at_once(server, upstream):
    go = asyncio.Event()
    upstream.reply_with(Script([Wait(go), *answer("once").steps]))
    request = ask("Say it")
    callers = [server.caller() for _ in range(5)]
    watches = [Watch(callers[i % 5].chat.StreamReply(request)) for i in range(50)]
    for watch in watches:
        await watch.accepted()
    go.set()
    for watch in watches:
        await watch.end()
    assert {watch.reply_id for watch in watches} == {watches[0].reply_id}
    assert sorted(watch.chunks[0].accepted.replayed for watch in watches) == [False] + [True] * 49
    assert {watch.text for watch in watches} == {"once"}
    assert len({watch.terminal.SerializeToString() for watch in watches}) == 1
    assert len(upstream.requests) == 1
    assert server.sql("select count(*) from reply") == [(1,)]
    assert server.sql("select count(*) from message") == [(2,)]


async def test_resume_never_generates(server, upstream):
    first = await server.stream().end()
    for after in (0, 2, 99):
        await server.resume(first.reply_id, after).end()
    await server.poll(first.reply_id)
    await server.get(first.reply_id)
    await refused(server.chat.ResumeReply(chat_pb2.ResumeReplyRequest(reply_id="unknown")))
    assert len(upstream.requests) == 1


async def test_without_a_request_id_the_server_creates_one(server, upstream):
    first = await Watch(server.chat.StreamReply(chat_pb2.ReplyRequest(text="Hi"))).end()
    second = await Watch(server.chat.StreamReply(chat_pb2.ReplyRequest(text="Hi"))).end()
    assert first.reply_id != second.reply_id
    created = (await server.get(first.reply_id)).request_id
    assert created
    again = await Watch(server.chat.StreamReply(chat_pb2.ReplyRequest(text="Hi", request_id=created))).end()
    assert again.reply_id == first.reply_id


async def test_a_call_cancelled_during_acceptance_starts_a_whole_reply_or_none(server, upstream):
    """A retry gets the only reply, and the conversation stays usable."""
    created = await server.new_conversation()
    accepted = 0
    for steps in range(60):
        request = ask("Say it", conversation_id=created.id)
        call = server.chat.StreamReply(request)
        for _ in range(steps):
            await asyncio.sleep(0)
        call.cancel()
        async with asyncio.timeout(LIMIT_S):
            retry = await Watch(server.chat.StreamReply(request)).end()
        assert await retry.code() == grpc.StatusCode.OK
        assert retry.text == "Hello, world"
        accepted += retry.chunks[0].accepted.replayed
    await until(lambda: not server.running)
    assert server.sql("select count(*), count(distinct request_id) from reply") == [(60, 60)]
    assert len(upstream.requests) == 60
    assert accepted, "no call was cancelled after its acceptance"
