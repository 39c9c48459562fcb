"""Attach, wait, poll, get, cancel and drain: what callers of a reply are given, and when."""

from __future__ import annotations

import asyncio

import pytest
from parley_server.core.events import Failed, Finished, ReasoningDelta, TextDelta
from parley_server.core.model import FinishReason, Identity, State, TextPart
from parley_server.core.replies.log import Reader
from parley_server.core.store_types import CancelTarget
from parley_server.errors import (
    ConversationNotFound,
    InvalidRequest,
    Reason,
    ReplyNotFound,
    StorageUnavailable,
    TooManyReaders,
)

from tests.clock import settle, until
from tests.fakes import ALICE, Typist, World, asking, texts_of

STRANGERS = (Identity(tenant="shop", end_user="bob"), Identity(tenant="bank", end_user="alice"))


@pytest.fixture
def typist() -> Typist:
    return Typist()


@pytest.fixture
async def generation(world, typist):
    return await world.begin(typist.act, request_id="r")


def poll(world: World, reply_id: str, **fields):
    given = {"after": 0, "wait_s": 0.0, "gather_s": 0.0, "reasoning": False} | fields
    return world.replies.poll(ALICE, reply_id, **given)


async def test_waiting_for_the_end_leaves_the_loop_to_others(world, typist, generation):
    waiting = asyncio.ensure_future(world.replies.wait(generation.log, 30.0))
    for word in "abc":
        await typist.say(word)
        assert not waiting.done()
    assert world.notes.readers == 1
    await typist.say(None)
    assert await waiting == await world.settled(generation)
    assert world.notes.readers == 0
    assert world.clock.waiting == 0


async def test_waiting_ends_in_time_with_the_reply_as_it_stands(world, typist, generation):
    waiting = asyncio.ensure_future(world.replies.wait(generation.log, 30.0))
    await typist.say("half")
    await world.clock.advance(29.9)
    assert not waiting.done()
    await world.clock.advance(0.2)
    standing = await waiting
    assert (standing.state, standing.message.parts) == (State.STREAMING, (TextPart(text="half"),))
    assert standing.message.partial
    assert standing.last_sequence == 1


async def test_a_poll_waits_for_something_new_then_gathers_more(world, typist, generation):
    reply_id = generation.log.reply.id
    polling = asyncio.ensure_future(poll(world, reply_id, wait_s=10, gather_s=0.5))
    await world.clock.advance(5)
    assert not polling.done()
    await typist.say("a")
    await world.clock.advance(0.4)
    await typist.say("b")
    assert not polling.done()
    await world.clock.advance(0.2)
    first = await polling
    assert (texts_of(first.chunks), first.after_sequence) == ("ab", 2)
    assert (first.reply.state, first.reply.message) == (State.STREAMING, None)
    empty = await poll(world, reply_id, after=2)
    assert (empty.chunks, empty.after_sequence) == ((), 2)
    polling = asyncio.ensure_future(poll(world, reply_id, after=2, wait_s=10, gather_s=100))
    await settle()
    await typist.say("c", None)
    last = await polling
    assert texts_of(last.chunks) == "c"
    assert isinstance(last.chunks[-1].entry, Finished)
    assert last.reply == await world.stored(reply_id)
    assert last.reply.message.parts == (TextPart(text="abc"),)
    assert [type(chunk.entry) for chunk in (await poll(world, reply_id, after=last.after_sequence)).chunks] == [
        Finished
    ]


async def test_a_poll_passes_over_reasoning_that_is_not_wanted(world, typist, generation):
    reply_id = generation.log.reply.id
    await typist.say("(hm)")
    polling = asyncio.ensure_future(poll(world, reply_id, wait_s=10))
    await world.clock.advance(9)
    assert not polling.done()
    await world.clock.advance(2)
    assert (await polling).after_sequence == 1
    wanted = await poll(world, reply_id, reasoning=True)
    assert [chunk.entry for chunk in wanted.chunks] == [ReasoningDelta("(hm)")]
    await typist.say("x")
    assert [chunk.entry for chunk in (await poll(world, reply_id)).chunks] == [TextDelta("x")]


async def test_a_poll_s_cursor_is_checked(world, generation):
    with pytest.raises(InvalidRequest):
        await poll(world, generation.log.reply.id, after=-1)


async def test_what_is_somebody_elses_is_not_found(world, typist, generation):
    reply_id = generation.log.reply.id
    for ended in (False, True):
        if ended:
            await typist.say(None)
            await world.settled(generation)
            await world.clock.advance(61)
        for stranger in STRANGERS:
            with pytest.raises(ReplyNotFound):
                await world.replies.get(stranger, reply_id)
            with pytest.raises(ReplyNotFound):
                await world.replies.cancel(stranger, CancelTarget(reply_id=reply_id), "")
    with pytest.raises(ReplyNotFound):
        await world.replies.get(ALICE, "unknown")
    assert (await world.replies.get(Identity(tenant="shop"), reply_id)).state is State.COMPLETED


@pytest.mark.parametrize("by", ["reply_id", "request_id", "conversation_id"])
async def test_a_cancel_returns_when_the_end_is_stored_and_seen(world, typist, generation, by):
    await typist.say("half")
    reply = generation.log.reply
    target = {"reply_id": reply.id, "request_id": "r", "conversation_id": reply.conversation_id}[by]
    cancelled = await world.replies.cancel(ALICE, CancelTarget(**{by: target}), "enough")
    assert cancelled == await world.stored(reply.id)
    assert (cancelled.state, cancelled.finish_reason) == (State.CANCELLED, FinishReason.CANCELLED)
    assert (cancelled.cancel_reason, cancelled.message.parts) == ("enough", (TextPart(text="half"),))
    assert world.actor.open_calls == 0
    assert generation.log.ended
    await typist.say("late")
    assert texts_of(Reader(generation.log, 0).take()) == "half"
    following = await world.begin(conversation_id=reply.conversation_id)
    assert following.log.reply.parent_message_id


async def test_a_cancel_of_what_has_ended_changes_nothing(world, typist, generation):
    await typist.say("all", None)
    stored = await world.settled(generation)
    for _ in range(2):
        assert await world.replies.cancel(ALICE, CancelTarget(reply_id=stored.id), "late") == stored
    with pytest.raises(ReplyNotFound):
        await world.replies.cancel(ALICE, CancelTarget(conversation_id=stored.conversation_id), "late")


async def test_a_cancel_of_a_row_without_a_task_ends_it(world, typist, generation):
    await typist.say("half")
    del world.live_replies.running[generation.log.reply.id]
    async with asyncio.timeout(5):
        cancelled = await world.replies.cancel(ALICE, CancelTarget(reply_id=generation.log.reply.id), "enough")
    assert (cancelled.state, cancelled.cancel_reason) == (State.CANCELLED, "enough")
    assert world.live_replies.followed == {}
    world.live_replies.running[generation.log.reply.id] = generation


async def test_what_cannot_be_cancelled(world):
    for target, kind in (
        (CancelTarget(), InvalidRequest),
        (CancelTarget(reply_id="unknown"), ReplyNotFound),
        (CancelTarget(conversation_id="unknown"), ConversationNotFound),
    ):
        with pytest.raises(kind):
            await world.replies.cancel(ALICE, target, "")
    for reason in ("x" * 1025, "\0"):
        with pytest.raises(InvalidRequest):
            await world.replies.cancel(ALICE, CancelTarget(reply_id="x"), reason)


async def test_a_cancel_stops_the_provider_although_the_store_is_away(world, typist, generation):
    await typist.say("half")
    world.store.fail("request_cancel", times=2)
    world.store.fail("finalise", times=1)
    with pytest.raises(StorageUnavailable):
        await world.replies.cancel(STRANGERS[0], CancelTarget(request_id="r"), "not mine")
    assert not generation.log.sealed
    with pytest.raises(StorageUnavailable):
        await world.replies.cancel(ALICE, CancelTarget(request_id="r"), "enough")
    await settle()
    assert world.actor.open_calls == 0
    await until(lambda: world.clock.waiting == 1)
    await world.clock.advance(1)
    assert (await world.settled(generation)).cancel_reason == "enough"


async def test_readers_are_counted_and_limited(make_world, typist):
    world = make_world(max_readers_per_reply=2)
    generation = await world.begin(typist.act, orphan_ttl_s=60.0)
    with world.replies.reading(generation.log), world.replies.reading(generation.log):
        assert generation.reader_count.readers == world.notes.readers == 2
        with pytest.raises(TooManyReaders), world.replies.reading(generation.log):
            pass
        assert world.notes.readers == 2
    assert generation.reader_count.readers == world.notes.readers == 0
    await world.clock.advance(59.9)
    assert not generation.log.sealed
    await world.clock.advance(0.2)
    stored = await world.settled(generation)
    assert (stored.state, stored.finish_reason) == (State.CANCELLED, FinishReason.ORPHANED)


async def test_get_counts_as_a_reader_for_a_minute(world, typist):
    generation = await world.begin(typist.act, orphan_ttl_s=30.0)
    await world.replies.get(ALICE, generation.log.reply.id)
    await world.clock.advance(89.9)
    assert not generation.log.sealed
    await world.clock.advance(0.2)
    assert (await world.settled(generation)).finish_reason is FinishReason.ORPHANED


@pytest.mark.parametrize(("fields", "after_s"), [({}, 300.0), ({"cancel_on_disconnect": True}, 10.0)])
async def test_the_times_of_an_orphan(world, typist, fields, after_s):
    generation = await world.begin(typist.act, **fields)
    with world.replies.reading(generation.log):
        await world.clock.advance(1)
    await world.clock.advance(after_s - 0.1)
    assert not generation.log.sealed
    await world.clock.advance(0.2)
    assert generation.log.sealed
    await world.settled(generation)


async def test_a_drain_lets_replies_end_then_ends_the_rest(world, typist):
    quick, slow = Typist(), typist
    first = await world.begin(quick.act)
    await settle()
    second = await world.begin(slow.act, orphan_ttl_s=5.0)
    with world.replies.reading(second.log):
        await slow.say("half")
    notices: list[int] = []
    waiting = asyncio.ensure_future(world.replies.wait(second.log, 1000.0))
    await settle()
    with world.replies.reading(first.log, notice=lambda: notices.append(1)):
        draining = asyncio.ensure_future(world.replies.drain(20.0))
        await settle()
        assert notices == [1]
        assert (await waiting).state is State.STREAMING
        await quick.say("all", None)
        assert (await world.settled(first)).state is State.COMPLETED
        await world.clock.advance(19.9)
        assert not second.log.sealed
        await world.clock.advance(0.2)
        await draining
    stored = await world.stored(second.log.reply.id)
    assert (stored.state, stored.error.reason) == (State.FAILED, Reason.OWNER_LOST)
    assert stored.message.parts == (TextPart(text="half"),)
    assert isinstance(Reader(second.log, stored.last_sequence).take()[0].entry, Failed)
    assert await world.replies.get(ALICE, stored.id) == stored


async def test_a_drain_of_nothing_is_over_at_once(world):
    await world.replies.drain(100.0)
    assert world.clock.waiting == 0


async def test_an_expired_log_is_read_back_from_the_store(world, typist, generation):
    await typist.say("all", None)
    stored = await world.settled(generation)
    reply_id = stored.id
    assert await world.replies.attach(ALICE, reply_id) is generation.log
    await world.clock.advance(61)
    log = await world.replies.attach(ALICE, reply_id)
    assert log is not generation.log
    assert log.reply == stored


async def test_the_first_call_and_a_second_viewer_see_the_same(world, typist):
    world.actor.act = typist.act
    started = await world.replies.start(asking(request_id="s"))
    assert not started.replayed
    await typist.say("a", "b")
    second = await world.replies.attach(ALICE, started.log.reply.id)
    assert second is started.log
    await typist.say("c", None)
    await until(lambda: started.log.over)
    assert texts_of(Reader(started.log, 0).take()) == texts_of(Reader(second, 0).take()) == "abc"
