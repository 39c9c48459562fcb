"""The Responses API: unusual streams, what is kept of an answer, and the body of a request."""

import json

import pytest
from parley_server.core.model import (
    Kept,
    Model,
    Prompt,
    PromptMessage,
    ReasoningPart,
    Sampling,
    TextPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
    Usage,
)
from parley_server.errors import ProviderError
from parley_server.providers.openai.profile import PROFILES
from parley_server.providers.openai.responses_prompt import responses_body
from parley_server.providers.openai.responses_reader import ResponsesReader
from parley_server.providers.reading.kept import MAX_KEPT_BYTES

from tests.dialects.speakers import event
from tests.integration.providers.recording import RecordingSink

OPENAI, GENERIC = PROFILES["openai"], PROFILES["generic"]
DONE = {"type": "response.completed", "response": {"status": "completed"}}


def delta(text, kind="output_text", **fields):
    return {"type": f"response.{kind}.delta", "delta": text, **fields}


def arguments(text, index=0, **fields):
    return delta(text, "function_call_arguments", output_index=index, **fields)


def item(state, index=0, **fields):
    return {"type": f"response.output_item.{state}", "output_index": index, "item": fields}


def call(state, index=0, call_id="c1", **fields):
    return item(state, index, type="function_call", call_id=call_id, **({"name": "f", "arguments": ""} | fields))


def read(*events, document=False):
    """The sink, how the answer ended, and the calls by index."""
    sink = RecordingSink()
    notices = []
    reader = ResponsesReader("acme", sink, on_done=lambda: None, origin="o", notice=notices.append, document=document)
    try:
        for each in events:
            reader.feed(each if isinstance(each, bytes) else event(each))
        end = reader.end().reason.name
    except ProviderError as error:
        reader.cut()
        end = error.reason.value
    calls = {}
    for kind, *pushed in sink.events:
        if kind == "tool_call":
            index, call_id, name, piece = pushed
            known = calls.setdefault(index, (call_id, name, ""))
            calls[index] = (*known[:2], known[2] + piece)
    return sink, end, list(calls.values()), notices


def outcome(*events, **options):
    sink, end, calls, _ = read(*events, **options)
    return end, sink.content, sink.reasoning_content, [(name, text) for _, name, text in calls]


TEXT, THOUGHT = delta("a"), delta("hm", "reasoning_text")
SUMMARY = delta("So", "reasoning_summary_text")
NEXT_PART = {"type": "response.reasoning_summary_part.added", "summary_index": 1}
WHOLE = {
    "object": "response",
    "status": "completed",
    "output": [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "message", "content": [{"type": "output_text", "text": "a"}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
    ],
}


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([TEXT, b"data: [DONE]\n\n"], ("PROVIDER_TRUNCATED", "a", "", [])),
        ([TEXT, DONE, delta("late")], ("STOP", "a", "", [])),
        ([TEXT, {"type": "response.novel.delta", "delta": "x"}, DONE], ("STOP", "a", "", [])),
        ([delta(None), delta(7), delta(["b"]), DONE], ("STOP", "b", "", [])),
        ([delta("no", "refusal"), DONE], ("STOP", "no", "", [])),
        ([THOUGHT, SUMMARY, TEXT, DONE], ("STOP", "a", "hm", [])),
        ([SUMMARY, NEXT_PART, SUMMARY, THOUGHT, DONE], ("STOP", "", "So\n\nSo", [])),
        ([NEXT_PART, TEXT, DONE], ("STOP", "a", "", [])),
        ([{"type": "response.completed", "response": WHOLE}], ("TOOL_CALLS", "a", "hm", [("f", "{}")])),
        ([TEXT, {"type": "response.completed", "response": WHOLE}], ("STOP", "a", "", [])),
        ([{"type": "response.incomplete", "response": {}}], ("PROVIDER_MALFORMED", "", "", [])),
        ([TEXT, {"type": "response.incomplete", "response": {}}], ("OTHER", "a", "", [])),
        ([TEXT, {"type": "response.failed", "response": None}], ("PROVIDER_UNAVAILABLE", "a", "", [])),
        ([{"type": "error", "code": "rate_limit_exceeded", "message": "x"}], ("PROVIDER_RATE_LIMITED", "", "", [])),
        ([{"detail": "no"}], ("PROVIDER_UNAVAILABLE", "", "", [])),
        ([TEXT, b'data: {"type": 7}\n\n', DONE], ("STOP", "a", "", [])),
        ([b"data: {}\n\n"], ("PROVIDER_MALFORMED", "", "", [])),
        ([b"data: 7\n\n"], ("PROVIDER_MALFORMED", "", "", [])),
        ([item("done", type="image_generation_call"), DONE], ("PROVIDER_MALFORMED", "", "", [])),
        ([item("done", type="image_generation_call"), TEXT, DONE], ("STOP", "a", "", [])),
        ([call("done", arguments='{"a":1}'), DONE], ("TOOL_CALLS", "", "", [("f", '{"a":1}')])),
        ([call("added"), call("done", arguments={"a": 1}), DONE], ("TOOL_CALLS", "", "", [("f", '{"a":1}')])),
        (
            [call("added"), arguments("{"), arguments("}"), call("done", arguments="{}"), DONE],
            ("TOOL_CALLS", "", "", [("f", "{}")]),
        ),
        (
            [call("added"), call("added", 1, "c2"), arguments('{"b":1}', 1), arguments('{"a":1}'), DONE],
            ("TOOL_CALLS", "", "", [("f", '{"a":1}'), ("f", '{"b":1}')]),
        ),
        (
            [call("added"), arguments("{}"), call("added", 0, "c2"), arguments('{"b":1}'), DONE],
            ("TOOL_CALLS", "", "", [("f", "{}"), ("f", '{"b":1}')]),
        ),
        (
            [call("added", None, id="x"), arguments("{}", None, item_id="x"), DONE],
            ("TOOL_CALLS", "", "", [("f", "{}")]),
        ),
        (
            [call("added"), arguments('{"a":"\ud83d'), arguments('\ude00"}'), DONE],
            ("TOOL_CALLS", "", "", [("f", '{"a":"😀"}')]),
        ),
        ([call("added"), arguments('{"a"'), DONE], ("PROVIDER_MALFORMED", "", "", [("f", '{"a"')])),
    ],
)
def test_streams(events, expected):
    assert outcome(*events) == expected


def test_a_whole_response_as_a_document():
    body = json.dumps(WHOLE, indent=1).encode()
    assert outcome(body[:40], body[40:], document=True) == ("TOOL_CALLS", "a", "hm", [("f", "{}")])


def test_dropped_content_is_reported_once():
    *_, notices = read(item("done", type="image_generation_call"), TEXT, DONE)
    assert notices == ["content"]


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"input_tokens": 5, "output_tokens": 7}, Usage(prompt_tokens=5, completion_tokens=7)),
        ({"input_tokens": 5, "cost": 0.0000123456789}, Usage(prompt_tokens=5, cost_nano_usd=12346)),
        (
            {"input_tokens": 5, "cost": 0.001, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.5}},
            Usage(prompt_tokens=5, cost_nano_usd=501_000_000),
        ),
        ({"input_tokens": 5, "cost_in_usd_ticks": 123455}, Usage(prompt_tokens=5, cost_nano_usd=12346)),
        *[({"input_tokens": 5, "cost": odd}, Usage(prompt_tokens=5)) for odd in (-1, 10_001, "1", True, 10**40)],
    ],
)
def test_counts_and_costs(usage, expected):
    sink, *_ = read(TEXT, {"type": "response.completed", "response": {"usage": usage}})
    assert sink.counted == [expected]


# --- kept items


def kept(*events):
    sink, *_ = read(*events)
    return [entry[1:] for entry in sink.events if entry[0] == "keep"]


REASONING_ITEM = b'{"type": "reasoning",  "id": "rs", "encrypted_content": "x", "novel": 1.0}'


def test_output_items_are_kept_as_they_came_if_the_answer_ends_with_calls():
    raw = b'data: {"type": "response.output_item.done", "item": ' + REASONING_ITEM + b"}\n\n"
    calls = [call("added"), call("done", arguments="{}")]
    (reasoning, one_call) = kept(raw, *calls, DONE)
    assert reasoning == ("o", REASONING_ITEM.decode())
    assert json.loads(one_call[1])["call_id"] == "c1"
    assert kept(raw, TEXT, DONE) == []
    assert kept(raw, *calls) == []


def test_nothing_is_kept_of_calls_whose_ids_the_engine_had_to_replace():
    assert kept(call("done", call_id="", arguments="{}"), DONE) == []


def test_items_that_are_too_large_are_not_collected():
    large = [item("done", type="reasoning", encrypted_content="x" * 100_000) for _ in range(20)]
    items = kept(*large, call("done", arguments="{}"), DONE)
    assert MAX_KEPT_BYTES < sum(len(each) for _, each in items) < MAX_KEPT_BYTES + 110_000


# --- the body


def body(*messages, switches=OPENAI, origin="o", model=None, **fields):
    shown = tuple(
        each if isinstance(each, PromptMessage) else PromptMessage(role=each[0], parts=each[1:]) for each in messages
    )
    asked = Model(alias="a", provider="p", name="n", api="responses", **(model or {}))
    return responses_body(Prompt(model=asked, messages=shown, **fields), switches, origin=origin)


def words(text):
    return TextPart(text=text)


def test_a_conversation():
    sent = body(
        ("system", words("one")),
        ("user", words("q")),
        ("assistant", ReasoningPart(text="hm"), words("see"), ToolCallPart(id="c1", name="f", arguments="{}")),
        ("tool", ToolResultPart(tool_call_id="c1", content="42")),
        ("system", words("later")),
        ("user", words("more")),
        cache_key="k",
    )
    assert sent == {
        "model": "n",
        "instructions": "one",
        "input": [
            {"role": "user", "content": "q"},
            {"type": "message", "role": "assistant", "content": "see"},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "42"},
            {"role": "developer", "content": "later"},
            {"role": "user", "content": "more"},
        ],
        "stream": True,
        "store": False,
        "stream_options": {"include_obfuscation": False},
        "prompt_cache_key": "k",
    }


@pytest.mark.parametrize(
    ("model", "effort", "expected"),
    [
        ({}, "", {}),
        ({"reasoning": True}, "", {"include": ["reasoning.encrypted_content"]}),
        ({}, "low", {"include": ["reasoning.encrypted_content"], "reasoning": {"effort": "low"}}),
        (
            {"reasoning": True, "reasoning_summary": True},
            "low",
            {"include": ["reasoning.encrypted_content"], "reasoning": {"effort": "low", "summary": "auto"}},
        ),
    ],
)
def test_reasoning_is_requested_in_encrypted_form_from_models_that_reason(model, effort, expected):
    sent = body(("user", words("q")), model=model, sampling=Sampling(reasoning_effort=effort))
    assert {name: sent[name] for name in ("include", "reasoning") if name in sent} == expected


def test_settings_that_this_api_does_not_have_are_not_sent():
    sent = body(("user", words("q")), sampling=Sampling(seed=7, stop=("x",), temperature=0.0))
    assert {"seed", "stop"} & sent.keys() == set()
    assert sent["temperature"] == 0.0


def test_a_tool_without_parameters_has_an_empty_schema():
    (tool,) = body(("user", words("q")), tools=(Tool(name="f"),))["tools"]
    assert tool == {
        "type": "function",
        "name": "f",
        "parameters": {"type": "object", "properties": {}},
        "strict": False,
    }


def test_kept_items_of_this_origin_stand_in_place_of_the_parts():
    call_part = ToolCallPart(id="c1", name="f", arguments="{}")
    items = (REASONING_ITEM.decode(), '{"type":"function_call","call_id":"c1"}')
    answer = PromptMessage(role="assistant", parts=(call_part,), kept=Kept(origin="o", items=items))
    result = ("tool", ToolResultPart(tool_call_id="c1", content="42"))
    sent = body(("user", words("q")), answer, result)["input"]
    assert [bytes(each) for each in sent[1:3]] == [each.encode() for each in items]
    assert sent[3]["call_id"] == "c1"
    built = body(("user", words("q")), answer, result, origin="another")["input"]
    assert built[1] == {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}


def test_a_server_that_needs_strict_turns_gets_them():
    sent = body(("user", words("one")), ("user", words("two")), switches=GENERIC)
    assert sent["input"] == [{"role": "user", "content": "one\n\ntwo"}]
