"""P18: cancel, completion, failure, idle and time limits race; each reply has one end, the same for all readers."""

import asyncio
import random

import grpc

from tests.clock import until
from tests.integration.served import CANCELLED, COMPLETED, FAILED, LIMIT_S, text_of
from tests.upstream import Close, Hang, Pause, Script, answer, finish, role, text, usage

ROUNDS = 240
AT_ONCE = 40
RACE_S = 0.06


async def test_all_ends_race(serve, upstream):
    server = await serve(provider=f"timeouts = {{ idle = {RACE_S} }}", disconnect_cancel_s=RACE_S)
    chance = random.Random(18)

    def script(_):
        # On a busy machine the provider would always be the last one, so some of its answers end before the others.
        pause = Pause(chance.choice([0.0, *[RACE_S + chance.uniform(-0.02, 0.02)] * 3]))
        ends = ([finish(), usage()], [Close()], [Hang()], [text(" late"), finish()])
        return Script([role(), text("text"), pause, *chance.choice(ends)])

    upstream.reply_with(script)
    callers = [server.caller() for _ in range(4)]
    limit = asyncio.Semaphore(AT_ONCE)
    states = {}

    async def one(number):
        async with limit:
            caller = callers[number % 4]
            time_limit = {"time_limit": RACE_S + chance.uniform(-0.02, 0.02)} if chance.random() < 0.4 else {}
            policy = {"on_disconnect": 2} if chance.random() < 0.3 else {}
            watch = caller.stream(**time_limit, **policy)
            reply_id = (await watch.accepted()).reply_id
            other = callers[(number + 1) % 4].resume(reply_id)
            if policy:
                watch.call.cancel()
                other.call.cancel()
            if chance.random() < 0.6:
                await asyncio.sleep(RACE_S + chance.uniform(-0.02, 0.02))
                await server.cancel(reply_id)
            await watch.end()
            await other.end()
            state = await end_that_all_show(server, reply_id, watch, other, left=bool(policy))
            states[state] = states.get(state, 0) + 1

    async with asyncio.timeout(LIMIT_S):
        await asyncio.gather(*(one(number) for number in range(ROUNDS)))
    assert set(states) == {COMPLETED, CANCELLED, FAILED}
    assert not server.running
    assert server.sql("select count(*) from usage") == [(ROUNDS,)]
    assert server.sql("select count(*) from checkpoint") == [(0,)]
    capacity = server.app.mode.core.live_replies.capacity
    assert capacity._replies == capacity._prompt_bytes == 0
    assert not server.app.mode.core.tasks.running


async def end_that_all_show(server, reply_id, *readers, left):
    """The state of the ended reply. Checks that late readers, GetReply and the database show the same end, and so do
    these readers; those that `left` may show only the beginning."""
    final = await server.resume(reply_id).end()
    again = await server.resume(reply_id).end()
    stored = await server.get(reply_id)
    last = final.terminal
    assert again.log[-1] == last
    for each in readers:
        if each.kinds[-1:] in (["finished"], ["failed"]):
            assert each.terminal == last
            assert each.text == text_of(stored)
        else:
            assert left
            assert text_of(stored).startswith(each.text)
    assert final.text == again.text == text_of(stored)
    assert last.sequence == stored.last_sequence
    if stored.state == FAILED:
        assert last.failed.error == stored.error
        assert last.failed.usage == stored.usage
    else:
        assert last.finished.reason == stored.finish_reason
        assert last.finished.usage == stored.usage
        assert await final.code() == grpc.StatusCode.OK
    messages = server.sql("select count(*) from message where reply_id = ?", reply_id)
    assert messages == [(int(stored.HasField("message")),)]
    return stored.state


async def test_calls_cancelled_at_random_leave_no_running_reply(server, upstream):
    chance = random.Random(7)
    upstream.reply_with(answer("some", " text"))
    created = [await server.new_conversation() for _ in range(10)]

    async def one(number):
        watch = server.stream(f"{number}", conversation_id=created[number % 10].id, concurrency=2)
        await asyncio.sleep(chance.uniform(0, 0.03))
        watch.call.cancel()
        await watch.end()

    for start in range(0, 100, 20):
        await asyncio.gather(*(one(number) for number in range(start, start + 20)))
    await until(lambda: not server.running and not server.app.mode.core.tasks.running, LIMIT_S)
    assert server.sql("select count(*) from reply where state in ('PENDING', 'STREAMING')") == [(0,)]
    assert server.app.mode.core.live_replies.capacity._replies == 0
    for conversation in created:
        assert (await server.stream("and now", conversation_id=conversation.id).end()).text == "some text"
