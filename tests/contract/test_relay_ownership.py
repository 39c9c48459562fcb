"""What replicas exchange about a reply besides its text: ownership, cancel requests, and readers."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from parley_server.core.events import TextDelta
from parley_server.core.lease import Lease
from parley_server.journal import entry_codec
from parley_server.relay import wire
from parley_server.relay.redis import PRESENCE_LATE_S
from parley_server.relay.remote_log_reader import TICK_S

from tests.clock import until
from tests.contract.relays import HEARTBEAT_S, UNTOLD_S, Replicas, same, say, text_of, unique
from tests.fakes import ended, reply


@pytest.fixture
async def replicas(shared_redis):
    async with Replicas(shared_redis.url()) as made:
        yield made


async def published(owner, log) -> None:
    """Wait until Redis has all entries."""
    await until(lambda: owner.relay._publisher._publications[log.reply.id].sent == log.last_sequence)


async def test_a_takeover_closes_the_log_to_its_writer_and_returns_all_entries(replicas, shared_redis):
    zombie, other = await replicas.start(), await replicas.start()
    log = zombie.begin()
    copy = other.follow(log.reply)
    for number in range(1200):
        log.append(TextDelta(f"{number} "))
    await published(zombie, log)
    shown = log.content()
    assert list(await other.relay.take_over(log.reply.id, 2)) == shown
    say(log, "of a zombie")
    await until(lambda: zombie.events.lost == [log.reply.id])
    await asyncio.sleep(2 * HEARTBEAT_S)
    assert copy.entries == shown
    assert list(await other.relay.recall(log.reply.id)) == shown
    assert zombie.events.lost == [log.reply.id]
    assert zombie.problems() == {}


async def test_a_silent_writer_detects_a_takeover_by_its_heartbeat(replicas):
    zombie, other = await replicas.start(), await replicas.start()
    spoken, mute = zombie.begin(), zombie.begin()
    say(spoken, "a word")
    await published(zombie, spoken)
    assert text_of(await other.relay.take_over(spoken.reply.id, 2)) == "a word "
    assert await other.relay.take_over(mute.reply.id, 2) == ()
    await until(lambda: sorted(zombie.events.lost) == sorted([spoken.reply.id, mute.reply.id]), 4 * HEARTBEAT_S)


async def test_the_fence_never_decreases(replicas):
    owner, other = await replicas.start(), await replicas.start()
    log = owner.begin(epoch=2)
    say(log, "second")
    await published(owner, log)
    assert text_of(await other.relay.take_over(log.reply.id, 4)) == "second "
    assert text_of(await other.relay.take_over(log.reply.id, 3)) == "second "
    late = other.begin(reply_id=log.reply.id, epoch=3)
    say(late, "third")
    await until(lambda: other.events.lost == [log.reply.id])
    first = owner.begin(reply_id=log.reply.id, epoch=1)
    say(first, "first")
    await asyncio.sleep(2 * HEARTBEAT_S)
    assert owner.events.lost[-1:] == [log.reply.id]
    assert text_of(await other.relay.recall(log.reply.id)) == "second "


async def test_entries_of_an_unfenced_zombie_are_not_visible_in_later_epochs(replicas, shared_redis):
    zombie, other = await replicas.start(heartbeat_s=30.0), await replicas.start()
    log = zombie.begin()
    say(log, "one two")
    await published(zombie, log)
    await other.relay.take_over(log.reply.id, 2)
    shared_redis.command("HDEL", wire.reply_key(log.reply.id), "fence")  # as if lost in a failover
    successor = other.begin(reply_id=log.reply.id, epoch=2)
    copy = zombie.follow(successor.reply)
    say(log, "of the zombie")
    await published(zombie, log)
    say(successor, "of the successor")
    await same(copy, successor)
    say(log, "again")
    await until(lambda: zombie.events.lost == [log.reply.id])
    assert text_of(await other.relay.recall(log.reply.id)) == copy.text == "of the successor "


async def test_an_ended_log_accepts_no_appends(replicas):
    owner, other = await replicas.start(), await replicas.start()
    log = owner.begin()
    say(log, "the whole")
    await published(owner, log)
    log.finish(ended(log.reply, last_sequence=log.closing_sequence))
    owner.relay.ended(log)
    await until(lambda: len(owner.relay._publisher._publications) == 0)
    zombie = other.begin(reply_id=log.reply.id)
    say(zombie, "of a zombie with words of its own")
    await until(lambda: other.events.lost == [log.reply.id])
    assert text_of(await other.relay.recall(log.reply.id)) == "the whole "


@pytest.mark.parametrize("deaf", [False, True])
async def test_an_erased_log_cannot_be_recreated(replicas, shared_redis, monkeypatch, deaf):
    zombie, other = await replicas.start(), await replicas.start()
    log, kept = zombie.begin(), zombie.begin()
    say(log, "private")
    say(kept, "kept")
    await published(zombie, log)
    await published(zombie, kept)
    if deaf:
        monkeypatch.setattr(zombie.relay._subscription, "_on_message", lambda channel, data: None)
    other.relay.erase((log.reply.id, "reply-unknown"))
    await until(lambda: other.events.erasures == [log.reply.id, "reply-unknown"])
    say(log, "a last append")
    if deaf:
        await until(lambda: zombie.events.lost == [log.reply.id])
    else:
        await until(lambda: zombie.events.erasures == other.events.erasures)
    assert shared_redis.command("EXISTS", wire.stream_key(log.reply.id, 1)) == 0
    assert await other.relay.recall(log.reply.id) == ()
    assert 0 < shared_redis.command("PTTL", wire.reply_key(log.reply.id)) <= 600_000
    assert text_of(await other.relay.recall(kept.reply.id)) == "kept "
    log.erase()
    zombie.relay.ended(log)
    await asyncio.sleep(2 * HEARTBEAT_S)
    assert shared_redis.command("KEYS", f"*{log.reply.id}*") == [wire.reply_key(log.reply.id).decode()]


async def test_pending_entries_of_an_erased_log_are_dropped(replicas, shared_redis):
    owner = await replicas.start(flush_interval_s=0.3)
    log = owner.begin()
    say(log, "first")
    await published(owner, log)
    say(log, "private")
    log.finish(ended(log.reply, last_sequence=log.closing_sequence))
    owner.relay.ended(log)
    owner.relay.erase((log.reply.id,))
    await until(lambda: owner.events.erasures == [log.reply.id])
    await asyncio.sleep(0.5)
    assert shared_redis.command("EXISTS", wire.stream_key(log.reply.id, 1)) == 0


async def test_many_replies_are_erased(replicas):
    owner, other = await replicas.start(), await replicas.start()
    ids = tuple(unique("reply") for _ in range(1200))
    other.relay.erase(ids)
    await until(lambda: len(owner.events.erasures) == 1200)
    assert tuple(owner.events.erasures) == ids


async def test_a_cancel_request_reaches_the_owner_at_once(replicas):
    owner, other = await replicas.start(heartbeat_s=30.0), await replicas.start()
    log = owner.begin()
    say(log, "text")
    await published(owner, log)
    other.relay.publish_cancel(log.reply)
    await until(lambda: owner.events.cancels == [log.reply.id], 0.5)


@pytest.mark.parametrize("writes", [True, False])
async def test_an_owner_without_subscription_finds_a_cancel_request(replicas, monkeypatch, writes):
    heartbeat_s = 30.0 if writes else HEARTBEAT_S
    owner, other = await replicas.start(heartbeat_s=heartbeat_s), await replicas.start()
    log = owner.begin()
    if writes:
        say(log, "text")
        await published(owner, log)
    monkeypatch.setattr(owner.relay._subscription, "_on_message", lambda channel, data: None)
    other.relay.publish_cancel(log.reply)
    await asyncio.sleep(0.1)
    if writes:
        assert owner.events.cancels == []
        say(log, "more")
    await until(lambda: log.reply.id in owner.events.cancels, 2 * HEARTBEAT_S)


async def test_a_cancel_request_for_a_reply_without_entries_expires(replicas, shared_redis):
    other = await replicas.start(running_ttl_s=60.0)
    cancelled = reply(unique("reply"), owner="nobody")
    other.relay.publish_cancel(cancelled)
    await until(lambda: 0 < shared_redis.command("PTTL", wire.reply_key(cancelled.id)) <= 60_000)


async def test_remote_readers_are_reported_until_they_leave(replicas):
    owner, other = await replicas.start(), await replicas.start()
    log, alone = owner.begin(), owner.begin()
    say(log, "text")
    say(alone, "text")
    await published(owner, log)
    await published(owner, alone)
    copy = other.follow(log.reply)
    await until(lambda: bool(owner.events.sightings))
    assert {reply_id for reply_id, _ in owner.events.sightings} == {log.reply.id}
    assert max(age_s for _, age_s in owner.events.sightings) < 2 * HEARTBEAT_S
    await asyncio.sleep(UNTOLD_S + 3 * HEARTBEAT_S)
    assert await owner.relay.idle_s(log.reply.id) == 0
    assert await owner.relay.idle_s(alone.reply.id) > 2 * HEARTBEAT_S
    copy.wanted = False
    before = len(owner.events.sightings)
    await asyncio.sleep(UNTOLD_S + 3 * HEARTBEAT_S)
    assert await owner.relay.idle_s(log.reply.id) > HEARTBEAT_S
    assert len(owner.events.sightings) - before <= 1


async def test_a_reply_is_not_idle_between_two_heartbeats_of_a_follower(replicas):
    """The reply must not be idle, for however short a time."""
    owner, other = await replicas.start(heartbeat_s=2.0), await replicas.start(heartbeat_s=2.0)
    log = owner.begin()
    say(log, "text")
    await published(owner, log)
    other.follow(log.reply)
    for _ in range(50):
        assert await owner.relay.idle_s(log.reply.id) == 0
        await asyncio.sleep(0.05)


async def test_a_short_read_of_a_followed_log_is_reported(replicas, shared_redis):
    owner, other = await replicas.start(), await replicas.start(heartbeat_s=30.0)
    log = owner.begin()
    say(log, "text")
    await published(owner, log)
    copy = other.follow(log.reply, wanted=False)
    await same(copy, log)
    await asyncio.sleep(2 * TICK_S)
    key = wire.reply_key(log.reply.id)
    assert shared_redis.command("HGET", key, "seen") is None
    other.relay.read(copy.log)
    await until(lambda: bool(shared_redis.command("HGET", key, "seen")), 1.0)


async def test_a_reader_during_an_outage_is_reported_after_it(replicas, own_redis):
    owner = await replicas.start(url=own_redis.url())
    other = await replicas.start(url=own_redis.url(), heartbeat_s=30.0)
    log = owner.begin()
    say(log, "text")
    await published(owner, log)
    copy = other.follow(log.reply, wanted=False)
    await same(copy, log)
    await asyncio.to_thread(own_redis.stop, "immediate")
    other.relay.read(copy.log)
    await until(lambda: "follow" in other.problems(), 3.0)
    await asyncio.to_thread(own_redis.start)
    await until(lambda: bool(owner.events.sightings), 5.0)


async def test_a_new_reader_is_reported_before_the_next_heartbeat(replicas):
    owner, other = await replicas.start(), await replicas.start(heartbeat_s=30.0)
    await asyncio.sleep(2 * TICK_S)
    log = owner.begin()
    other.follow(log.reply)
    await until(lambda: bool(owner.events.sightings), 3 * HEARTBEAT_S)


async def test_readers_unknown_to_redis_do_not_count_as_absent(replicas, shared_redis):
    owner = await replicas.start(heartbeat_s=0.5)
    assert await owner.relay.idle_s("reply-unknown") is None
    log = owner.begin()
    say(log, "text")
    await published(owner, log)
    await asyncio.sleep(0.5 + PRESENCE_LATE_S + 0.3)
    assert await owner.relay.idle_s(log.reply.id) > 0.2
    shared_redis.command("DEL", wire.reply_key(log.reply.id))
    assert await owner.relay.idle_s(log.reply.id) is None
    await asyncio.sleep(0.8)
    assert await owner.relay.idle_s(log.reply.id) == 0  # the owner counts from its last heartbeat


async def test_an_owner_without_lease_publishes_nothing_but_sends_heartbeats(replicas):
    now = [0.0]
    owner, other = await replicas.start(heartbeat_s=30.0), await replicas.start()
    log = owner.begin(lease=Lease(lambda: now[0], until=10.0))
    copy = other.follow(log.reply)
    say(log, "shown")
    await same(copy, log)
    other.relay.publish_cancel(log.reply)
    await until(lambda: owner.events.cancels == [log.reply.id])
    say(log, "numbered, not shown")
    now[0] = 10.0
    say(log, "held back")
    await asyncio.sleep(0.3)
    assert copy.text == "shown "
    assert owner.events.cancels == [log.reply.id] * 2  # the second one by the answer to an append
    log.lease.until = 20.0
    log.release()
    await same(copy, log, 2.0)
    assert copy.text == "shown numbered, not shown held back "


async def test_a_renewed_lease_publishes_the_withheld_entries(replicas):
    now = [0.0]
    owner, other = await replicas.start(), await replicas.start()
    log = owner.begin(lease=Lease(lambda: now[0], until=10.0))
    copy = other.follow(log.reply)
    say(log, "shown")
    await same(copy, log)
    say(log, "withheld")
    now[0] = 10.0
    await asyncio.sleep(3 * HEARTBEAT_S)
    assert copy.text == "shown "
    log.lease.until = 20.0
    await same(copy, log, 3 * HEARTBEAT_S)


async def test_a_log_that_cannot_be_encoded_does_not_affect_others(replicas, caplog, monkeypatch):
    encode = entry_codec.encode

    def broken(entry):
        if entry == TextDelta("bad "):
            raise ValueError("a defect")
        return encode(entry)

    monkeypatch.setattr(entry_codec, "encode", broken)
    owner, other = await replicas.start(), await replicas.start()
    bad, good = owner.begin(), owner.begin()
    copies = [other.follow(log.reply) for log in (bad, good)]
    say(good, "before")
    say(bad, "good bad good")
    say(good, "after")
    await same(copies[1], good)
    bad.finish(ended(bad.reply, last_sequence=bad.closing_sequence))
    owner.relay.ended(bad)
    say(good, "all")
    await same(copies[1], good)
    assert copies[0].entries == []
    assert "reply_publish_failed" in caplog.messages
    assert owner.problems() == {}


@pytest.mark.parametrize("found", [("SET", "somebody's"), ("XADD", "1000-0", "e", "somebody's")])
async def test_a_foreign_value_under_a_reply_key_does_not_affect_others(replicas, shared_redis, caplog, found):
    owner, other = await replicas.start(), await replicas.start()
    bad, good = owner.begin(), owner.begin()
    shared_redis.command(found[0], wire.stream_key(bad.reply.id, 1), *found[1:])
    await asyncio.sleep(2 * HEARTBEAT_S)
    copies = [other.follow(log.reply) for log in (bad, good)]
    say(bad, "text")
    say(good, "text")
    await same(copies[1], good)
    say(bad, "more")
    say(good, "more")
    await same(copies[1], good)
    await asyncio.sleep(1.5)
    assert other.relay.unreachable_s == 0
    assert owner.problems() == other.problems() == {}


async def test_foreign_messages_on_the_channels_are_ignored(replicas, shared_redis):
    owner = await replicas.start("the-owner")
    log = owner.begin()
    shared_redis.command("PUBLISH", wire.ERASED_CHANNEL, b"\xc1")
    shared_redis.command("PUBLISH", wire.ERASED_CHANNEL, msgspec.msgpack.encode({"not": "ids"}))
    shared_redis.command("PUBLISH", wire.replica_channel("the-owner"), b"\xff\xfe")
    say(log, "text")
    await published(owner, log)
    assert owner.events.erasures == []
    assert owner.problems() == {}
