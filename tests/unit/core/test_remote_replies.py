"""Remote readers of a reply get its exact text and stored end, or an error if it is unreachable."""

from __future__ import annotations

import asyncio
import random

import msgspec
import pytest
from parley_server.core.cluster.remote_replies import CHECK_INTERVAL_S, UNREACHABLE_LIMIT_S
from parley_server.core.events import Failed, Finished, Snapshot, TextDelta, Unknown
from parley_server.core.model import Identity, State, TextPart
from parley_server.core.replies import log as log_module
from parley_server.core.replies.log import TAKEOVER_GAP, Reader
from parley_server.core.replies.remote import KEPT_S
from parley_server.errors import Reason, ReplyNotFound, StorageUnavailable, TooManyReaders

from tests.clock import settle
from tests.fakes import ADA, OTHERS, reply_request, texts_of
from tests.replicas import LEASE_S, Cluster, Replica
from tests.unit.core.running_reply import RunningReply, read_available, read_to_end, start_reply


@pytest.fixture
async def a(cluster: Cluster) -> Replica:
    return await cluster.join("a", journal=True)


@pytest.fixture
async def b(cluster: Cluster) -> Replica:
    return await cluster.join("b")


@pytest.fixture
async def reply(a: Replica, b: Replica) -> RunningReply:
    return await start_reply(a, "one ")


# --- text


async def test_a_remote_reader_gets_new_text_and_the_stored_end(cluster, a, b, reply):
    log = await b.replies.attach(ADA, reply.id)
    assert log is not reply.log
    reader = Reader(log, 0)
    assert texts_of(read_available(reader)) == "one "
    reading = asyncio.ensure_future(read_to_end(reader))
    await reply.write("two ", "(hm)", "three")
    await reply.write(None)
    await cluster.settle()
    stored = await a.stored(reply.id)
    chunks = await reading
    assert texts_of(chunks) == "two three"
    assert [chunk.sequence for chunk in chunks] == [2, 3, 4, 5]
    assert chunks[-1] == read_available(Reader(reply.log, 0))[-1]
    assert log.reply == reply.log.reply == stored
    assert (b.live_replies.followed, b.relay.following) == ({}, {})
    assert await b.replies.attach(ADA, reply.id) is log


async def test_all_readers_of_a_replica_share_one_log(cluster, a, b, reply):
    logs = await asyncio.gather(*[b.replies.attach(ADA, reply.id) for _ in range(5)])
    assert len({id(log) for log in logs}) == 1
    assert list(b.relay.following) == [reply.id]
    reads = b.store.calls.count("get_reply")
    assert await b.replies.attach(ADA, reply.id) is logs[0]
    assert b.store.calls.count("get_reply") == reads


@pytest.mark.parametrize("seed_block", range(5))
async def test_readers_on_any_replica_at_random_moments_get_the_exact_text(cluster, seed_block):
    a, b, c = [await cluster.join(name, sweeps=False) for name in "abc"]
    for seed in range(seed_block * 10, seed_block * 10 + 10):
        chance = random.Random(seed)
        words = [f"{number}," for number in range(chance.randrange(1, 25))]
        reply = await start_reply(a)

        async def read(replica: Replica, lateness: int, reply=reply, chance=chance) -> list:
            for _ in range(lateness):
                await asyncio.sleep(0)
            log = await replica.replies.attach(ADA, reply.id)
            reader, seen = Reader(log, 0), []
            while not reader.done:
                await reader.wait()
                seen += reader.take()
                if chance.random() < 0.3 and not reader.done:  # the connection is lost: another one resumes
                    reader = Reader(await replica.replies.attach(ADA, reply.id), reader.position)
            return seen

        reading = [asyncio.ensure_future(read(each, chance.randrange(60))) for each in (a, b, b, c)]
        for word in words:
            if chance.random() < 0.2:
                cluster.network.delivery_paused = True
            await reply.write(word)
            if chance.random() < 0.5:
                cluster.network.reconnect()
        await reply.write(None)
        cluster.network.delivery_paused = False
        await cluster.advance(2 * CHECK_INTERVAL_S)
        for chunks in await asyncio.gather(*reading):
            assert texts_of(chunks) == "".join(words)
            assert [chunk.sequence for chunk in chunks] == sorted({chunk.sequence for chunk in chunks})
            assert isinstance(chunks[-1].entry, Finished)


async def test_a_reader_ahead_of_the_followed_log_waits(cluster, a, b, reply):
    cluster.network.delivery_paused = True
    await reply.write("two ", "three ")
    reader = Reader(await b.replies.attach(ADA, reply.id), 2)
    await cluster.advance(5.0)
    assert not reader.ready
    cluster.network.reconnect()
    assert [(chunk.sequence, chunk.entry) for chunk in read_available(reader)] == [(3, TextDelta("three "))]


async def test_unknown_entries_of_a_newer_release_are_numbered_and_skipped(cluster, a, b, reply):
    reader = Reader(await b.replies.attach(ADA, reply.id), 0)
    for entry in (Unknown(), TextDelta("x"), Unknown(), Unknown()):
        reply.log.append(entry)
    await cluster.settle()
    chunks = read_available(reader)
    assert texts_of(chunks) == "one x"
    assert chunks[-1].sequence == 5
    polled = await b.poll(reply.id)
    assert ([type(chunk.entry) for chunk in polled.chunks], polled.after_sequence) == ([TextDelta, TextDelta], 5)
    empty = await b.poll(reply.id, after=3)
    assert (empty.chunks, empty.after_sequence) == ((), 5)


async def test_a_reply_longer_than_the_journal_limit_is_followed_to_its_end(cluster, b, monkeypatch):
    """Only the owner has a journal, and so only the owner holds entries back for it."""
    monkeypatch.setattr(log_module, "MAX_UNJOURNALED", 20)
    a = await cluster.join("a", journal=True)
    reply = await start_reply(a)
    followed = Reader(await b.replies.attach(ADA, reply.id), 0)
    for _ in range(5):
        await reply.write(*["x"] * 15)
        await cluster.advance(0.5)
    assert texts_of(read_available(followed)) == "x" * 75
    await reply.write(None)
    await cluster.settle()
    assert isinstance(read_available(followed)[-1].entry, Finished)
    await cluster.advance(61.0)
    late = await b.replies.attach(ADA, reply.id)
    assert late is not followed.log
    assert texts_of(read_available(Reader(late, 0))) == "x" * 75


# --- ends


async def test_an_end_without_a_notice_is_found_by_the_check(cluster, a, b, reply):
    cluster.network.notices_lost = True
    reader = Reader(await b.replies.attach(ADA, reply.id), 1)
    reading = asyncio.ensure_future(read_to_end(reader))
    await reply.write("two", None)
    await cluster.settle()
    assert not reading.done()
    await cluster.advance(CHECK_INTERVAL_S)
    assert texts_of(await reading) == "two"


async def test_a_notice_of_an_end_is_confirmed_by_the_store(cluster, a, b, reply):
    """Notices may be wrong or early."""
    reader = Reader(await b.replies.attach(ADA, reply.id), 0)
    b.relay.following[reply.id].look()
    await cluster.settle()
    assert not reader.log.over
    block = a.store.block("finalise")
    await reply.write("two", None)
    b.relay.following[reply.id].look()
    await cluster.settle()
    assert texts_of(read_available(reader)) == "one two"
    assert not reader.done
    block.released.set()
    await cluster.advance(CHECK_INTERVAL_S)
    assert isinstance(read_available(reader)[-1].entry, Finished)


async def test_undelivered_entries_are_recalled_before_the_end(cluster, a, b, reply):
    reader = Reader(await b.replies.attach(ADA, reply.id), 0)
    cluster.network.delivery_paused = True
    await reply.write("two ", "three", None)
    await cluster.advance(CHECK_INTERVAL_S)
    chunks = read_available(reader)
    assert texts_of(chunks) == "one two three"
    assert isinstance(chunks[-1].entry, Finished)


@pytest.mark.parametrize("lost", ["tail", "all"])
async def test_lost_entries_are_replaced_by_a_snapshot_before_the_end(cluster, a, b, reply, lost):
    reader = Reader(await b.replies.attach(ADA, reply.id), 1)
    reading = asyncio.ensure_future(read_to_end(reader))
    cluster.network.delivery_paused = cluster.network.notices_lost = True
    await reply.write("two ", "three")
    end = asyncio.ensure_future(a.stored_end(reply.generation))
    if lost == "tail":
        cluster.network.streams[reply.id][1] = cluster.network.streams[reply.id][1][:2]
        cluster.network.disconnect()
    await reply.write(None)
    await end
    cluster.network.disconnected_since = None
    if lost == "all":
        cluster.network.streams.clear()
    await cluster.advance(CHECK_INTERVAL_S)
    stored = await a.stored(reply.id)
    chunks = await reading
    assert [(chunk.sequence, type(chunk.entry)) for chunk in chunks[-2:]] == [(3, Snapshot), (4, Finished)]
    assert chunks[-2].entry.reply == stored
    assert stored.message.parts == (TextPart(text="one two three"),)


async def test_a_reader_past_the_durable_text_gets_a_snapshot_when_the_owner_dies(cluster, a, b, reply):
    await cluster.advance(2 * LEASE_S)
    reader = Reader(await b.replies.attach(ADA, reply.id), 0)
    reading = asyncio.ensure_future(read_to_end(reader))
    await reply.write("two ", "lost ")
    await settle()
    assert reader.position == 3
    cluster.network.streams[reply.id][1] = cluster.network.streams[reply.id][1][:2]
    await cluster.kill(a)
    await cluster.advance(LEASE_S)
    stored = await b.stored(reply.id)
    chunks = await reading
    assert stored.message.parts == (TextPart(text="one two "),)
    assert (stored.state, stored.error.reason) == (State.FAILED, Reason.OWNER_LOST)
    assert [(chunk.sequence, type(chunk.entry)) for chunk in chunks[-2:]] == [
        (2 + TAKEOVER_GAP, Snapshot),
        (3 + TAKEOVER_GAP, Failed),
    ]
    assert chunks[-2].sequence > 3


async def test_an_erased_reply_ends_its_remote_readers(cluster, a, b, reply):
    reader = Reader(await b.replies.attach(ADA, reply.id), 1)
    waiting = asyncio.ensure_future(reader.wait())
    cluster.network.notices_lost = True
    await reply.write(None)
    await a.stored_end(reply.generation)
    await cluster.store.delete_conversation(ADA, reply.conversation_id, "")
    await cluster.advance(CHECK_INTERVAL_S)
    await waiting
    with pytest.raises(ReplyNotFound):
        reader.take()
    assert b.live_replies.followed == {}
    with pytest.raises(ReplyNotFound):
        await b.replies.attach(ADA, reply.id)


async def test_checks_continue_after_a_store_outage_and_an_unexpected_error(cluster, a, b, reply, caplog):
    reader = Reader(await b.replies.attach(ADA, reply.id), 1)
    failures = [StorageUnavailable(), RuntimeError("unexpected")]

    async def fail(*_):
        if failures:
            raise failures.pop(0)

    b.store.before["standings"] = fail
    await reply.write(None)
    await cluster.advance(3 * CHECK_INTERVAL_S)
    assert {"remote_check_postponed", "remote_check_failed"} <= set(caplog.messages)
    assert isinstance(read_available(reader)[-1].entry, Finished)


async def test_an_end_that_cannot_be_read_does_not_block_other_ends(cluster, a, b, reply):
    other = await start_reply(a, "two ")
    readers = {each.id: Reader(await b.replies.attach(ADA, each.id), 1) for each in (reply, other)}

    async def fail(_, reply_id):
        if reply_id == reply.id:
            raise StorageUnavailable

    b.store.before["get_reply"] = fail
    await reply.write(None)
    await other.write(None)
    await cluster.advance(CHECK_INTERVAL_S)
    assert isinstance(read_available(readers[other.id])[-1].entry, Finished)
    assert not readers[reply.id].log.over
    b.store.before.clear()
    await cluster.advance(CHECK_INTERVAL_S)
    assert isinstance(read_available(readers[reply.id])[-1].entry, Finished)


async def test_all_followed_replies_are_checked_in_one_query(cluster, a, b):
    replies = [await start_reply(a, "x") for _ in range(20)]
    for each in replies:
        await b.replies.attach(ADA, each.id)
    await cluster.advance(0.1)
    calls = b.store.calls.count("standings")
    await cluster.advance(10 * CHECK_INTERVAL_S)
    assert b.store.calls.count("standings") - calls == 10


async def test_a_notice_checks_only_its_own_reply(cluster, a, b):
    """Otherwise the ends of many followed replies would each cause a check of all of them."""
    first, second = await start_reply(a, "x"), await start_reply(a, "y")
    for each in (first, second):
        await b.replies.attach(ADA, each.id)
    await cluster.advance(0.1)
    checked_ids = []

    async def note(reply_ids):
        checked_ids.append(reply_ids)

    b.store.before["standings"] = note
    await first.write(None)
    await cluster.settle()
    assert checked_ids == [[first.id]]
    await cluster.advance(CHECK_INTERVAL_S)
    assert checked_ids[1:] == [[second.id]]


# --- ended replies


async def test_an_ended_remote_reply_is_recalled_from_the_relay(cluster, a, b, reply):
    await reply.write("two", None)
    stored = await a.stored_end(reply.generation)
    log = await b.replies.attach(ADA, reply.id)
    for after in range(stored.last_sequence + 1):
        assert read_available(Reader(log, after)) == read_available(Reader(reply.log, after))
    assert await b.replies.attach(ADA, reply.id) is log


async def test_ended_replies_are_recalled_within_the_configured_retention(cluster, a, reply):
    b = await cluster.join("b", relay_retention_s=900.0)
    await reply.write("two", None)
    await a.stored_end(reply.generation)
    await cluster.advance(700.0)
    log = await b.replies.attach(ADA, reply.id)
    assert [type(chunk.entry) for chunk in read_available(Reader(log, 0))] == [TextDelta, Finished]


async def test_concurrent_readers_of_an_ended_reply_share_one_recall(cluster, a, b, reply, monkeypatch):
    await reply.write("two", None)
    await a.stored_end(reply.generation)
    recalls = []
    recall = b.relay.recall

    async def counted(reply_id):
        recalls.append(reply_id)
        await asyncio.sleep(0.01)
        return await recall(reply_id)

    monkeypatch.setattr(b.relay, "recall", counted)
    attaching = [asyncio.ensure_future(b.replies.attach(ADA, reply.id)) for _ in range(50)]
    while not recalls:
        await asyncio.sleep(0.001)
    attaching.pop(0).cancel()
    logs = await asyncio.gather(*attaching)
    assert len({id(log) for log in logs}) == 1
    assert texts_of(read_available(Reader(logs[0], 0))) == "one two"
    assert recalls == [reply.id]


@pytest.mark.parametrize("cause", ["disconnected", "expired", "incomplete", "taken over"])
async def test_a_reply_that_cannot_be_recalled_has_a_snapshot(cluster, a, b, reply, cause):
    await reply.write("two", None)
    stored = await a.stored_end(reply.generation)
    if cause == "disconnected":
        cluster.network.disconnect()
    elif cause == "expired":
        await cluster.advance(601.0)
    elif cause == "incomplete":
        cluster.network.streams[reply.id][1].pop()
    else:
        cluster.network.streams[reply.id][1].append(TextDelta("more than was stored"))
    log = await b.replies.attach(ADA, reply.id)
    chunks = read_available(Reader(log, 0))
    assert [(chunk.sequence, type(chunk.entry)) for chunk in chunks] == [(2, Snapshot), (3, Finished)]
    assert chunks[0].entry.reply == stored


async def test_get_of_an_ended_reply_recalls_nothing(cluster, a, b, reply):
    await reply.write(None)
    stored = await a.stored_end(reply.generation)
    assert await b.replies.get(ADA, reply.id) == stored
    assert b.live_replies.find(ADA, reply.id) is None


# --- disconnections


async def test_readers_get_an_error_when_the_relay_is_disconnected_for_ten_seconds(cluster, a, b, reply):
    reader = Reader(await b.replies.attach(ADA, reply.id), 0)
    assert texts_of(read_available(reader)) == "one "
    waiting = asyncio.ensure_future(reader.wait())
    with b.replies.reading(reader.log):
        cluster.network.disconnect()
        await reply.write("two ")
        await cluster.advance(UNREACHABLE_LIMIT_S - 0.1)
        assert not waiting.done()
        assert reader.take() == []
        await cluster.advance(CHECK_INTERVAL_S + 0.1)
        await waiting
        with pytest.raises(StorageUnavailable) as error:
            reader.take()
    assert error.value.retry_after_s
    assert error.value.retryable
    assert (b.live_replies.followed, b.relay.following) == ({}, {})
    cluster.network.reconnect()
    again = Reader(await b.replies.attach(ADA, reply.id), reader.position)
    assert again.log is not reader.log
    assert texts_of(read_available(again)) == "two "


async def test_a_reader_that_attaches_during_a_disconnection_waits_ten_seconds_too(cluster, a, b, reply):
    cluster.network.disconnect()
    await cluster.advance(60.0)
    reader = Reader(await b.replies.attach(ADA, reply.id), 0)
    with b.replies.reading(reader.log):
        await cluster.advance(UNREACHABLE_LIMIT_S - 0.1)
        assert not reader.ready
        await cluster.advance(CHECK_INTERVAL_S + 0.1)
        with pytest.raises(StorageUnavailable):
            reader.take()


async def test_a_shorter_disconnection_is_not_visible_to_readers(cluster, a, b, reply):
    reader = Reader(await b.replies.attach(ADA, reply.id), 1)
    with b.replies.reading(reader.log):
        for _ in range(3):
            cluster.network.disconnect()
            await cluster.advance(UNREACHABLE_LIMIT_S - 1.0)
            await reply.write("x")
            cluster.network.reconnect()
            await cluster.advance(1.0)
        assert texts_of(read_available(reader)) == "xxx"


async def test_the_end_is_shown_while_the_relay_is_disconnected(cluster, a, b, reply):
    reader = Reader(await b.replies.attach(ADA, reply.id), 1)
    cluster.network.disconnect()
    await reply.write("two", None)
    stored = await a.stored_end(reply.generation)
    await cluster.advance(CHECK_INTERVAL_S)
    chunks = read_available(reader)
    assert [type(chunk.entry) for chunk in chunks] == [Snapshot, Finished]
    assert chunks[0].entry.reply == stored


async def test_wait_and_poll_raise_when_the_relay_is_disconnected_for_ten_seconds(cluster, a, b, reply):
    log = await b.replies.attach(ADA, reply.id)
    cluster.network.disconnect()
    waiting = asyncio.ensure_future(b.replies.wait(log, 3600.0))
    polling = asyncio.ensure_future(b.poll(reply.id, after=1, wait_s=30.0))
    await cluster.advance(UNREACHABLE_LIMIT_S + CHECK_INTERVAL_S)
    for each in (waiting, polling):
        with pytest.raises(StorageUnavailable):
            await each


# --- readers


async def test_a_log_without_readers_is_followed_for_a_minute(cluster, a, b, reply):
    log = await b.replies.attach(ADA, reply.id)
    await cluster.advance(KEPT_S - 0.1)
    assert reply.id in b.live_replies.followed
    await cluster.advance(CHECK_INTERVAL_S + 0.2)
    assert (b.live_replies.followed, b.relay.following) == ({}, {})
    with pytest.raises(StorageUnavailable):
        Reader(log, 5).take()
    again = await b.replies.attach(ADA, reply.id)
    assert texts_of(read_available(Reader(again, 0))) == "one "


async def test_readers_and_polls_keep_a_followed_log(cluster, a, b, reply):
    log = await b.replies.attach(ADA, reply.id)
    with b.replies.reading(log):
        await cluster.advance(5 * KEPT_S)
        assert reply.id in b.live_replies.followed
    for look in (lambda: b.replies.get(ADA, reply.id), lambda: b.poll(reply.id)):
        await look()
        await cluster.advance(KEPT_S - 2.0)
        assert reply.id in b.live_replies.followed
    await cluster.advance(4.0)
    assert b.live_replies.followed == {}


async def test_only_logs_with_readers_are_reported_to_the_owner(cluster, a, b, reply):
    log = await b.replies.attach(ADA, reply.id)
    wanted = b.relay.following[reply.id].wanted
    assert not wanted()
    with b.replies.reading(log):
        assert wanted()
    assert not wanted()
    await b.replies.get(ADA, reply.id)
    await cluster.advance(59.9)
    assert wanted()
    await cluster.advance(0.2)
    assert not wanted()


async def test_remote_readers_over_the_limit_are_refused(cluster, a):
    b = await cluster.join("b", max_readers_per_reply=2)
    reply = await start_reply(a, "one ")
    log = await b.replies.attach(ADA, reply.id)
    with b.replies.reading(log), b.replies.reading(log):
        with pytest.raises(TooManyReaders), b.replies.reading(log):
            pass
        assert b.observer.readers == 2
    assert b.observer.readers == 0


async def test_get_wait_and_poll_of_a_remote_reply_show_its_current_state(cluster, a, b, reply):
    await reply.write("two ", "(hm)")
    for view in (await b.replies.get(ADA, reply.id), await b.replies.wait(await b.replies.attach(ADA, reply.id), 0.0)):
        assert (view.id, view.state, view.last_sequence) == (reply.id, State.STREAMING, 3)
        assert TextPart(text="one two ") in view.message.parts
        assert view.message.partial
    polling = asyncio.ensure_future(b.poll(reply.id, after=3, wait_s=20.0))
    await cluster.advance(5.0)
    assert not polling.done()
    await reply.write("three")
    polled = await polling
    assert (texts_of(polled.chunks), polled.after_sequence) == ("three", 4)
    waiting = asyncio.ensure_future(b.replies.wait(await b.replies.attach(ADA, reply.id), 60.0))
    await cluster.advance(5.0)
    await reply.write(None)
    await cluster.settle()
    assert await waiting == await a.stored(reply.id)


async def test_remote_replies_of_other_users_and_tenants_are_not_found(cluster, a, b, reply):
    await b.replies.attach(ADA, reply.id)
    for identity in OTHERS:
        with pytest.raises(ReplyNotFound):
            await b.replies.get(identity, reply.id)
    assert (await b.replies.get(Identity(tenant="shop"), reply.id)).id == reply.id


async def test_a_retry_on_another_replica_attaches_to_the_same_reply(cluster, a, b):
    reply = await start_reply(a, "one ", request_id="r")
    started = await b.replies.start(reply_request(request_id="r"))
    assert started.replayed
    reader = Reader(started.log, 0)
    await reply.write("two", None)
    await cluster.settle()
    assert texts_of(read_available(reader)) == "one two"
    assert b.provider.prompts == []
    late = await b.replies.start(reply_request(request_id="r"))
    assert (late.replayed, late.log) == (True, started.log)


async def test_an_owned_reply_without_a_task_is_followed_to_its_end(cluster, a, b):
    reply = await start_reply(a, "one ")
    del a.live_replies.running[reply.id]
    log = await a.replies.attach(ADA, reply.id)
    reading = asyncio.ensure_future(read_to_end(Reader(log, 0)))
    await cluster.advance(5.0)
    stored = await a.stored(reply.id)
    assert stored.error.reason is Reason.INTERNAL
    assert isinstance((await reading)[-1].entry, Failed)
    assert msgspec.structs.replace(log.reply) == stored
