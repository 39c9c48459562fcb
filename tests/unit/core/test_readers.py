"""A reply without readers is cancelled after its orphan TTL, and not earlier."""

from __future__ import annotations

import pytest
from parley_server.core.replies.readers import POLL_COUNTS_S, ReaderCount
from parley_server.errors import TooManyReaders

from tests.clock import ManualClock

TTL_S = 300.0


class TimedReaderCount(ReaderCount):
    """A count of at most 3 readers with a manual clock. `orphaned_at`: seconds from the start to each orphan report."""

    def __init__(self, ttl_s: float = TTL_S) -> None:
        self.clock = ManualClock()
        self.orphaned_at: list[float] = []
        start = self.clock.monotonic()
        super().__init__(
            self.clock,
            ttl_s=ttl_s,
            max_readers=3,
            on_orphaned=lambda: self.orphaned_at.append(self.clock.monotonic() - start),
        )

    def read_once(self) -> None:
        self.enter()
        self.leave()


@pytest.fixture
def count() -> TimedReaderCount:
    return TimedReaderCount()


async def test_the_ttl_starts_when_the_last_reader_leaves(count):
    count.enter()
    count.enter()
    await count.clock.advance(10)
    count.leave()
    await count.clock.advance(1000)
    assert count.orphaned_at == []
    count.leave()
    await count.clock.advance(1000)
    assert count.orphaned_at == [10 + 1000 + TTL_S]


async def test_a_reader_that_returns_before_the_ttl_prevents_the_cancellation(count):
    count.read_once()
    await count.clock.advance(TTL_S - 0.001)
    count.enter()
    await count.clock.advance(5 * TTL_S)
    assert count.orphaned_at == []
    count.leave()
    await count.clock.advance(TTL_S - 0.001)
    assert count.orphaned_at == []
    await count.clock.advance(0.002)
    assert count.orphaned_at == [pytest.approx(7 * TTL_S - 0.001)]


async def test_a_short_read_restarts_the_ttl(count):
    count.read_once()
    await count.clock.advance(TTL_S - 1)
    count.read_once()
    await count.clock.advance(TTL_S - 1)
    assert count.orphaned_at == []
    await count.clock.advance(2)
    assert count.orphaned_at == [2 * TTL_S - 1]


async def test_the_ttl_does_not_start_before_the_first_reader(count):
    await count.clock.advance(100 * TTL_S)
    assert count.orphaned_at == []
    assert count.clock.waiting == 0


async def test_a_poll_counts_as_a_reader_for_a_minute(count):
    count.touch()
    await count.clock.advance(30)
    count.touch()
    await count.clock.advance(POLL_COUNTS_S + TTL_S - 0.001)
    assert count.orphaned_at == []
    await count.clock.advance(0.002)
    assert count.orphaned_at == [30 + POLL_COUNTS_S + TTL_S]


async def test_a_poll_after_the_last_reader_extends_the_ttl(count):
    count.read_once()
    await count.clock.advance(TTL_S - 1)
    count.touch()
    await count.clock.advance(1000)
    assert count.orphaned_at == [TTL_S - 1 + POLL_COUNTS_S + TTL_S]


async def test_a_poll_during_a_read_counts_after_the_reader_left(count):
    count.enter()
    count.touch()
    await count.clock.advance(10)
    count.leave()
    await count.clock.advance(1000)
    assert count.orphaned_at == [POLL_COUNTS_S + TTL_S]


async def test_a_remote_reader_starts_the_ttl_at_its_last_read(count):
    await count.clock.advance(50)
    count.seen(20.0)
    await count.clock.advance(1000)
    assert count.orphaned_at == [30 + TTL_S]


async def test_an_older_remote_read_does_not_shorten_the_ttl(count):
    count.enter()
    await count.clock.advance(50)
    count.leave()
    count.seen(40.0)
    await count.clock.advance(1000)
    assert count.orphaned_at == [50 + TTL_S]


async def test_repeated_remote_reads_prevent_the_cancellation(count):
    for _ in range(400):
        count.seen(1.0)
        await count.clock.advance(3)
    assert count.orphaned_at == []
    await count.clock.advance(1000)
    assert count.orphaned_at == [pytest.approx(399 * 3 - 1 + TTL_S)]


async def test_a_reply_is_orphaned_until_a_reader_returns_or_the_count_is_paused(count):
    assert not count.orphaned
    count.read_once()
    await count.clock.advance(TTL_S)
    assert count.orphaned
    count.seen(0.0)
    assert not count.orphaned
    await count.clock.advance(TTL_S)
    count.enter()
    assert not count.orphaned
    count.leave()
    await count.clock.advance(TTL_S)
    count.paused = True
    assert not count.orphaned


async def test_zero_orphan_ttl_disables_cancellation():
    count = TimedReaderCount(ttl_s=0.0)
    count.read_once()
    count.touch()
    await count.clock.advance(1e6)
    assert count.orphaned_at == []


async def test_a_paused_count_prevents_the_cancellation(count):
    count.read_once()
    await count.clock.advance(TTL_S - 1)
    count.paused = True
    await count.clock.advance(10 * TTL_S)
    assert count.orphaned_at == []


async def test_a_closed_count_has_no_timer(count):
    count.read_once()
    count.close()
    count.touch()
    await count.clock.advance(10 * TTL_S)
    assert count.orphaned_at == []
    assert count.clock.waiting == 0


def test_readers_over_the_limit_are_refused(count):
    for _ in range(3):
        count.enter()
    with pytest.raises(TooManyReaders) as refused:
        count.enter()
    assert refused.value.metadata == {"limit": "readers_per_reply"}
    assert count.readers == 3
    count.leave()
    count.enter()
