"""Two replicas and Redis: a follower that starts at any moment gets every entry once and in order."""

from __future__ import annotations

import asyncio
import random
import statistics
import time

import msgspec
import pytest
from parley_server.core.events import ReasoningDelta, TextDelta, ToolCallDelta, Unknown, UsageUpdate
from parley_server.core.model import Usage
from parley_server.core.replies.log import Log
from parley_server.relay import wire
from parley_server.relay.remote_log_cursor import RANGE_ENTRIES
from parley_server.relay.remote_log_reader import SILENCE_S

from tests.clock import until
from tests.contract.relays import Replicas, same, say, text_of, unique
from tests.fakes import ended, reply

SEEDS = 1000
AT_ONCE = 40


@pytest.fixture
async def replicas(shared_redis):
    async with Replicas(shared_redis.url()) as made:
        yield made


async def test_a_follower_gets_what_the_owner_writes(replicas):
    owner, other = await replicas.start(), await replicas.start()
    log = owner.begin()
    copy = other.follow(log.reply)
    written = [
        TextDelta("Grüße, 👩‍👩‍👧 and {braces}"),
        ReasoningDelta("because", b"\x00signature"),
        ToolCallDelta(0, "call-1", "weather", '{"city":'),
        ToolCallDelta(0, arguments='"Köln"}'),
        UsageUpdate(Usage(prompt_tokens=3, completion_tokens=5)),
        TextDelta("t"),
    ]
    for entry in written:
        log.append(entry)
    await same(copy, log)
    assert list(await other.relay.recall(log.reply.id)) == written
    assert owner.problems() == other.problems() == {}


async def test_entries_arrive_with_low_latency(replicas):
    owner, other = await replicas.start(flush_interval_s=0.005), await replicas.start()
    log = owner.begin()
    copy = other.follow(log.reply)
    say(log, "first")
    await same(copy, log)
    took = []
    for number in range(20):
        started = time.perf_counter()
        say(log, f"word{number}")
        await same(copy, log)
        took.append(time.perf_counter() - started)
    print(f"median {statistics.median(took) * 1e3:.1f} ms")
    assert statistics.median(took) < 0.1


async def test_a_long_silent_log_is_read_at_once(replicas):
    owner, other = await replicas.start(), await replicas.start()
    log = owner.begin()
    for number in range(4 * RANGE_ENTRIES + 1):
        log.append(TextDelta(f"{number} "))
    await same(other.follow(log.reply), log)
    late = other.follow(log.reply)
    await same(late, log, 0.8 * SILENCE_S)


async def test_the_first_entry_does_not_wait_for_a_flush(replicas):
    owner, other = await replicas.start(flush_interval_s=30.0, heartbeat_s=30.0), await replicas.start()
    for _ in range(3):
        log = owner.begin()
        copy = other.follow(log.reply)
        say(log, "at once")
        await same(copy, log, 0.5 * SILENCE_S)
    await until(lambda: owner.relay._publisher._publications[log.reply.id].sent == log.last_sequence)
    say(log, "later")
    await asyncio.sleep(0.2)
    assert copy.text == "at once "


@pytest.mark.parametrize("deaf", [False, True])
async def test_a_log_followed_from_any_moment_is_complete(replicas, shared_redis, deaf):
    owner = await replicas.start(flush_interval_s=0.004, heartbeat_s=0.2)
    other = await replicas.start()

    async def one(seed: int) -> None:
        chance = random.Random(seed)
        log, copies = owner.begin(), []
        for number in range(chance.randint(1, 60)):
            if chance.random() < 0.15:
                copies.append(other.follow(log.reply))
            log.append(TextDelta(f"{number} "))
            if chance.random() < 0.5:
                await asyncio.sleep(chance.choice((0, 0, 0.001, 0.004, 0.01)))
            if copies and chance.random() < 0.1:
                other.relay.unfollow(copies[-1].log)
                copies[-1] = other.follow(log.reply)
        last = other.follow(log.reply)
        await same(last, log)
        for copy in copies:
            assert text_of(log.content()).startswith(copy.text)
        other.relay.unfollow(last.log)

    async def deafen() -> None:
        while True:
            await asyncio.sleep(0.05)
            await asyncio.to_thread(shared_redis.command, "CLIENT", "KILL", "TYPE", "pubsub")

    killing = asyncio.create_task(deafen()) if deaf else None
    count = AT_ONCE if deaf else SEEDS
    for start in range(0, count, AT_ONCE):
        await asyncio.gather(*[one(seed) for seed in range(start, start + AT_ONCE)])
    if killing is not None:
        killing.cancel()
        await asyncio.gather(killing, return_exceptions=True)


async def test_a_long_log_is_read_while_it_grows(replicas):
    owner, other = await replicas.start(), await replicas.start()
    log = owner.begin()
    for number in range(10_000):
        log.append(TextDelta(f"{number} "))
    await until(lambda: owner.relay._publisher._publications[log.reply.id].sent == 10_000)
    copy = other.follow(log.reply)
    for number in range(10_000, 10_200):
        log.append(TextDelta(f"{number} "))
        await asyncio.sleep(0.005)
    await same(copy, log)
    assert copy.text == " ".join(map(str, range(10_200))) + " "
    assert len(await other.relay.recall(log.reply.id)) == 10_200


async def test_a_log_longer_than_the_owners_buffer_is_followed(replicas, monkeypatch):
    monkeypatch.setattr("parley_server.core.replies.log.MAX_UNJOURNALED", 100)
    owner, other = await replicas.start(checkpoint_interval_s=0.1), await replicas.start()
    log = owner.begin()
    copy = other.follow(log.reply)
    for number in range(1000):
        log.append(TextDelta(f"{number} "))
    await until(lambda: log.last_sequence == 1000)
    await same(copy, log)


async def test_entries_of_a_newer_release_keep_their_numbers(replicas, shared_redis):
    owner, other = await replicas.start(), await replicas.start()
    log = owner.begin()
    copy = other.follow(log.reply)
    say(log, "known")
    await same(copy, log)
    key, stream = wire.reply_key(log.reply.id), wire.stream_key(log.reply.id, 1)
    strange = ['{"type":"video","url":"x"}', "zcompressed", ""]
    for number, value in enumerate(strange, start=2):
        shared_redis.command("XADD", stream, f"{number}-0", "e", value)
    published = msgspec.msgpack.encode((1, 2, strange, {"what": "comes"}, 7))
    shared_redis.command("PUBLISH", key, published)
    shared_redis.command("PUBLISH", key, b"\xc1 no msgpack")
    shared_redis.command("PUBLISH", key, msgspec.msgpack.encode({"a": "map"}))
    expected = [TextDelta("known "), Unknown(), Unknown(), Unknown()]
    await until(lambda: copy.entries == expected)
    later = other.follow(log.reply)
    await until(lambda: later.entries == expected)
    assert list(await other.relay.recall(log.reply.id)) == expected
    shared_redis.command("XADD", stream, "5-0", "e", "tagain")
    shared_redis.command("PUBLISH", key, wire.pack(1, 5, ["tagain"]))
    await until(lambda: later.entries == [*expected, TextDelta("again")])


async def test_the_end_is_published_at_once_and_the_log_is_retained(replicas, shared_redis):
    owner, other = await replicas.start(retention_s=60.0), await replicas.start()
    log = owner.begin()
    copy = other.follow(log.reply)
    say(log, "all of it")
    await same(copy, log)
    log.finish(ended(log.reply, last_sequence=log.closing_sequence))
    owner.relay.ended(log)
    await until(lambda: copy.looks > 0, 0.5)
    assert copy.text == "all of it "
    assert text_of(await other.relay.recall(log.reply.id)) == "all of it "
    late = other.follow(log.reply)
    await until(lambda: late.text == "all of it ")
    await until(lambda: late.looks > 0, 2 * SILENCE_S)  # it missed the published end, and finds it with a probe
    for key in (wire.reply_key(log.reply.id), wire.stream_key(log.reply.id, 1)):
        assert 0 < shared_redis.command("PTTL", key) <= 60_000


async def test_an_end_by_another_replica_publishes_nothing_of_the_replaced_log(replicas):
    owner, other = await replicas.start(flush_interval_s=30.0), await replicas.start()
    log = owner.begin()
    copy = other.follow(log.reply)
    say(log, "shown")
    await same(copy, log)
    say(log, "never published")
    log.seal()
    log.replace(ended(log.reply, last_sequence=70_000))
    owner.relay.ended(log)
    await until(lambda: copy.looks > 0, 2.0)
    assert text_of(await other.relay.recall(log.reply.id)) == "shown "
    swept = Log.of_ended(ended(reply(unique("reply")), last_sequence=70_000))
    copy = other.follow(swept.reply)
    await asyncio.sleep(0.1)
    other.relay.ended(swept)
    await until(lambda: copy.looks > 0, 2.0)


async def test_the_end_in_another_epoch_reaches_followers(replicas):
    owner, other = await replicas.start(), await replicas.start()
    log = owner.begin()
    copy = other.follow(log.reply)
    say(log, "so far")
    await same(copy, log)
    successor = msgspec.structs.replace(log.reply, epoch=2, owner=other.name)
    other.relay.ended(Log.of_ended(ended(successor, last_sequence=70_000)))
    await until(lambda: copy.looks > 0, 0.5)


async def test_an_unfollowed_log_gets_no_entries(replicas, shared_redis):
    owner, other = await replicas.start(), await replicas.start()
    log = owner.begin()
    copy, stays = other.follow(log.reply), None
    say(log, "one")
    await same(copy, log)
    other.relay.unfollow(copy.log)
    other.relay.unfollow(copy.log)
    stays = other.follow(log.reply)
    other.relay.unfollow(copy.log)  # another log of the same reply
    say(log, "two")
    await same(stays, log)
    assert copy.text == "one "
    other.relay.unfollow(stays.log)
    channel = wire.reply_key(log.reply.id)
    await until(lambda: shared_redis.command("PUBSUB", "NUMSUB", channel)[1] == 0)


async def test_without_published_messages_entries_and_end_are_read_from_redis(replicas, shared_redis):
    shared_redis.command("ACL", "SETUSER", "deaf", "on", ">secret", "~*", "+@all", "resetchannels")
    owner = await replicas.start(heartbeat_s=0.2)
    deaf_url = shared_redis.url().replace("redis://", "redis://deaf:secret@")
    other = await replicas.start(url=deaf_url, subscribed=False)
    log = owner.begin()
    copy = other.follow(log.reply)
    for number in range(20):
        say(log, f"word{number}")
        await asyncio.sleep(0.02)
    await same(copy, log, 2.0)
    assert other.relay.unreachable_s == 0
    log.finish(ended(log.reply, last_sequence=log.closing_sequence))
    owner.relay.ended(log)
    await until(lambda: copy.looks > 0, 2 * SILENCE_S)
    assert other.problems().keys() == {"subscribe"}
    shared_redis.command("ACL", "DELUSER", "deaf")


async def test_lost_messages_are_read_from_the_stream_after_a_silence(replicas, monkeypatch):
    owner, other = await replicas.start(), await replicas.start()
    log = owner.begin()
    copy = other.follow(log.reply)
    say(log, "heard")
    await same(copy, log)
    dropped = []
    monkeypatch.setattr(other.relay._subscription, "_on_message", lambda channel, data: dropped.append(data))
    say(log, "dropped on the way")
    await until(lambda: bool(dropped))
    await same(copy, log, 2 * SILENCE_S)
    log.finish(ended(log.reply, last_sequence=log.closing_sequence))
    owner.relay.ended(log)
    await until(lambda: copy.looks > 0, 2 * SILENCE_S)


async def test_a_gap_in_published_messages_is_filled_at_once(replicas, shared_redis):
    owner, other = await replicas.start(), await replicas.start()
    log = owner.begin()
    copy = other.follow(log.reply)
    say(log, "one")
    await same(copy, log)
    stream = wire.stream_key(log.reply.id, 1)
    for number, word in ((2, "ttwo "), (3, "tthree "), (4, "tfour ")):
        shared_redis.command("XADD", stream, f"{number}-0", "e", word)
    shared_redis.command("PUBLISH", wire.reply_key(log.reply.id), wire.pack(1, 4, ["tfour "]))
    await until(lambda: copy.text == "one two three four ", 0.5)


async def test_messages_of_an_older_epoch_are_ignored(replicas):
    zombie, other, third = [await replicas.start() for _ in range(3)]
    log = zombie.begin()
    copy = other.follow(msgspec.structs.replace(log.reply, epoch=2))
    witness = third.follow(log.reply)
    await asyncio.sleep(0.1)
    for _ in range(10):
        say(log, "words")
        await asyncio.sleep(0.02)
    await same(witness, log)
    assert copy.entries == []
