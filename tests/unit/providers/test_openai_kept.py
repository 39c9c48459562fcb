"""What chat completions must send back: reasoning details, extra content of calls, reasoning as text."""

import json

import pytest
from parley_server.core.model import (
    Kept,
    Model,
    Prompt,
    PromptMessage,
    ReasoningPart,
    TextPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
)
from parley_server.providers.openai.profile import PROFILES
from parley_server.providers.openai.prompt import messages_of
from parley_server.providers.openai.reader import ChunkReader
from parley_server.providers.reading.kept import MAX_KEPT_BYTES

from tests.integration.providers.recording import RecordingSink
from tests.upstream import chunk, finish, text, tool_call

CALL = tool_call(0, '{"a": 1}', call_id="c1", name="f")
SIGNED = chunk({"tool_calls": [{"index": 0, "extra_content": {"google": {"thought_signature": "x"}}}]})


def detail(**fields):
    return chunk({"reasoning_details": [{"type": "reasoning.text", "index": 0} | fields]})


def kept(*events, keeps_details=True):
    sink = RecordingSink()
    reader = ChunkReader(
        "acme", sink, on_finish=lambda _: None, on_done=lambda: None, origin="o", keeps_details=keeps_details
    )
    for event in events:
        reader.feed(event)
    reader.end()
    return [(origin, json.loads(item)) for kind, origin, *rest in sink.events if kind == "keep" for item in rest]


SENT_CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


def test_reasoning_details_are_joined_and_kept_with_the_calls():
    ((origin, fields),) = kept(
        detail(text="I "),
        detail(text="think", signature=None),
        detail(text=None, signature="s"),
        detail(type="reasoning.encrypted", data="e1"),
        detail(type="reasoning.encrypted", data="e2"),
        detail(text="more", index=1),
        CALL,
        finish("tool_calls"),
    )
    assert origin == "o"
    assert fields == {
        "tool_calls": [SENT_CALL],
        "reasoning_details": [
            {"type": "reasoning.text", "index": 0, "text": "I think", "signature": "s"},
            {"type": "reasoning.encrypted", "index": 0, "data": "e1"},
            {"type": "reasoning.encrypted", "index": 0, "data": "e2"},
            {"type": "reasoning.text", "index": 1, "text": "more"},
        ],
    }


def test_extra_content_of_a_call_is_kept():
    ((_, fields),) = kept(CALL, SIGNED, finish("tool_calls"))
    assert fields == {"tool_calls": [SENT_CALL | {"extra_content": {"google": {"thought_signature": "x"}}}]}


@pytest.mark.parametrize(
    ("events", "keeps_details"),
    [
        ([CALL, finish("tool_calls")], True),
        ([detail(text="hm"), CALL, finish("tool_calls")], False),
        ([detail(text="hm"), text("a"), finish()], True),
        ([detail(text="x" * (MAX_KEPT_BYTES + 1)), CALL, finish("tool_calls")], True),
    ],
)
def test_nothing_is_kept_that_is_not_needed_or_too_large(events, keeps_details):
    assert kept(*events, keeps_details=keeps_details) == []


def answer(*parts, **fields):
    return PromptMessage(role="assistant", parts=parts, **fields)


def prompt(*messages, **fields):
    first = PromptMessage(role="user", parts=(TextPart(text="q"),))
    return Prompt(model=Model(alias="a", provider="p", name="n"), messages=(first, *messages), **fields)


def test_what_was_kept_replaces_the_calls_for_its_origin():
    fields = {"tool_calls": [SENT_CALL], "reasoning_details": [{"type": "reasoning.text"}]}
    asked = prompt(
        answer(
            TextPart(text="see"),
            ToolCallPart(id="c1", name="f", arguments="{}"),
            kept=Kept(origin="o", items=(json.dumps(fields),)),
        ),
        PromptMessage(role="tool", parts=(ToolResultPart(tool_call_id="c1", content="42"),)),
    )
    _, sent, result = messages_of(asked, PROFILES["mistral"], origin="o")
    assert sent == {"role": "assistant", "content": "see"} | fields
    assert result["tool_call_id"] == "c1"  # although Mistral's own ids have nine characters
    _, sent, _ = messages_of(asked, PROFILES["openrouter"], origin="another")
    assert sent["tool_calls"][0]["function"]["arguments"] == "{}"
    assert "reasoning_details" not in sent


@pytest.mark.parametrize(
    ("profile", "tools", "expected"),
    [
        ("deepseek", (Tool(name="f"),), ["hm", ""]),
        ("deepseek", (), [None, None]),
        ("openai", (Tool(name="f"),), [None, None]),
    ],
)
def test_reasoning_is_sent_as_text_to_vendors_that_require_it_with_tools(profile, tools, expected):
    asked = prompt(answer(ReasoningPart(text="hm"), TextPart(text="a")), answer(TextPart(text="b")), tools=tools)
    sent = [entry for entry in messages_of(asked, PROFILES[profile]) if entry["role"] == "assistant"]
    assert [entry.get("reasoning_content") for entry in sent] == expected


def test_reasoning_is_also_sent_for_earlier_calls():
    called = answer(ReasoningPart(text="hm"), ToolCallPart(id="c1", name="f"))
    result = PromptMessage(role="tool", parts=(ToolResultPart(tool_call_id="c1", content="42"),))
    _, sent, _ = messages_of(prompt(called, result), PROFILES["deepseek"])
    assert sent["reasoning_content"] == "hm"
