"""Three servers are one: a reply of the first is followed by the second, asked of the third and cancelled there."""

import asyncio

import parley
from parley.v1 import chat_pb2

from tests.integration.process.watching import Watcher, script, words
from tests.integration.served import COMPLETED, ask, reason, text_of
from tests.upstream import Script, Wait, answer, done, finish, text, usage

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


async def test_a_cancel_at_another_replica_stops_the_provider(cluster, upstream):
    upstream.reply_with(gated("Once upon ", asyncio.Event(), "a time"))
    first = await cluster.caller(A).stream("Tell").until_text("Once upon ")
    second = await cluster.caller(B).resume(first.reply_id).until_text("Once upon ")
    cancelled = await cluster.caller(C).cancel(first.reply_id, reason="enough")
    assert cancelled.cancel_reason == "enough"
    assert text_of(cancelled) == "Once upon "
    async with asyncio.timeout(1):
        await upstream.aborted.wait()
    for each in (first, second):
        await each.end()
        assert each.terminal.finished.reason == reason("CANCELLED")
        assert each.text == "Once upon "
    stored = await cluster.stored(first.reply_id)
    assert (stored.state, stored.text, stored.messages) == ("CANCELLED", "Once upon ", 1)
    upstream.reply_with(answer("Next"))
    following = await cluster.caller(B).create("Go on", conversation_id=first.conversation_id)
    assert text_of(following) == "Next"
    assert cluster.problems == []


async def test_a_killed_owner_is_replaced(cluster, upstream):
    upstream.reply_with(gated("Half of ", asyncio.Event(), "it"))
    watcher = Watcher(ask("Tell"))
    following = asyncio.create_task(cluster.follow(watcher, A, B, C))
    async with asyncio.timeout(10):
        await watcher.has_text.wait()
    second = await cluster.caller(B).resume(watcher.reply_id).until_text("Half of ")
    await cluster.kill9(A)
    await following
    await second.end()
    stored = await cluster.ended(watcher.reply_id)
    assert (stored.state, stored.error, stored.text) == ("FAILED", "OWNER_LOST", "Half of ")
    assert (watcher.text, second.text) == ("Half of ", "Half of ")
    assert watcher.terminal == second.terminal
    assert watcher.terminal.sequence == stored.last_sequence
    assert await cluster.owner_of(watcher.reply_id) in (B, C)
    assert stored.epoch == 2
    assert cluster.calls == 1
    await cluster.restart(A)
    assert text_of(await cluster.caller(A).get(watcher.reply_id)) == "Half of "


async def test_a_paused_owner_comes_back_to_what_the_others_decided(cluster, upstream):
    gate = asyncio.Event()
    upstream.reply_with(gated("Half of ", gate, "it"))
    watch = await cluster.caller(A).stream("Tell").until_text("Half of ")
    second = await cluster.caller(B).resume(watch.reply_id).until_text("Half of ")  # so it is in the journal
    cluster.pause(A)
    stored = await cluster.ended(watch.reply_id)
    assert (stored.state, stored.error, stored.text) == ("FAILED", "OWNER_LOST", "Half of ")
    gate.set()
    cluster.resume(A)
    await asyncio.gather(watch.end(), second.end())
    assert (watch.text, second.text) == ("Half of ", "Half of ")
    assert watch.terminal == second.terminal
    assert watch.terminal.sequence == stored.last_sequence
    assert await cluster.stored(watch.reply_id) == stored


async def test_a_drained_replica_hands_its_readers_over(start_cluster):
    cluster = await start_cluster(server={"drain_grace_s": 20})
    whole = words("w", 150)
    watcher = Watcher(chat_pb2.ReplyRequest(request_id="kept", text=script(whole, delay_s=0.02), model="scripted"))
    following = asyncio.create_task(cluster.follow(watcher, A, B))
    async with asyncio.timeout(10):
        await watcher.has_text.wait()
    assert await cluster.drain(A) == 0
    await following
    assert watcher.went_away
    assert watcher.text == whole
    assert watcher.snapshots == 0
    assert (await cluster.stored(watcher.reply_id)).state == "COMPLETED"


async def test_the_library_goes_round_all_replicas(cluster, upstream):
    upstream.reply_with(answer("Hi"))
    async with cluster.client() as client:
        owners = set()
        for _ in range(6):
            stream = client.stream_reply("Hi")
            text = "".join([event.text async for event in stream if isinstance(event, parley.Text)])
            assert text == "Hi"
            owners.add(await cluster.owner_of(stream.reply_id))
    assert owners == {A, B, C}
    assert cluster.calls == 6
