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


async def test_the_last_reader_leaving_starts_the_count(room):
    room.reader_count.enter()
    room.reader_count.enter()
    await room.clock.advance(10)
    room.reader_count.leave()
    await room.clock.advance(1000)
    assert room.orphaned_at == []
    room.reader_count.leave()
    await room.clock.advance(1000)
    assert room.orphaned_at == [10 + 1000 + TTL_S]


async def test_coming_back_at_the_last_moment_keeps_it(room):
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


async def test_a_short_visit_starts_the_count_anew(room):
    room.reader_count.enter()
    room.reader_count.leave()
    await room.clock.advance(TTL_S - 1)
    room.reader_count.enter()
    room.reader_count.leave()
    await room.clock.advance(TTL_S - 1)
    assert room.orphaned_at == []
    await room.clock.advance(2)
    assert room.orphaned_at == [2 * TTL_S - 1]


async def test_before_a_first_reader_nothing_is_counted(room):
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


async def test_a_poll_keeps_what_a_reader_has_left(room):
    room.reader_count.enter()
    room.reader_count.leave()
    await room.clock.advance(TTL_S - 1)
    room.reader_count.touch()
    await room.clock.advance(1000)
    assert room.orphaned_at == [TTL_S - 1 + POLL_COUNTS_S + TTL_S]


async def test_a_poll_while_somebody_reads_lasts_beyond_the_reader(room):
    room.reader_count.enter()
    room.reader_count.touch()
    await room.clock.advance(10)
    room.reader_count.leave()
    await room.clock.advance(1000)
    assert room.orphaned_at == [POLL_COUNTS_S + TTL_S]


async def test_a_reader_seen_elsewhere_starts_the_count_at_the_time_it_was_seen(room):
    await room.clock.advance(50)
    room.reader_count.seen(20.0)
    await room.clock.advance(1000)
    assert room.orphaned_at == [30 + TTL_S]


async def test_an_older_sight_never_shortens_the_count(room):
    room.reader_count.enter()
    await room.clock.advance(50)
    room.reader_count.leave()
    room.reader_count.seen(40.0)
    await room.clock.advance(1000)
    assert room.orphaned_at == [50 + TTL_S]


async def test_sights_that_go_on_keep_it(room):
    for _ in range(400):
        room.reader_count.seen(1.0)
        await room.clock.advance(3)
    assert room.orphaned_at == []
    await room.clock.advance(1000)
    assert room.orphaned_at == [pytest.approx(399 * 3 - 1 + TTL_S)]


async def test_it_is_orphaned_while_nobody_has_come_back(room):
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


async def test_zero_is_never():
    room = Room(ttl_s=0.0)
    room.reader_count.enter()
    room.reader_count.leave()
    room.reader_count.touch()
    await room.clock.advance(1e6)
    assert room.orphaned_at == []


async def test_nothing_is_orphaned_once_the_readers_were_told_to_go(room):
    room.reader_count.enter()
    room.reader_count.leave()
    await room.clock.advance(TTL_S - 1)
    room.reader_count.paused = True
    await room.clock.advance(10 * TTL_S)
    assert room.orphaned_at == []


async def test_after_the_end_nothing_is_counted(room):
    room.reader_count.enter()
    room.reader_count.leave()
    room.reader_count.close()
    room.reader_count.touch()
    await room.clock.advance(10 * TTL_S)
    assert room.orphaned_at == []
    assert room.clock.waiting == 0


def test_readers_are_limited(room):
    for _ in range(3):
        room.reader_count.enter()
    with pytest.raises(TooManyReaders) as refused:
        room.reader_count.enter()
    assert refused.value.metadata == {"limit": "readers_per_reply"}
    assert room.reader_count.readers == 3
    room.reader_count.leave()
    room.reader_count.enter()
