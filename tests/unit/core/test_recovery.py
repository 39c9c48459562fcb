"""What a dead process or a dead task has left is ended once, with the text that was durable."""

from __future__ import annotations

import asyncio

import pytest
from parley_server.core.events import Failed, Snapshot
from parley_server.core.model import FinishReason, ReplyError, State, TextPart, Usage
from parley_server.core.replies.endings import Cancel
from parley_server.core.replies.log import TAKEOVER_GAP, Reader
from parley_server.core.store_types import CancelTarget
from parley_server.errors import Reason, StorageUnavailable
from parley_server.journal.journals import INTERVAL_S

from tests.clock import settle, until
from tests.fakes import ALICE, World, asking


async def hold(prompt, sink):
    sink.text("durable ")
    sink.flush()
    await asyncio.get_running_loop().create_future()


async def written(world: World, act=hold):
    """A running reply whose first words are in the journal."""
    generation = await world.begin(act)
    await settle()
    await world.clock.advance(INTERVAL_S)
    await until(lambda: generation.log._journaled == generation.log.last_sequence)
    return generation


def killed(world: World, make_world) -> World:
    """The same store in a new process; the old one's memory is gone."""
    world.store.before["finalise"] = _never
    return make_world(journal=True)


async def _never(*_):
    raise StorageUnavailable


@pytest.fixture
async def dying(make_world) -> World:
    """A world that is about to be killed: what it would still write is refused until the test is over."""
    return make_world(journal=True)


async def test_a_new_process_ends_what_the_old_one_left(dying, make_world):
    generation = await written(dying)
    reader = Reader(generation.log, 0)
    reader.take()
    born = killed(dying, make_world)
    assert await born.recovery.recover() == 1
    stored = await born.stored(generation.log.reply.id)
    assert (stored.state, stored.finish_reason) == (State.FAILED, None)
    assert stored.error.reason is Reason.OWNER_LOST
    assert stored.error.retryable
    assert stored.message.parts == (TextPart(text="durable "),)
    assert (stored.message.partial, stored.message.failed) == (True, True)
    assert stored.last_sequence == 1 + TAKEOVER_GAP + 1
    assert stored.usage == Usage(completion_tokens=2, cost_nano_usd=4, estimated=True)
    late = Reader(await born.replies.attach(ALICE, stored.id), reader.position)
    assert [(chunk.sequence, type(chunk.entry)) for chunk in late.take()] == [
        (1 + TAKEOVER_GAP, Snapshot),
        (2 + TAKEOVER_GAP, Failed),
    ]
    assert await born.recovery.recover() == 0
    again = await born.begin(conversation_id=stored.conversation_id)
    assert (await born.settled(again)).state is State.COMPLETED


async def test_a_cancel_that_was_asked_for_is_what_the_reply_ends_with(dying, make_world):
    generation = await written(dying)
    target = CancelTarget(reply_id=generation.log.reply.id)
    await dying.store.request_cancel(ALICE, target, FinishReason.INTERRUPTED, "enough", 1)
    born = killed(dying, make_world)
    await born.recovery.recover()
    stored = await born.stored(generation.log.reply.id)
    assert (stored.state, stored.finish_reason) == (State.CANCELLED, FinishReason.INTERRUPTED)
    assert stored.cancel_reason == "enough"
    assert stored.message.parts == (TextPart(text="durable "),)


async def test_a_reply_that_had_said_nothing_leaves_no_message(dying, make_world):
    async def silent(prompt, sink):
        await asyncio.get_running_loop().create_future()

    generation = await dying.begin(silent)
    born = killed(dying, make_world)
    await born.recovery.recover()
    stored = await born.stored(generation.log.reply.id)
    assert (stored.state, stored.message, stored.last_sequence) == (State.FAILED, None, TAKEOVER_GAP + 1)


async def test_the_provider_s_count_is_kept_when_it_was_durable(dying, make_world):
    async def counting(prompt, sink):
        sink.usage(Usage(prompt_tokens=10, completion_tokens=2))
        await hold(prompt, sink)

    generation = await written(dying, counting)
    born = killed(dying, make_world)
    await born.recovery.recover()
    stored = await born.stored(generation.log.reply.id)
    assert stored.usage == Usage(prompt_tokens=10, completion_tokens=2, cost_nano_usd=14)


async def test_all_that_a_dead_process_has_left_is_recovered(dying, make_world):
    generations = [await dying.begin(hold) for _ in range(5)]
    born = killed(dying, make_world)
    assert await born.recovery.recover() == 5
    assert await born.store.unfinished_ids() == []
    states = {(await born.stored(generation.log.reply.id)).state for generation in generations}
    assert states == {State.FAILED}


async def test_running_replies_are_left_alone(make_world):
    world = make_world(hold, journal=True)
    generation = await written(world)
    await world.recovery.reconcile()
    assert not generation.log.sealed
    assert (await world.stored(generation.log.reply.id)).state is State.STREAMING


async def test_a_row_without_a_task_ends_as_a_defect(make_world, caplog):
    world = make_world(hold, journal=True)
    generation = await written(world)
    reply_id = generation.log.reply.id
    del world.live_replies.running[reply_id]
    await world.recovery.reconcile()
    stored = await world.stored(reply_id)
    assert (stored.state, stored.error) == (
        State.FAILED,
        ReplyError(reason=Reason.INTERNAL, message="internal error", metadata={"call_id": reply_id}),
    )
    assert stored.message.parts == (TextPart(text="durable "),)
    assert "reply_task_missing" in caplog.messages
    world.live_replies.running[reply_id] = generation


async def test_whoever_attaches_to_a_row_without_a_task_is_told_its_end(make_world):
    world = make_world(hold, journal=True)
    generation = await written(world)
    reply_id = generation.log.reply.id
    del world.live_replies.running[reply_id]
    stored = await world.replies.get(ALICE, reply_id)
    assert (stored.state, stored.error.reason) == (State.FAILED, Reason.INTERNAL)
    world.live_replies.running[reply_id] = generation


@pytest.mark.parametrize("after", [False, True])
async def test_a_task_that_died_of_a_defect_is_mended(make_world, after):
    """`after`: the end was stored, but the task died before it could tell."""
    world = make_world(journal=True)

    async def defect(*_):
        raise RuntimeError("a defect of the store")

    hooks = world.store.after if after else world.store.before
    hooks["finalise"] = defect
    generation = await world.begin()
    waiting = asyncio.ensure_future(Reader(generation.log, 0).until_ended())
    await until(lambda: generation.dead)
    hooks.clear()
    mending = asyncio.ensure_future(world.recovery.run())
    await settle()
    assert not waiting.done()
    await world.clock.advance(world.limits.reconcile_interval_s)
    async with asyncio.timeout(5):
        await waiting
    mending.cancel()
    stored = await world.stored(generation.log.reply.id)
    assert generation.log.reply == stored
    assert stored.state is (State.COMPLETED if after else State.FAILED)
    assert (world.live_replies.running, world.live_replies.capacity._replies) == ({}, 0)
    assert world.notes.started == len(world.notes.ended) == 1
    await world.recovery.reconcile()
    assert len(world.notes.ended) == 1


async def test_the_readers_of_a_dead_task_s_erased_reply_are_told(make_world):
    world = make_world(journal=True)

    async def defect(*_):
        raise RuntimeError("a defect")

    world.store.after["finalise"] = defect
    generation = await world.begin()
    await until(lambda: generation.dead)
    world.store.after.clear()
    await world.store.delete_conversation(ALICE, generation.log.reply.conversation_id, "")
    await asyncio.gather(world.recovery.reconcile(), world.recovery.reconcile())
    assert generation.log.erased
    assert world.live_replies.capacity._replies == 0


async def test_reconciliation_outlives_a_store_that_is_away(make_world):
    world = make_world(hold)
    world.store.fail("unfinished_ids", times=2)
    mending = asyncio.ensure_future(world.recovery.run())
    await settle()
    for _ in range(3):
        await world.clock.advance(world.limits.reconcile_interval_s)
        await until(lambda: world.clock.waiting == 1)
    assert world.store.calls.count("unfinished_ids") == 3
    assert not mending.done()
    mending.cancel()


async def test_a_commit_that_nobody_knew_of_is_ended(world):
    world.store.fail("accept", times=1, after=True, unknown=True)
    world.store.fail("get_reply", times=10_000)
    accepting = asyncio.ensure_future(world.core.acceptances.accept(asking(request_id="r")))
    while not accepting.done():
        await asyncio.sleep(0.001)
        await world.clock.advance(0.5)
    with pytest.raises(StorageUnavailable):
        await accepting
    [generation] = world.live_replies.running.values()
    generation.cancel(Cancel(finish=None))  # else it is asked for until it is known
    while world.live_replies.running:
        await asyncio.sleep(0.001)
        await world.clock.advance(0.5)
    world.store.before.clear()
    await world.recovery.reconcile()
    started = await world.replies.start(asking(request_id="r"))
    assert started.replayed
    assert started.log.reply.error.reason is Reason.INTERNAL
    assert world.actor.prompts == []
