"""The text journal: what is read back after a kill, and what is removed."""

from __future__ import annotations

import asyncio
import logging
from typing import cast

import pytest
from parley_server.core.events import TextDelta, ToolCallDelta, UsageUpdate
from parley_server.core.model import Usage
from parley_server.core.ports import Store
from parley_server.core.replies.log import Log
from parley_server.errors import StorageUnavailable
from parley_server.journal import entry_codec
from parley_server.journal.journals import CHECKPOINT_S, INTERVAL_S, StandaloneJournal
from parley_server.journal.segments import Segment

from tests.clock import ManualClock, settle
from tests.fakes import ended, reply


class RecordingStore:
    """Keeps checkpoints, or is unavailable."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, int, int]] = []
        self.away = False

    async def append_checkpoints(self, checkpoints) -> None:
        if self.away:
            raise StorageUnavailable
        self.kept += [(each.reply_id, each.from_sequence, each.to_sequence) for each in checkpoints]


class Desk:
    """A relay with a text journal, on a clock that the test moves."""

    def __init__(self, folder, *, start: bool = True) -> None:
        self.path = folder / "parley.db"
        self.clock = ManualClock()
        self.store = RecordingStore()
        self.relay = StandaloneJournal(cast(Store, self.store), self.clock, path=self.path)
        if start:
            self.relay.start()

    def open(self, reply_id: str = "a") -> Log:
        log = Log(reply(reply_id))
        self.relay.open(log)
        return log

    async def passes(self, seconds: float) -> None:
        """Move the clock, and let the thread finish its work."""
        end = self.clock.monotonic() + seconds
        while self.clock.monotonic() < end:
            await self.clock.advance(min(INTERVAL_S / 4, end - self.clock.monotonic()))
            await asyncio.get_running_loop().run_in_executor(self.relay._files._thread, lambda: None)
            await settle()

    async def left(self, reply_id: str, after: int = 0) -> list:
        """The entries that the next process would find if this one were killed now."""
        next_one = StandaloneJournal(cast(Store, self.store), self.clock, path=self.path)
        await next_one.load()
        return list(await next_one.take_over(reply_id, 2, after=after))

    @property
    def sizes(self) -> list[int]:
        return sorted(path.stat().st_size for path in self.path.parent.glob("parley.db.tail*"))


@pytest.fixture
async def desk(tmp_path):
    made = Desk(tmp_path)
    yield made
    made.store.away = False
    await stopped(made)


async def stopped(desk: Desk) -> None:
    """Stop the relay. That needs the thread but does not advance the clock."""
    stopping = asyncio.ensure_future(desk.relay.stop())
    while not stopping.done():
        await desk.clock.advance(1)
        await asyncio.sleep(0.001)
    await stopping


def say(log: Log, text: str) -> None:
    for character in text:
        log.append(TextDelta(character))


async def test_new_entries_are_in_the_file_an_interval_after_the_first(desk):
    log, other = desk.open("a"), desk.open("b")
    say(log, "one")
    say(other, "another")
    await desk.passes(INTERVAL_S * 0.9)
    assert await desk.left("a") == []
    say(log, "!")
    await desk.passes(INTERVAL_S * 0.2)
    assert await desk.left("a") == log.content()
    assert await desk.left("b") == other.content()
    assert desk.store.kept == []


@pytest.mark.parametrize(("hurried", "stored_after_s"), [(True, 2 * INTERVAL_S), (False, CHECKPOINT_S + INTERVAL_S)])
async def test_the_first_checkpoint_of_a_hurried_log_is_not_put_off(desk, hurried, stored_after_s):
    log = desk.open()
    log.hurried = hurried
    say(log, "one")
    await desk.passes(stored_after_s - INTERVAL_S / 2)
    assert desk.store.kept == []
    await desk.passes(INTERVAL_S)
    assert desk.store.kept == [("a", 1, 3)]
    say(log, "two")
    await desk.passes(CHECKPOINT_S)
    assert desk.store.kept == [("a", 1, 3)], "later ones keep the interval"


async def test_every_kind_of_entry_is_read_back(desk):
    log = desk.open()
    entries = [TextDelta("\u00e4 {"), ToolCallDelta(0, "id", "name", "{}"), UsageUpdate(Usage(prompt_tokens=3))]
    for entry in entries:
        log.append(entry)
    await desk.passes(2 * INTERVAL_S)
    assert await desk.left("a") == entries
    assert await desk.left("a", after=2) == entries[2:]
    assert await desk.left("a", after=3) == []
    assert await desk.left("unknown") == []


async def test_files_are_truncated_once_the_store_has_the_entries(desk):
    log = desk.open()
    for _ in range(100):
        say(log, "x")
        await desk.passes(INTERVAL_S)
    kept = [(first, last) for _, first, last in desk.store.kept]
    assert 4 <= len(kept) <= 100 * INTERVAL_S / CHECKPOINT_S + 1
    assert [first for first, _ in kept] == [1, *(last + 1 for _, last in kept[:-1])]
    durable = kept[-1][1]
    assert await desk.left("a", after=durable) == log.content()[durable:]
    assert max(desk.sizes) < 3 * CHECKPOINT_S / INTERVAL_S * 30, "what the store has is not kept"
    await desk.passes(CHECKPOINT_S + 3)
    assert desk.store.kept[-1][2] == 100
    assert max(desk.sizes) == 0


async def test_files_keep_the_entries_during_a_store_outage(desk):
    desk.store.away = True
    log = desk.open()
    for _ in range(200):
        say(log, "x")
        await desk.passes(INTERVAL_S)
    assert desk.store.kept == []
    assert len(await desk.left("a")) >= 199
    desk.store.away = False
    await desk.passes(CHECKPOINT_S + 5)
    assert max(desk.sizes) == 0


async def test_a_reply_stays_in_the_files_until_it_is_finalised(desk):
    log = desk.open()
    say(log, "last words")
    log.seal()
    desk.relay.close(log)
    await desk.passes(10)
    assert await desk.left("a") == log.content()
    assert desk.store.kept == []
    log.finish(ended(log.reply, last_sequence=log.closing_sequence))
    desk.relay.ended(log)
    await desk.passes(3)
    assert max(desk.sizes) == 0


async def test_recall_of_an_open_log_returns_all_entries(desk):
    log = desk.open()
    say(log, "said")
    assert await desk.relay.take_over("a", 1, after=1) == tuple(log.content()[1:])
    log.erase()
    desk.relay.ended(log)
    assert await desk.relay.take_over("a", 1, after=1) == ()


async def test_text_of_an_erased_conversation_is_removed_from_the_files(desk):
    log, other = desk.open("a"), desk.open("b")
    say(log, "private")
    await desk.passes(2 * INTERVAL_S)
    log.erase()
    desk.relay.ended(log)
    for _ in range(60):
        say(other, "x")
        await desk.passes(INTERVAL_S)
    files = b"".join(path.read_bytes() for path in desk.path.parent.glob("parley.db.tail*"))
    assert b"private" not in files
    assert await desk.left("a") == []


async def test_entries_of_an_earlier_process_are_removed_after_the_start(tmp_path):
    left = Segment(tmp_path / "parley.db.tail1")
    left.append([])
    left.close()
    desk = Desk(tmp_path, start=False)
    assert max(desk.sizes) > 0
    await desk.relay.load()
    desk.relay.start()
    await desk.passes(2)
    assert max(desk.sizes) == 0
    log = desk.open()
    say(log, "new")
    await desk.passes(2 * INTERVAL_S)
    assert await desk.left("a") == log.content()
    await stopped(desk)


async def test_a_failing_file_is_logged_once_and_retried(desk, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "parley.relay")
    log = desk.open()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Segment, "append", full)
        for _ in range(30):
            say(log, "x")
            await desk.passes(INTERVAL_S)
        assert desk.store.kept[-1][2] > 5, "the store has it all the same"
    say(log, "y")
    await desk.passes(2)
    durable = desk.store.kept[-1][2]
    assert await desk.left("a", after=durable) == log.content()[durable:]
    assert [record.message for record in caplog.records] == ["text_journal_lost", "text_journal_restored"]


async def test_a_log_that_cannot_be_encoded_is_left_to_the_store(desk, monkeypatch, caplog):
    encode = entry_codec.encode
    monkeypatch.setattr(entry_codec, "encode", lambda entry: 1 / 0 if entry == TextDelta("bad") else encode(entry))
    bad, good = desk.open("bad"), desk.open("good")
    for _ in range(5):
        bad.append(TextDelta("bad"))
        say(good, "x")
        await desk.passes(2 * INTERVAL_S)
    assert await desk.left("good") == good.content()
    assert await desk.left("bad") == []
    await desk.passes(CHECKPOINT_S + 1)
    assert {reply_id for reply_id, _, _ in desk.store.kept} == {"bad", "good"}
    assert caplog.messages.count("text_journal_encode_failed") == 1


async def test_stop_writes_open_logs(tmp_path):
    desk = Desk(tmp_path)
    desk.store.away = True
    log = desk.open()
    say(log, "unfinished")
    await stopped(desk)
    assert await desk.left("a") == log.content()


async def test_stop_without_open_logs_leaves_no_file(tmp_path):
    desk = Desk(tmp_path)
    log = desk.open()
    say(log, "whole")
    await desk.passes(2 * INTERVAL_S)
    assert len(desk.sizes) == 1
    log.finish(ended(log.reply, last_sequence=log.closing_sequence))
    desk.relay.ended(log)
    await stopped(desk)
    assert desk.sizes == []
