"""Replies of a dead process or a dead task are ended once, with their durable text."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from parley_server.core.events import Failed, Snapshot
from parley_server.core.model import FinishReason, ReplyError, State, TextPart, Usage
from parley_server.core.replies.endings import Cancel, Ending
from parley_server.core.replies.log import TAKEOVER_GAP, Reader
from parley_server.core.store_types import CancelTarget
from parley_server.errors import Reason, StorageUnavailable
from parley_server.journal.journals import INTERVAL_S

from tests.clock import settle, until
from tests.fakes import ADA, CoreHarness, ManualAnswer, reply_request


async def hold(prompt, sink):
    sink.text("durable ")
    sink.flush()
    await asyncio.get_running_loop().create_future()


async def journaled_reply(harness: CoreHarness, answer=hold):
    """A running reply with its first entries in the journal."""
    generation = await harness.begin(answer)
    await settle()
    await harness.clock.advance(INTERVAL_S)
    await until(lambda: generation.log._journaled == generation.log.last_sequence)
    return generation


def restarted(harness: CoreHarness, make_harness) -> CoreHarness:
    """A new process on the same store. The old one can no longer store an end."""
    harness.store.fail("finalise")
    return make_harness(journal=True)


@pytest.fixture
async def dying(make_harness) -> CoreHarness:
    """A process that `restarted` replaces."""
    return make_harness(journal=True)


async def test_a_new_process_ends_the_replies_of_a_dead_one(dying, make_harness):
    generation = await journaled_reply(dying)
    reader = Reader(generation.log, 0)
    reader.take()
    born = restarted(dying, make_harness)
    assert await born.recovery.recover() == 1
    stored = await born.stored(generation.log.reply.id)
    assert (stored.state, stored.finish_reason) == (State.FAILED, None)
    assert stored.error.reason is Reason.OWNER_LOST
    assert stored.error.retryable
    assert stored.message.parts == (TextPart(text="durable "),)
    assert (stored.message.partial, stored.message.failed) == (True, True)
    assert stored.last_sequence == 1 + TAKEOVER_GAP + 1
    assert stored.usage == Usage(prompt_tokens=13, completion_tokens=2, cost_nano_usd=17, estimated=True)
    late = Reader(await born.replies.attach(ADA, stored.id), reader.position)
    assert [(chunk.sequence, type(chunk.entry)) for chunk in late.take()] == [
        (1 + TAKEOVER_GAP, Snapshot),
        (2 + TAKEOVER_GAP, Failed),
    ]
    assert await born.recovery.recover() == 0
    again = await born.begin(conversation_id=stored.conversation_id)
    assert (await born.stored_end(again)).state is State.COMPLETED


async def test_recovery_honours_a_stored_cancel_request(dying, make_harness):
    generation = await journaled_reply(dying)
    target = CancelTarget(reply_id=generation.log.reply.id)
    await dying.store.request_cancel(ADA, target, FinishReason.INTERRUPTED, "enough", 1)
    born = restarted(dying, make_harness)
    await born.recovery.recover()
    stored = await born.stored(generation.log.reply.id)
    assert (stored.state, stored.finish_reason) == (State.CANCELLED, FinishReason.INTERRUPTED)
    assert stored.cancel_reason == "enough"
    assert stored.message.parts == (TextPart(text="durable "),)


async def test_recovery_of_a_reply_without_text_stores_no_message(dying, make_harness):
    generation = await dying.begin(ManualAnswer().generate)
    born = restarted(dying, make_harness)
    await born.recovery.recover()
    stored = await born.stored(generation.log.reply.id)
    assert (stored.state, stored.message, stored.last_sequence) == (State.FAILED, None, TAKEOVER_GAP + 1)


async def test_recovery_without_counts_uses_the_estimate_of_the_prompt(dying, make_harness):
    generation = await dying.begin(ManualAnswer().generate)
    born = restarted(dying, make_harness)
    (left,) = await born.store.unfinished(1, generation.log.reply.id)
    ending = Ending(state=State.CANCELLED, finish=FinishReason.CANCELLED)
    outcome = await born.recovery.end_unfinished(msgspec.structs.replace(left, prompt_tokens=7), ending)
    assert outcome.reply.usage == Usage(prompt_tokens=7, cost_nano_usd=7, estimated=True)


async def test_recovery_keeps_durable_counts_of_the_provider(dying, make_harness):
    async def counting(prompt, sink):
        sink.usage(Usage(prompt_tokens=10, completion_tokens=2))
        await hold(prompt, sink)

    generation = await journaled_reply(dying, counting)
    born = restarted(dying, make_harness)
    await born.recovery.recover()
    stored = await born.stored(generation.log.reply.id)
    assert stored.usage == Usage(prompt_tokens=10, completion_tokens=2, cost_nano_usd=14)


async def test_recovery_ends_all_replies_of_a_dead_process(dying, make_harness):
    generations = [await dying.begin(hold) for _ in range(5)]
    born = restarted(dying, make_harness)
    assert await born.recovery.recover() == 5
    assert await born.store.unfinished_ids() == []
    states = {(await born.stored(generation.log.reply.id)).state for generation in generations}
    assert states == {State.FAILED}


async def test_reconciliation_does_not_end_running_replies(make_harness):
    harness = make_harness(hold, journal=True)
    generation = await journaled_reply(harness)
    await harness.recovery.reconcile()
    assert not generation.log.sealed
    assert (await harness.stored(generation.log.reply.id)).state is State.STREAMING


async def test_a_row_without_a_task_ends_with_an_internal_error(make_harness, caplog):
    harness = make_harness(hold, journal=True)
    generation = await journaled_reply(harness)
    reply_id = generation.log.reply.id
    del harness.live_replies.running[reply_id]
    await harness.recovery.reconcile()
    stored = await harness.stored(reply_id)
    assert (stored.state, stored.error) == (
        State.FAILED,
        ReplyError(reason=Reason.INTERNAL, message="internal error", metadata={"call_id": reply_id}),
    )
    assert stored.message.parts == (TextPart(text="durable "),)
    assert "reply_task_missing" in caplog.messages
    harness.live_replies.running[reply_id] = generation


async def test_get_ends_a_row_without_a_task(make_harness):
    harness = make_harness(hold, journal=True)
    generation = await journaled_reply(harness)
    reply_id = generation.log.reply.id
    del harness.live_replies.running[reply_id]
    stored = await harness.replies.get(ADA, reply_id)
    assert (stored.state, stored.error.reason) == (State.FAILED, Reason.INTERNAL)
    harness.live_replies.running[reply_id] = generation


@pytest.mark.parametrize("after", [False, True])
async def test_reconciliation_ends_a_reply_whose_task_died(make_harness, after):
    """`after`: the task dies after its end was stored."""
    harness = make_harness(journal=True)

    harness.store.fail("finalise", after=after, error=RuntimeError("unexpected"))
    generation = await harness.begin()
    waiting = asyncio.ensure_future(Reader(generation.log, 0).until_ended())
    await until(lambda: generation.dead)
    harness.store.fail("finalise", after=after, times=0)
    reconciling = asyncio.ensure_future(harness.recovery.run())
    await settle()
    assert not waiting.done()
    await harness.clock.advance(harness.limits.reconcile_interval_s)
    async with asyncio.timeout(5):
        await waiting
    reconciling.cancel()
    stored = await harness.stored(generation.log.reply.id)
    assert generation.log.reply == stored
    assert stored.state is (State.COMPLETED if after else State.FAILED)
    assert (harness.live_replies.running, harness.live_replies.capacity._replies) == ({}, 0)
    assert harness.observer.started == len(harness.observer.ended) == 1
    await harness.recovery.reconcile()
    assert len(harness.observer.ended) == 1


async def test_an_erased_reply_of_a_dead_task_ends_its_readers(make_harness):
    harness = make_harness(journal=True)
    harness.store.fail("finalise", after=True, error=RuntimeError("unexpected"))
    generation = await harness.begin()
    await until(lambda: generation.dead)
    harness.store.after.clear()
    await harness.store.delete_conversation(ADA, generation.log.reply.conversation_id, "")
    await asyncio.gather(harness.recovery.reconcile(), harness.recovery.reconcile())
    assert generation.log.erased
    assert harness.live_replies.capacity._replies == 0


async def test_reconciliation_continues_after_a_store_outage(make_harness):
    harness = make_harness(hold)
    harness.store.fail("unfinished_ids", times=2)
    reconciling = asyncio.ensure_future(harness.recovery.run())
    await settle()
    for _ in range(3):
        await harness.clock.advance(harness.limits.reconcile_interval_s)
        await until(lambda: harness.clock.waiting == 1)
    assert harness.store.calls.count("unfinished_ids") == 3
    assert not reconciling.done()
    reconciling.cancel()


async def test_reconciliation_ends_a_reply_whose_commit_stayed_unknown(harness):
    harness.store.fail("accept", times=1, after=True)
    harness.store.fail("get_reply")
    accepting = asyncio.ensure_future(harness.core.acceptances.accept(reply_request(request_id="r")))
    while not accepting.done():
        await asyncio.sleep(0.001)
        await harness.clock.advance(0.5)
    with pytest.raises(StorageUnavailable):
        await accepting
    [generation] = harness.live_replies.running.values()
    generation.cancel(Cancel(finish=None))  # otherwise the store is checked until the outcome is known
    while harness.live_replies.running:
        await asyncio.sleep(0.001)
        await harness.clock.advance(0.5)
    harness.store.before.clear()
    await harness.recovery.reconcile()
    started = await harness.replies.start(reply_request(request_id="r"))
    assert started.replayed
    assert started.log.reply.error.reason is Reason.INTERNAL
    assert harness.provider.prompts == []
