"""Text is shown only under the lease; each renewal finds takeovers, cancel requests and rows without a task."""

from __future__ import annotations

import asyncio

import pytest
from parley_server.core.events import Failed, Finished, Snapshot, TextDelta
from parley_server.core.model import FinishReason, State, TextPart
from parley_server.core.replies.log import TAKEOVER_GAP, Reader
from parley_server.core.store_types import CancelTarget
from parley_server.errors import Reason, ReplyNotFound, StorageUnavailable

from tests.clock import settle, until
from tests.fakes import ADA, ManualAnswer, reply_request, texts_of
from tests.replicas import LEASE_S, Cluster, Replica
from tests.unit.core.running_reply import RunningReply, read_available, read_to_end, start_reply

RENEWAL_S = LEASE_S / 4


@pytest.fixture
async def a(cluster: Cluster) -> Replica:
    return await cluster.join("a", sweeps=False)


@pytest.fixture
async def reply(a: Replica) -> RunningReply:
    return await start_reply(a, "one ")


async def taken_over(cluster: Cluster, by: str, *owners: Replica) -> list:
    """Take over the replies of the owners, or those of expired leases, without ending them yet."""
    for owner in owners:
        await cluster.expire(owner)
    await cluster.store.hold_lease(by, 3600.0)
    return await cluster.store.take_over(by, 100)


# --- the lease


async def test_the_lease_ends_a_quarter_early_counted_from_before_the_database_call(cluster):
    a = Replica(cluster, "a", ManualAnswer().generate)
    cluster.replicas.append(a)
    assert not a.lease.held
    began = cluster.clock.boottime()

    async def slow(*_):
        await cluster.clock.sleep(2.0)

    a.store.after["hold_lease"] = slow
    beginning = asyncio.ensure_future(a.lease_keeper.begin())
    await cluster.advance(2.0)
    await beginning
    assert a.lease.until == began + LEASE_S - RENEWAL_S
    assert a.lease.held
    await cluster.advance(LEASE_S - RENEWAL_S - 2.0 - 0.01)
    assert a.lease.held
    await cluster.advance(0.01)
    assert not a.lease.held


async def test_the_lease_is_renewed_every_quarter(cluster, a):
    assert a.store.calls.count("hold_lease") == 1
    await cluster.advance(2 * RENEWAL_S - 0.1)
    assert a.store.calls.count("hold_lease") == 2
    await cluster.advance(10 * LEASE_S)
    assert a.store.calls.count("hold_lease") == 42
    assert a.lease.until == pytest.approx(cluster.clock.boottime() + 2 * RENEWAL_S, abs=RENEWAL_S)


async def test_a_replica_is_settled_after_one_lease_of_uninterrupted_contact(cluster, a):
    await cluster.advance(LEASE_S - 0.1)
    assert not a.lease_keeper.settled
    await cluster.advance(0.2)
    assert a.lease_keeper.settled
    a.store.fail("hold_lease", times=1)
    await cluster.advance(RENEWAL_S)
    assert a.lease.held
    assert not a.lease_keeper.settled
    await cluster.advance(LEASE_S + RENEWAL_S - 0.3)
    assert not a.lease_keeper.settled
    await cluster.advance(0.3)
    assert a.lease_keeper.settled


async def test_an_expired_lease_unsettles_the_replica_without_a_failed_renewal(cluster, a):
    await cluster.advance(2 * LEASE_S)
    assert a.lease_keeper.settled
    cluster.clock.suspend(60.0)
    assert not a.lease.held
    await cluster.advance(RENEWAL_S)
    assert a.lease.held
    assert not a.lease_keeper.settled


async def test_an_unexpected_error_of_a_renewal_does_not_end_the_renewals(cluster, a, caplog):
    a.store.fail("hold_lease", times=1, error=RuntimeError("unexpected"))
    await cluster.advance(2 * RENEWAL_S)
    assert "lease_renewal_failed" in caplog.messages
    assert a.store.calls.count("hold_lease") == 3
    assert a.lease.held


async def test_a_released_lease_lets_others_take_over_its_replies(cluster, a, reply):
    await a.lease_keeper.end()
    assert not a.lease.held
    taken = await cluster.store.take_over("b", 100)
    assert [each.reply.id for each in taken] == [reply.id]
    a.store.fail("release_lease", times=1)
    await a.lease_keeper.end()


# --- database outages


async def test_a_long_database_outage_fails_no_reply(cluster, a, reply):
    reader = Reader(reply.log, 0)
    assert texts_of(read_available(reader)) == "one "
    a.store.unavailable = True
    await cluster.advance(LEASE_S - RENEWAL_S - 0.1)
    await reply.write("two ")
    assert texts_of(read_available(reader)) == "two "
    await cluster.advance(RENEWAL_S)
    assert a.observer.is_fenced
    await reply.write("three ")
    assert not reader.ready
    assert reader.take() == []
    await cluster.advance(60.0)
    await reply.write("four ")
    assert not reader.ready
    waiting = asyncio.ensure_future(reader.wait())
    a.store.unavailable = False
    await cluster.advance(RENEWAL_S)
    assert not a.observer.is_fenced
    await waiting
    assert texts_of(read_available(reader)) == "three four "
    await reply.write("five", None)
    stored = await a.stored_end(reply.generation)
    assert (stored.state, stored.epoch) == (State.COMPLETED, 1)
    assert stored.message.parts == (TextPart(text="one two three four five"),)
    assert texts_of(read_available(reader)) == "five"
    assert reader.done


async def test_a_reply_that_ends_during_a_database_outage_is_stored_afterwards(cluster, a, reply):
    a.store.unavailable = True
    await cluster.advance(LEASE_S)
    await reply.write("two", None)
    await cluster.advance(60.0)
    reader = Reader(reply.log, 1)
    assert not reply.log.over
    assert reader.take() == []
    a.store.unavailable = False
    await cluster.advance(RENEWAL_S)
    stored = await a.stored(reply.id)
    assert (stored.state, stored.message.parts) == (State.COMPLETED, (TextPart(text="one two"),))
    assert [type(chunk.entry) for chunk in read_available(reader)][-1] is Finished
    assert len(a.observer.ended) == 1


async def test_new_requests_are_refused_without_the_lease(cluster, a):
    cluster.clock.suspend(LEASE_S)
    with pytest.raises(StorageUnavailable) as refused:
        await a.replies.start(reply_request(request_id="r"))
    assert refused.value.retry_after_s
    assert a.provider.prompts == []
    await cluster.advance(RENEWAL_S)
    assert not (await a.replies.start(reply_request(request_id="r"))).replayed


async def test_the_lease_ignores_changes_of_the_wall_clock(cluster, a, reply):
    reader = Reader(reply.log, 1)
    for jump_s in (3600.0, -7200.0):
        cluster.clock.correct(jump_s)
        await reply.write("x")
        assert texts_of(read_available(reader)) == "x"
        await cluster.advance(RENEWAL_S)
        assert a.lease.held
    a.store.unavailable = True
    cluster.clock.correct(-3600.0)
    await cluster.advance(LEASE_S)
    await reply.write("y")
    assert not reader.ready
    assert not a.lease.held


async def test_suspended_time_counts_towards_the_lease(cluster, a, reply):
    cluster.clock.suspend(LEASE_S)
    await reply.write("two")
    assert not Reader(reply.log, 0).ready
    await cluster.advance(RENEWAL_S)
    assert texts_of(Reader(reply.log, 0).take()) == "one two"


# --- takeovers by other replicas


async def test_a_reply_that_was_taken_over_shows_only_the_stored_end_of_the_new_owner(cluster, a, reply):
    reader = Reader(reply.log, 1)
    reading = asyncio.ensure_future(read_to_end(reader))
    a.store.unavailable = True
    await cluster.advance(LEASE_S)
    await reply.write("lost")
    await taken_over(cluster, "b", a)
    a.store.unavailable = False
    await cluster.advance(RENEWAL_S)
    assert a.lease.held
    assert reply.generation.lost
    assert a.provider.open_calls == 0
    assert read_available(Reader(reply.log, 0)) == []
    await cluster.advance(30.0)
    assert not reply.log.over
    assert a.live_replies.capacity._replies == 1
    await cluster.store.release_lease("b")
    c = await cluster.join("c")
    await cluster.advance(LEASE_S + 4.0 + 3.0)
    stored = await c.stored(reply.id)
    assert (stored.state, stored.error.reason, stored.epoch) == (State.FAILED, Reason.OWNER_LOST, 3)
    chunks = await reading
    assert [type(chunk.entry) for chunk in chunks] == [Snapshot, Failed]
    assert [chunk.sequence for chunk in chunks] == [stored.last_sequence - 1, stored.last_sequence]
    assert reply.log.reply == stored
    assert (a.live_replies.running, a.live_replies.capacity._replies) == ({}, 0)
    assert [each[0] for each in a.observer.ended] == [stored]


async def test_a_takeover_without_an_expired_lease_is_found_by_the_next_renewal(cluster, a, reply):
    """The clock of the database may jump, and the database decides who owns a reply."""
    await taken_over(cluster, "b", a)
    await reply.write("two ")
    await cluster.advance(RENEWAL_S)
    assert a.lease.held
    assert reply.generation.lost
    assert a.provider.open_calls == 0
    await reply.write("more")
    assert reply.log.content() == [TextDelta("one "), TextDelta("two ")]


async def test_a_takeover_of_an_ending_reply_hides_its_held_back_text(cluster, a, reply):
    """The renewal must not show the held back text, since the new owner may end the reply without it."""
    reader = Reader(reply.log, 1)
    a.store.unavailable = True
    await cluster.advance(LEASE_S)
    await reply.write("held back", None)
    assert reply.log.sealed
    taken = await taken_over(cluster, "b", a)
    a.store.fail("finalise")
    a.store.unavailable = False
    await cluster.advance(RENEWAL_S)
    assert a.lease.held
    assert read_available(reader) == []
    a.store.before.clear()
    await cluster.advance(RENEWAL_S)
    assert not reply.log.over
    assert read_available(reader) == []
    await end_on_new_owner(cluster, taken)
    await cluster.advance(RENEWAL_S)
    assert [type(chunk.entry) for chunk in read_available(reader)] == [Snapshot, Failed]


async def end_on_new_owner(cluster: Cluster, taken: list) -> None:
    b = Replica(cluster, "b", ManualAnswer().generate)
    cluster.replicas.append(b)
    for each in taken:
        await b.recovery.end_taken_over(each)


async def test_a_takeover_while_the_end_is_being_stored_wins(cluster, a, reply):
    a.store.fail("finalise")
    await reply.write("two", None)
    await settle()
    taken = await taken_over(cluster, "b", a)
    a.store.before.clear()
    await cluster.advance(1.0)
    assert not reply.log.over
    assert reply.generation.lost
    assert read_available(Reader(reply.log, 0)) == []
    await end_on_new_owner(cluster, taken)
    await cluster.advance(3.0)
    stored = await a.stored(reply.id)
    assert (stored.state, stored.error.reason) == (State.FAILED, Reason.OWNER_LOST)
    assert [type(chunk.entry) for chunk in read_available(Reader(reply.log, 0))] == [Snapshot, Failed]
    assert len(a.observer.ended) == 1


async def test_a_reply_erased_after_a_takeover_ends_its_readers(cluster, a, reply):
    a.store.unavailable = True
    await cluster.advance(LEASE_S)
    await end_on_new_owner(cluster, await taken_over(cluster, "b", a))
    await cluster.store.delete_conversation(ADA, reply.conversation_id, "")
    reader = Reader(reply.log, 1)
    waiting = asyncio.ensure_future(reader.wait())
    a.store.unavailable = False
    await cluster.advance(RENEWAL_S + 2.0)
    await waiting
    with pytest.raises(ReplyNotFound):
        reader.take()
    with pytest.raises(ReplyNotFound):
        await a.replies.get(ADA, reply.id)
    assert (a.live_replies.running, a.live_replies.capacity._replies, a.provider.open_calls) == ({}, 0, 0)


async def test_a_reply_that_ended_while_the_lease_was_renewed_is_not_lost(cluster, a, reply, caplog):
    block = a.store.block("hold_lease")
    await cluster.advance(RENEWAL_S)
    assert a.store.calls.count("hold_lease") == 2
    await reply.write("two", None)
    stored = await a.stored_end(reply.generation)
    block.released.set()
    await cluster.settle()
    assert stored.state is State.COMPLETED
    assert "reply_ownership_lost" not in caplog.messages


async def test_a_reply_with_a_stored_end_that_its_owner_has_not_received_is_not_lost(cluster, a, reply, caplog):
    """The row is terminal, so that the store no longer lists it; the log has not ended yet."""
    block = a.store.block("finalise", after=True)
    await reply.write("two", None)
    await until(lambda: a.store.pending_calls == 0 and "finalise" in a.store.calls)
    await cluster.advance(RENEWAL_S)
    block.released.set()
    stored = await a.stored_end(reply.generation)
    assert stored.state is State.COMPLETED
    assert texts_of(Reader(reply.log, 0).take()) == "one two"
    assert "reply_ownership_lost" not in caplog.messages


@pytest.mark.parametrize("committed", [False, True])
async def test_an_unanswered_acceptance_is_neither_lost_nor_reconciled(cluster, a, committed):
    block = a.store.block("accept", after=committed)
    answer = ManualAnswer()
    accepting = asyncio.ensure_future(a.begin(answer.generate))
    await block.reached.wait()
    (reply_id,) = a.live_replies.running
    if not committed:
        a.lease_keeper.taken_over(reply_id)
    await cluster.advance(2 * RENEWAL_S)
    a.lease_keeper.taken_over(reply_id)
    a.lease_keeper.cancel_requested(reply_id)
    await cluster.settle()
    block.released.set()
    generation = await accepting
    await answer.write("all", None)
    assert (await a.stored_end(generation)).state is State.COMPLETED


@pytest.mark.parametrize("ended", [False, True])
async def test_an_acceptance_taken_over_before_its_answer_shows_only_the_stored_end(cluster, a, ended):
    """The process is suspended after the commit and renews its lease before it receives the answer."""
    block = a.store.block("accept", after=True)
    answer = ManualAnswer()
    answer.words.put_nowait("lost")
    a.provider.answer = answer.generate
    accepting = asyncio.ensure_future(a.replies.start(reply_request(request_id="r")))
    await block.reached.wait()
    cluster.clock.suspend(60.0)
    taken = await taken_over(cluster, "b", a)
    if ended:
        await end_on_new_owner(cluster, taken)
    await cluster.advance(RENEWAL_S)
    assert a.lease.held
    block.released.set()
    started = await accepting
    await cluster.settle()
    reader = Reader(started.log, 0)
    if not ended:
        assert read_available(reader) == []
        await end_on_new_owner(cluster, taken)
        await cluster.advance(3.0)
    assert [type(chunk.entry) for chunk in read_available(reader)] == [Snapshot, Failed]
    stored = await a.stored(started.log.reply.id)
    assert started.log.reply == stored
    assert reader.done
    assert started.log.last_sequence == stored.last_sequence == TAKEOVER_GAP + 1
    assert (a.live_replies.running, a.live_replies.capacity._replies, a.provider.open_calls) == ({}, 0, 0)


# --- cancel requests and notices


@pytest.mark.parametrize("kind", [FinishReason.CANCELLED, FinishReason.INTERRUPTED])
async def test_a_cancel_request_is_found_by_the_next_renewal(cluster, a, reply, kind):
    cluster.network.notices_lost = True
    await cluster.store.request_cancel(ADA, CancelTarget(reply_id=reply.id), kind, "enough", 1)
    await cluster.advance(RENEWAL_S)
    stored = await a.stored(reply.id)
    assert (stored.state, stored.finish_reason, stored.cancel_reason) == (State.CANCELLED, kind, "enough")
    assert a.provider.open_calls == 0


async def test_a_notice_of_a_cancel_request_is_checked_at_once(cluster, a, reply):
    a.lease_keeper.cancel_requested(reply.id)
    a.lease_keeper.cancel_requested("unknown")
    await cluster.settle()
    assert not reply.log.sealed
    target = CancelTarget(reply_id=reply.id)
    await cluster.store.request_cancel(ADA, target, FinishReason.CANCELLED, "enough", 1)
    for _ in range(5):
        a.lease_keeper.cancel_requested(reply.id)
    await cluster.settle()
    assert (await a.stored_end(reply.generation)).cancel_reason == "enough"
    assert a.store.calls.count("standings") == 2


@pytest.mark.parametrize("notice", ["taken_over", "cancel_requested"])
async def test_a_notice_that_the_store_does_not_confirm_is_ignored(cluster, a, reply, notice):
    getattr(a.lease_keeper, notice)(reply.id)
    a.lease_keeper.erased((reply.id,))
    await cluster.settle()
    a.store.unavailable = True
    getattr(a.lease_keeper, notice)(reply.id)
    await cluster.settle()
    a.store.unavailable = False
    assert not reply.generation.lost
    await reply.write("two", None)
    stored = await a.stored_end(reply.generation)
    assert (stored.state, stored.message.parts) == (State.COMPLETED, (TextPart(text="one two"),))


async def test_a_confirmed_notice_of_a_takeover_stops_the_text_at_once(cluster, a, reply):
    await taken_over(cluster, "b", a)
    a.lease_keeper.taken_over(reply.id)
    await cluster.settle()
    assert reply.generation.lost
    assert a.provider.open_calls == 0
    assert read_available(Reader(reply.log, 0)) == []


# --- rows without a task


async def test_a_row_without_a_task_ends_with_an_internal_error(cluster, a, reply, caplog):
    del a.live_replies.running[reply.id]
    await cluster.advance(RENEWAL_S)
    stored = await a.stored(reply.id)
    assert (stored.state, stored.error.reason) == (State.FAILED, Reason.INTERNAL)
    assert "reply_task_missing" in caplog.messages


async def test_rows_of_other_replicas_are_not_reconciled(cluster, a, reply):
    b = await cluster.join("b", sweeps=False)
    await cluster.advance(4 * RENEWAL_S)
    assert "finalise" not in b.store.calls
    assert not reply.log.sealed


async def test_a_row_taken_over_during_reconciliation_is_left_to_its_owner(cluster, a, reply):
    del a.live_replies.running[reply.id]
    lost = asyncio.Event()

    async def lose(*_):
        await taken_over(cluster, "b", a)
        lost.set()

    a.store.before["unfinished"] = lose
    await cluster.advance(RENEWAL_S)
    await lost.wait()
    await cluster.advance(1.0)
    assert (await a.stored(reply.id)).state is State.PENDING


async def test_a_hanging_reconciliation_does_not_stop_the_renewals(cluster, a, reply):
    del a.live_replies.running[reply.id]
    block = a.store.block("unfinished")
    await cluster.advance(2 * LEASE_S)
    assert a.lease.held
    assert a.store.calls.count("unfinished") == 1
    block.released.set()
    a.store.before.clear()
    await cluster.advance(RENEWAL_S)
    assert (await a.stored(reply.id)).state is State.FAILED


async def test_a_row_that_cannot_be_ended_does_not_block_other_rows(cluster, a, reply, caplog):
    other = await start_reply(a, "two ")
    for each in (reply, other):
        del a.live_replies.running[each.id]

    async def fail(finalisation):
        if finalisation.reply_id == reply.id:
            raise RuntimeError("unexpected")

    a.store.before["finalise"] = fail
    await cluster.advance(RENEWAL_S)
    assert (await a.stored(other.id)).state is State.FAILED
    assert "reconciliation_failed" in caplog.messages
    a.store.before.clear()
    await cluster.advance(RENEWAL_S)
    assert (await a.stored(reply.id)).state is State.FAILED
