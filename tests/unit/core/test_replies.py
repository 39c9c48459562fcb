"""Attach, wait, poll, get, cancel and drain of replies of this replica."""

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
from tests.fakes import ADA, OTHERS, ManualAnswer, reply_request, texts_of


@pytest.fixture
def answer() -> ManualAnswer:
    return ManualAnswer()


@pytest.fixture
async def generation(harness, answer):
    return await harness.begin(answer.generate, request_id="r")


async def test_wait_returns_the_stored_reply_at_the_end(harness, answer, generation):
    waiting = asyncio.ensure_future(harness.replies.wait(generation.log, 30.0))
    for word in "abc":
        await answer.write(word)
        assert not waiting.done()
    assert harness.observer.readers == 1
    await answer.write(None)
    assert await waiting == await harness.stored_end(generation)
    assert harness.observer.readers == 0
    assert harness.clock.waiting == 0


async def test_wait_returns_the_partial_reply_at_its_time_limit(harness, answer, generation):
    waiting = asyncio.ensure_future(harness.replies.wait(generation.log, 30.0))
    await answer.write("half")
    await harness.clock.advance(29.9)
    assert not waiting.done()
    await harness.clock.advance(0.2)
    partial = await waiting
    assert (partial.state, partial.message.parts) == (State.STREAMING, (TextPart(text="half"),))
    assert partial.message.partial
    assert partial.last_sequence == 1


async def test_a_poll_waits_for_a_new_entry_then_gathers_more(harness, answer, generation):
    reply_id = generation.log.reply.id
    polling = asyncio.ensure_future(harness.poll(reply_id, wait_s=10, gather_s=0.5))
    await harness.clock.advance(5)
    assert not polling.done()
    await answer.write("a")
    await harness.clock.advance(0.4)
    await answer.write("b")
    assert not polling.done()
    await harness.clock.advance(0.2)
    first = await polling
    assert (texts_of(first.chunks), first.after_sequence) == ("ab", 2)
    assert (first.reply.state, first.reply.message) == (State.STREAMING, None)
    empty = await harness.poll(reply_id, after=2)
    assert (empty.chunks, empty.after_sequence) == ((), 2)
    polling = asyncio.ensure_future(harness.poll(reply_id, after=2, wait_s=10, gather_s=100))
    await settle()
    await answer.write("c", None)
    last = await polling
    assert texts_of(last.chunks) == "c"
    assert isinstance(last.chunks[-1].entry, Finished)
    assert last.reply == await harness.stored(reply_id)
    assert last.reply.message.parts == (TextPart(text="abc"),)
    assert [type(chunk.entry) for chunk in (await harness.poll(reply_id, after=last.after_sequence)).chunks] == [
        Finished
    ]


async def test_a_poll_without_reasoning_skips_reasoning_entries(harness, answer, generation):
    reply_id = generation.log.reply.id
    await answer.write("(hm)")
    polling = asyncio.ensure_future(harness.poll(reply_id, wait_s=10))
    await harness.clock.advance(9)
    assert not polling.done()
    await harness.clock.advance(2)
    assert (await polling).after_sequence == 1
    wanted = await harness.poll(reply_id, reasoning=True)
    assert [chunk.entry for chunk in wanted.chunks] == [ReasoningDelta("(hm)")]
    await answer.write("x")
    assert [chunk.entry for chunk in (await harness.poll(reply_id)).chunks] == [TextDelta("x")]


async def test_a_negative_poll_cursor_is_refused(harness, generation):
    with pytest.raises(InvalidRequest):
        await harness.poll(generation.log.reply.id, after=-1)


async def test_replies_of_other_users_and_tenants_are_not_found(harness, answer, generation):
    reply_id = generation.log.reply.id
    for ended in (False, True):
        if ended:
            await answer.write(None)
            await harness.stored_end(generation)
            await harness.clock.advance(61)
        for identity in OTHERS:
            with pytest.raises(ReplyNotFound):
                await harness.replies.get(identity, reply_id)
            with pytest.raises(ReplyNotFound):
                await harness.replies.cancel(identity, CancelTarget(reply_id=reply_id), "")
    with pytest.raises(ReplyNotFound):
        await harness.replies.get(ADA, "unknown")
    assert (await harness.replies.get(Identity(tenant="shop"), reply_id)).state is State.COMPLETED


@pytest.mark.parametrize("by", ["reply_id", "request_id", "conversation_id"])
async def test_a_cancel_returns_the_stored_end(harness, answer, generation, by):
    await answer.write("half")
    reply = generation.log.reply
    target = {"reply_id": reply.id, "request_id": "r", "conversation_id": reply.conversation_id}[by]
    cancelled = await harness.replies.cancel(ADA, CancelTarget(**{by: target}), "enough")
    assert cancelled == await harness.stored(reply.id)
    assert (cancelled.state, cancelled.finish_reason) == (State.CANCELLED, FinishReason.CANCELLED)
    assert (cancelled.cancel_reason, cancelled.message.parts) == ("enough", (TextPart(text="half"),))
    assert harness.provider.open_calls == 0
    assert generation.log.ended
    await answer.write("late")
    assert texts_of(Reader(generation.log, 0).take()) == "half"
    following = await harness.begin(conversation_id=reply.conversation_id)
    assert following.log.reply.parent_message_id


async def test_a_cancel_of_an_ended_reply_returns_its_end(harness, answer, generation):
    await answer.write("all", None)
    stored = await harness.stored_end(generation)
    for _ in range(2):
        assert await harness.replies.cancel(ADA, CancelTarget(reply_id=stored.id), "late") == stored
    with pytest.raises(ReplyNotFound):
        await harness.replies.cancel(ADA, CancelTarget(conversation_id=stored.conversation_id), "late")


async def test_a_cancel_of_a_row_without_a_task_ends_it(harness, answer, generation):
    await answer.write("half")
    del harness.live_replies.running[generation.log.reply.id]
    async with asyncio.timeout(5):
        cancelled = await harness.replies.cancel(ADA, CancelTarget(reply_id=generation.log.reply.id), "enough")
    assert (cancelled.state, cancelled.cancel_reason) == (State.CANCELLED, "enough")
    assert harness.live_replies.followed == {}
    harness.live_replies.running[generation.log.reply.id] = generation


async def test_a_cancel_with_an_unknown_target_or_an_invalid_reason_is_refused(harness):
    for target, kind in (
        (CancelTarget(), InvalidRequest),
        (CancelTarget(reply_id="unknown"), ReplyNotFound),
        (CancelTarget(conversation_id="unknown"), ConversationNotFound),
    ):
        with pytest.raises(kind):
            await harness.replies.cancel(ADA, target, "")
    for reason in ("x" * 1025, "\0"):
        with pytest.raises(InvalidRequest):
            await harness.replies.cancel(ADA, CancelTarget(reply_id="x"), reason)


async def test_a_cancel_stops_the_provider_while_the_store_is_unavailable(harness, answer, generation):
    await answer.write("half")
    harness.store.fail("request_cancel", times=2)
    harness.store.fail("finalise", times=1)
    with pytest.raises(StorageUnavailable):
        await harness.replies.cancel(OTHERS[0], CancelTarget(request_id="r"), "enough")
    assert not generation.log.sealed
    with pytest.raises(StorageUnavailable):
        await harness.replies.cancel(ADA, CancelTarget(request_id="r"), "enough")
    await settle()
    assert harness.provider.open_calls == 0
    await until(lambda: harness.clock.waiting == 1)
    await harness.clock.advance(1)
    assert (await harness.stored_end(generation)).cancel_reason == "enough"


async def test_readers_are_counted_and_refused_over_the_limit(make_harness, answer):
    harness = make_harness(max_readers_per_reply=2)
    generation = await harness.begin(answer.generate, orphan_ttl_s=60.0)
    with harness.replies.reading(generation.log), harness.replies.reading(generation.log):
        assert generation.reader_count.readers == harness.observer.readers == 2
        with pytest.raises(TooManyReaders), harness.replies.reading(generation.log):
            pass
        assert harness.observer.readers == 2
    assert generation.reader_count.readers == harness.observer.readers == 0
    await harness.clock.advance(59.9)
    assert not generation.log.sealed
    await harness.clock.advance(0.2)
    stored = await harness.stored_end(generation)
    assert (stored.state, stored.finish_reason) == (State.CANCELLED, FinishReason.ORPHANED)


async def test_get_counts_as_a_reader_for_a_minute(harness, answer):
    generation = await harness.begin(answer.generate, orphan_ttl_s=30.0)
    await harness.replies.get(ADA, generation.log.reply.id)
    await harness.clock.advance(89.9)
    assert not generation.log.sealed
    await harness.clock.advance(0.2)
    assert (await harness.stored_end(generation)).finish_reason is FinishReason.ORPHANED


@pytest.mark.parametrize(("fields", "after_s"), [({}, 300.0), ({"cancel_on_disconnect": True}, 10.0)])
async def test_the_default_orphan_ttl_is_300_s_and_10_s_with_cancel_on_disconnect(harness, answer, fields, after_s):
    generation = await harness.begin(answer.generate, **fields)
    with harness.replies.reading(generation.log):
        await harness.clock.advance(1)
    await harness.clock.advance(after_s - 0.1)
    assert not generation.log.sealed
    await harness.clock.advance(0.2)
    assert generation.log.sealed
    await harness.stored_end(generation)


async def test_a_drain_waits_for_replies_then_ends_the_rest(harness, answer):
    quick, slow = ManualAnswer(), answer
    first = await harness.begin(quick.generate)
    await settle()
    second = await harness.begin(slow.generate, orphan_ttl_s=5.0)
    with harness.replies.reading(second.log):
        await slow.write("half")
    notices: list[int] = []
    waiting = asyncio.ensure_future(harness.replies.wait(second.log, 1000.0))
    await settle()
    with harness.replies.reading(first.log, notice=lambda: notices.append(1)):
        draining = asyncio.ensure_future(harness.replies.drain(20.0))
        await settle()
        assert notices == [1]
        assert (await waiting).state is State.STREAMING
        await quick.write("all", None)
        assert (await harness.stored_end(first)).state is State.COMPLETED
        await harness.clock.advance(19.9)
        assert not second.log.sealed
        await harness.clock.advance(0.2)
        await draining
    stored = await harness.stored(second.log.reply.id)
    assert (stored.state, stored.error.reason) == (State.FAILED, Reason.OWNER_LOST)
    assert stored.message.parts == (TextPart(text="half"),)
    assert isinstance(Reader(second.log, stored.last_sequence).take()[0].entry, Failed)
    assert await harness.replies.get(ADA, stored.id) == stored


async def test_a_drain_without_replies_returns_at_once(harness):
    await harness.replies.drain(100.0)
    assert harness.clock.waiting == 0


async def test_an_expired_log_is_loaded_from_the_store(harness, answer, generation):
    await answer.write("all", None)
    stored = await harness.stored_end(generation)
    reply_id = stored.id
    assert await harness.replies.attach(ADA, reply_id) is generation.log
    await harness.clock.advance(61)
    log = await harness.replies.attach(ADA, reply_id)
    assert log is not generation.log
    assert log.reply == stored


async def test_a_second_reader_shares_the_log_of_the_first_call(harness, answer):
    harness.provider.answer = answer.generate
    started = await harness.replies.start(reply_request(request_id="s"))
    assert not started.replayed
    await answer.write("a", "b")
    second = await harness.replies.attach(ADA, started.log.reply.id)
    assert second is started.log
    await answer.write("c", None)
    await until(lambda: started.log.over)
    assert texts_of(Reader(started.log, 0).take()) == texts_of(Reader(second, 0).take()) == "abc"
