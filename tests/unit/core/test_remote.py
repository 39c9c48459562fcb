"""Cancels, interrupts, erasures, readers and drains of replies that run on another replica."""

from __future__ import annotations

import asyncio

import pytest
from parley_server.core.events import Finished, TextDelta
from parley_server.core.model import FinishReason, Identity, State, TextPart
from parley_server.core.replies.log import Reader
from parley_server.core.replies.readers import POLL_COUNTS_S
from parley_server.core.store_types import CancelTarget
from parley_server.errors import Draining, ReplyInProgress, ReplyNotFound, StorageUnavailable

from tests.clock import settle
from tests.fakes import ADA, OTHERS, ManualAnswer, reply_request, texts_of
from tests.replicas import LEASE_S, Cluster, Replica
from tests.unit.core.running_reply import RunningReply, read_available, read_to_end, start_reply

RENEWAL_S = LEASE_S / 4
TTL_S = 30.0


@pytest.fixture
async def a(cluster: Cluster) -> Replica:
    return await cluster.join("a")


@pytest.fixture
async def b(cluster: Cluster) -> Replica:
    return await cluster.join("b")


@pytest.fixture
async def reply(a: Replica, b: Replica) -> RunningReply:
    return await start_reply(a, "one ", request_id="r")


def target_of(reply: RunningReply, by: str) -> CancelTarget:
    names = {"reply_id": reply.id, "request_id": "r", "conversation_id": reply.conversation_id}
    return CancelTarget(**{by: names[by]})


def cancel(replica: Replica, target: CancelTarget, reason: str = "enough", identity: Identity = ADA):
    return asyncio.ensure_future(replica.replies.cancel(identity, target, reason))


# --- cancel


@pytest.mark.parametrize("by", ["reply_id", "request_id", "conversation_id"])
async def test_a_remote_cancel_returns_the_stored_end(cluster, a, b, reply, by):
    reader = Reader(await b.replies.attach(ADA, reply.id), 0)
    cancelled = await cancel(b, target_of(reply, by))
    assert cancelled == await a.stored(reply.id)
    assert (cancelled.state, cancelled.finish_reason) == (State.CANCELLED, FinishReason.CANCELLED)
    assert (cancelled.cancel_reason, cancelled.message.parts) == ("enough", (TextPart(text="one "),))
    assert a.provider.open_calls == 0
    await reply.write("late")
    assert texts_of(read_available(reader)) == "one "
    assert reader.done
    await b.begin(conversation_id=reply.conversation_id)
    await settle()
    shown = b.provider.prompts[-1].messages
    assert [part.text for message in shown for part in message.parts] == ["hi", "one ", "hi"]


async def test_a_cancel_whose_notice_is_lost_is_found_by_the_renewal_of_the_owner(cluster, a, b, reply):
    cluster.network.disconnect()
    cancelling = cancel(b, target_of(reply, "reply_id"))
    await cluster.advance(1.0)
    assert not cancelling.done()
    await cluster.advance(RENEWAL_S)
    assert (await cancelling).state is State.CANCELLED


async def test_repeated_cancels_return_the_same_end(cluster, a, b, reply):
    c = await cluster.join("c")
    cluster.network.notices_lost = True
    clicks = []
    for replica, reason in ((b, "first"), (b, "second"), (c, "third")):
        clicks.append(cancel(replica, target_of(reply, "reply_id"), reason))
        await cluster.settle()
    assert not any(click.done() for click in clicks)
    await cluster.advance(RENEWAL_S + 1.0)
    ends = await asyncio.gather(*clicks)
    assert ends[0] == ends[1] == ends[2]
    assert ends[0].cancel_reason == "first"
    assert await cancel(c, target_of(reply, "reply_id"), "late") == ends[0]


async def test_a_cancel_of_a_reply_that_ended_on_another_replica_returns_its_end(cluster, a, b, reply):
    await reply.write(None)
    stored = await a.stored_end(reply.generation)
    assert await cancel(b, target_of(reply, "reply_id")) == stored
    assert await cancel(b, target_of(reply, "request_id")) == stored
    with pytest.raises(ReplyNotFound):
        await cancel(b, target_of(reply, "conversation_id"))
    assert b.live_replies.followed == {}


async def test_a_cancel_returns_the_stored_end_before_the_followed_log_has_it(cluster, a, b, reply):
    reader = Reader(await b.replies.attach(ADA, reply.id), 0)
    assert texts_of(read_available(reader)) == "one "
    cluster.network.disconnect()
    await reply.write(None)
    stored = await a.stored_end(reply.generation)
    assert await cancel(b, target_of(reply, "reply_id")) == stored
    assert not reader.log.ended


async def test_other_users_and_tenants_cannot_cancel_a_reply(cluster, a, b, reply):
    for replica in (a, b):
        for identity in OTHERS:
            with pytest.raises(ReplyNotFound):
                await cancel(replica, target_of(reply, "reply_id"), identity=identity)
    assert not reply.log.sealed


async def test_a_request_id_is_not_found_by_a_caller_without_the_end_user(cluster, a, b, reply):
    """Callers without an end user have request ids of their own, which may be equal to those of end users."""
    with pytest.raises(ReplyNotFound):
        await cancel(a, CancelTarget(request_id="r"), identity=Identity(tenant="shop"))
    await cluster.settle()
    assert not reply.log.sealed


async def test_a_cancel_by_conversation_returns_the_reply_even_if_it_ends_first(cluster, a, b, reply):
    """The end may be stored before the cancel request."""

    async def ended_first(*_):
        while not (await cluster.store.get_reply(ADA, reply.id)).state.terminal:
            await asyncio.sleep(0.001)

    a.store.before["request_cancel"] = ended_first
    cancelled = await cancel(a, target_of(reply, "conversation_id"))
    assert (cancelled.id, cancelled.state, cancelled.cancel_reason) == (reply.id, State.CANCELLED, "enough")


async def test_a_cancel_that_races_with_the_end_returns_without_a_check_interval(cluster, a, b, reply):
    """The reply ends on this replica while its cancel request is being stored."""
    del a.live_replies.running[reply.id]
    block = a.store.block("request_cancel", after=True)
    cancelling = cancel(a, target_of(reply, "reply_id"))
    await block.reached.wait()
    a.live_replies.running[reply.id] = reply.generation
    await reply.write(None)
    stored = await a.stored_end(reply.generation)
    block.released.set()
    assert await cancelling == stored
    assert a.live_replies.followed == {}


async def test_a_cancelled_reply_of_a_stopped_owner_ends_once_after_the_owner_resumes(cluster, a, reply):
    """The sweeper ends the reply of the stopped owner. Then the owner resumes with its old state."""
    b = await cluster.join("c")
    await cluster.advance(2 * LEASE_S)
    a.freeze()
    await cluster.expire(a)
    cancelling = cancel(b, target_of(reply, "reply_id"))
    await cluster.advance(LEASE_S)
    cancelled = await cancelling
    assert (cancelled.state, cancelled.cancel_reason, cancelled.epoch) == (State.CANCELLED, "enough", 2)
    a.store.unavailable = False
    await reply.write("lost")
    assert read_available(Reader(reply.log, 1)) == []
    await a.serve(sweeps=False)
    await cluster.advance(RENEWAL_S)
    assert a.provider.open_calls == 0
    assert (await a.stored(reply.id)) == cancelled == reply.log.reply
    assert isinstance(read_available(Reader(reply.log, 1))[-1].entry, Finished)
    assert len(a.observer.ended) == 1


async def test_a_cancel_is_stored_if_the_end_cannot_be_followed(cluster, a, b, reply):
    a.freeze()
    cluster.network.disconnect()
    cancelling = cancel(b, target_of(reply, "reply_id"))
    await cluster.advance(12.0)
    with pytest.raises(StorageUnavailable):
        await cancelling
    (standing,) = await cluster.store.standings([reply.id])
    assert standing.cancel is FinishReason.CANCELLED


# --- interrupt


async def test_an_interrupt_of_a_remote_reply_follows_its_answer(cluster, a, b, reply):
    generation = await b.begin(conversation_id=reply.conversation_id, interrupt=True)
    stored = await a.stored(reply.id)
    assert (stored.state, stored.finish_reason) == (State.CANCELLED, FinishReason.INTERRUPTED)
    assert a.provider.open_calls == 0
    assert (await b.stored_end(generation)).state is State.COMPLETED
    shown = b.provider.prompts[-1].messages
    assert [part.text for message in shown for part in message.parts] == ["hi", "one ", "hi"]


async def test_an_interrupt_is_refused_if_a_remote_reply_does_not_end_in_5_seconds(cluster, a, b, reply):
    a.freeze()
    interrupting = asyncio.ensure_future(b.begin(conversation_id=reply.conversation_id, interrupt=True))
    await cluster.advance(4.9)
    assert not interrupting.done()
    await cluster.advance(0.2)
    with pytest.raises(ReplyInProgress) as refused:
        await interrupting
    assert refused.value.retry_after_s
    assert refused.value.metadata == {"reply_id": reply.id}


async def test_a_running_remote_reply_refuses_a_new_one(cluster, a, b, reply):
    with pytest.raises(ReplyInProgress) as refused:
        await b.begin(conversation_id=reply.conversation_id)
    assert refused.value.metadata == {"reply_id": reply.id}
    assert not reply.log.sealed


async def test_one_of_many_concurrent_requests_on_all_replicas_is_accepted(cluster, a, b):
    c = await cluster.join("c")
    first = await start_reply(a)
    await first.write(None)
    await a.stored_end(first.generation)
    replicas = [a, b, c] * 5
    for replica in (a, b, c):
        replica.provider.answer = ManualAnswer().generate
    outcomes = await asyncio.gather(
        *[each.begin(conversation_id=first.conversation_id) for each in replicas], return_exceptions=True
    )
    refused = [each for each in outcomes if isinstance(each, ReplyInProgress)]
    assert len(refused) == len(replicas) - 1
    assert sum(len(each.provider.prompts) for each in (a, b, c)) == 2


# --- erasures


async def test_the_erasure_of_a_conversation_ends_its_remote_reply(cluster, a, b, reply):
    await b.replies.attach(ADA, reply.id)
    await b.conversations.delete(ADA, reply.conversation_id, "")
    await cluster.settle()
    assert a.provider.open_calls == 0
    for replica in (a, b):
        with pytest.raises(ReplyNotFound):
            await replica.replies.get(ADA, reply.id)
        assert replica.live_replies.find(ADA, reply.id) is None
    assert cluster.network.published(reply.id) == ()


async def test_an_erasure_removes_the_ended_logs_of_all_replicas(cluster, a, b, reply):
    c = await cluster.join("c")
    log = await b.replies.attach(ADA, reply.id)
    waiting = asyncio.ensure_future(Reader(log, 5).until_ended())
    await reply.write("two", None)
    await a.stored_end(reply.generation)
    await cluster.settle()
    await waiting
    late = await c.replies.attach(ADA, reply.id)
    for kept in (reply.log, log, late):
        assert texts_of(read_available(Reader(kept, 0))) == "one two"
    await c.conversations.delete(ADA, reply.conversation_id, "")
    for replica in (a, b, c):
        assert replica.live_replies.find(ADA, reply.id) is None
    for kept in (reply.log, log, late):
        with pytest.raises(ReplyNotFound):
            Reader(kept, 0).take()


async def test_an_erasure_ends_remote_readers_that_missed_the_end(cluster, a, b, reply):
    waiting = asyncio.ensure_future(Reader(await b.replies.attach(ADA, reply.id), 1).until_ended())
    cluster.network.notices_lost = True
    await reply.write(None)
    await a.stored_end(reply.generation)
    cluster.network.notices_lost = False
    await a.conversations.delete(ADA, reply.conversation_id, "")
    await settle()
    assert waiting.done()
    with pytest.raises(ReplyNotFound):
        await b.replies.attach(ADA, reply.id)


async def test_an_erasure_reaches_an_owner_that_is_still_storing_the_end(cluster, a, b, reply):
    """The end is stored and visible to other replicas before the owner receives the answer of the store."""
    block = a.store.block("finalise", after=True)
    await reply.write(None)
    await cluster.settle()
    ended = asyncio.Event()

    async def end_first(*_):
        block.released.set()
        while reply.id in a.live_replies.running:
            await asyncio.sleep(0)
        ended.set()

    a.store.after["standings"] = end_first
    await b.conversations.delete(ADA, reply.conversation_id, "")
    async with asyncio.timeout(5):
        await ended.wait()
    await cluster.settle()
    with pytest.raises(ReplyNotFound):
        await a.replies.get(ADA, reply.id)
    assert a.live_replies.find(ADA, reply.id) is None


# --- readers


@pytest.fixture
async def watched(a: Replica, b: Replica) -> RunningReply:
    """A reply that is cancelled after 30 s without a reader."""
    return await start_reply(a, "one ", orphan_ttl_s=TTL_S)


async def advance_with_heartbeats(cluster: Cluster, seconds: float) -> None:
    for _ in range(int(seconds)):
        cluster.network.send_heartbeats()
        await cluster.advance(1.0)
    cluster.network.send_heartbeats()


async def test_a_remote_reader_prevents_the_orphan_cancellation(cluster, a, b, watched):
    log = await b.replies.attach(ADA, watched.id)
    with a.replies.reading(watched.log):
        pass
    with b.replies.reading(log):
        await advance_with_heartbeats(cluster, 5 * TTL_S)
        assert not watched.log.sealed
    await advance_with_heartbeats(cluster, TTL_S - 2)
    assert not watched.log.sealed
    await advance_with_heartbeats(cluster, 3)
    stored = await a.stored_end(watched.generation)
    assert (stored.state, stored.finish_reason) == (State.CANCELLED, FinishReason.ORPHANED)


async def test_a_first_remote_reader_starts_the_orphan_ttl(cluster, a, b, watched):
    await advance_with_heartbeats(cluster, 3 * TTL_S)
    assert not watched.log.sealed
    log = await b.replies.attach(ADA, watched.id)
    await advance_with_heartbeats(cluster, 1)
    with b.replies.reading(log):
        await advance_with_heartbeats(cluster, 2 * TTL_S)
    await advance_with_heartbeats(cluster, TTL_S - 2)
    assert not watched.log.sealed
    await advance_with_heartbeats(cluster, 3)
    assert (await a.stored_end(watched.generation)).finish_reason is FinishReason.ORPHANED


async def test_a_remote_poll_counts_as_a_reader_for_a_minute(cluster, a, b, watched):
    with a.replies.reading(watched.log):
        pass
    await b.replies.get(ADA, watched.id)
    await advance_with_heartbeats(cluster, POLL_COUNTS_S + TTL_S - 2)
    assert not watched.log.sealed
    await advance_with_heartbeats(cluster, 4)
    assert (await a.stored_end(watched.generation)).finish_reason is FinishReason.ORPHANED


async def test_a_disconnected_relay_prevents_the_orphan_cancellation(cluster, a, b, watched):
    with a.replies.reading(watched.log):
        pass
    cluster.network.disconnect()
    await cluster.advance(300.0)
    assert not watched.log.sealed
    cluster.network.reconnect()
    await advance_with_heartbeats(cluster, TTL_S + 1)
    assert (await a.stored_end(watched.generation)).finish_reason is FinishReason.ORPHANED


async def test_an_unknown_idle_time_prevents_the_orphan_cancellation(cluster, a, b, watched):
    """Missing data must not be read as "no reader"."""
    with a.replies.reading(watched.log):
        pass
    cluster.network.opened_at.clear()
    await cluster.advance(10 * TTL_S)
    assert not watched.log.sealed


@pytest.mark.parametrize("meanwhile", ["poll", "read", "drain"])
async def test_a_reader_that_arrives_during_the_idle_check_prevents_the_cancellation(cluster, a, b, watched, meanwhile):
    check_started, answered = asyncio.Event(), asyncio.Event()

    async def slow():
        check_started.set()
        await answered.wait()
        return 1e6

    a.relay.slow_idle_s = slow
    with a.replies.reading(watched.log):
        pass
    await cluster.advance(TTL_S)
    assert check_started.is_set()
    if meanwhile == "poll":
        await a.replies.get(ADA, watched.id)
    elif meanwhile == "read":
        with a.replies.reading(watched.log):
            pass
    else:
        watched.generation.reader_count.paused = True
    answered.set()
    await cluster.settle()
    assert not watched.log.sealed


async def test_a_cancel_does_not_count_as_a_reader(cluster, a, b, watched):
    a.store.fail("standings")
    cancelling = cancel(b, CancelTarget(reply_id=watched.id))
    await cluster.settle()
    assert not b.relay.following[watched.id].wanted()
    a.store.before.clear()
    await cluster.advance(RENEWAL_S + 1.0)
    await cancelling


# --- drains


async def test_a_drain_notifies_readers_and_its_replies_continue(cluster, a, b):
    owned, remote = await start_reply(a, "owned ", orphan_ttl_s=5.0), await start_reply(b, "remote ")
    replies = a.replies
    followed = await replies.attach(ADA, remote.id)
    notices: list[str] = []
    waiting = asyncio.ensure_future(replies.wait(followed, 60.0))
    polling = asyncio.ensure_future(a.poll(remote.id, after=1, wait_s=60.0))
    await settle()
    with (
        replies.reading(owned.log, notice=lambda: notices.append("owned")),
        replies.reading(followed, notice=lambda: notices.append("remote")),
    ):
        draining = asyncio.ensure_future(replies.drain(60.0))
        await settle()
        assert sorted(notices) == ["owned", "remote"]
        assert (await waiting).state is State.STREAMING
        assert (await polling).chunks == ()
    with pytest.raises(Draining):
        await replies.start(reply_request())
    elsewhere = Reader(await b.replies.attach(ADA, owned.id), 1)
    await advance_with_heartbeats(cluster, 20)
    assert not owned.log.sealed
    await owned.write("more", None)
    await cluster.settle()
    assert read_available(elsewhere)[0].entry == TextDelta("more")
    await draining
    assert not remote.log.sealed


async def test_replies_ended_by_a_drain_are_readable_on_other_replicas(cluster, a, b, reply):
    reader = Reader(await b.replies.attach(ADA, reply.id), 0)
    reading = asyncio.ensure_future(read_to_end(reader))
    draining = asyncio.ensure_future(a.replies.drain(5.0))
    await cluster.advance(5.0)
    await draining
    await cluster.settle()
    chunks = await reading
    stored = await b.stored(reply.id)
    assert (stored.state, stored.message.parts) == (State.FAILED, (TextPart(text="one "),))
    assert texts_of(chunks) == "one "
    assert chunks[-1].sequence == stored.last_sequence == 2
