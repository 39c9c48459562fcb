"""The relay's use of Redis (connections, memory, bytes), and the detection of dead connections."""

from __future__ import annotations

import asyncio
import re
import time

import pytest
from parley_server.core.events import TextDelta
from parley_server.relay import wire

from tests.clock import until
from tests.contract.relays import Replicas, same, say
from tests.proxy import Proxy

CONNECTIONS = 3
TOKENS = 8192
WORDS = [" the", " quick", " brown", " fox", " jumps", " over", " a", " lazy", " dog", "."]


@pytest.fixture
async def replicas(shared_redis):
    async with Replicas(shared_redis.url()) as made:
        yield made


def connections(server, replica) -> list[str]:
    """The names of a replica's connections."""
    clients = str(server.command("CLIENT", "LIST"))
    return sorted(re.findall(rf"name=(\S+{replica.name})\b", clients))


async def test_connections_do_not_grow_with_replies_or_readers(replicas, shared_redis):
    owner, other = await replicas.start(), await replicas.start()
    logs = [owner.begin() for _ in range(500)]
    copies = [other.follow(log.reply) for log in logs]
    for _ in range(10):
        for log in logs:
            say(log, "word")
        await asyncio.sleep(0.02)
    for copy, log in zip(copies, logs, strict=True):
        await same(copy, log)
    for replica in (owner, other):
        names = [f"parley-{part}-{replica.name}" for part in ("ask", "publish", "subscribe")]
        assert connections(shared_redis, replica) == names
    assert len(connections(shared_redis, other)) <= CONNECTIONS
    shared_redis.command("CLIENT", "KILL", "TYPE", "pubsub")
    shared_redis.command("CLIENT", "KILL", "TYPE", "normal")
    started = time.monotonic()
    for log in logs:
        say(log, "after the storm")
    for copy, log in zip(copies, logs, strict=True):
        await same(copy, log)
    assert time.monotonic() - started < 2.0
    await until(lambda: owner.sound and other.sound)
    assert len(connections(shared_redis, other)) <= CONNECTIONS


async def test_twelve_idle_seconds_lose_no_connection(replicas, shared_redis):
    owner, other = await replicas.start(heartbeat_s=60.0), await replicas.start(heartbeat_s=60.0)
    log = owner.begin()
    copy = other.follow(log.reply)
    await asyncio.sleep(12.0)
    say(log, "the first token")
    await same(copy, log, 0.5)
    other.relay.publish_cancel(log.reply)
    await until(lambda: bool(owner.events.cancels), 0.5)
    assert owner.problems() == other.problems() == {}


async def test_the_subscription_detects_a_dead_connection(replicas, shared_redis, monkeypatch):
    monkeypatch.setattr("parley_server.relay.subscription.PING_S", 0.3)
    async with Proxy(shared_redis.port) as proxy:
        owner, other = await replicas.start(), await replicas.start(url=shared_redis.url(port=proxy.port))
        log = owner.begin()
        copy = other.follow(log.reply)
        say(log, "before")
        await same(copy, log)
        proxy.stall()
        await until(lambda: "subscribe" in other.problems(), 3.0)
        await proxy.restore()
        say(log, "after")
        await same(copy, log)
        await until(lambda: other.sound)
        await replicas.stop(other)


async def test_a_long_reply_takes_bounded_memory_in_redis(replicas, shared_redis):
    owner = await replicas.start()
    log = owner.begin()
    for number in range(TOKENS):
        log.append(TextDelta(WORDS[number % len(WORDS)]))
        if number % 100 == 0:
            await asyncio.sleep(0)
    stream = wire.stream_key(log.reply.id, 1)
    await until(lambda: shared_redis.command("XLEN", stream) == TOKENS)
    taken = sum(
        shared_redis.command("MEMORY", "USAGE", key, "SAMPLES", 0) for key in (stream, wire.reply_key(log.reply.id))
    )
    print(f"{taken} bytes for {TOKENS} tokens, {log.size} bytes of text")
    assert taken < 512 * 1024


async def test_bytes_sent_grow_linearly_with_the_text(replicas, shared_redis):
    async with Proxy(shared_redis.port) as proxy:
        owner = await replicas.start(url=shared_redis.url(port=proxy.port), heartbeat_s=60.0)
        say(owner.begin(), "so that scripts are loaded")
        await until(lambda: proxy.bytes["to_target"] > 1000)
        sent = []
        for count in (1000, 2000, 4000):
            log = owner.begin()
            before = proxy.bytes["to_target"]
            for number in range(count):
                log.append(TextDelta(WORDS[number % len(WORDS)]))
                if number % 5 == 4:
                    await asyncio.sleep(0.005)
            await until(lambda log=log: not owner.relay._publisher._publications[log.reply.id].behind)
            sent.append((proxy.bytes["to_target"] - before) / log.size)
        print("bytes to Redis per byte of text:", [round(each, 2) for each in sent])
        assert max(sent) < 1.2 * min(sent)
        assert max(sent) < 4
        await replicas.stop(owner)
