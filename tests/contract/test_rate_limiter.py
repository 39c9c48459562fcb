"""The rules of a rate limiter, in memory and in Redis, and what the one in Redis does when Redis fails."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import time
from pathlib import Path

import pytest
from parley_server.core.rate_values import rate_key
from parley_server.core.rates.memory import MemoryRateLimiter
from parley_server.errors import LimitsUnavailable
from parley_server.relay.rates import ANSWER_S, RedisRateLimiter
from parley_server.relay.redis_check import connector
from parley_server.relay.redis_pipeline import RedisPipeline
from redis import Redis
from redis.exceptions import OutOfMemoryError

from tests.clock import ManualClock, until
from tests.fakes import ADA
from tests.ports import free_port

KEY = rate_key(ADA)
STORED = f"parley:rate:{KEY}"
BUSY_S = 5.0
"""Time that may pass between two calls on a busy machine."""
ALLOWED_S = ANSWER_S + 0.5
"""A call that waited for the time limit of the pipeline would take a second."""


class MemoryRates:
    """One limiter in memory, with a clock that stands still."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.limiters = itertools.cycle([MemoryRateLimiter(self.clock)])

    async def pass_time(self, seconds: float) -> None:
        await self.clock.advance(seconds)


class RedisRates:
    """The limiters of three replicas, which are called in turn. By default they wait long enough for a busy machine."""

    def __init__(self, redis, *, url="", **settings) -> None:
        self.redis = redis
        self.clock = ManualClock()
        connect = connector(url or redis.url())
        self.replicas = [
            RedisRateLimiter(RedisPipeline(connect, f"rate-{number}"), self.clock, answer_s=BUSY_S, **settings)
            for number in range(3)
        ]
        self.limiters = itertools.cycle(self.replicas)

    async def pass_time(self, seconds: float) -> None:
        """Move the clock, and all times in Redis into the past."""
        await asyncio.to_thread(self._shift, seconds)
        await self.clock.advance(seconds)

    def _shift(self, seconds: float) -> None:
        with Redis(port=self.redis.port) as client:
            for key in client.scan_iter("parley:rate:????????????????"):
                for member in client.zrange(key, 0, -1):
                    client.zincrby(key, -seconds * 1000, member)

    def answer_within(self, seconds: float) -> None:
        """From now on, Redis counts as lost if it does not answer within this time."""
        for each in self.replicas:
            each._answer_s = seconds

    async def restored(self) -> None:
        """Wait until all replicas ask Redis again."""

        async def moving() -> None:
            while any(each.health.lost_s for each in self.replicas):
                await self.clock.advance(0.1)
                await asyncio.sleep(0.01)

        await asyncio.wait_for(moving(), 10)

    async def close(self) -> None:
        await asyncio.gather(*(each.stop() for each in self.replicas))


@pytest.fixture(params=["memory", "redis"])
async def rates(request):
    if request.param == "memory":
        yield MemoryRates()
        return
    made = RedisRates(request.getfixturevalue("shared_redis"))
    yield made
    assert [each.health.losses for each in made.replicas] == [0, 0, 0]
    await made.close()


async def take(rates, *members: str, limit: int = 10, key: str = KEY):
    """Take these members one after the other; returns the last answer."""
    for member in members:
        taken = await next(rates.limiters).take(key, member, limit)
    return taken


# --- the rules


async def test_the_11th_is_refused_until_the_first_has_left_the_window(rates):
    await take(rates, "0")
    await rates.pass_time(20)
    tenth = await take(rates, *map(str, range(1, 10)))
    assert (tenth.allowed, tenth.fresh, tenth.used, tenth.wait_s) == (True, True, 10, 0.0)
    refused = await take(rates, "11th")
    assert (refused.allowed, refused.fresh, refused.used) == (False, False, 10)
    assert 40 - BUSY_S < refused.wait_s <= 40
    await rates.pass_time(40 - BUSY_S)
    assert not (await take(rates, "11th")).allowed
    await rates.pass_time(BUSY_S)
    assert (await take(rates, "12th")).used == 10
    assert not (await take(rates, "13th")).allowed


async def test_a_member_counts_once_and_is_allowed_again_while_the_window_is_full(rates):
    await take(rates, "a", "b", limit=2)
    again = await take(rates, "a", "b", "a", limit=2)
    assert (again.allowed, again.fresh, again.used) == (True, False, 2)


async def test_a_member_that_is_given_back_makes_room(rates):
    await take(rates, "a", "b", limit=2)
    await next(rates.limiters).give_back(KEY, "unknown")
    await next(rates.limiters).give_back("another key", "a")
    assert not (await take(rates, "c", limit=2)).allowed
    for limiter in (next(rates.limiters) for _ in range(3)):
        await limiter.give_back(KEY, "a")
    assert (await take(rates, "c", limit=2)).allowed


async def test_after_the_limit_was_lowered_several_members_must_leave(rates):
    for member in "abcde":
        await take(rates, member)
        await rates.pass_time(10)
    refused = await take(rates, "f", limit=2)
    assert (refused.allowed, refused.used) == (False, 5)
    assert 40 - BUSY_S < refused.wait_s <= 40, "the fourth of the five, of 20 s ago, must leave"


async def test_keys_are_counted_separately(rates):
    await take(rates, "a", "b", limit=2)
    assert (await take(rates, "a", key="another key", limit=2)).used == 1
    assert [await next(rates.limiters).look(key) for key in (KEY, "another key", "unknown")] == [2, 1, 0]
    await rates.pass_time(60)
    assert await next(rates.limiters).look(KEY) == 0


async def test_of_takes_at_the_same_time_as_many_as_the_limit_are_allowed(rates):
    taken = await asyncio.gather(*[next(rates.limiters).take(KEY, str(number), 10) for number in range(60)])
    assert sum(each.allowed for each in taken) == 10
    assert await next(rates.limiters).look(KEY) == 10


async def test_memory_keeps_no_window_without_members():
    rates = MemoryRates()
    limiter = next(rates.limiters)
    for number in range(100):
        await limiter.take(str(number), "a", 10)
    await rates.pass_time(60)
    await limiter.take(KEY, "a", 10)
    assert len(limiter._windows) == 1


# --- Redis


async def test_redis_has_no_name_of_a_user_and_forgets_within_a_minute(shared_redis):
    rates = RedisRates(shared_redis)
    await take(rates, "a")
    assert shared_redis.command("KEYS", "*") == [STORED]
    assert 0 < int(shared_redis.command("PTTL", STORED)) <= 60_000
    await rates.close()


async def test_a_clock_of_redis_that_went_back_delays_nobody_for_more_than_a_minute(shared_redis):
    rates = RedisRates(shared_redis)
    await rates.pass_time(0)
    shared_redis.command("ZADD", STORED, (time.time() + 3600) * 1000, "of the old primary")
    assert (await take(rates, "a", limit=1)).wait_s == 60.0
    await rates.close()


@pytest.mark.parametrize("kind", ["connections", "scripts"])
async def test_a_lost_connection_or_script_costs_no_count(shared_redis, kind):
    rates = RedisRates(shared_redis)
    await take(rates, "a", "b", "c", limit=4)
    shared_redis.command(*(("CLIENT", "KILL", "TYPE", "normal") if kind == "connections" else ("SCRIPT", "FLUSH")))
    fourth = await take(rates, "d", limit=4)
    assert (fourth.used, fourth.local) == (4, False)
    assert not (await take(rates, "e", limit=4)).allowed
    await rates.close()


async def test_through_one_replica_the_limit_holds_although_redis_has_lost_its_data(shared_redis):
    rates = RedisRates(shared_redis)
    first, other, _ = rates.replicas
    for member in "ab":
        await first.take(KEY, member, 2)
    shared_redis.command("FLUSHALL")
    assert not (await first.take(KEY, "c", 2)).allowed
    assert (await other.take(KEY, "c", 2)).used == 1
    await rates.close()


async def test_a_foreign_key_of_the_same_name_loses_nothing_else(shared_redis, caplog):
    rates = RedisRates(shared_redis)
    shared_redis.command("SET", STORED, "not ours")
    assert (await take(rates, "a")).local
    assert not (await take(rates, "a", key="another key")).local
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == [
        "relay_command_failed"
    ]
    await rates.close()


async def test_the_rights_that_the_documentation_names_are_enough(shared_redis):
    page = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()
    found = re.search(r"^ACL (SETUSER parley .*\n.*)$", page, re.MULTILINE)
    assert found is not None
    shared_redis.command("ACL", *found[1].replace("PASSWORD", "secret").split())
    rates = RedisRates(shared_redis, url=shared_redis.url().replace("//", "//parley:secret@"))
    assert not (await take(rates, "a")).local
    assert not (await take(rates, "b", "c", limit=2)).allowed
    await next(rates.limiters).give_back(KEY, "a")
    assert await next(rates.limiters).look(KEY) == 1
    assert [each.health.losses for each in rates.replicas] == [0, 0, 0]
    await rates.close()
    shared_redis.command("ACL", "DELUSER", "parley")


async def test_limits_hold_for_all_replicas_while_redis_is_out_of_memory(shared_redis):
    rates = RedisRates(shared_redis)
    await take(rates, "a", limit=4)
    shared_redis.command("CONFIG", "SET", "maxmemory", "1")
    shared_redis.command("SCRIPT", "FLUSH")
    with pytest.raises(OutOfMemoryError):
        shared_redis.command("SET", "other", "value")
    answers = [await take(rates, member, limit=4) for member in "bcd"]
    assert [(taken.used, taken.fresh, taken.local) for taken in answers] == [(n, True, False) for n in (2, 3, 4)]
    refused = await take(rates, "e", limit=4)
    assert (refused.allowed, refused.local) == (False, False)
    assert (await take(rates, "a", key="another key", limit=4)).used == 1
    for limiter in rates.replicas:
        await limiter.give_back(KEY, "a")
    assert [await limiter.look(KEY) for limiter in rates.replicas] == [3, 3, 3]
    assert [each.health.losses for each in rates.replicas] == [0, 0, 0]
    await rates.close()


# --- without Redis


def killed(redis):
    redis.kill9()
    return redis.start


def paused(redis):
    redis.pause()
    return redis.resume


def read_only(redis):
    redis.command("REPLICAOF", "127.0.0.1", free_port())
    return lambda: redis.command("REPLICAOF", "NO", "ONE")


async def timed(work):
    began = time.monotonic()
    try:
        return await work, time.monotonic() - began
    except LimitsUnavailable:
        return None, time.monotonic() - began


@pytest.mark.parametrize("refuses_alone", [False, True], ids=["local", "refuse"])
@pytest.mark.parametrize("fail", [killed, paused, read_only])
async def test_without_redis_each_replica_counts_for_itself_or_refuses(own_redis, fail, refuses_alone):
    rates = RedisRates(own_redis, refuses_alone=refuses_alone)
    await take(rates, "a", "b", "c", limit=4)
    rates.answer_within(ANSWER_S)
    repair = await asyncio.to_thread(fail, own_redis)
    answers = [
        await timed(limiter.take(KEY, f"{number}-{replica}", 4))
        for replica, limiter in enumerate(rates.replicas)
        for number in range(10)
    ]
    looks = [await timed(limiter.look(KEY)) for limiter in rates.replicas]
    backs = [await timed(limiter.give_back(KEY, "a")) for limiter in rates.replicas]
    assert max(took_s for _, took_s in (*answers, *looks, *backs)) < ALLOWED_S
    assert sum(took_s > ANSWER_S / 2 for _, took_s in answers) <= 6, "while Redis is lost, nobody waits for it"
    if refuses_alone:
        assert [taken for taken, _ in answers] == [None] * 30
    else:
        assert [taken.allowed for taken, _ in answers] == ([True] * 3 + [False] * 7) * 3, "one was taken before"
        assert [used for used, _ in looks] == [4, 4, 4]
    await asyncio.to_thread(repair)
    rates.answer_within(BUSY_S)
    await rates.restored()
    assert not (await take(rates, "z", key="another key")).local
    await rates.close()


async def test_start_connects_and_reports_a_redis_that_is_away(own_redis):
    rates = RedisRates(own_redis)
    own_redis.kill9()
    rates.replicas[0].start()
    await until(lambda: rates.replicas[0].health.lost_s > 0)
    own_redis.start()
    await rates.restored()
    await rates.close()
