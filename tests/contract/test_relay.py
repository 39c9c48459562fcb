"""The journal of every relay, on real stores: embedded, with Redis, and with an unreachable Redis."""

from __future__ import annotations

import asyncio
import itertools
import math
from typing import cast

import pytest
from parley_server.core.clock import SystemClock
from parley_server.core.events import ReasoningDelta, TextDelta, ToolCallDelta, UsageUpdate
from parley_server.core.model import State, Usage
from parley_server.core.ports import Store
from parley_server.core.replies.log import Log
from parley_server.journal.journals import CheckpointJournal
from parley_server.relay.redis import RedisRelay

from tests.clock import until
from tests.contract.relays import RecordingOwner, say, text_of
from tests.contract.store_values import ADA, NOW_US, accepted, created, finalisation
from tests.fakes import FaultyStore, ended
from tests.ports import free_port

INTERVAL_S = 0.05


class Desk:
    """A relay on a store whose calls a test can make fail."""

    def __init__(self, relay, store: FaultyStore) -> None:
        self.relay = relay
        self.store = store

    async def begin(self) -> Log:
        """Accept a reply and open its log."""
        log = Log(await accepted(self.store, await created(self.store)))
        self.relay.open(log)
        log.first_token_time_us = NOW_US
        return log

    async def kept(self, log: Log) -> tuple[str, int]:
        """The durable text of a reply and its last number."""
        (found,) = await self.store.unfinished(10, log.reply.id)
        return text_of(found.entries), found.durable_sequence

    async def durable(self, log: Log) -> None:
        await until(lambda: log.durable_sequence == log.last_sequence)


@pytest.fixture(params=["embedded", "redis", "redis-away"])
async def desk(request, store):
    interference = FaultyStore(store)
    if request.param == "embedded":
        relay = CheckpointJournal(cast(Store, interference), SystemClock(), interval_s=INTERVAL_S)
        relay.start()
    else:
        away = request.param == "redis-away"
        url = f"redis://127.0.0.1:{free_port()}" if away else request.getfixturevalue("shared_redis").url()
        relay = RedisRelay(
            url, cast(Store, interference), SystemClock(), replica_id="me", checkpoint_interval_s=INTERVAL_S
        )
        await relay.start(RecordingOwner())
    yield Desk(relay, interference)
    interference.before.clear()
    await relay.stop()


async def test_all_entries_become_durable_in_order(desk):
    log = await desk.begin()
    for number in range(100):
        log.append(TextDelta(f"{number} "))
        if number % 7 == 0:
            await asyncio.sleep(0.005)
    log.append(ReasoningDelta("because", b"signature"))
    log.append(ToolCallDelta(0, "id", "name", "{}"))
    log.append(UsageUpdate(Usage(prompt_tokens=3)))
    await desk.durable(log)
    (found,) = await desk.store.unfinished(10, log.reply.id)
    assert text_of(found.entries) == " ".join(map(str, range(100))) + " "
    assert list(found.entries[-3:]) == log.content()[-3:]
    assert found.durable_sequence == 103
    assert found.reply.state is State.STREAMING
    assert found.reply.first_token_time_us == NOW_US


async def test_entries_from_before_open_are_journaled(desk):
    log = Log(await accepted(desk.store, await created(desk.store)))
    log.first_token_time_us = NOW_US
    say(log, "early")
    desk.relay.open(log)
    await desk.durable(log)
    assert await desk.kept(log) == ("early ", 1)


async def test_replies_are_journaled_in_one_commit(desk):
    logs = [await desk.begin() for _ in range(5)]
    before = desk.store.calls.count("append_checkpoints")
    for log in logs:
        say(log, "a few words")
    for log in logs:
        await desk.durable(log)
        assert await desk.kept(log) == ("a few words ", 3)
    assert desk.store.calls.count("append_checkpoints") - before <= 2


async def test_a_closed_log_is_not_journaled_further(desk):
    log, other = await desk.begin(), await desk.begin()
    say(log, "before")
    await desk.durable(log)
    say(log, "after")
    desk.relay.close(log)
    say(other, "another's")
    await desk.durable(other)
    await asyncio.sleep(3 * INTERVAL_S)
    assert await desk.kept(log) == ("before ", 1)


async def test_entries_beyond_the_limit_wait_for_the_journal(desk, monkeypatch):
    monkeypatch.setattr("parley_server.core.replies.log.MAX_UNJOURNALED", 50)
    log = await desk.begin()
    for number in range(175):
        log.append(TextDelta(f"{number} "))
    assert log.last_sequence == 50
    await until(lambda: log.last_sequence == 175)
    await desk.durable(log)
    assert await desk.kept(log) == (" ".join(map(str, range(175))) + " ", 175)


@pytest.mark.parametrize("unknown", [False, True])
async def test_entries_written_during_a_store_outage_become_durable_later(desk, unknown):
    log = await desk.begin()
    desk.store.fail("append_checkpoints", times=3, after=unknown)
    for number in range(30):
        log.append(TextDelta(f"{number} "))
        await asyncio.sleep(0.01)
    await desk.durable(log)
    assert await desk.kept(log) == (" ".join(map(str, range(30))) + " ", 30)


async def test_a_reply_that_cannot_be_written_does_not_block_others(desk):
    bad, good = await desk.begin(), await desk.begin()

    async def poisoned(checkpoints):
        if any(each.reply_id == bad.reply.id for each in checkpoints):
            raise ValueError("a defect")

    desk.store.before["append_checkpoints"] = poisoned
    for _ in range(5):
        say(bad, "bad")
        say(good, "good")
        await asyncio.sleep(INTERVAL_S)
    await desk.durable(good)
    assert await desk.kept(bad) == ("", 0)
    desk.store.before.clear()
    await desk.durable(bad)
    assert await desk.kept(bad) == ("bad " * 5, 5)


async def test_stop_makes_open_logs_durable(desk):
    log = await desk.begin()
    say(log, "first")
    await desk.durable(log)
    say(log, "last words")
    await desk.relay.stop()
    assert await desk.kept(log) == ("first last words ", 3)


async def test_the_journal_of_an_ended_reply_stays_gone(desk):
    log = await desk.begin()
    say(log, "one two")
    await desk.durable(log)
    say(log, "three")
    log.seal()
    desk.relay.close(log)
    outcome = await desk.store.finalise(finalisation(log.reply, "one two three ", last_sequence=log.closing_sequence))
    assert outcome is not None
    log.finish(outcome.reply)
    if isinstance(desk.relay, RedisRelay):
        desk.relay.ended(log)
    await asyncio.sleep(3 * INTERVAL_S)
    assert await desk.store.unfinished(10, log.reply.id) == []
    assert (await desk.store.get_reply(ADA, log.reply.id)).state is State.COMPLETED


@pytest.mark.parametrize("desk", ["redis", "redis-away"], indirect=True)
async def test_a_relay_without_replicas_knows_no_remote_logs(desk):
    log = await desk.begin()
    elsewhere = Log(log.reply)
    desk.relay.follow(elsewhere, wanted=lambda: True, look=lambda: None)
    desk.relay.unfollow(elsewhere)
    desk.relay.unfollow(Log(log.reply))
    assert await desk.relay.recall("reply-unknown") == ()
    assert await desk.relay.take_over("reply-unknown", 2) == ()
    assert await desk.relay.idle_s("reply-unknown") in (None, math.inf)
    assert desk.relay.unreachable_s >= 0
    desk.relay.publish_cancel(log.reply)
    desk.relay.erase(("reply-unknown",))
    desk.relay.erase(())
    desk.relay.ended(Log.of_ended(ended(log.reply, last_sequence=70_000)))
    for _ in itertools.repeat(None, 3):
        say(log, "text")
    await desk.durable(log)
