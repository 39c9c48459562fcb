"""Limits of running replies and of the ended logs that are kept in memory."""

from __future__ import annotations

import pytest
from parley_server.core.events import TextDelta
from parley_server.core.ids import new_id
from parley_server.core.limits import Capacity
from parley_server.core.model import Identity
from parley_server.core.replies.live import LiveReplies
from parley_server.core.replies.log import Log
from parley_server.errors import Overloaded

from tests.clock import START_US, ManualClock
from tests.fakes import ADA, OTHERS, RecordingObserver, ended, limits_with, reply


def test_replies_over_the_limit_are_refused():
    capacity = Capacity(limits_with(max_replies=2), ManualClock())
    capacity.claim(1)
    capacity.claim(1)
    with pytest.raises(Overloaded) as refused:
        capacity.claim(1)
    assert refused.value.retry_after_s == 1.0
    capacity.release(1)
    capacity.claim(1)


async def test_retry_delays_of_refused_callers_are_spread_up_to_30_seconds():
    clock = ManualClock()
    capacity = Capacity(limits_with(), clock)

    def retry_after_s() -> float:
        return capacity.overloaded("full").retry_after_s

    assert [retry_after_s() for _ in range(3)] == pytest.approx([1.0, 1.025, 1.05])
    assert [retry_after_s() for _ in range(5000)][-1] == 30.0
    assert retry_after_s() == 30.0
    await clock.advance(20)
    assert retry_after_s() == pytest.approx(10.025)
    await clock.advance(60)
    assert retry_after_s() == 1.0


def test_prompt_bytes_over_the_limit_are_refused_unless_no_reply_runs():
    capacity = Capacity(limits_with(max_prompt_bytes=100), ManualClock())
    capacity.claim(1000)
    with pytest.raises(Overloaded):
        capacity.check(1)
    capacity.release(1000)
    capacity.claim(60)
    capacity.check(40)
    with pytest.raises(Overloaded):
        capacity.claim(41)
    capacity.claim(40)
    capacity.release(40)
    capacity.release(60)
    capacity.claim(1000)


class UnusedJournal:
    """Implements `Journal`."""

    def open(self, log: Log) -> None:
        raise AssertionError

    def close(self, log: Log) -> None:
        raise AssertionError


class EndedLogs:
    """`LiveReplies` and ended logs of any size."""

    def __init__(self, **limits) -> None:
        self.clock = ManualClock()
        self.live_replies = LiveReplies(
            clock=self.clock, limits=limits_with(**limits), observer=RecordingObserver(), journal=UnusedJournal()
        )

    def end(self, reply_id: str, size: int = 10) -> Log:
        log = Log(reply(reply_id))
        log.append(TextDelta("x" * size))
        log.finish(ended(log.reply, last_sequence=2))
        self.live_replies.keep(log)
        return log


async def test_ended_logs_are_removed_after_their_ttl():
    ended_logs = EndedLogs(ended_logs_ttl_s=60)
    first = ended_logs.end("a")
    await ended_logs.clock.advance(59.9)
    second = ended_logs.end("b")
    assert ended_logs.live_replies.find(ADA, "a") is first
    await ended_logs.clock.advance(0.1)
    assert ended_logs.live_replies.find(ADA, "a") is None
    assert ended_logs.live_replies.find(ADA, "b") is second
    await ended_logs.clock.advance(60)
    assert ended_logs.live_replies.find(ADA, "b") is None
    assert ended_logs.live_replies._ended_bytes == 0


def test_the_oldest_ended_logs_are_removed_over_the_byte_limit():
    each = EndedLogs().end("a", 50).footprint
    assert each > 50  # objects around the text count, too
    ended_logs = EndedLogs(ended_logs_max_bytes=2 * each)
    ended_logs.end("a", 50)
    b = ended_logs.end("b", 50)
    c = ended_logs.end("c", 50)
    assert [ended_logs.live_replies.find(ADA, name) for name in "abc"] == [None, b, c]
    ended_logs.end("d", 2 * each + 1)
    assert [ended_logs.live_replies.find(ADA, name) for name in "abcd"] == [None] * 4
    assert ended_logs.live_replies._ended_bytes == 0


def test_logs_of_other_users_and_tenants_are_not_found():
    ended_logs = EndedLogs()
    log = ended_logs.end("a")
    assert ended_logs.live_replies.find(Identity(tenant="shop"), "a") is log
    for identity in (*OTHERS, Identity(tenant="bank")):
        assert ended_logs.live_replies.find(identity, "a") is None


def test_erased_logs_are_removed():
    ended_logs = EndedLogs()
    a, b = ended_logs.end("a", 30), ended_logs.end("b", 40)
    ended_logs.live_replies.erase(("a", "unknown"))
    assert (a.erased, b.erased) == (True, False)
    assert ended_logs.live_replies.find(ADA, "a") is None
    assert ended_logs.live_replies._ended_bytes == b.footprint
    erased = Log(reply("c"))
    erased.erase()
    ended_logs.live_replies.keep(erased)
    assert ended_logs.live_replies.find(ADA, "c") is None


def test_ids_of_one_moment_are_unique_and_ids_sort_by_time():
    ids = {new_id(START_US) for _ in range(10_000)}
    assert len(ids) == 10_000
    assert {len(each) for each in ids} == {26}
    assert set("".join(ids)) <= set("0123456789abcdefghijklmnopqrstuv")
    assert new_id(START_US - 1000) < min(ids)
    assert max(ids) < new_id(START_US + 1000)
