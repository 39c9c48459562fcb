"""Between the provider and the log: what becomes one entry, what waits, and what is over the limit."""

from __future__ import annotations

import pytest
from parley_server.core.events import ReasoningDelta, TextDelta, ToolCallDelta, UsageUpdate, size_of
from parley_server.core.model import Usage
from parley_server.core.replies.log import Log
from parley_server.core.replies.sink import MAX_OPEN_BYTES, FlushWindow, LogSink, window_s

from tests.clock import ManualClock
from tests.fakes import reply

USAGE = Usage(prompt_tokens=7, completion_tokens=9)


class Desk:
    """A sink on a log, at a load that the test sets."""

    def __init__(self, *, max_bytes: int = 2 * 1024 * 1024) -> None:
        self.clock = ManualClock()
        self.log = Log(reply())
        self.utilisation = 0.0
        self.full = 0
        self.window = FlushWindow(self.clock, utilisation=lambda: self.utilisation)
        self.sink = LogSink(self.log, self.clock, window=self.window, max_bytes=max_bytes, on_full=self._filled)

    def _filled(self) -> None:
        self.full += 1

    @property
    def entries(self):
        return self.log.content()

    def read(self, *texts: str) -> None:
        """One read from the socket."""
        for text in texts:
            self.sink.text(text)
        self.sink.flush()


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_one_flush_makes_one_entry_of_each_kind(desk):
    desk.read("a", "b", "", "c")
    desk.read("d")
    desk.sink.reasoning("r")
    desk.sink.reasoning("s", b"signed")
    desk.sink.reasoning("", b"")
    desk.sink.text("t")
    desk.sink.flush()
    desk.sink.flush()
    assert desk.entries == [TextDelta("abc"), TextDelta("d"), ReasoningDelta("rs", b"signed"), TextDelta("t")]


def test_entries_are_numbered_by_the_flush(desk):
    desk.sink.text("a")
    assert desk.entries == []
    desk.sink.flush()
    assert desk.entries == [TextDelta("a")]
    assert desk.clock.waiting == 0


@pytest.mark.parametrize(
    ("utilisation", "expected_s"), [(0.0, 0.0), (0.7, 0.0), (0.85, 0.025), (1.0, 0.05), (1.5, 0.05)]
)
def test_the_flush_window_grows_from_70_percent_utilisation_to_50_ms(utilisation, expected_s):
    assert window_s(utilisation) == pytest.approx(expected_s)


async def test_the_first_token_is_numbered_at_once(desk):
    desk.utilisation = 1.0
    desk.sink.usage(USAGE)
    desk.sink.flush()
    assert desk.log.first_token_time_us == 0
    desk.read("first")
    assert desk.entries == [TextDelta("first"), UsageUpdate(USAGE)]
    assert desk.log.first_token_time_us == desk.clock.now_us()


async def test_text_is_held_for_one_window_at_high_utilisation(desk):
    desk.read("first")
    desk.utilisation = 1.0
    desk.read("a")
    await desk.clock.advance(0.03)
    desk.read("b")
    await desk.clock.advance(0.019)
    assert desk.entries == [TextDelta("first")]
    await desk.clock.advance(0.002)
    assert desk.entries == [TextDelta("first"), TextDelta("ab")]
    assert desk.clock.waiting == 0
    desk.read("c")
    desk.utilisation = 0.5
    desk.read("d")
    assert desk.entries[2:] == [TextDelta("cd")]
    assert desk.clock.waiting == 0


async def test_all_sinks_share_one_window(desk):
    logs = [Log(reply(f"reply-{number}")) for number in range(3)]
    sinks = [LogSink(log, desk.clock, window=desk.window, max_bytes=1000, on_full=lambda: None) for log in logs]
    for sink in sinks:
        sink.text("first")
        sink.flush()
    desk.utilisation = 1.0
    for sink in sinks:
        sink.text("held")
        sink.flush()
        assert desk.clock.waiting == 1
        await desk.clock.advance(0.01)
    sinks[0].seal()
    assert [len(log.content()) for log in logs] == [2, 1, 1]
    assert desk.clock.waiting == 1
    await desk.clock.advance(0.021)
    assert [log.content() for log in logs] == [[TextDelta("first"), TextDelta("held")]] * 3
    assert desk.clock.waiting == 0
    sinks[1].text("again")
    sinks[1].flush()
    await desk.clock.advance(0.051)
    assert len(logs[1].content()) == 3


async def test_held_text_is_at_most_4_kib(desk):
    desk.read("first")
    desk.utilisation = 1.0
    desk.read("x" * (MAX_OPEN_BYTES - 1))
    assert len(desk.entries) == 1
    desk.read("y")
    assert [size_of(entry) for entry in desk.entries] == [5, MAX_OPEN_BYTES]


@pytest.mark.parametrize(
    ("push", "entry"),
    [
        (lambda sink: sink.tool_call(0, "id", "name", "{"), ToolCallDelta(0, "id", "name", "{")),
        (lambda sink: sink.reasoning("why"), ReasoningDelta("why")),
    ],
)
async def test_an_entry_of_another_kind_flushes_held_text(desk, push, entry):
    desk.read("first")
    desk.utilisation = 1.0
    desk.read("held")
    push(desk.sink)
    desk.sink.flush()
    assert desk.entries == [TextDelta("first"), TextDelta("held"), entry]
    assert desk.clock.waiting == 0
    push(desk.sink)
    desk.sink.flush()
    assert len(desk.entries) == 4


async def test_the_seal_flushes_held_text_and_drops_later_calls(desk):
    desk.read("first")
    desk.utilisation = 1.0
    desk.read("held")
    desk.sink.text("pushed")
    desk.sink.seal()
    desk.read("late")
    desk.sink.usage(USAGE)
    desk.sink.tool_call(0, "id", "name", "")
    desk.sink.close()
    await desk.clock.advance(1.0)
    assert desk.entries == [TextDelta("first"), TextDelta("heldpushed")]
    assert desk.sink.last_usage is None
    assert desk.clock.waiting == 0


def test_a_usage_before_the_first_token_is_numbered_at_the_end(desk):
    desk.sink.usage(Usage(prompt_tokens=1))
    desk.sink.usage(USAGE)
    assert desk.sink.last_usage == USAGE
    desk.sink.flush()
    assert desk.entries == []  # a usage is no token: it is numbered with the first one, or at the end
    desk.sink.seal()
    assert desk.entries == [UsageUpdate(USAGE)]


async def test_a_usage_flushes_held_text(desk):
    desk.read("first")
    desk.utilisation = 1.0
    desk.read("held")
    desk.sink.usage(USAGE)
    desk.sink.flush()
    assert desk.entries == [TextDelta("first"), TextDelta("held"), UsageUpdate(USAGE)]
    assert desk.clock.waiting == 0


async def test_usage_with_every_token_is_numbered_once_a_second_and_at_the_end(desk):
    for number in range(1, 26):
        desk.sink.text("x")
        desk.sink.usage(Usage(prompt_tokens=7, completion_tokens=number))
        desk.sink.flush()
        await desk.clock.advance(0.1)
    desk.sink.seal()
    counted = [entry.usage.completion_tokens for entry in desk.entries if isinstance(entry, UsageUpdate)]
    assert counted == [1, 11, 21, 25]
    assert len(desk.entries) == 25 + len(counted)


def test_an_unchanged_usage_is_numbered_once(desk):
    desk.read("first")
    for _ in range(3):
        desk.sink.usage(USAGE)
        desk.sink.flush()
    desk.sink.seal()
    assert desk.entries == [TextDelta("first"), UsageUpdate(USAGE)]


def test_text_over_the_limit_is_cut_at_a_code_point_and_reported_once():
    desk = Desk(max_bytes=8)
    desk.read("abc", "dé€")
    desk.read("more")
    desk.sink.reasoning("more")
    desk.sink.flush()
    assert desk.entries == [TextDelta("abcdé")]
    assert desk.full == 1


def test_multibyte_text_fills_the_default_limit_exactly():
    desk = Desk()
    desk.read("a", "€" * (2 * 1024 * 1024 // 3))
    desk.read("€")
    assert desk.full == 1
    assert desk.log.size == 1 + 3 * (2 * 1024 * 1024 // 3)
    assert set(desk.entries[0].text) == {"a", "€"}


def test_a_reply_of_exactly_the_limit_is_whole():
    desk = Desk(max_bytes=4)
    desk.read("abcd")
    assert (desk.entries, desk.full) == ([TextDelta("abcd")], 1)


def test_a_code_point_that_does_not_fit_leaves_no_empty_entry():
    desk = Desk(max_bytes=1)
    desk.read("é")
    assert (desk.entries, desk.full) == ([], 1)


def test_cut_reasoning_loses_its_signature():
    desk = Desk(max_bytes=4)
    desk.sink.reasoning("thought", b"signed")
    desk.sink.flush()
    assert desk.entries == [ReasoningDelta("thou")]


@pytest.mark.parametrize(
    ("max_bytes", "entries"),
    [(9, [ToolCallDelta(0, "id", "name", '{"a')]), (6, [ToolCallDelta(0, "id", "name")]), (5, [])],
)
def test_a_cut_tool_call_keeps_id_and_name_or_is_dropped(max_bytes, entries):
    desk = Desk(max_bytes=max_bytes)
    desk.sink.tool_call(0, "id", "name", '{"a": 1}')
    desk.sink.flush()
    assert (desk.entries, desk.full) == (entries, 1)


def test_all_kinds_of_entries_count_towards_the_limit():
    desk = Desk(max_bytes=10)
    desk.sink.reasoning("abc", b"d")
    desk.sink.tool_call(0, "i", "n", "{}")
    desk.sink.text("xyz")
    desk.sink.flush()
    assert desk.entries == [ReasoningDelta("abc", b"d"), ToolCallDelta(0, "i", "n", "{}"), TextDelta("xy")]
