"""One generation at a time in a conversation: REJECT, INTERRUPT, and the next message after an end."""

import asyncio

import grpc
import pytest
from parley.v1 import chat_pb2

from tests.integration.served import CANCELLED, LIMIT_S, reason, text_of
from tests.upstream import Hang, Script, Wait, done, finish, role, text

INTERRUPT = chat_pb2.CONCURRENCY_POLICY_INTERRUPT
REJECT = chat_pb2.CONCURRENCY_POLICY_REJECT
HANGING = Script([role(), text("on and"), Hang()])


async def test_fifty_different_requests_on_one_conversation(server, upstream):
    upstream.reply_with(HANGING)
    created = await server.new_conversation()
    callers = [server.caller() for _ in range(5)]
    watches = [callers[i % 5].stream(f"no. {i}", conversation_id=created.id) for i in range(50)]
    async with asyncio.timeout(LIMIT_S):
        while sum(watch._task.done() for watch in watches) < 49:
            await asyncio.sleep(0.005)
    (winner,) = [watch for watch in watches if not watch._task.done()]
    await winner.until_text("on and")
    for watch in watches:
        if watch is not winner:
            assert (await watch.code(), watch.chunks) == (grpc.StatusCode.ABORTED, [])
    assert len(upstream.requests) == 1
    assert server.sql("select count(*) from reply") == [(1,)]
    assert server.sql("select count(*) from message") == [(1,)]
    await server.cancel(winner.reply_id)
    next_ = await server.stream("and now", conversation_id=created.id).until_text("on and")
    assert next_.reply_id != winner.reply_id


async def test_an_interrupt_can_regenerate_the_running_reply(server, upstream):
    upstream.reply_next(HANGING)
    first = await server.stream("One").until_text("on and")
    again = await server.stream(
        "",
        conversation_id=first.conversation_id,
        replace_message_id=first.chunks[0].accepted.message_id,
        concurrency=INTERRUPT,
    ).end()
    assert again.text == "Hello, world"
    tree = await server.messages(first.conversation_id, all_branches=True)
    question = first.chunks[0].accepted.input_message_ids[0]
    assert [(text_of(message), message.parent_id) for message in tree.messages] == [
        ("Hello, world", question),
        ("on and", question),
        ("One", ""),
    ]
    assert [message["content"] for message in upstream.requests[1].json["messages"]] == ["One"]


@pytest.mark.parametrize("phase", ["completing", "just ended"])
async def test_an_interrupt_races_the_end(server, upstream, phase):
    created = await server.new_conversation()
    for i in range(20):
        go = asyncio.Event()
        upstream.reply_next(Script([role(), text("a"), Wait(go), text("b"), finish(), done()]))
        first = await server.stream(f"{i}", conversation_id=created.id).until_text("a")
        go.set()
        if phase == "just ended":
            await first.end()
        for _ in range(i):
            await asyncio.sleep(0)
        second = server.stream(f"{i}!", conversation_id=created.id, concurrency=INTERRUPT)
        await second.end()
        await first.end()
        assert second.text == "Hello, world"
        stored = await server.get(first.reply_id)
        assert first.terminal.finished.reason == stored.finish_reason
        assert (stored.finish_reason, text_of(stored)) in [
            (reason("STOP"), "ab"),
            (reason("INTERRUPTED"), "a"),
            (reason("INTERRUPTED"), "ab"),
        ]
        assert stored.message.partial == (stored.state == CANCELLED)
        assert first.text == text_of(stored)
    page = await server.messages(created.id)
    assert (len(page.messages), bool(page.next_page_token)) == (50, True)


async def test_interrupts_race_each_other_and_rejects(server, upstream):
    upstream.reply_with(HANGING)
    created = await server.new_conversation()
    first = await server.stream("0", conversation_id=created.id).until_text("on and")
    policies = [INTERRUPT, REJECT] * 5
    rivals = [server.stream("1", conversation_id=created.id, concurrency=policy) for policy in policies]
    async with asyncio.timeout(LIMIT_S):
        while sum(not watch._task.done() for watch in rivals) > 1 or not first._task.done():
            await asyncio.sleep(0.005)
    (last,) = [watch for watch in rivals if not watch._task.done()]
    await last.until_text("on and")
    assert list(server.running) == [last.reply_id]
    for watch in [first, *rivals]:
        if watch is last:
            continue
        if watch.chunks:
            assert watch.terminal.finished.reason == reason("INTERRUPTED")
            assert await watch.code() == grpc.StatusCode.OK
        else:
            assert await watch.code() == grpc.StatusCode.ABORTED
    accepted = [watch for watch in [first, *rivals] if watch.chunks]
    assert server.sql("select count(*) from reply") == [(len(accepted),)]
    assert server.sql("select count(*) from reply where state in ('PENDING', 'STREAMING')") == [(1,)]


async def test_after_a_cancel_the_conversation_takes_the_next_message_at_once(server, upstream):
    created = await server.new_conversation()
    for i in range(20):
        upstream.reply_next(HANGING)
        watch = await server.stream(f"{i}", conversation_id=created.id).until_text("on and")
        reply = await server.cancel(watch.reply_id)
        assert reply.state == CANCELLED
        assert not (await server.conversation(created.id)).active_reply_id
        next_ = await server.stream("next", conversation_id=created.id).end()
        assert next_.text == "Hello, world"


async def test_two_messages_after_the_same_head_do_not_fork(server, upstream):
    """The second fails: the head has moved, or the conversation has a running reply."""
    created = await server.new_conversation()
    for i in range(20):
        watches = [server.stream(f"{i}.{j}", conversation_id=created.id) for j in range(2)]
        for watch in watches:
            await watch.end()
        assert {(await watch.code()).name for watch in watches} <= {"OK", "ABORTED"}
        assert any(watch.text for watch in watches)
    tree = await server.messages(created.id, all_branches=True, page_size=200)
    parents = [message.parent_id for message in tree.messages]
    assert len(parents) == len(set(parents)), "a fork was created"
