"""The replies of a dead replica are ended by another one, once, with the longest durable text."""

from __future__ import annotations

import asyncio

import pytest
from parley_server.core.cluster import takeover
from parley_server.core.events import Failed, Finished, Snapshot
from parley_server.core.model import FinishReason, State, TextPart, Usage
from parley_server.core.replies.log import TAKEOVER_GAP, Reader
from parley_server.core.replies.recovery import RECALL_LIMIT_S
from parley_server.core.store_types import CancelTarget, MessageFilter
from parley_server.errors import Reason, StorageUnavailable
from parley_server.journal.journals import INTERVAL_S

from tests.clock import until
from tests.fakes import ADA, STOP
from tests.replicas import LEASE_S, Cluster, Replica
from tests.unit.core.running_reply import RunningReply, read_available, start_reply

RENEWAL_S = LEASE_S / 4
SWEPT_S = 4.0


@pytest.fixture
async def a(cluster: Cluster) -> Replica:
    return await cluster.join("a", journal=True, sweeps=False)


@pytest.fixture
async def b(cluster: Cluster) -> Replica:
    """A replica that may sweep, but does so only when the test calls it."""
    replica = await cluster.join("b", sweeps=False)
    replica.lease_keeper.unbroken_since = cluster.clock.boottime() - LEASE_S
    return replica


async def killed_reply(
    cluster: Cluster, a: Replica, *, durable: tuple[str, ...] = (), lost: tuple[str, ...] = ()
) -> RunningReply:
    """A reply of a killed owner, with text in its checkpoints (`durable`) and published text after them (`lost`)."""
    reply = await start_reply(a, *durable)
    await cluster.advance(INTERVAL_S)
    assert reply.log.durable_sequence == len(durable)
    await reply.write(*lost)
    await cluster.kill(a)
    return reply


async def test_a_takeover_keeps_the_published_text_if_longer_than_the_checkpoints(cluster, a, b):
    reply = await killed_reply(cluster, a, durable=("one ",), lost=("two ", "three"))
    assert await b.sweeper.sweep() == 1
    stored = await b.stored(reply.id)
    assert (stored.state, stored.error.reason, stored.error.retryable) == (State.FAILED, Reason.OWNER_LOST, True)
    assert stored.message.parts == (TextPart(text="one two three"),)
    assert (stored.message.partial, stored.message.failed) == (True, True)
    assert (stored.owner, stored.epoch, stored.last_sequence) == ("b", 2, 3 + TAKEOVER_GAP + 1)
    assert stored.usage == Usage(prompt_tokens=13, completion_tokens=4, cost_nano_usd=21, estimated=True)
    assert b.observer.taken_over == 1
    assert b.recovery.ending == set()
    log = await b.replies.attach(ADA, reply.id)
    assert [(chunk.sequence, type(chunk.entry)) for chunk in read_available(Reader(log, 3))] == [
        (3 + TAKEOVER_GAP, Snapshot),
        (4 + TAKEOVER_GAP, Failed),
    ]
    again = await b.begin(conversation_id=reply.conversation_id)
    assert (await b.stored_end(again)).state is State.COMPLETED


@pytest.mark.parametrize("fault", ["disconnected", "lost", "failing"])
async def test_a_takeover_keeps_the_checkpoints_if_no_longer_text_can_be_recalled(cluster, a, b, fault, caplog):
    reply = await killed_reply(cluster, a, durable=("one ", "two "), lost=("three",))
    if fault == "disconnected":
        cluster.network.disconnect()
    elif fault == "lost":
        cluster.network.streams[reply.id][1] = cluster.network.streams[reply.id][1][:1]
    else:
        cluster.network.takeover_fails = True
    await b.sweeper.sweep()
    stored = await b.stored(reply.id)
    assert stored.message.parts == (TextPart(text="one two "),)
    assert stored.last_sequence == 2 + TAKEOVER_GAP + 1
    assert ("text_recall_failed" in caplog.messages) == (fault == "failing")


async def test_a_sweeper_whose_lease_expired_in_the_database_takes_nothing_over(cluster, a, b):
    reply = await killed_reply(cluster, a, durable=("one ",))
    await cluster.store.hold_lease(
        "b", RENEWAL_S / 2
    )  # by the clock of the database; the clock of the process was stopped
    assert b.lease_keeper.settled
    assert await b.sweeper.sweep() == 0
    await cluster.store.hold_lease("b", LEASE_S)
    assert await b.sweeper.sweep() == 1
    assert (await b.stored(reply.id)).owner == "b"


async def test_a_hanging_relay_does_not_block_a_takeover(cluster, a, b):
    reply = await killed_reply(cluster, a, durable=("one ",), lost=("two",))
    cluster.network.takeover_hangs = True
    sweeping = asyncio.ensure_future(b.sweeper.sweep())
    await cluster.advance(RECALL_LIMIT_S - 0.1)
    assert not sweeping.done()
    await cluster.advance(0.2)
    assert await sweeping == 1
    assert (await b.stored(reply.id)).message.parts == (TextPart(text="one "),)


async def test_a_takeover_closes_the_old_epoch_before_reading_its_text(cluster, a, b):
    reply = await killed_reply(cluster, a, durable=("one ",))
    await b.sweeper.sweep()
    cluster.network.relays["a"] = a.relay
    await reply.write("late")
    assert cluster.network.published(reply.id) == tuple(reply.log.content()[:1])
    assert (await b.stored(reply.id)).message.parts == (TextPart(text="one "),)


@pytest.mark.parametrize("kind", [FinishReason.CANCELLED, FinishReason.INTERRUPTED])
async def test_a_takeover_honours_a_stored_cancel_request(cluster, a, b, kind):
    reply = await killed_reply(cluster, a, durable=("one ",))
    await cluster.store.request_cancel(ADA, CancelTarget(reply_id=reply.id), kind, "enough", 1)
    await b.sweeper.sweep()
    stored = await b.stored(reply.id)
    assert (stored.state, stored.finish_reason, stored.cancel_reason) == (State.CANCELLED, kind, "enough")
    assert stored.message.parts == (TextPart(text="one "),)
    assert (stored.message.partial, stored.message.failed, stored.error) == (True, False, None)


async def test_a_takeover_of_a_reply_without_text_stores_no_message(cluster, a, b):
    reply = await killed_reply(cluster, a)
    await b.sweeper.sweep()
    stored = await b.stored(reply.id)
    assert (stored.state, stored.message, stored.last_sequence) == (State.FAILED, None, TAKEOVER_GAP + 1)
    assert [type(chunk.entry) for chunk in read_available(Reader(await b.replies.attach(ADA, reply.id), 0))] == [
        Snapshot,
        Failed,
    ]


async def test_replies_of_running_replicas_are_not_taken_over(cluster, a, b):
    reply = await start_reply(a, "one ")
    other = await start_reply(b, "other ")
    assert await b.sweeper.sweep() == 0
    await cluster.advance(60.0)
    assert await b.sweeper.sweep() == 0
    await reply.write("two", None)
    await other.write(None)
    assert (await a.stored_end(reply.generation)).state is State.COMPLETED
    assert (await b.stored_end(other.generation)).state is State.COMPLETED


async def test_a_sweeper_waits_for_one_lease_of_database_contact(cluster, a):
    reply = await killed_reply(cluster, a, durable=("one ",))
    b = await cluster.join("b")
    await cluster.advance(LEASE_S - 0.1)
    assert "take_over" not in b.store.calls
    await cluster.advance(SWEPT_S)
    assert (await b.stored(reply.id)).state is State.FAILED


async def test_a_sweeper_waits_for_one_lease_after_a_database_outage(cluster, a):
    """The leases of all replicas expire in an outage, and running replicas need time to renew theirs."""
    reply = await start_reply(a, "one ")
    b = await cluster.join("b")
    await cluster.advance(2 * LEASE_S)
    a.store.unavailable = b.store.unavailable = True
    await cluster.advance(60.0)
    await cluster.expire(a)
    calls = b.store.calls.count("take_over")
    b.store.unavailable = False
    await cluster.advance(LEASE_S - 0.1)
    assert b.store.calls.count("take_over") == calls
    a.store.unavailable = False
    await cluster.advance(30.0)
    assert b.store.calls.count("take_over") > calls
    await reply.write("two", None)
    assert (await a.stored_end(reply.generation)).state is State.COMPLETED


async def test_a_sweeper_without_a_lease_takes_nothing_over(cluster, a, b):
    await killed_reply(cluster, a)
    b.lease.until = cluster.clock.boottime()
    assert await b.sweeper.sweep() == 0
    assert "take_over" not in b.store.calls


async def test_sweeps_run_periodically_with_jitter(cluster, a):
    b = await cluster.join("b")
    await cluster.advance(LEASE_S)
    calls = b.store.calls.count("take_over")
    await cluster.advance(60.0)
    assert 60.0 / 3.6 - 1 <= b.store.calls.count("take_over") - calls <= 60.0 / 2.4 + 1
    reply = await killed_reply(cluster, a, durable=("one ",))
    await cluster.advance(SWEPT_S)
    assert (await b.stored(reply.id)).state is State.FAILED


async def test_one_sweep_takes_over_several_batches(cluster, a, b, monkeypatch):
    monkeypatch.setattr(takeover, "BATCH", 3)
    replies = [await start_reply(a, "x") for _ in range(7)]
    await cluster.kill(a)
    assert await b.sweeper.sweep() == 7
    assert {(await b.stored(each.id)).state for each in replies} == {State.FAILED}
    assert b.observer.taken_over == 7


async def test_sweeps_continue_after_a_store_outage_and_an_unexpected_error(cluster, a, caplog):
    b = await cluster.join("b")
    await cluster.advance(LEASE_S)
    reply = await killed_reply(cluster, a, durable=("one ",))
    failures = [StorageUnavailable(), RuntimeError("unexpected")]

    async def fail(*_):
        if failures:
            raise failures.pop(0)

    b.store.before["take_over"] = fail
    await cluster.advance(3 * SWEPT_S)
    assert {"sweep_postponed", "sweep_failed"} <= set(caplog.messages)
    assert (await b.stored(reply.id)).state is State.FAILED


# --- faults during a takeover


async def test_a_takeover_waits_for_an_unavailable_store(cluster, a, b):
    """Meanwhile the reply belongs to this replica without a task, which is not an error."""
    reply = await killed_reply(cluster, a, durable=("one ",), lost=("two",))
    b.store.fail("finalise", times=10)
    sweeping = asyncio.ensure_future(b.sweeper.sweep())
    await cluster.advance(RENEWAL_S)
    assert b.recovery.ending == {reply.id}
    assert b.store.calls.count("hold_lease") >= 2
    assert "unfinished" not in b.store.calls
    await cluster.advance(RENEWAL_S)
    assert await sweeping == 1
    stored = await b.stored(reply.id)
    assert stored.error.reason is Reason.OWNER_LOST
    assert stored.message.parts == (TextPart(text="one two"),)


async def test_a_cancelled_sweep_completes_its_takeover(cluster, a, b):
    reply = await killed_reply(cluster, a, durable=("one ",))
    b.store.fail("finalise", times=1)
    sweeping = asyncio.ensure_future(b.sweeper.sweep())
    await cluster.settle()
    sweeping.cancel()
    await cluster.advance(1.0)
    assert sweeping.cancelled()
    assert (await b.stored(reply.id)).error.reason is Reason.OWNER_LOST
    assert b.recovery.ending == set()


async def test_a_renewal_during_a_takeover_does_not_reconcile_its_replies(cluster, a, b):
    """The takeover is committed, but its answer has not arrived yet."""
    reply = await killed_reply(cluster, a, durable=("one ",), lost=("two",))
    block = b.store.block("take_over", after=True)
    sweeping = asyncio.ensure_future(b.sweeper.sweep())
    await cluster.settle()
    assert b.lease_keeper.taking_over
    await cluster.advance(2 * RENEWAL_S)
    assert "finalise" not in b.store.calls
    block.released.set()
    await cluster.settle()
    assert await sweeping == 1
    assert (await b.stored(reply.id)).error.reason is Reason.OWNER_LOST


async def test_a_takeover_whose_answer_was_lost_is_finished_by_the_next_renewal(cluster, a, b):
    reply = await killed_reply(cluster, a, durable=("one ",), lost=("two",))
    b.store.fail("take_over", times=1, after=True)
    with pytest.raises(StorageUnavailable):
        await b.sweeper.sweep()
    assert not b.lease_keeper.taking_over
    await cluster.advance(RENEWAL_S)
    stored = await b.stored(reply.id)
    assert (stored.error.reason, stored.last_sequence) == (Reason.OWNER_LOST, 2 + TAKEOVER_GAP + 1)
    assert stored.message.parts == (TextPart(text="one two"),)
    assert b.observer.taken_over == 1


async def test_a_reply_that_cannot_be_ended_does_not_block_other_takeovers(cluster, a, b, caplog):
    bad, good = await start_reply(a, "bad "), await start_reply(a, "good ")
    await cluster.kill(a)

    async def fail(finalisation):
        if finalisation.reply_id == bad.id:
            raise RuntimeError("unexpected")

    b.store.before["finalise"] = fail
    assert await b.sweeper.sweep() == 2
    assert "takeover_failed" in caplog.messages
    assert (await b.stored(good.id)).state is State.FAILED
    b.store.before.clear()
    await cluster.advance(RENEWAL_S)
    assert (await b.stored(bad.id)).error.reason is Reason.OWNER_LOST


async def test_two_sweepers_end_a_reply_once(cluster, a, b):
    c = await cluster.join("c", sweeps=False)
    c.lease_keeper.unbroken_since = cluster.clock.boottime() - LEASE_S
    replies = [await start_reply(a, f"{number}") for number in range(9)]
    await cluster.kill(a)
    counts = await asyncio.gather(b.sweeper.sweep(), c.sweeper.sweep())
    assert sum(counts) == b.observer.taken_over + c.observer.taken_over == len(replies)
    assert {(await b.stored(each.id)).epoch for each in replies} == {2}


async def test_replies_of_a_sweeper_that_dies_are_taken_over_again(cluster, a, b):
    reply = await killed_reply(cluster, a, durable=("one ",), lost=("two",))
    b.store.fail("finalise")
    sweeping = asyncio.ensure_future(b.sweeper.sweep())
    await cluster.settle()
    assert b.recovery.ending == {reply.id}
    await cluster.expire(b)
    c = await cluster.join("c", sweeps=False)
    c.lease_keeper.unbroken_since = cluster.clock.boottime() - LEASE_S
    assert await c.sweeper.sweep() == 1
    stored = await c.stored(reply.id)
    assert (stored.epoch, stored.owner) == (3, "c")
    assert stored.message.parts == (TextPart(text="one two"),)
    b.store.before.clear()
    await cluster.advance(1.0)
    assert await sweeping == 1
    assert await c.stored(reply.id) == stored
    assert (b.observer.taken_over, c.observer.taken_over) == (0, 1)


# --- old owners


async def test_an_owner_that_completes_after_the_takeover_changes_nothing(cluster, b):
    ended = asyncio.Event()

    async def answer(prompt, sink):
        sink.text("one ")
        sink.flush()
        await ended.wait()
        sink.text("two")
        return STOP

    a = await cluster.join("a", answer, sweeps=False)
    generation = await a.begin()
    a.freeze()
    await cluster.expire(a)
    await b.sweeper.sweep()
    stored = await b.stored(generation.log.reply.id)
    cluster.clock.suspend(LEASE_S)
    a.store.unavailable = False
    ended.set()
    assert await a.stored_end(generation) == stored == generation.log.reply
    whole = MessageFilter(conversation_id=stored.conversation_id, all_branches=True)
    page = await b.conversations.messages(ADA, whole, 0, "")
    assert [message.reply_id for message in page.messages] == [stored.id, ""]
    assert [type(chunk.entry) for chunk in read_available(Reader(generation.log, 1))] == [Snapshot, Failed]


async def test_a_replica_that_takes_its_lost_reply_over_ends_it_in_the_new_epoch(cluster, a, b):
    """Its old task still runs with the old epoch: neither its text nor its end is stored."""
    reply = await start_reply(a, "one ")
    a.store.unavailable = True
    await cluster.advance(LEASE_S)
    await cluster.expire(a)
    b.store.fail("finalise")
    sweeping = asyncio.ensure_future(b.sweeper.sweep())
    await cluster.settle()
    await reply.write("lost", None)
    a.store.unavailable = False
    await cluster.advance(RENEWAL_S)
    assert reply.generation.lost
    await cluster.kill(b)
    a.lease_keeper.unbroken_since = cluster.clock.boottime() - LEASE_S
    a.store.fail("take_over", times=1, after=True)
    with pytest.raises(StorageUnavailable):
        await a.sweeper.sweep()
    await cluster.advance(2 * RENEWAL_S)
    stored = await a.stored(reply.id)
    assert (stored.epoch, stored.owner, stored.error.reason) == (3, "a", Reason.OWNER_LOST)
    assert stored.message.parts == (TextPart(text="one "),)
    assert [type(chunk.entry) for chunk in read_available(Reader(reply.log, 1))] == [Snapshot, Failed]
    assert a.live_replies.running == {}
    b.store.unavailable = False
    b.store.before.clear()
    await cluster.advance(1.0)
    await until(sweeping.done)
    assert await a.stored(reply.id) == stored


async def test_a_cancel_of_a_dead_owner_s_reply_waits_for_the_sweep(cluster, a, b):
    reply = await killed_reply(cluster, a, durable=("one ",))
    cancelling = asyncio.ensure_future(b.replies.cancel(ADA, CancelTarget(reply_id=reply.id), "enough"))
    await cluster.advance(2.0)
    assert not cancelling.done()
    await b.sweeper.sweep()
    await cluster.settle()
    cancelled = await cancelling
    assert (cancelled.state, cancelled.cancel_reason) == (State.CANCELLED, "enough")
    assert [type(chunk.entry) for chunk in read_available(Reader(await b.replies.attach(ADA, reply.id), 1))][
        -1
    ] is Finished
