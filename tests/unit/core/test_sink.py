"""The sink merges, holds and cuts the output of a provider before it becomes log entries."""

from __future__ import annotations

import msgspec
import pytest
from parley_server.core.events import ReasoningDelta, TextDelta, ToolCallDelta, UsageUpdate, size_of
from parley_server.core.model import Kept, Usage
from parley_server.core.replies.log import Log
from parley_server.core.replies.sink import MAX_KEPT_BYTES, MAX_OPEN_BYTES, FlushWindow, LogSink, window_s

from tests.clock import ManualClock
from tests.fakes import FAST, reply

USAGE = Usage(prompt_tokens=7, completion_tokens=9)


class SinkHarness:
    """A sink with its log and a utilisation that the test sets."""

    def __init__(self, *, max_bytes: int = 2 * 1024 * 1024) -> None:
        self.clock = ManualClock()
        self.log = Log(reply())
        self.utilisation = 0.0
        self.full = 0
        self.window = FlushWindow(self.clock, utilisation=lambda: self.utilisation)
        self.begun_with: list[int] = []
        self.sink = LogSink(
            self.log,
            self.clock,
            window=self.window,
            max_bytes=max_bytes,
            on_full=self._filled,
            on_first=lambda: self.begun_with.append(self.log.last_sequence),
        )

    def _filled(self) -> None:
        self.full += 1

    @property
    def entries(self):
        return self.log.content()

    def read(self, *texts: str) -> None:
        """Handle one read from the socket of a provider."""
        for text in texts:
            self.sink.text(text)
        self.sink.flush()


@pytest.fixture
def harness() -> SinkHarness:
    return SinkHarness()


def test_the_first_content_is_reported_once(harness):
    harness.sink.usage(USAGE)
    harness.sink.flush()
    assert harness.begun_with == []
    harness.read("a")
    harness.read("b")
    assert harness.begun_with == [0]


def test_one_flush_makes_one_entry_of_each_kind(harness):
    harness.read("a", "b", "", "c")
    harness.read("d")
    harness.sink.reasoning("r")
    harness.sink.reasoning("s", b"signed")
    harness.sink.reasoning("", b"")
    harness.sink.text("t")
    harness.sink.flush()
    harness.sink.flush()
    assert harness.entries == [TextDelta("abc"), TextDelta("d"), ReasoningDelta("rs", b"signed"), TextDelta("t")]


def test_entries_are_numbered_by_the_flush(harness):
    harness.sink.text("a")
    assert harness.entries == []
    harness.sink.flush()
    assert harness.entries == [TextDelta("a")]
    assert harness.clock.waiting == 0


@pytest.mark.parametrize(
    ("utilisation", "expected_s"), [(0.0, 0.0), (0.7, 0.0), (0.85, 0.025), (1.0, 0.05), (1.5, 0.05)]
)
def test_the_flush_window_grows_from_70_percent_utilisation_to_50_ms(utilisation, expected_s):
    assert window_s(utilisation) == pytest.approx(expected_s)


async def test_the_first_token_is_numbered_at_once(harness):
    harness.utilisation = 1.0
    harness.sink.usage(USAGE)
    harness.sink.flush()
    assert harness.log.first_token_time_us == 0
    harness.read("first")
    assert harness.entries == [TextDelta("first"), UsageUpdate(USAGE)]
    assert harness.log.first_token_time_us == harness.clock.now_us()


async def test_text_is_held_for_one_window_at_high_utilisation(harness):
    harness.read("first")
    harness.utilisation = 1.0
    harness.read("a")
    await harness.clock.advance(0.03)
    harness.read("b")
    await harness.clock.advance(0.019)
    assert harness.entries == [TextDelta("first")]
    await harness.clock.advance(0.002)
    assert harness.entries == [TextDelta("first"), TextDelta("ab")]
    assert harness.clock.waiting == 0
    harness.read("c")
    harness.utilisation = 0.5
    harness.read("d")
    assert harness.entries[2:] == [TextDelta("cd")]
    assert harness.clock.waiting == 0


async def test_all_sinks_share_one_window(harness):
    logs = [Log(reply(f"reply-{number}")) for number in range(3)]
    sinks = [
        LogSink(log, harness.clock, window=harness.window, max_bytes=1000, on_full=lambda: None, on_first=lambda: None)
        for log in logs
    ]
    for sink in sinks:
        sink.text("first")
        sink.flush()
    harness.utilisation = 1.0
    for sink in sinks:
        sink.text("held")
        sink.flush()
        assert harness.clock.waiting == 1
        await harness.clock.advance(0.01)
    sinks[0].seal()
    assert [len(log.content()) for log in logs] == [2, 1, 1]
    assert harness.clock.waiting == 1
    await harness.clock.advance(0.021)
    assert [log.content() for log in logs] == [[TextDelta("first"), TextDelta("held")]] * 3
    assert harness.clock.waiting == 0
    sinks[1].text("again")
    sinks[1].flush()
    await harness.clock.advance(0.051)
    assert len(logs[1].content()) == 3


async def test_held_text_is_at_most_4_kib(harness):
    harness.read("first")
    harness.utilisation = 1.0
    harness.read("x" * (MAX_OPEN_BYTES - 1))
    assert len(harness.entries) == 1
    harness.read("y")
    assert [size_of(entry) for entry in harness.entries] == [5, MAX_OPEN_BYTES]


@pytest.mark.parametrize(
    ("push", "entry", "total"),
    [
        (lambda sink: sink.tool_call(0, "id", "name", "{"), ToolCallDelta(0, "id", "name", "{"), 4),
        (lambda sink: sink.reasoning("why"), ReasoningDelta("why"), 4),
        (lambda sink: sink.usage(USAGE), UsageUpdate(USAGE), 3),  # an equal usage is not repeated
    ],
)
async def test_an_entry_of_another_kind_flushes_held_text(harness, push, entry, total):
    harness.read("first")
    harness.utilisation = 1.0
    harness.read("held")
    push(harness.sink)
    harness.sink.flush()
    assert harness.entries == [TextDelta("first"), TextDelta("held"), entry]
    assert harness.clock.waiting == 0
    push(harness.sink)
    harness.sink.flush()
    assert len(harness.entries) == total


async def test_the_seal_flushes_held_text_and_drops_later_calls(harness):
    harness.read("first")
    harness.utilisation = 1.0
    harness.read("held")
    harness.sink.text("pushed")
    harness.sink.seal()
    harness.read("late")
    harness.sink.usage(USAGE)
    harness.sink.tool_call(0, "id", "name", "")
    harness.sink.close()
    await harness.clock.advance(1.0)
    assert harness.entries == [TextDelta("first"), TextDelta("heldpushed")]
    assert harness.sink.last_usage is None
    assert harness.clock.waiting == 0


def test_a_usage_before_the_first_token_is_numbered_at_the_end(harness):
    harness.sink.usage(Usage(prompt_tokens=1))
    harness.sink.usage(USAGE)
    assert harness.sink.last_usage == USAGE
    harness.sink.flush()
    assert harness.entries == []  # a usage is numbered with the first token or at the end
    harness.sink.seal()
    assert harness.entries == [UsageUpdate(USAGE)]


async def test_a_usage_with_every_token_is_numbered_once_a_second_and_at_the_end(harness):
    for number in range(1, 26):
        harness.sink.text("x")
        harness.sink.usage(Usage(prompt_tokens=7, completion_tokens=number))
        harness.sink.flush()
        await harness.clock.advance(0.1)
    harness.sink.seal()
    counted = [entry.usage.completion_tokens for entry in harness.entries if isinstance(entry, UsageUpdate)]
    assert counted == [1, 11, 21, 25]
    assert len(harness.entries) == 25 + len(counted)


def test_an_unchanged_usage_is_numbered_once(harness):
    harness.read("first")
    for _ in range(3):
        harness.sink.usage(USAGE)
        harness.sink.flush()
    harness.sink.seal()
    assert harness.entries == [TextDelta("first"), UsageUpdate(USAGE)]


def test_text_over_the_limit_is_cut_at_a_code_point_and_reported_once():
    harness = SinkHarness(max_bytes=8)
    harness.read("abc", "dé€")
    harness.read("more")
    harness.sink.reasoning("more")
    harness.sink.flush()
    assert harness.entries == [TextDelta("abcdé")]
    assert harness.full == 1


def test_multibyte_text_fills_the_default_limit_exactly():
    harness = SinkHarness()
    harness.read("a", "€" * (2 * 1024 * 1024 // 3))
    harness.read("€")
    assert harness.full == 1
    assert harness.log.size == 1 + 3 * (2 * 1024 * 1024 // 3)
    assert set(harness.entries[0].text) == {"a", "€"}


@pytest.mark.parametrize(("max_bytes", "text", "entries"), [(4, "abcd", [TextDelta("abcd")]), (1, "é", [])])
def test_text_of_exactly_the_limit_is_whole_and_a_longer_code_point_leaves_no_entry(max_bytes, text, entries):
    harness = SinkHarness(max_bytes=max_bytes)
    harness.read(text)
    assert (harness.entries, harness.full) == (entries, 1)


def test_cut_reasoning_loses_its_signature():
    harness = SinkHarness(max_bytes=4)
    harness.sink.reasoning("thought", b"signed")
    harness.sink.flush()
    assert harness.entries == [ReasoningDelta("thou")]


@pytest.mark.parametrize(
    ("max_bytes", "entries"),
    [(9, [ToolCallDelta(0, "id", "name", '{"a')]), (6, [ToolCallDelta(0, "id", "name")]), (5, [])],
)
def test_a_cut_tool_call_keeps_id_and_name_or_is_dropped(max_bytes, entries):
    harness = SinkHarness(max_bytes=max_bytes)
    harness.sink.tool_call(0, "id", "name", '{"a": 1}')
    harness.sink.flush()
    assert (harness.entries, harness.full) == (entries, 1)


def test_all_kinds_of_entries_count_towards_the_limit():
    harness = SinkHarness(max_bytes=10)
    harness.sink.reasoning("abc", b"d")
    harness.sink.tool_call(0, "i", "n", "{}")
    harness.sink.text("xyz")
    harness.sink.flush()
    assert harness.entries == [ReasoningDelta("abc", b"d"), ToolCallDelta(0, "i", "n", "{}"), TextDelta("xy")]


def test_another_model_than_the_requested_one_is_shown_and_stored_soon(harness):
    harness.sink.asks(FAST)
    assert not harness.log.hurried
    harness.sink.asks(msgspec.structs.replace(FAST, alias="slow", provider="other"))
    assert (harness.log.hurried, harness.log.reply.model, harness.log.reply.provider) == (True, "slow", "other")


def test_all_wire_items_are_dropped_if_one_is_over_the_limit(harness):
    assert harness.sink.kept is None
    harness.sink.keep("o", "a" * (MAX_KEPT_BYTES - 2))
    harness.sink.keep("o", "é")
    assert harness.sink.kept == Kept(origin="o", items=("a" * (MAX_KEPT_BYTES - 2), "é"))
    harness.sink.keep("o", "b")
    harness.sink.keep("o", "c")
    assert harness.sink.kept is None
