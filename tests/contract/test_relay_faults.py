"""Redis is unreachable, broken, slow or empty: writers are not affected, and remote readers get all entries in the
end."""

from __future__ import annotations

import asyncio
import time

import pytest
from parley_server.core.events import TextDelta
from parley_server.relay import wire
from parley_server.relay.redis_check import RelayUnusable
from parley_server.relay.remote_log_reader import SILENCE_S

from tests.clock import until
from tests.contract.relays import HEARTBEAT_S, UNTOLD_S, Replica, Replicas, same, say, text_of
from tests.fakes import ended
from tests.proxy import Proxy
from tests.services import RedisServer


@pytest.fixture
async def replicas(own_redis):
    async with Replicas(own_redis.url()) as made:
        yield made


class Talk:
    """A log that is written continuously, with a follower. Measures the delay of the writer."""

    def __init__(self, owner, other) -> None:
        self.owner, self.other = owner, other
        self.log = owner.begin()
        self.copy = other.follow(self.log.reply)
        self.longest_s = 0.0
        self._task = asyncio.create_task(self._write())

    async def _write(self) -> None:
        number = 0
        while True:
            started = time.perf_counter()
            self.log.append(TextDelta(f"{number} "))
            self.longest_s = max(self.longest_s, time.perf_counter() - started)
            number += 1
            await asyncio.sleep(0.01)

    async def flows(self) -> None:
        """Wait until the follower gets an entry that is written now."""
        now = self.log.last_sequence
        await until(lambda: self.copy.log.last_sequence > now)

    async def exact(self) -> None:
        """End the log, and check that the follower and a late follower have all entries."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await same(self.copy, self.log)
        late = self.other.follow(self.log.reply)
        await same(late, self.log)
        assert list(await self.other.relay.recall(self.log.reply.id)) == self.log.content()
        assert self.longest_s < 0.05

    async def sound(self) -> None:
        await until(lambda: self.owner.sound and self.other.sound)


@pytest.fixture
async def talk(replicas):
    made = Talk(await replicas.start(), await replicas.start())
    await made.flows()
    yield made
    made._task.cancel()
    await asyncio.gather(made._task, return_exceptions=True)


def logged(caplog, event: str, part: str) -> list[dict]:
    """The fields of an event's log lines about a part."""
    fields = [record.fields for record in caplog.records if record.message == event]
    return [each for each in fields if each.get("part") == part]


async def test_followers_get_all_entries_after_redis_restarts_empty(talk, own_redis, caplog):
    caplog.set_level("INFO", "parley.relay")
    await asyncio.to_thread(own_redis.kill9)
    await until(lambda: talk.other.relay.unreachable_s > 0.3)
    before = talk.log.last_sequence
    await asyncio.sleep(0.5)
    assert talk.log.last_sequence > before
    await asyncio.to_thread(own_redis.start)
    await talk.flows()
    await talk.sound()
    assert talk.other.relay.unreachable_s == 0
    await talk.exact()
    for event in ("relay_lost", "relay_restored"):
        for part in ("publish", "follow", "subscribe"):
            assert len(logged(caplog, event, part)) == 2  # one of each replica
    assert all(each["lost_s"] > 0.5 for each in logged(caplog, "relay_restored", "publish"))


async def test_followers_get_all_entries_after_a_flush_of_silent_logs(replicas, own_redis):
    owner, other = await replicas.start(), await replicas.start()
    log = owner.begin()
    copy = other.follow(log.reply)
    say(log, "one two three")
    await same(copy, log)
    await asyncio.to_thread(own_redis.command, "FLUSHALL")
    await asyncio.sleep(3 * HEARTBEAT_S)
    late = other.follow(log.reply)
    await same(late, log)
    say(log, "four")
    await same(late, log)
    assert copy.text == "one two three "  # replaced by the later one


async def test_followers_get_all_entries_after_a_flush_of_growing_logs(talk, own_redis):
    for _ in range(5):
        await asyncio.to_thread(own_redis.command, "FLUSHALL")
        await talk.flows()
    await talk.exact()
    assert talk.owner.problems() == talk.other.problems() == {}


async def test_a_long_log_is_sent_again(replicas, own_redis):
    owner, other = await replicas.start(), await replicas.start()
    log = owner.begin()
    for number in range(20_000):
        log.append(TextDelta(f"{number:060}"))
    copy = other.follow(log.reply)
    await same(copy, log)
    await asyncio.to_thread(own_redis.command, "CONFIG", "RESETSTAT")
    await asyncio.to_thread(own_redis.command, "FLUSHALL")
    late = other.follow(log.reply)
    await same(late, log)
    slowest = await asyncio.to_thread(own_redis.command, "INFO", "commandstats")
    calls = slowest["cmdstat_evalsha"]
    assert calls["usec_per_call"] < 20_000, calls


async def test_a_follower_continues_after_its_keys_were_deleted(talk, own_redis):
    await talk.flows()
    looks = talk.copy.looks
    for key in (wire.stream_key(talk.log.reply.id, 1), wire.reply_key(talk.log.reply.id)):
        await asyncio.to_thread(own_redis.command, "DEL", key)
    await talk.flows()
    await talk.exact()
    assert talk.copy.looks >= looks


async def test_a_follower_checks_the_store_when_a_dead_owners_keys_are_gone(replicas, own_redis):
    owner, other = await replicas.start(), await replicas.start()
    log = owner.begin()
    copy = other.follow(log.reply)
    say(log, "some text")
    await same(copy, log)
    await replicas.stop(owner)
    await asyncio.to_thread(own_redis.command, "FLUSHALL")
    await until(lambda: copy.looks > 0, 3.0)
    assert copy.text == "some text "
    assert not copy.log.over


async def test_heartbeats_extend_the_ttl_of_silent_replies(replicas, own_redis):
    owner, other = await replicas.start(running_ttl_s=1.0), await replicas.start()
    spoken, mute = owner.begin(), owner.begin()
    say(spoken, "before the silence")
    stream = wire.stream_key(spoken.reply.id, 1)
    await until(lambda: own_redis.command("EXISTS", stream) == 1)
    for _ in range(33):
        await asyncio.sleep(0.1)
        assert own_redis.command("EXISTS", stream) == 1
    assert text_of(await other.relay.recall(spoken.reply.id)) == "before the silence "
    say(mute, "first")
    say(spoken, "after")
    copies = [other.follow(log.reply) for log in (spoken, mute)]
    await same(copies[0], spoken)
    await same(copies[1], mute)
    assert own_redis.command("PTTL", wire.stream_key(mute.reply.id, 1)) <= 1000
    assert owner.problems() == {}


async def test_keys_of_a_dead_owner_expire(replicas, own_redis):
    owner = await replicas.start(running_ttl_s=0.6)
    log = owner.begin()
    say(log, "text")
    await until(lambda: own_redis.command("EXISTS", wire.stream_key(log.reply.id, 1)) == 1)
    await replicas.stop(owner)
    await until(lambda: own_redis.command("DBSIZE") == 0, 3.0)


REFUSALS = {  # how to make Redis refuse writes, how to undo that, and the error it returns
    "memory": (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"), "maxmemory"),
    "read-only": (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "read only"),
    "no-replicas": (
        ("CONFIG", "SET", "min-replicas-to-write", "1"),
        ("CONFIG", "SET", "min-replicas-to-write", "0"),
        "replicas",
    ),
}


@pytest.mark.parametrize("fault", REFUSALS)
async def test_replies_continue_while_redis_refuses_writes(talk, own_redis, caplog, fault):
    broken, mended, words = REFUSALS[fault]
    caplog.set_level("INFO", "parley.relay")
    await talk.flows()
    assert await talk.owner.relay.idle_s(talk.log.reply.id) is not None
    await asyncio.to_thread(own_redis.command, *broken)
    await until(lambda: not talk.owner.sound)
    assert await talk.owner.relay.idle_s(talk.log.reply.id) is None
    await asyncio.sleep(4 * HEARTBEAT_S)
    assert talk.other.relay.unreachable_s > 0  # Redis can be read, but has no new entries
    await asyncio.to_thread(own_redis.command, *mended)
    await talk.flows()
    await talk.sound()
    await talk.exact()
    lost, back = logged(caplog, "relay_lost", "publish"), logged(caplog, "relay_restored", "publish")
    assert len(lost) == len(back) == 2  # one of each replica
    assert words in lost[0]["problem"]
    assert await talk.owner.relay.idle_s(talk.log.reply.id) < 4 * HEARTBEAT_S


async def test_replies_continue_while_redis_is_paused_for_three_seconds(talk, own_redis):
    await asyncio.to_thread(own_redis.pause)
    await until(lambda: talk.other.relay.unreachable_s > 0.5)
    recalling = asyncio.create_task(talk.other.relay.recall(talk.log.reply.id))
    started = time.monotonic()
    assert await recalling == ()
    assert time.monotonic() - started < 2.5
    assert await talk.owner.relay.idle_s(talk.log.reply.id) is None
    await asyncio.sleep(1.0)
    await asyncio.to_thread(own_redis.resume)
    await talk.flows()
    await talk.sound()
    await talk.exact()


async def test_flushed_scripts_are_loaded_again(talk, own_redis):
    for _ in range(3):
        await asyncio.to_thread(own_redis.command, "SCRIPT", "FLUSH")
        await talk.flows()
    await talk.exact()
    assert talk.owner.problems() == talk.other.problems() == {}


@pytest.mark.parametrize("kind", ["normal", "pubsub"])
async def test_killed_connections_are_opened_again(talk, own_redis, kind):
    for _ in range(3):
        await asyncio.to_thread(own_redis.command, "CLIENT", "KILL", "TYPE", kind)
        await talk.flows()
    await talk.sound()
    await talk.exact()


async def test_an_append_whose_answer_is_lost_is_in_the_stream_once(replicas, own_redis):
    async with Proxy(own_redis.port) as proxy:
        owner, other = await replicas.start(url=own_redis.url(port=proxy.port)), await replicas.start()
        log = owner.begin()
        say(log, "first")
        stream = wire.stream_key(log.reply.id, 1)

        async def length(count: int) -> None:
            while own_redis.command("XLEN", stream) < count:
                await asyncio.sleep(0.005)

        for number in range(2, 6):
            await length(number - 1)
            proxy.latency_s = 0.2
            say(log, f"word{number}")
            await length(number)  # the entry is stored, and the answer is in flight
            proxy.latency_s = 0.0
            await proxy.reset()
            assert owner.relay._publisher._publications[log.reply.id].sent < number
            await until(lambda: owner.sound and not owner.relay._publisher._publications[log.reply.id].behind)
        found = own_redis.command("XRANGE", stream, "-", "+")
        assert [entry_id for entry_id, _ in found] == [f"{number}-0" for number in range(1, 6)]
        assert await other.relay.recall(log.reply.id) == tuple(log.content())
        await replicas.stop(owner)


async def test_entries_lost_in_a_failover_are_sent_again(talk, own_redis):
    """The new primary lacks the newest entries, since they were not replicated before the failover."""
    stream = wire.stream_key(talk.log.reply.id, 1)
    await talk.flows()

    lose_tail = """
        local kept = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 10)
        redis.call('DEL', KEYS[1])
        for _, entry in ipairs(kept) do redis.call('XADD', KEYS[1], entry[1], unpack(entry[2])) end
    """
    await asyncio.to_thread(own_redis.command, "EVAL", lose_tail, 1, stream)
    await talk.flows()
    await talk.exact()


async def test_replies_continue_with_two_hundred_milliseconds_of_latency(replicas, own_redis):
    async with Proxy(own_redis.port, latency_s=0.1) as proxy:
        far = own_redis.url(port=proxy.port)
        owner, other = await replicas.start(url=far), await replicas.start(url=far)
        talk = Talk(owner, other)
        await talk.flows()
        behind = []
        for _ in range(50):
            await asyncio.sleep(0.02)
            behind.append(talk.log.last_sequence - talk.copy.log.last_sequence)
        assert max(behind) < 100  # a word each 10 ms: less than a second
        await talk.exact()
        assert owner.problems() == other.problems() == {}
        await replicas.stop(owner)
        await replicas.stop(other)


async def test_an_end_during_an_outage_is_published_later(replicas, own_redis):
    owner, other = await replicas.start(), await replicas.start()
    log = owner.begin()
    copy = other.follow(log.reply)
    say(log, "seen")
    await same(copy, log)
    await asyncio.to_thread(own_redis.kill9)
    say(log, "not seen")
    log.finish(ended(log.reply, last_sequence=log.closing_sequence))
    owner.relay.ended(log)
    await until(lambda: not owner.sound)
    looks = copy.looks
    await asyncio.to_thread(own_redis.start)
    await until(lambda: copy.looks > looks)
    assert text_of(await other.relay.recall(log.reply.id)) == "seen not seen "
    await until(lambda: len(owner.relay._publisher._publications) == 0)


async def test_an_end_that_cannot_be_published_is_dropped_after_the_retention(replicas, own_redis):
    owner = await replicas.start(retention_s=0.5)
    log = owner.begin()
    say(log, "text")
    await asyncio.to_thread(own_redis.kill9)
    log.finish(ended(log.reply, last_sequence=log.closing_sequence))
    owner.relay.ended(log)
    await asyncio.sleep(0.6)
    await asyncio.to_thread(own_redis.start)
    await until(lambda: len(owner.relay._publisher._publications) == 0)
    assert own_redis.command("EXISTS", wire.stream_key(log.reply.id, 1)) == 0


async def test_cancel_requests_and_erasures_are_retried_until_redis_answers(replicas, own_redis):
    owner, other = await replicas.start(), await replicas.start()
    log = owner.begin()
    say(log, "text")
    await asyncio.to_thread(own_redis.kill9)
    other.relay.publish_cancel(log.reply)
    other.relay.erase(("reply-gone",))
    await until(lambda: "tell" in other.problems())
    await asyncio.to_thread(own_redis.start)
    await until(lambda: log.reply.id in owner.events.cancels)
    await until(lambda: own_redis.command("EXISTS", wire.reply_key("reply-gone")) == 1)


@pytest.mark.parametrize("over", [False, True])
async def test_stop_publishes_pending_entries(replicas, over):
    owner, other = await replicas.start(flush_interval_s=30.0), await replicas.start()
    log = owner.begin()
    say(log, "one")
    await same(other.follow(log.reply), log)
    copy = other.follow(log.reply)
    say(log, "two three")
    if over:
        log.finish(ended(log.reply, last_sequence=log.closing_sequence))
        owner.relay.ended(log)
    await replicas.stop(owner)
    assert text_of(await other.relay.recall(log.reply.id)) == "one two three "
    if over:
        await until(lambda: copy.looks > 0, 0.5)


async def test_a_takeover_retries_on_a_broken_connection(replicas, own_redis):
    owner, other = await replicas.start(), await replicas.start(heartbeat_s=30.0)
    log = owner.begin()
    say(log, "text")
    await same(other.follow(log.reply), log)
    for epoch in (2, 3):
        await asyncio.to_thread(own_redis.command, "CLIENT", "KILL", "TYPE", "normal")
        assert text_of(await other.relay.take_over(log.reply.id, epoch)) == "text "


async def test_a_broken_connection_does_not_delay_a_new_reader(replicas, own_redis):
    owner, other = await replicas.start(), await replicas.start(heartbeat_s=30.0)
    log = owner.begin()
    say(log, "text")
    await same(other.follow(log.reply), log)
    await asyncio.to_thread(own_redis.command, "CLIENT", "KILL", "TYPE", "normal")
    await same(other.follow(log.reply), log, 0.5 * SILENCE_S)


async def test_an_outage_does_not_count_as_absence_of_readers(replicas, own_redis):
    owner, other = await replicas.start(), await replicas.start()
    log = owner.begin()
    say(log, "text")
    await same(other.follow(log.reply), log)
    await replicas.stop(other)  # readers are no longer reported
    await asyncio.to_thread(own_redis.pause)
    await asyncio.sleep(2.0)
    await asyncio.to_thread(own_redis.resume)
    await until(lambda: owner.sound)
    assert await owner.relay.idle_s(log.reply.id) == 0
    await asyncio.sleep(UNTOLD_S + 1.0)
    assert 0.9 < await owner.relay.idle_s(log.reply.id) < 2.0


async def test_without_redis_a_large_reply_is_still_journaled_early(replicas, own_redis):
    owner = await replicas.start(checkpoint_interval_s=30.0, checkpoint_bytes=8192)
    log = owner.begin()
    await asyncio.to_thread(own_redis.kill9)
    for _ in range(40):
        log.append(TextDelta("x" * 512))
        await asyncio.sleep(0.02)
    assert log.size - 512 * log.durable_sequence < 2 * 8192


@pytest.mark.parametrize("with_redis", [True, False])
async def test_the_first_checkpoint_of_a_hurried_log_is_not_put_off(replicas, own_redis, with_redis):
    owner = await replicas.start(checkpoint_interval_s=60.0)
    if not with_redis:
        await asyncio.to_thread(own_redis.kill9)
    log = owner.begin()
    log.hurried = True
    say(log, "text")
    await until(lambda: log.durable_sequence)


@pytest.mark.parametrize("how", ["kill9", "pause"])
async def test_stop_does_not_wait_for_redis(replicas, own_redis, how):
    owner, other = await replicas.start(), await replicas.start()
    log = owner.begin()
    copy = other.follow(log.reply)
    say(log, "text")
    await same(copy, log)
    await asyncio.to_thread(getattr(own_redis, how))
    say(log, "more")
    other.relay.publish_cancel(log.reply)
    started = time.monotonic()
    await asyncio.gather(replicas.stop(owner), replicas.stop(other))
    assert time.monotonic() - started < 5.0


async def test_redis_may_start_after_the_relay(replicas, own_redis, caplog):
    await asyncio.to_thread(own_redis.stop)
    owner, other = await replicas.start(subscribed=False), await replicas.start(subscribed=False)
    assert "relay_connect_failed" in caplog.messages
    log = owner.begin()
    say(log, "early")
    copy = other.follow(log.reply)
    await until(lambda: other.relay.unreachable_s > 0)
    assert await other.relay.take_over("reply-x", 2) == ()
    await asyncio.to_thread(own_redis.start)
    await same(copy, log)
    await until(lambda: other.relay.unreachable_s == 0)


async def test_a_redis_with_an_eviction_policy_is_refused(replicas, own_redis, caplog):
    own_redis.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    refused = Replica(replicas.url, "refused", replicas.store)
    with pytest.raises(RelayUnusable, match="maxmemory-policy"):
        await refused.relay.start(refused.events)
    await refused.relay.stop()
    await asyncio.to_thread(own_redis.stop)
    await replicas.start(subscribed=False)
    own_redis._settings["maxmemory-policy"] = "volatile-ttl"
    await asyncio.to_thread(own_redis.start)
    await until(lambda: "relay_check_failed" in caplog.messages)


async def test_a_wrong_password_is_refused(tmp_path):
    with RedisServer(tmp_path / "redis", password="right p@ss/word") as server:
        for url in (server.url().replace("right", "wrong"), f"redis://127.0.0.1:{server.port}"):
            async with Replicas(url) as replicas:
                with pytest.raises(RelayUnusable):
                    await replicas.start()


async def test_the_relay_connects_with_tls_and_a_password(tmp_path):
    with RedisServer(tmp_path / "redis", password="s3cret", tls=True) as server:
        async with Replicas(server.url()) as replicas:
            talk = Talk(await replicas.start(), await replicas.start())
            await talk.flows()
            await talk.exact()
            assert talk.owner.problems() == talk.other.problems() == {}
        without_authority = server.url().partition("?")[0]
        async with Replicas(without_authority) as replicas:
            stranger = await replicas.start(subscribed=False)
            assert await stranger.relay.recall("reply") == ()
