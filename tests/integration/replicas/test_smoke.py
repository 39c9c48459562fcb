"""Three replicas behave as one server: a reply of the first is read through the others."""

import asyncio

from parley.v1 import chat_pb2

from tests.integration.process.watching import Watcher, script, words
from tests.integration.served import COMPLETED, text_of
from tests.upstream import Script, Wait, done, finish, text, usage

A, B, C = range(3)


def gated(*steps: str | asyncio.Event) -> Script:
    """An answer that stands still at each gate until it is opened."""
    played = [text(step) if isinstance(step, str) else Wait(step) for step in steps]
    return Script([*played, finish(), usage(5, 7), done()])


async def test_a_reply_is_the_same_at_every_replica(cluster, upstream):
    soon, later = asyncio.Event(), asyncio.Event()
    upstream.reply_with(gated("One ", soon, "two ", "three ", later, "four ", "five."))
    first = await cluster.caller(A).stream("Count").until_text("One ")
    reply_id, cursor = first.reply_id, first.sequence
    assert await cluster.owner_of(reply_id) == A
    soon.set()
    await first.until_text("One two three ")

    second = await cluster.caller(B).resume(reply_id, after=cursor).until_text("two three ")
    assert all(chunk.sequence > cursor for chunk in second.log)
    standing = await cluster.caller(C).poll(reply_id, after=0)
    assert "".join(chunk.text for chunk in standing.chunks) == "One two three "

    later.set()
    await asyncio.gather(first.end(), second.end())
    late = await cluster.caller(C).resume(reply_id, after=cursor).end()
    whole = "One two three four five."
    assert first.text == whole
    for other in (second, late):
        assert "One " + other.text == whole
        assert "snapshot" not in other.kinds
        assert other.terminal == first.terminal
    polled = await cluster.caller(B).poll(reply_id, after=0)
    assert polled.reply.state == COMPLETED
    assert text_of(polled.reply) == whole

    stored = await cluster.stored(reply_id)
    assert (stored.state, stored.text, stored.messages, stored.usages) == ("COMPLETED", whole, 1, 1)
    assert stored.last_sequence == first.terminal.sequence
    assert cluster.calls == 1
    assert cluster.problems == []


async def test_a_drained_replica_hands_its_readers_over(start_cluster):
    cluster = await start_cluster(lease_s=12.0, server={"drain_grace_s": 20})
    whole = words("w", 150)
    watcher = Watcher(chat_pb2.ReplyRequest(request_id="kept", text=script(whole, delay_s=0.02), model="scripted"))
    following = asyncio.create_task(cluster.follow(watcher, A, B))
    async with asyncio.timeout(10):
        await watcher.has_text.wait()
    assert await cluster.drain(A) == 0
    await following
    assert watcher.go_aways
    assert watcher.text == whole
    assert watcher.snapshots == 0
    assert (await cluster.stored(watcher.reply_id)).state == "COMPLETED"
