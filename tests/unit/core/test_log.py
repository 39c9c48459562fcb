"""A log keeps order and exact text, has one end, and is read from any position."""

from __future__ import annotations

import asyncio
import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parley_server.core.content import answer_of
from parley_server.core.events import (
    Chunk,
    Entry,
    Failed,
    Finished,
    ReasoningDelta,
    Snapshot,
    TextDelta,
    ToolCallDelta,
    UsageUpdate,
    merge,
    size_of,
)
from parley_server.core.model import FinishReason, Message, ReplyError, Role, State, TextPart, Usage
from parley_server.core.replies import log as log_module
from parley_server.core.replies.log import MAX_MESSAGE_BYTES, MAX_UNJOURNALED, TAKEOVER_GAP, Log, Reader, terminal_of
from parley_server.errors import InternalError, Reason, ReplyNotFound

from tests.clock import settle
from tests.fakes import ended, entries, reply, texts_of
from tests.unit.core.running_reply import read_available

USAGE = Usage(prompt_tokens=1, completion_tokens=2)


def whole(log: Log) -> list[Chunk]:
    """One chunk for each entry."""
    return [
        Chunk(number, entry) for number, entry in enumerate(log.content(), log.last_sequence - len(log.content()) + 1)
    ]


def answer(chunks: list[Chunk]) -> object:
    return answer_of(chunk.entry for chunk in chunks)


def filled(*given: Entry) -> Log:
    log = Log(reply())
    for entry in given:
        log.append(entry)
    return log


def finish(log: Log) -> None:
    log.seal()
    log.finish(ended(log.reply, last_sequence=log.closing_sequence))


@settings(deadline=None, max_examples=60)
@given(
    given=st.lists(entries(), max_size=60), readers=st.lists(st.tuples(st.integers(0, 70), st.randoms()), max_size=5)
)
def test_readers_with_any_start_and_lag_get_each_later_entry_once_in_order(given, readers):
    log = Log(reply())
    lagging = [(Reader(log, start), start, lag, []) for start, lag in readers]
    for entry in given:
        log.append(entry)
        for reader, _, lag, seen in lagging:
            if lag.random() < 0.5 and reader.ready:
                seen += reader.take()
    finish(log)
    everything = whole(log)
    assert [chunk.sequence for chunk in everything] == list(range(1, len(given) + 2))
    for reader, start, _, seen in lagging:
        seen += read_available(reader)
        sequences = [chunk.sequence for chunk in seen]
        if start <= len(given):
            assert answer(seen) == answer(everything[start:])
            assert sequences == sorted(set(sequences))
            assert sequences[0] > start
        elif start > log.last_sequence:
            assert [type(chunk.entry) for chunk in seen] == [Snapshot, Finished]
        assert seen[-1] == everything[-1]
        assert seen[-1].sequence == log.last_sequence
        assert reader.done
        assert not reader.ready
        assert reader.take() == []


@settings(deadline=None, max_examples=60)
@given(given=st.lists(entries(), max_size=40))
def test_a_reader_resumes_at_every_position(given):
    log = filled(*given)
    for after in range(len(given) + 1):
        assert answer(read_available(Reader(log, after))) == answer(whole(log)[after:])
    beyond = Reader(log, log.last_sequence + 2)
    assert not beyond.ready
    finish(log)
    last = log.last_sequence
    for after in range(last):
        assert answer(read_available(Reader(log, after))) == answer(whole(log)[after:])
        merged = [entry for _, entry in merge(log.content()[after:])]
        assert [chunk.entry for chunk in read_available(Reader(log, after))] == merged
    terminal = Chunk(last, terminal_of(log.reply))
    assert read_available(Reader(log, last)) == [terminal]
    assert (
        read_available(Reader(log, last + 1))
        == read_available(beyond)
        == [Chunk(last - 1, Snapshot(log.reply)), terminal]
    )


@settings(deadline=None, max_examples=60)
@given(given=st.lists(entries(), max_size=60))
def test_merged_entries_make_the_same_answer(given):
    merged = merge(given)
    assert answer_of(entry for _, entry in merged) == answer_of(given)
    counts = [taken for taken, _ in merged]
    assert counts == sorted(set(counts))
    assert counts[-1:] == ([len(given)] if given else [])
    deltas = [entry for entry in given if not isinstance(entry, UsageUpdate)]
    assert sum(size_of(entry) for _, entry in merged) == sum(map(size_of, deltas))


def test_merge_joins_only_adjacent_entries_of_one_kind():
    given = [
        TextDelta("a"),
        TextDelta("b"),
        ReasoningDelta("r"),
        ReasoningDelta("s", b"sign"),
        ReasoningDelta("t"),
        ToolCallDelta(0, "id0", "f", "{"),
        ToolCallDelta(0, arguments="}"),
        ToolCallDelta(1, "id1", "g", "["),
        ToolCallDelta(0, arguments=" "),
        UsageUpdate(Usage(prompt_tokens=1)),
        UsageUpdate(USAGE),
        TextDelta("c"),
    ]
    assert merge(given) == [
        (2, TextDelta("ab")),
        (4, ReasoningDelta("rs", b"sign")),
        (5, ReasoningDelta("t")),
        (7, ToolCallDelta(0, "id0", "f", "{}")),
        (8, ToolCallDelta(1, "id1", "g", "[")),
        (9, ToolCallDelta(0, arguments=" ")),
        (11, UsageUpdate(USAGE)),
        (12, TextDelta("c")),
    ]


def test_10000_entries_are_numbered_without_gaps():
    log = filled(*[TextDelta(str(i)) for i in range(10_000)])
    assert log.chunks(9_999) == [Chunk(10_000, TextDelta("9999"))]
    assert log.last_sequence == 10_000
    assert texts_of(read_available(Reader(log, 0))) == "".join(map(str, range(10_000)))
    assert texts_of(read_available(Reader(log, 9_990))) == "".join(map(str, range(9_990, 10_000)))


def test_a_sealed_log_takes_only_its_end():
    log = filled(TextDelta("seen"))
    log.seal()
    log.append(TextDelta("late"))
    assert log.closing_sequence == 2
    finish(log)
    log.append(TextDelta("later"))
    log.journaled(2)
    assert whole(log) == [Chunk(1, TextDelta("seen")), Chunk(2, terminal_of(log.reply))]


@pytest.mark.parametrize("seed_block", range(10))
def test_racing_ends_leave_one_terminal_entry_at_the_end(seed_block):
    for seed in range(seed_block * 1000, seed_block * 1000 + 1000):
        chance = random.Random(seed)
        log = Log(reply())
        reader, seen = Reader(log, 0), []
        stored = None
        for _ in range(chance.randrange(1, 12)):
            action = chance.choice(("append", "append", "seal", "complete", "cancel", "replace", "read", "journal"))
            if action == "append":
                log.append(TextDelta("x"))
            elif action == "seal":
                log.seal()
            elif action == "journal":
                log.journaled(log.last_sequence if not log.ended else 0)
            elif action == "read":
                seen += reader.take() if reader.ready else []
            elif stored is None:  # the store accepts one end
                stored = end_randomly(log, action)
        seen += read_available(reader)
        if stored is None:
            assert not any(isinstance(chunk.entry, Finished | Failed) for chunk in seen)
            continue
        terminals = [chunk for chunk in seen if isinstance(chunk.entry, Finished | Failed)]
        assert terminals == seen[-1:] == [Chunk(stored.last_sequence, terminal_of(stored))]
        assert read_available(Reader(log, 0))[-1] == seen[-1]


def end_randomly(log: Log, action: str):
    log.seal()
    if action == "replace":
        taken_over = ended(log.reply, last_sequence=log.last_sequence + TAKEOVER_GAP + 1, state=State.FAILED)
        log.replace(taken_over)
        return taken_over
    state = State.COMPLETED if action == "complete" else State.CANCELLED
    stored = ended(log.reply, last_sequence=log.closing_sequence, state=state)
    log.finish(stored)
    return stored


def test_readers_of_a_replaced_log_get_a_snapshot_and_the_end():
    log = filled(*[TextDelta(str(i)) for i in range(10)])
    before, inside, beyond = Reader(log, 0), Reader(log, 5), Reader(log, 40)
    inside.take()
    log.replace(stored := ended(log.reply, last_sequence=3 + TAKEOVER_GAP + 1, state=State.FAILED))
    expected = [Chunk(3 + TAKEOVER_GAP, Snapshot(stored)), Chunk(4 + TAKEOVER_GAP, terminal_of(stored))]
    for reader in (before, inside, beyond, Reader(log, 0), Reader(log, 70_000)):
        assert read_available(reader) == expected
    assert read_available(Reader(log, stored.last_sequence)) == expected[1:]


def test_an_expired_log_has_a_snapshot_and_the_end():
    stored = ended(reply(), last_sequence=8)
    log = Log.of_ended(stored)
    both = [Chunk(7, Snapshot(stored)), Chunk(8, terminal_of(stored))]
    assert [read_available(Reader(log, after)) for after in (0, 6, 7, 8, 9)] == [both, both, both[1:], both[1:], both]
    silent = Log.of_ended(ended(reply(), last_sequence=1))
    assert [chunk.sequence for chunk in read_available(Reader(silent, 0))] == [1]


def test_a_reply_that_has_not_ended_has_no_terminal_entry():
    with pytest.raises(InternalError):
        Log.of_ended(reply())


def test_the_terminal_entry_has_the_error_or_the_finish_reason():
    error = ReplyError(reason=Reason.OWNER_LOST, message="gone")
    stored = ended(reply(), last_sequence=1, state=State.FAILED, error=error)
    assert terminal_of(stored) == Failed(error, stored.usage, stored.model, stored.provider)
    cancelled = ended(reply(), last_sequence=1, state=State.CANCELLED, finish_reason=FinishReason.ORPHANED)
    assert terminal_of(cancelled) == Finished(
        FinishReason.ORPHANED, "", cancelled.usage, cancelled.model, "", cancelled.provider
    )


async def test_an_erased_log_ends_its_readers():
    log = filled(TextDelta("a"))
    reader = Reader(log, 1)
    waiting = asyncio.ensure_future(reader.wait())
    await settle()
    assert not waiting.done()
    log.erase()
    await waiting
    with pytest.raises(ReplyNotFound):
        reader.take()
    assert log.over
    log.append(TextDelta("b"))
    assert log.last_sequence == 1


def test_unjournaled_entries_over_the_limit_are_held_back(monkeypatch):
    monkeypatch.setattr(log_module, "MAX_UNJOURNALED", 10)
    notified_at: list[int] = []
    log = Log(reply())
    log.on_append = lambda: notified_at.append(log.last_sequence)
    for i in range(25):
        log.append(TextDelta(chr(97 + i)))
    assert log.last_sequence == 10
    assert notified_at == [1]  # one notification until the next `journaled`
    assert (log.closing_sequence, len(log.content())) == (26, 25)
    assert (log.durable_sequence, len(log.since(0))) == (0, 10)
    log.journaled(10)
    assert log.last_sequence == 20
    assert notified_at == [1, 20]
    log.append(TextDelta("z"))
    assert log.last_sequence == 20
    log.journaled(4)
    log.journaled(20)
    assert log.last_sequence == 26
    assert log.since(log.durable_sequence) == [TextDelta(c) for c in "uvwxyz"]
    assert texts_of(read_available(Reader(log, 0))) == "abcdefghijklmnopqrstuvwxyz"


def test_held_back_entries_are_shown_at_the_end(monkeypatch):
    monkeypatch.setattr(log_module, "MAX_UNJOURNALED", 3)
    log = filled(*[TextDelta(c) for c in "abcdefg"])
    log.seal()
    closing = log.closing_sequence
    log.journaled(2)
    assert log.closing_sequence == closing == 8
    finish(log)
    chunks = read_available(Reader(log, 0))
    assert texts_of(chunks) == "abcdefg"
    assert chunks[-1].sequence == 8


def test_the_numbers_of_a_takeover_are_above_every_number_shown_by_the_owner(monkeypatch):
    assert MAX_UNJOURNALED < TAKEOVER_GAP
    log = filled(*[TextDelta("x")] * 70_000)
    assert log.last_sequence == MAX_UNJOURNALED
    log.journaled(1_000)
    durable, shown = 1_000, log.last_sequence
    taken_over = ended(log.reply, last_sequence=durable + TAKEOVER_GAP + 1, state=State.FAILED)
    assert taken_over.last_sequence - 1 > shown
    remote = Log.of_ended(taken_over)
    for cursor in (0, durable, durable + 1, shown):
        assert [type(chunk.entry) for chunk in read_available(Reader(remote, cursor))] == [Snapshot, Failed]


def test_a_message_has_at_most_1_mib_or_one_larger_entry():
    half = MAX_MESSAGE_BYTES // 2
    big = TextDelta("b" * (MAX_MESSAGE_BYTES + 7))
    log = filled(
        TextDelta("1" * half), TextDelta("2" * half), TextDelta("3"), big, TextDelta("é" * half), TextDelta("4")
    )
    finish(log)
    reader = Reader(log, 0)
    taken = []
    while reader.ready:
        taken.append([(chunk.sequence, size_of(chunk.entry)) for chunk in reader.take()])
    assert taken == [[(2, 2 * half)], [(3, 1)], [(4, MAX_MESSAGE_BYTES + 7)], [(5, 2 * half)], [(6, 1), (7, 0)]]


@pytest.mark.parametrize("seed_block", range(10))
async def test_readers_that_attach_at_random_moments_get_the_exact_text(seed_block):
    for seed in range(seed_block * 100, seed_block * 100 + 100):
        await attach_randomly(random.Random(seed))


async def attach_randomly(chance: random.Random) -> None:
    log = Log(reply())
    pieces = [f"{i}," for i in range(chance.randrange(1, 30))]
    seen: dict[int, list[Chunk]] = {}

    async def write() -> None:
        for piece in pieces:
            log.append(TextDelta(piece))
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)
        log.seal()
        await asyncio.sleep(0)
        log.finish(ended(log.reply, last_sequence=log.closing_sequence))

    async def read(number: int, lateness: int) -> None:
        for _ in range(lateness):
            await asyncio.sleep(0)
        reader = Reader(log, 0)
        seen[number] = []
        while not reader.done:
            await reader.wait()
            seen[number] += reader.take()
            if chance.random() < 0.3:
                await asyncio.sleep(0)
            if chance.random() < 0.2:  # the connection is lost: another one resumes
                reader = Reader(log, reader.position) if not reader.done else reader

    await asyncio.gather(write(), *[read(number, chance.randrange(40)) for number in range(3)])
    for chunks in seen.values():
        assert texts_of(chunks) == "".join(pieces)
        sequences = [chunk.sequence for chunk in chunks]
        assert sequences == sorted(set(sequences))
        assert [isinstance(chunk.entry, Finished) for chunk in chunks].count(True) == 1
        assert chunks[-1].sequence == log.last_sequence == len(pieces) + 1


async def test_a_long_history_is_read_before_new_entries():
    log = filled(*[TextDelta(f"{i} ") for i in range(10_000)])
    reader = Reader(log, 0)
    chunks = reader.take()
    for i in range(10_000, 10_200):
        log.append(TextDelta(f"{i} "))
        await reader.wait()
        chunks += reader.take()
    finish(log)
    chunks += read_available(reader)
    assert texts_of(chunks) == "".join(f"{i} " for i in range(10_200))
    assert [chunk.sequence for chunk in chunks] == [*range(10_000, 10_201), 10_201]


def test_slow_readers_use_no_memory():
    def grown(readers: int) -> int:
        log = Log(reply())
        slow = [Reader(log, 0) for _ in range(readers)]
        tracemalloc.start()
        for _ in range(5_000):
            log.append(TextDelta("word "))
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert all(reader.ready for reader in slow)
        return size

    assert grown(200) < grown(0) * 1.1


async def test_a_slow_reader_catches_up_in_one_chunk():
    log = Log(reply())
    slow, fast = Reader(log, 0), Reader(log, 0)
    waiting = asyncio.ensure_future(slow.wait())
    await settle()
    written = []
    for _ in range(20_000):
        log.append(TextDelta("word "))
        written += fast.take()
    await waiting
    assert slow.take() == [Chunk(20_000, TextDelta("word " * 20_000))]
    assert texts_of(written) == "word " * 20_000


async def test_a_log_without_new_entries_drops_readers_that_left():
    log = Log(reply())
    for _ in range(50):
        reader = Reader(log, 0)
        waiting = asyncio.ensure_future(reader.wait())
        await settle()
        reader.wake()
        await waiting
    cancelled = asyncio.ensure_future(Reader(log, 0).wait())
    await settle()
    cancelled.cancel()
    await settle()
    assert not log._waiting


async def test_an_entry_wakes_all_readers_and_the_end_wakes_those_waiting_for_it():
    log = Log(reply())
    waits = [asyncio.ensure_future(Reader(log, 0).wait()) for _ in range(3)]
    end = asyncio.ensure_future(Reader(log, 0).until_ended())
    await settle()
    log.append(TextDelta("x"))
    await asyncio.gather(*waits)
    await settle()
    assert not end.done()
    finish(log)
    await end


def test_the_size_of_a_log_is_in_bytes():
    log = filled(TextDelta("é"), ReasoningDelta("a", b"12"), ToolCallDelta(0, "i", "n", "{}"), UsageUpdate(USAGE))
    assert log.size == 2 + 3 + 4
    assert log.content()[0] == TextDelta("é")
    message = Message(role=Role.ASSISTANT, parts=(TextPart(text="é"),))
    log.replace(ended(log.reply, last_sequence=9, message=message))
    assert log.size == 0
