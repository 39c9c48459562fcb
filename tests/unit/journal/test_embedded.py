"""The journal of one process: what it writes and when, and that failures neither lose nor repeat entries."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from parley_server.core.events import Entry, TextDelta, ToolCallDelta
from parley_server.core.ports import Store
from parley_server.core.replies import log as log_module
from parley_server.core.replies.log import Log
from parley_server.core.store_types import Checkpoint
from parley_server.errors import StorageUnavailable
from parley_server.journal.checkpoints import MAX_RETRY_S, Checkpoints
from parley_server.journal.journals import INTERVAL_S, CheckpointJournal

from tests.clock import START_US, ManualClock, settle
from tests.fakes import ended, reply


class RecordingStore:
    """The one method of a store that the journal uses: keeps the checkpoints, and can be unavailable or slow."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.flushes: list[tuple[float, list[Checkpoint]]] = []
        self.away = 0
        self.unknown = False
        self.gate: asyncio.Event | None = None

    async def append_checkpoints(self, checkpoints: list[Checkpoint]) -> None:
        self.flushes.append((round(self._clock.monotonic() - 1000.0, 6), checkpoints))
        if self.gate is not None:
            await self.gate.wait()
        if self.away:
            self.away -= 1
            if not self.unknown:
                self.flushes[-1] = (self.flushes[-1][0], [])
            raise StorageUnavailable(outcome_unknown=self.unknown)

    def kept(self, reply_id: str) -> list[tuple[int, int, tuple[Entry, ...]]]:
        return [
            (each.from_sequence, each.to_sequence, each.entries)
            for _, flush in self.flushes
            for each in flush
            if each.reply_id == reply_id
        ]


class Desk:
    """A journal on a clock that the test moves."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = RecordingStore(self.clock)
        self.relay = CheckpointJournal(cast(Store, self.store), self.clock)
        self.relay.start()

    def open(self, reply_id: str = "a") -> Log:
        log = Log(reply(reply_id, epoch=3))
        log.first_token_time_us = START_US
        self.relay.open(log)
        return log

    @property
    def times(self) -> list[float]:
        return [at for at, _ in self.store.flushes]


@pytest.fixture
async def desk():
    made = Desk()
    yield made
    if made.store.gate is not None:
        made.store.gate.set()
    made.store.away = 0
    stopping = asyncio.ensure_future(made.relay.stop())
    await made.clock.advance(5)
    await stopping


def say(log: Log, text: str) -> None:
    for character in text:
        log.append(TextDelta(character))


async def test_new_entries_are_written_an_interval_after_the_first(desk):
    first, second = desk.open("a"), desk.open("b")
    await desk.clock.advance(7)
    say(first, "abc")
    await desk.clock.advance(INTERVAL_S - 0.01)
    assert desk.store.flushes == []
    say(second, "x")
    first.append(ToolCallDelta(0, "id", "name", "{}"))
    await desk.clock.advance(0.01)
    expected = [
        Checkpoint(
            reply_id="a",
            epoch=3,
            model="fast",
            provider="scripted",
            from_sequence=1,
            to_sequence=4,
            entries=(TextDelta("abc"), ToolCallDelta(0, "id", "name", "{}")),
            first_token_time_us=START_US,
        ),
        Checkpoint(
            reply_id="b",
            epoch=3,
            model="fast",
            provider="scripted",
            from_sequence=1,
            to_sequence=1,
            entries=(TextDelta("x"),),
            first_token_time_us=START_US,
        ),
    ]
    assert desk.store.flushes == [(7 + INTERVAL_S, expected)]
    await desk.clock.advance(10)
    assert len(desk.store.flushes) == 1


async def test_there_is_one_flush_per_interval_and_none_is_late(desk):
    log = desk.open()
    written_at = {}
    for i in range(100):
        say(log, "x")
        written_at[i + 1] = desk.clock.monotonic() - 1000.0
        await desk.clock.advance(0.013)
    await desk.clock.advance(INTERVAL_S)
    gaps = [later - earlier for earlier, later in zip(desk.times, desk.times[1:], strict=False)]
    assert min(gaps) >= INTERVAL_S - 1e-6
    stretches = list(zip(desk.times, desk.store.kept("a"), strict=True))
    for number, since in written_at.items():
        flushed = next(at for at, (low, high, _) in stretches if low <= number <= high)
        assert flushed - since <= INTERVAL_S + 1e-6


async def test_consecutive_ranges_have_no_gap(desk):
    log = desk.open()
    for text in ("ab", "c", "def"):
        say(log, text)
        await desk.clock.advance(INTERVAL_S)
    assert desk.store.kept("a") == [
        (1, 2, (TextDelta("ab"),)),
        (3, 3, (TextDelta("c"),)),
        (4, 6, (TextDelta("def"),)),
    ]


async def test_a_reply_shorter_than_the_interval_costs_nothing(desk):
    log = desk.open()
    say(log, "short")
    await desk.clock.advance(INTERVAL_S / 2)
    desk.relay.close(log)
    log.seal()
    log.finish(ended(log.reply, last_sequence=log.closing_sequence))
    await desk.clock.advance(1)
    assert desk.store.flushes == []


async def test_a_closed_log_is_not_written_further(desk):
    log, other = desk.open("a"), desk.open("b")
    say(log, "ab")
    await desk.clock.advance(INTERVAL_S)
    say(log, "cd")
    say(other, "x")
    desk.relay.close(log)
    say(log, "ef")
    await desk.clock.advance(INTERVAL_S)
    assert desk.store.kept("a") == [(1, 2, (TextDelta("ab"),))]
    assert desk.store.kept("b") == [(1, 1, (TextDelta("x"),))]


@pytest.mark.parametrize("unknown", [False, True])
async def test_entries_of_a_failed_flush_are_written_later(desk, unknown):
    log = desk.open()
    desk.store.away, desk.store.unknown = 3, unknown
    say(log, "ab")
    await desk.clock.advance(INTERVAL_S)
    say(log, "cd")
    await desk.clock.advance(10)
    say(log, "ef")
    await desk.clock.advance(INTERVAL_S)
    assert desk.times == [0.1, 0.3, 0.7, 1.5, pytest.approx(10.2)]
    assert desk.store.kept("a")[-2:] == [(1, 4, (TextDelta("abcd"),)), (5, 6, (TextDelta("ef"),))]
    assert all(low == 1 for low, _, _ in desk.store.kept("a")[:-1])


async def test_retries_slow_down_to_a_second(desk):
    log = desk.open()
    desk.store.away = 7
    say(log, "x")
    await desk.clock.advance(20)
    gaps = [round(later - earlier, 6) for earlier, later in zip(desk.times, desk.times[1:], strict=False)]
    assert gaps == [0.2, 0.4, 0.8, 1.0, 1.0, 1.0, 1.0]


async def test_entries_during_a_flush_are_part_of_the_next(desk):
    log = desk.open()
    desk.store.gate = asyncio.Event()
    say(log, "ab")
    await desk.clock.advance(INTERVAL_S)
    say(log, "cd")
    desk.store.gate.set()
    await settle()
    await desk.clock.advance(INTERVAL_S)
    assert desk.store.kept("a") == [(1, 2, (TextDelta("ab"),)), (3, 4, (TextDelta("cd"),))]


async def test_a_log_that_ends_during_a_flush_is_skipped(desk):
    log = desk.open()
    desk.store.gate = asyncio.Event()
    say(log, "ab")
    await desk.clock.advance(INTERVAL_S)
    desk.relay.close(log)
    log.replace(ended(log.reply, last_sequence=70_000))
    desk.store.gate.set()
    await settle()
    assert log.last_sequence == 70_000
    await desk.clock.advance(1)
    assert len(desk.store.flushes) == 1


async def test_a_flush_releases_withheld_entries(desk, monkeypatch):
    monkeypatch.setattr(log_module, "MAX_UNJOURNALED", 4)
    log = desk.open()
    say(log, "abcdefghij")
    assert log.last_sequence == 4
    for expected in (8, 10, 10):
        await desk.clock.advance(INTERVAL_S)
        assert log.last_sequence == expected
    assert [entries for _, _, entries in desk.store.kept("a")] == [
        (TextDelta("abcd"),),
        (TextDelta("efgh"),),
        (TextDelta("ij"),),
    ]


async def test_stop_flushes_at_once_and_ends():
    for moment in ("idle", "sleeping", "flushing"):
        desk = Desk()
        log = desk.open()
        if moment != "idle":
            say(log, "ab")
        if moment == "flushing":
            desk.store.gate = asyncio.Event()
            await desk.clock.advance(INTERVAL_S)
            say(log, "cd")
        await settle()
        stopping = asyncio.ensure_future(desk.relay.stop())
        await settle()
        if moment == "flushing":
            desk.store.gate.set()
        await desk.clock.advance(INTERVAL_S)
        async with asyncio.timeout(1):
            await stopping
        said = "".join(entry.text for _, _, entries in desk.store.kept("a") for entry in entries)
        assert said == {"idle": "", "sleeping": "ab", "flushing": "abcd"}[moment]


async def test_stop_does_not_wait_for_an_unavailable_store():
    desk = Desk()
    log = desk.open()
    desk.store.away = 1000
    say(log, "x")
    stopping = asyncio.ensure_future(desk.relay.stop())
    await desk.clock.advance(INTERVAL_S)
    async with asyncio.timeout(1):
        await stopping


async def test_a_failing_reply_does_not_end_the_journal(desk, caplog):
    log = desk.open()
    written = desk.store.append_checkpoints

    async def broken(checkpoints: list[Checkpoint]) -> None:
        desk.store.append_checkpoints = written
        raise ValueError("a defect")

    desk.store.append_checkpoints = broken
    say(log, "ab")
    await desk.clock.advance(INTERVAL_S)
    say(log, "cd")
    await desk.clock.advance(1)
    assert desk.store.kept("a") == [(1, 2, (TextDelta("ab"),)), (3, 4, (TextDelta("cd"),))]
    assert "checkpoint_write_failed" in caplog.messages


async def test_a_reply_that_always_fails_does_not_block_others(desk, caplog):
    bad, good = desk.open("bad"), desk.open("good")
    written, calls = desk.store.append_checkpoints, []

    async def poisoned(checkpoints: list[Checkpoint]) -> None:
        calls.append([each.reply_id for each in checkpoints])
        if "bad" in calls[-1]:
            raise ValueError("a defect")
        await written(checkpoints)

    desk.store.append_checkpoints = poisoned
    for _ in range(20):
        say(bad, "x")
        say(good, "y")
        await desk.clock.advance(INTERVAL_S)
    assert "".join(entry.text for _, _, entries in desk.store.kept("good") for entry in entries) == "y" * 20
    assert calls[:3] == [["bad", "good"], ["bad"], ["good"]]
    assert calls[3:].count(["bad"]) == 1
    assert len([record for record in caplog.records if getattr(record, "fields", {}).get("reply_id") == "bad"]) == 1
    desk.store.append_checkpoints = written
    await desk.clock.advance(2 * MAX_RETRY_S)
    assert desk.store.kept("bad") == [(1, 20, (TextDelta("x" * 20),))]
    assert bad.durable_sequence == 20


async def test_a_large_reply_is_flushed_early():
    clock = ManualClock()
    store = RecordingStore(clock)
    journal = Checkpoints(cast(Store, store), clock, interval_s=2.0, max_bytes=100)
    journal.start()
    log = Log(reply("a", epoch=3))
    journal.open(log)
    for _ in range(30):
        log.append(TextDelta("0123456789"))
        journal.mark(log)
        await clock.advance(0.05)
    await clock.advance(5)
    assert [at for at, _ in store.flushes] == [0.45, 0.95, pytest.approx(1.45)]
    store.away = 3
    log.append(TextDelta("0123456789" * 50))
    for _ in range(200):
        journal.mark(log)
        await clock.advance(0.05)
    assert [at for at, _ in store.flushes[3:]] == pytest.approx([6.6, 7.6, 8.6, 9.6])
    stopping = asyncio.ensure_future(journal.stop())
    await clock.advance(1)
    await stopping
