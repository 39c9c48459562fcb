"""A writer without its lease neither numbers nor shows new text, and loses none of it."""

from __future__ import annotations

import asyncio
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parley_server.core.clock import SystemClock
from parley_server.core.content import answer_of
from parley_server.core.events import Entry, Finished, Snapshot, TextDelta
from parley_server.core.lease import FOR_EVER, NEVER, Lease
from parley_server.core.model import State, TextPart
from parley_server.core.replies import log as log_module
from parley_server.core.replies.log import TAKEOVER_GAP, Log, Reader, terminal_of
from parley_server.errors import StorageUnavailable

from tests.clock import settle
from tests.fakes import ADA, ended, entries, reply, texts_of
from tests.replicas import LEASE_S, Cluster, Replica
from tests.unit.core.running_reply import RunningReply, read_available, start_reply

RENEWAL_S = LEASE_S / 4


class LeasedLog:
    """A log with a lease that the test expires and renews."""

    def __init__(self, *words: str) -> None:
        self.now = 0.0
        self.lease = Lease(lambda: self.now, 1.0)
        self.log = Log(reply(), lease=self.lease)
        self.notified_at: list[int] = []
        self.log.on_append = lambda: self.notified_at.append(self.log.last_sequence)
        self.write(*words)

    def write(self, *words: str) -> None:
        for word in words:
            self.log.append(TextDelta(word))

    def expire(self) -> None:
        self.now = self.lease.until

    def renew(self) -> None:
        """Renew the lease of a reply that this writer still owns."""
        self.lease.until = self.now + 1.0
        self.log.release()
        self.log.wake()

    def finish(self) -> None:
        self.log.seal()
        self.log.finish(ended(self.log.reply, last_sequence=self.log.closing_sequence))


def held_back(*given: Entry) -> Log:
    log = Log(reply(), lease=NEVER)
    for entry in given:
        log.append(entry)
    return log


# --- leases


def test_a_lease_is_held_before_its_end_and_not_at_its_end():
    now = 10.0
    lease = Lease(lambda: now)
    assert not lease.held
    lease.until = 11.0
    assert lease.held
    now = 11.0
    assert not lease.held
    assert FOR_EVER.held
    assert not NEVER.held


def test_the_lease_clock_counts_suspended_time(monkeypatch):
    """The wall clock can be changed, and the monotonic clock stops while the machine is suspended."""
    clocks_read = []
    monkeypatch.setattr("time.clock_gettime", lambda which: clocks_read.append(which) or 5.0)
    assert SystemClock().boottime() == 5.0
    assert clocks_read == [time.CLOCK_BOOTTIME]


# --- logs


def test_entries_written_without_the_lease_are_numbered_in_order_after_the_renewal():
    leased = LeasedLog("a", "b")
    leased.expire()
    leased.write("c", "d")
    assert (leased.log.last_sequence, leased.notified_at) == (2, [1])
    assert (leased.log.closing_sequence, len(leased.log.content()), len(leased.log.numbered())) == (5, 4, 2)
    assert leased.log.since(0) == [TextDelta("a"), TextDelta("b")]
    leased.log.release()
    assert leased.log.last_sequence == 2
    leased.renew()
    assert (leased.log.last_sequence, leased.notified_at) == (4, [1, 4])
    leased.write("e")
    assert texts_of(read_available(Reader(leased.log, 0))) == "abcde"


def test_held_back_entries_keep_their_place_if_the_lease_is_renewed_before_their_release():
    leased = LeasedLog("a")
    leased.expire()
    leased.write("b")
    leased.lease.until += 1.0
    leased.write("c")
    assert leased.log.last_sequence == 1
    leased.renew()
    assert texts_of(read_available(Reader(leased.log, 0))) == "abc"


def test_readers_get_no_numbered_entries_without_the_lease():
    leased = LeasedLog("a", "b")
    reader = Reader(leased.log, 1)
    leased.expire()
    assert leased.log.fenced
    assert not reader.ready
    assert reader.take() == []
    assert (reader.position, reader.done) == (1, False)
    leased.lease.until += 1.0
    assert reader.ready
    assert texts_of(reader.take()) == "b"


async def test_the_renewal_wakes_a_waiting_reader_if_no_entry_was_held_back():
    leased = LeasedLog("a", "b")
    reader = Reader(leased.log, 1)
    leased.expire()
    waiting = asyncio.ensure_future(reader.wait())
    await settle()
    assert not waiting.done()
    leased.renew()
    await waiting
    assert texts_of(reader.take()) == "b"


async def test_held_back_text_wakes_no_reader():
    leased = LeasedLog("a")
    waiting = asyncio.ensure_future(Reader(leased.log, 1).wait())
    await settle()
    leased.expire()
    leased.write("b")
    await settle()
    assert not waiting.done()
    leased.renew()
    await waiting


def test_a_stored_end_is_shown_without_the_lease():
    leased = LeasedLog("a")
    before = Reader(leased.log, 1)
    leased.expire()
    leased.write("b")
    leased.finish()
    assert not leased.log.fenced
    chunks = read_available(before)
    assert (texts_of(chunks), type(chunks[-1].entry)) == ("b", Finished)
    assert [chunk.sequence for chunk in chunks] == [2, 3]
    assert texts_of(read_available(Reader(leased.log, 0))) == "ab"


def test_a_writer_that_lost_its_reply_shows_the_stored_end_of_the_new_owner():
    log = held_back(TextDelta("a"))
    stored = ended(log.reply, last_sequence=TAKEOVER_GAP + 1, state=State.FAILED)
    log.replace(stored)
    assert [chunk.entry for chunk in read_available(Reader(log, 0))] == [Snapshot(stored), terminal_of(stored)]
    log.release()
    assert log.last_sequence == stored.last_sequence


async def test_an_erased_log_ends_its_readers_without_the_lease():
    log = held_back(TextDelta("a"))
    waiting = asyncio.ensure_future(Reader(log, 0).until_ended())
    await settle()
    log.erase()
    await waiting


async def test_a_log_broken_off_by_an_error_shows_its_entries_then_raises_the_error():
    log = Log.of_other(reply())
    log.append(TextDelta("a"))
    reader, late = Reader(log, 0), Reader(log, 1)
    waiting = asyncio.ensure_future(late.wait())
    ending = asyncio.ensure_future(Reader(log, 0).until_ended())
    await settle()
    log.break_off(StorageUnavailable("unreachable"))
    assert texts_of(reader.take()) == "a"
    for each in (reader, late):
        assert each.ready
        with pytest.raises(StorageUnavailable, match="unreachable"):
            each.take()
    await waiting
    with pytest.raises(StorageUnavailable, match="unreachable"):
        await ending
    log.append(TextDelta("b"))
    assert log.last_sequence == 1
    assert (log.over, log.fenced, log.ended) == (True, False, False)


def test_entries_need_both_the_lease_and_journal_capacity(monkeypatch):
    monkeypatch.setattr(log_module, "MAX_UNJOURNALED", 3)
    leased = LeasedLog(*"abcd")
    assert leased.log.last_sequence == 3
    leased.expire()
    leased.write("e")
    leased.log.journaled(3)
    assert leased.log.last_sequence == 3
    leased.write(*"fgh")
    leased.renew()
    assert leased.log.last_sequence == 6
    leased.expire()
    leased.log.journaled(6)
    assert leased.log.last_sequence == 6
    leased.renew()
    assert leased.log.last_sequence == 8
    assert texts_of(read_available(Reader(leased.log, 0))) == "abcdefgh"


def test_a_log_of_another_replica_has_no_journal_limit(monkeypatch):
    monkeypatch.setattr(log_module, "MAX_UNJOURNALED", 3)
    log = Log.of_other(reply())
    for letter in "abcdefgh":
        log.append(TextDelta(letter))
    assert log.last_sequence == 8
    log.journaled(4)
    log.append(TextDelta("i"))
    assert texts_of(read_available(Reader(log, 0))) == "abcdefghi"


@settings(deadline=None, max_examples=80)
@given(given=st.lists(entries(), max_size=40), seed=st.integers(0, 10_000))
def test_readers_get_every_entry_once_with_random_expiries_and_renewals(given, seed):
    chance = random.Random(seed)
    leased = LeasedLog()
    readers = [(Reader(leased.log, 0), []) for _ in range(3)]
    for entry in given:
        leased.log.append(entry)
        action = chance.choice(("expire", "renew", "read", "read", "journal", "nothing"))
        if action == "expire":
            leased.expire()
        elif action == "renew":
            leased.renew()
        elif action == "journal":
            leased.log.journaled(leased.log.last_sequence)
        elif action == "read":
            reader, seen = chance.choice(readers)
            taken = reader.take()
            assert not taken or leased.lease.held
            seen += taken
    leased.finish()
    whole = leased.log.numbered()
    assert whole[:-1] == given
    for reader, seen in readers:
        seen += read_available(reader)
        assert answer_of(chunk.entry for chunk in seen) == answer_of(whole)
        assert [chunk.sequence for chunk in seen] == sorted({chunk.sequence for chunk in seen})


# --- replies


@pytest.fixture
async def a(cluster: Cluster) -> Replica:
    return await cluster.join("a", journal=True, sweeps=False)


@pytest.fixture
async def running(a: Replica) -> RunningReply:
    return await start_reply(a, "one ")


async def test_get_wait_and_poll_omit_held_back_entries(cluster, a, running):
    a.store.unavailable = True
    await cluster.advance(LEASE_S)
    await running.write("two")
    for view in (
        await a.replies.get(ADA, running.id),
        await a.replies.wait(running.log, 0.0),
        running.generation.reply,
    ):
        assert view.message.parts == (TextPart(text="one "),)
        assert (view.state, view.last_sequence) == (State.STREAMING, 1)
    polled = await a.poll(running.id)
    assert (polled.chunks, polled.after_sequence, polled.reply.message) == ((), 0, None)
    a.store.unavailable = False
    await cluster.advance(RENEWAL_S)
    polled = await a.poll(running.id)
    assert texts_of(polled.chunks) == "one two"


async def test_entries_are_neither_journaled_nor_published_without_the_lease(cluster, a, running):
    await cluster.advance(RENEWAL_S)
    assert running.log.durable_sequence == 1
    cluster.clock.suspend(LEASE_S)
    await running.write("two ")
    calls = a.store.calls.count("append_checkpoints")
    await cluster.advance(RENEWAL_S - 0.1)
    assert a.store.calls.count("append_checkpoints") == calls
    assert cluster.network.published(running.id) == (TextDelta("one "),)
    await cluster.advance(RENEWAL_S)
    assert running.log.durable_sequence == 2
    assert cluster.network.published(running.id) == (TextDelta("one "), TextDelta("two "))


async def test_a_reply_that_ends_without_the_lease_is_stored_with_its_whole_text(cluster, a, running):
    cluster.clock.suspend(LEASE_S)
    await running.write("two ", "three", None)
    stored = await a.stored_end(running.generation)
    assert stored.message.parts == (TextPart(text="one two three"),)
    assert stored.last_sequence == running.log.last_sequence == 4
    assert texts_of(read_available(Reader(running.log, 0))) == "one two three"


async def test_one_lease_hides_and_shows_all_replies_of_the_replica(cluster, a):
    replies = [await start_reply(a, f"{number} ") for number in range(5)]
    readers = [Reader(each.log, 0) for each in replies]
    cluster.clock.suspend(LEASE_S)
    assert not any(reader.ready for reader in readers)
    for each in replies:
        await each.write("more")
    await cluster.advance(RENEWAL_S)
    assert [texts_of(read_available(reader)) for reader in readers] == [f"{number} more" for number in range(5)]


async def test_a_lost_reply_stays_hidden_after_the_renewal_and_others_continue(cluster, a):
    lost = await start_reply(a, "lost ")
    await cluster.advance(0.01)
    kept = await start_reply(a, "kept ")
    cluster.clock.suspend(LEASE_S)
    await cluster.expire(a)
    await cluster.store.hold_lease("b", 3600.0)
    (taken,) = await cluster.store.take_over("b", 1)
    assert taken.reply.id == lost.id
    await lost.write("more")
    await kept.write("more")
    await cluster.advance(RENEWAL_S)
    assert read_available(Reader(lost.log, 0)) == []
    assert texts_of(read_available(Reader(kept.log, 0))) == "kept more"
