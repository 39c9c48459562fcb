"""Reading of streams of the Messages API: unusual blocks, events and counts, and what is kept of an answer."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parley_server.core.model import FinishReason, Usage
from parley_server.errors import ProviderError, ProviderMalformed, ProviderTruncated
from parley_server.providers.anthropic.reader import MessageReader
from parley_server.providers.anthropic.wire import KNOWN_DELTAS

from tests.dialects.anthropic import named
from tests.integration.providers.recording import RecordingSink

STOP = named("message_stop")


class SigningSink(RecordingSink):
    """Records signatures, too."""

    def reasoning(self, text, signature=b""):
        self._add("reasoning", text, signature)


class Read:
    """What the reader makes of a body."""

    def __init__(self, *events, document=False, ends=True):
        self.sink = SigningSink()
        self.notices = []
        self.calls = []
        self.reader = MessageReader(
            "acme",
            self.sink,
            on_finish=lambda at_s: self.calls.append("finish"),
            on_resume=lambda: self.calls.append("resume"),
            on_done=lambda: self.calls.append("done"),
            notice=self.notices.append,
            origin="here",
            document=document,
        )
        for event in events:
            self.reader.feed(event)
        self.finish = self.reader.end() if ends else None

    def pushed(self, kind):
        return [event[1:] for event in self.sink.events if event[0] == kind]

    @property
    def kept(self):
        assert all(origin == "here" for origin, _ in self.pushed("keep"))
        return [item for _, item in self.pushed("keep")]


def block(index, kind, *deltas, ended=True, **start):
    """A content block; a delta is its type without `_delta`, and its value."""
    fields = {"text": "text", "thinking": "thinking", "signature": "signature", "input_json": "partial_json"}
    events = [named("content_block_start", index=index, content_block={"type": kind, **start})]
    for name, value in deltas:
        delta = {"type": f"{name}_delta", fields.get(name, name.removesuffix("s")): value}
        events.append(named("content_block_delta", index=index, delta=delta))
    return b"".join([*events, named("content_block_stop", index=index) if ended else b""])


def thinking(index, words="hm", signature="c2ln"):
    return block(index, "thinking", ("thinking", words), ("signature", signature), thinking="", signature="")


def tool_use(index, call_id, *pieces, **start):
    deltas = [("input_json", piece) for piece in pieces]
    return block(index, "tool_use", *deltas, id=call_id, name="f", **({"input": {}} | start))


def start(**usage):
    return named("message_start", message={"type": "message", "content": [], "usage": usage})


def stop(word="end_turn", **usage):
    return named("message_delta", delta={"stop_reason": word}, usage=usage)


USED = stop("tool_use")


def test_kept_blocks_are_those_that_the_vendor_sent():
    read = Read(
        start(),
        thinking(0, "hm \U0001f600"),
        block(1, "redacted_thinking", data="x" * 8),
        block(2, "text", ("text", "Hel"), ("text", "lo"), ("citations", {"n": 1}), text="", citations=None),
        block(3, "text", ("text", " \n"), text=""),
        tool_use(4, "toolu_1", '{"n": 1e', '2, "n": 10000000000000000000001}', caller=1),
        tool_use(5, "toolu_2"),
        USED,
        STOP,
    )
    assert read.kept == [
        '{"type":"thinking","thinking":"hm 😀","signature":"c2ln"}',
        '{"type":"redacted_thinking","data":"xxxxxxxx"}',
        '{"type":"text","text":"Hello","citations":[{"n":1}]}',
        '{"type":"tool_use","id":"toolu_1","name":"f","caller":1,"input":{"n": 1e2, "n": 10000000000000000000001}}',
        '{"type":"tool_use","id":"toolu_2","name":"f","input":{}}',
    ]
    assert read.sink.content == "Hello \n"
    assert read.pushed("reasoning") == [("hm 😀", b""), ("", b"c2ln")]
    assert read.pushed("tool_call")[-1] == (1, "toolu_2", "f", "{}")


@pytest.mark.parametrize("name", ["text", "citations", "thinking", "input_json"])
@pytest.mark.parametrize(("length", "kept"), [(500 * 1024, 2), (513 * 1024, 0)])
def test_a_block_is_kept_up_to_a_limit(name, length, kept):
    kind = {"thinking": "thinking", "input_json": "tool_use"}.get(name, "text")
    words = '{"a": "%s"}' % ("x" * length) if name == "input_json" else "x" * length
    pieces = [(name, words[at : at + 2048]) for at in range(0, len(words), 2048)]
    first = block(0, kind, *([("text", "a")] if kind == "text" else []), *pieces, id="toolu_0", name="f")
    read = Read(start(), *[first[at : at + 4096] for at in range(0, len(first), 4096)], tool_use(1, "toolu_1"), USED)
    assert len(read.kept) == kept
    assert kept == 0 or len(read.kept[0]) > length


def test_blocks_of_tools_that_the_vendor_executes_are_kept_and_not_shown():
    server_use = block(0, "server_tool_use", ("input_json", '{"q": 1}'), id="srvtoolu_1", name="web_search", input={})
    found = block(1, "web_search_tool_result", tool_use_id="srvtoolu_1", content=[{"n": 1.0}])
    read = Read(start(), server_use, found, tool_use(2, "toolu_1"), USED, STOP)
    assert [json.loads(item)["type"] for item in read.kept] == ["server_tool_use", "web_search_tool_result", "tool_use"]
    assert read.pushed("tool_call") == [(0, "toolu_1", "f", "{}")]
    assert read.notices == ["content"] * 2


@pytest.mark.parametrize(
    "events",
    [
        [tool_use(0, "toolu_1", "{}"), block(1, "text", ("novel", "x")), USED],
        [tool_use(0, "toolu_1", "{}"), tool_use(1, "toolu_1", "{}"), USED],
        [named("content_block_delta", index=9, delta={"type": "text_delta", "text": "a"}), tool_use(0, "c"), USED],
        [block(0, "text", ("text", "a")), stop("end_turn")],
        [tool_use(0, "toolu_1", "{}"), tool_use(1, "toolu_2", "{"), stop("max_tokens")],
    ],
    ids=["unknown delta", "repeated id", "no block", "no calls", "too long"],
)
def test_an_answer_that_cannot_be_sent_back_unchanged_keeps_nothing(events):
    assert Read(start(), *events, STOP).kept == []


def test_a_message_that_starts_again():
    first = [thinking(0, "one"), block(1, "tool_use", ("input_json", '{"a'), id="toolu_1", name="f", ended=False)]
    read = Read(start(input_tokens=5), *first, start(input_tokens=5), thinking(0, "two"), tool_use(1, "toolu_2"), USED)
    assert read.finish.reason is FinishReason.TOOL_CALLS
    assert [json.loads(item)["type"] for item in read.kept] == ["thinking", "tool_use"]
    assert "two" in read.kept[0]
    assert [call[1] for call in read.pushed("tool_call") if call[2]] == ["toolu_1", "toolu_2"]


def test_unknown_events_and_fields_are_skipped():
    read = Read(
        named("ping"),
        start(),
        named("novel", index=0, delta={"type": "novel"}, message=7, usage=[]),
        block(0, "text", ("text", "a"), ("novel", {"text": "b"}), text="", novel=1),
        named("content_block_delta", index={"a": 1}, delta=7),
        named("content_block_start", index=1, content_block=None),
        stop(output_tokens="7", novel={}),
        STOP,
    )
    assert (read.sink.content, read.finish.reason) == ("a", FinishReason.STOP)
    assert read.sink.counted[-1].completion_tokens == 7


@pytest.mark.parametrize(
    "events",
    [
        [tool_use(0, "toolu_1", input={"a": 1})],
        [block(0, "tool_use", ("input_json", '{"a":1}'), id="toolu_1", name="f", ended=False)],
        [block(None, "tool_use", ("input_json", '{"a":'), ("input_json", "1}"), id="toolu_1", name="f")],
        [block(0, "tool_use", ("input_json", {"a": 1}), id="toolu_1", name="f")],
    ],
    ids=["whole at its start", "without an end", "without an index", "as an object"],
)
def test_calls_of_other_servers(events):
    read = Read(start(), *events, USED)
    assert "".join(call[3] for call in read.pushed("tool_call")) == '{"a":1}'
    assert read.kept == ['{"type":"tool_use","id":"toolu_1","name":"f","input":{"a":1}}']


def test_a_whole_message_as_json():
    content = [
        {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
        {"type": "text", "text": "Hello"},
        {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}},
    ]
    usage = {"input_tokens": 5, "output_tokens": 7}
    whole = {"type": "message", "content": content, "stop_reason": "tool_use", "usage": usage}
    read = Read(json.dumps(whole, indent=1).encode(), document=True)
    assert (read.sink.content, read.sink.reasoning_content) == ("Hello", "hm")
    assert read.sink.counted == [Usage(prompt_tokens=5, completion_tokens=7)]
    assert [json.loads(item) for item in read.kept] == content


@pytest.mark.parametrize(
    ("first", "last", "prompt", "cached", "written", "completion"),
    [
        ({"input_tokens": 5, "output_tokens": 3}, {"output_tokens": 7}, 5, 0, 0, 7),
        ({"input_tokens": 5, "output_tokens": 3}, {}, 5, 0, 0, 0),
        ({"input_tokens": 2}, {"input_tokens": 6, "cache_read_input_tokens": 30, "output_tokens": 7}, 36, 30, 0, 7),
        ({"input_tokens": 1, "cache_creation_input_tokens": 20}, {"input_tokens": None}, 21, 0, 20, 0),
        ({"input_tokens": 5, "cache_read_input_tokens": 9}, {"input_tokens": 0, "output_tokens": 0}, 14, 9, 0, 0),
        (
            {"input_tokens": 1, "cache_read_input_tokens": 9},
            {"input_tokens": 2, "cache_read_input_tokens": 0},
            2,
            0,
            0,
            0,
        ),
        ({"input_tokens": 0}, {"input_tokens": 5, "output_tokens": 7}, 5, 0, 0, 7),
    ],
)
def test_counts_are_merged(first, last, prompt, cached, written, completion):
    read = Read(start(**first), block(0, "text", ("text", "a")), stop(**last), STOP)
    assert read.sink.counted[-1] == Usage(
        prompt_tokens=prompt,
        cached_prompt_tokens=cached,
        cache_write_prompt_tokens=written,
        completion_tokens=completion,
    )


@pytest.mark.parametrize("field", ["input_tokens", "cache_read_input_tokens", "output_tokens"])
def test_an_implausible_count_makes_the_usage_an_estimate(field):
    usage = {"input_tokens": 5, "cache_read_input_tokens": 5, "output_tokens": 7} | {field: 2**40}
    read = Read(start(), block(0, "text", ("text", "a")), stop(**usage), STOP)
    assert read.sink.counted[-1].estimated
    assert read.notices == ["count"]


def test_content_after_the_stop_reason_makes_it_unreliable():
    events = [start(), stop(), block(0, "text", ("text", "a"))]
    read = Read(*events)
    assert (read.finish.reason, read.sink.content, read.calls) == (FinishReason.STOP, "a", ["finish", "resume"])
    assert Read(*events, STOP, named("error", error={"type": "api_error"})).calls[-1] == "done"
    with pytest.raises(ProviderMalformed):
        Read(*events, b"data: {oops}\n\n")
    assert not Read(*events, ends=False).reader.finished


@pytest.mark.parametrize("end", [b"", b"data: [DONE]\n\n", named("error", error={"type": "api_error"}), STOP])
def test_what_follows_the_stop_reason_changes_nothing(end):
    read = Read(start(), block(0, "text", ("text", "a")), stop("max_tokens"), end)
    assert (read.finish.reason, read.finish.provider_reason) == (FinishReason.MAX_TOKENS, "max_tokens")


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ([start(), block(0, "text", ("text", "a")), STOP], ProviderTruncated),
        (
            [start(), block(0, "text", ("text", "a")), named("message_delta", delta={"stop_reason": None})],
            ProviderTruncated,
        ),
        ([named("ping")], ProviderTruncated),
        ([b'data: {"choices": []}\n\n'], ProviderMalformed),
        ([start(), block(0, "novel"), stop()], ProviderMalformed),
        ([start(), tool_use(0, "toolu_1", "{"), USED], ProviderMalformed),
        ([start(), stop("pause_turn")], ProviderMalformed),
    ],
)
def test_answers_that_are_not_complete(body, error):
    with pytest.raises(error):
        Read(*body)


ODD = st.none() | st.integers() | st.text(max_size=3) | st.just([]) | st.just({"text": "\ud83d", "a": float("nan")})
FIELDS = ("type", "text", "thinking", "signature", "partial_json", "citation", "stop_reason", "id", "name", "input")
INNER = ODD | st.dictionaries(st.sampled_from(FIELDS), ODD | st.sampled_from(["text", "tool_use", *KNOWN_DELTAS]))
KINDS = (
    "message_start",
    "content_block_start",
    "content_block_delta",
    "content_block_stop",
    "message_delta",
    "message",
)


@given(
    st.lists(
        st.fixed_dictionaries(
            {"type": st.sampled_from(KINDS) | ODD},
            optional=dict.fromkeys(("index", "delta", "content_block", "message", "usage", "error", "content"), INNER),
        ),
        max_size=8,
    )
)
def test_any_events_end_in_a_finish_or_a_providers_error(values):
    with contextlib.suppress(ProviderError):
        Read(*[b"data: %s\n\n" % json.dumps(value).encode() for value in values])
