"""A reply that nobody reads any more is given up after its time, and not a moment before."""

from __future__ import annotations

import pytest
from parley_server.core.replies.readers import POLL_COUNTS_S, ReaderCount
from parley_server.errors import TooManyReaders

from tests.clock import ManualClock

TTL_S = 300.0


class Room:
    """An audience, its clock, and how often it gave up."""

    def __init__(self, ttl_s: float = TTL_S, max_readers: int = 3) -> None:
        self.clock = ManualClock()
        self.orphaned_at: list[float] = []
        self.reader_count = ReaderCount(self.clock, ttl_s=ttl_s, max_readers=max_readers, on_orphaned=self._orphaned)
        self.start = self.clock.monotonic()

    def _orphaned(self) -> None:
        self.orphaned_at.append(self.clock.monotonic() - self.start)


@pytest.fixture
def room() -> Room:
    return Room()


async def test_the_ttl_starts_when_the_last_reader_leaves(room):
    room.reader_count.enter()
    room.reader_count.enter()
    await room.clock.advance(10)
    room.reader_count.leave()
    await room.clock.advance(1000)
    assert room.orphaned_at == []
    room.reader_count.leave()
    await room.clock.advance(1000)
    assert room.orphaned_at == [10 + 1000 + TTL_S]


async def test_a_reader_that_returns_before_the_ttl_prevents_the_cancellation(room):
    room.reader_count.enter()
    room.reader_count.leave()
    await room.clock.advance(TTL_S - 0.001)
    room.reader_count.enter()
    await room.clock.advance(5 * TTL_S)
    assert room.orphaned_at == []
    room.reader_count.leave()
    await room.clock.advance(TTL_S - 0.001)
    assert room.orphaned_at == []
    await room.clock.advance(0.002)
    assert room.orphaned_at == [pytest.approx(7 * TTL_S - 0.001)]


async def test_a_short_read_restarts_the_ttl(room):
    room.reader_count.enter()
    room.reader_count.leave()
    await room.clock.advance(TTL_S - 1)
    room.reader_count.enter()
    room.reader_count.leave()
    await room.clock.advance(TTL_S - 1)
    assert room.orphaned_at == []
    await room.clock.advance(2)
    assert room.orphaned_at == [2 * TTL_S - 1]


async def test_the_ttl_does_not_start_before_the_first_reader(room):
    await room.clock.advance(100 * TTL_S)
    assert room.orphaned_at == []
    assert room.clock.waiting == 0


async def test_a_poll_counts_as_a_reader_for_a_minute(room):
    room.reader_count.touch()
    await room.clock.advance(30)
    room.reader_count.touch()
    await room.clock.advance(POLL_COUNTS_S + TTL_S - 0.001)
    assert room.orphaned_at == []
    await room.clock.advance(0.002)
    assert room.orphaned_at == [30 + POLL_COUNTS_S + TTL_S]


async def test_a_poll_after_the_last_reader_extends_the_ttl(room):
    room.reader_count.enter()
    room.reader_count.leave()
    await room.clock.advance(TTL_S - 1)
    room.reader_count.touch()
    await room.clock.advance(1000)
    assert room.orphaned_at == [TTL_S - 1 + POLL_COUNTS_S + TTL_S]


async def test_a_poll_during_a_read_counts_after_the_reader_left(room):
    room.reader_count.enter()
    room.reader_count.touch()
    await room.clock.advance(10)
    room.reader_count.leave()
    await room.clock.advance(1000)
    assert room.orphaned_at == [POLL_COUNTS_S + TTL_S]


async def test_a_remote_reader_starts_the_ttl_at_its_last_read(room):
    await room.clock.advance(50)
    room.reader_count.seen(20.0)
    await room.clock.advance(1000)
    assert room.orphaned_at == [30 + TTL_S]


async def test_an_older_remote_read_does_not_shorten_the_ttl(room):
    room.reader_count.enter()
    await room.clock.advance(50)
    room.reader_count.leave()
    room.reader_count.seen(40.0)
    await room.clock.advance(1000)
    assert room.orphaned_at == [50 + TTL_S]


async def test_repeated_remote_reads_prevent_the_cancellation(room):
    for _ in range(400):
        room.reader_count.seen(1.0)
        await room.clock.advance(3)
    assert room.orphaned_at == []
    await room.clock.advance(1000)
    assert room.orphaned_at == [pytest.approx(399 * 3 - 1 + TTL_S)]


async def test_a_reply_is_orphaned_until_a_reader_returns_or_the_count_is_paused(room):
    assert not room.reader_count.orphaned
    room.reader_count.enter()
    room.reader_count.leave()
    await room.clock.advance(TTL_S)
    assert room.reader_count.orphaned
    room.reader_count.seen(0.0)
    assert not room.reader_count.orphaned
    await room.clock.advance(TTL_S)
    room.reader_count.enter()
    assert not room.reader_count.orphaned
    room.reader_count.leave()
    await room.clock.advance(TTL_S)
    room.reader_count.paused = True
    assert not room.reader_count.orphaned


async def test_zero_orphan_ttl_disables_cancellation():
    room = Room(ttl_s=0.0)
    room.reader_count.enter()
    room.reader_count.leave()
    room.reader_count.touch()
    await room.clock.advance(1e6)
    assert room.orphaned_at == []


async def test_a_paused_count_prevents_the_cancellation(room):
    room.reader_count.enter()
    room.reader_count.leave()
    await room.clock.advance(TTL_S - 1)
    room.reader_count.paused = True
    await room.clock.advance(10 * TTL_S)
    assert room.orphaned_at == []


async def test_a_closed_count_has_no_timer(room):
    room.reader_count.enter()
    room.reader_count.leave()
    room.reader_count.close()
    room.reader_count.touch()
    await room.clock.advance(10 * TTL_S)
    assert room.orphaned_at == []
    assert room.clock.waiting == 0


def test_readers_over_the_limit_are_refused(room):
    for _ in range(3):
        room.reader_count.enter()
    with pytest.raises(TooManyReaders) as refused:
        room.reader_count.enter()
    assert refused.value.metadata == {"limit": "readers_per_reply"}
    assert room.reader_count.readers == 3
    room.reader_count.leave()
    room.reader_count.enter()
