"""Conversion of a prompt to a request of the Messages API."""

import json

import msgspec
import pytest
from parley_server.core.model import (
    ImagePart,
    Kept,
    Model,
    Prompt,
    ReasoningPart,
    Sampling,
    Tool,
    ToolCallPart,
    ToolResultPart,
)
from parley_server.errors import ProviderRejected
from parley_server.providers.anthropic.prompt import message_body

from tests.dialects.speakers import said

THINKING = '{"type":"thinking","thinking":"hm ","signature":"c2ln"}'
USE = '{"type":"tool_use","id":"toolu_1","name":"f","input":{"n":1e2}}'
MARK = {"type": "ephemeral"}


def prompt(*messages, model=None, **fields):
    return Prompt(model=Model(alias="a", provider="p", name="n", **(model or {})), messages=messages, **fields)


def body(*messages, origin="here", **fields):
    """The body as it is sent, decoded."""
    return json.loads(msgspec.json.encode(message_body(prompt(*messages, **fields), origin=origin)))


def text(words, **fields):
    return {"type": "text", "text": words, **fields}


def result(call_id, content):
    return {"type": "tool_result", "tool_use_id": call_id, "content": content}


def use(call_id, name="f", **fields):
    return {"type": "tool_use", "id": call_id, "name": name, "input": fields}


def called(*ids, **fields):
    return said("assistant", *[ToolCallPart(id=call_id, name="f", arguments="{}") for call_id in ids], **fields)


def answered(call_id, content="42", **fields):
    return said("tool", ToolResultPart(tool_call_id=call_id, content=content), **fields)


def test_messages_of_all_roles_and_parts():
    asked = body(
        said("system", "one"),
        said("system", "two"),
        said("user", "look", ImagePart(mime_type="image/png", data=b"\x00\x01"), ImagePart(url="https://a.example/b")),
        said(
            "assistant",
            ReasoningPart(text="secret", signature=b"old"),
            "calling",
            ToolCallPart(id="c1", name="f", arguments='{"n": 1e2, "n": 10000000000000000000001}'),
            ToolCallPart(id="c2", name="g"),
            ImagePart(url="https://a.example/c"),
        ),
        answered("c1"),
        answered("c2", ""),
        said("assistant", "done"),
        said("user", "thanks"),
    )
    assert asked["system"] == [text("one"), text("two")]
    assert asked["messages"] == [
        {
            "role": "user",
            "content": [
                text("look"),
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAE="}},
                {"type": "image", "source": {"type": "url", "url": "https://a.example/b"}},
            ],
        },
        {"role": "assistant", "content": [text("calling"), use("c1", n=10**22 + 1), use("c2", "g")]},
        {"role": "user", "content": [result("c1", "42"), result("c2", "")]},
        {"role": "assistant", "content": [text("done")]},
        {"role": "user", "content": [text("thanks")]},
    ]


@pytest.mark.parametrize(
    ("messages", "turns"),
    [
        ("user:a user:b", "user:a\n\nb"),
        ("assistant:a user:b", "user:(start) assistant:a user:b"),
        ("user:a system:s user:b", "user:a\n\ns\n\nb"),
        ("user:a user:\n", "user:a"),
        ("user:a assistant:b assistant:c", "user:a assistant:b user:(continue) assistant:c user:(continue)"),
    ],
)
def test_user_and_assistant_alternate(messages, turns):
    asked = body(*[said(*message.split(":")) for message in messages.split(" ")], model={"prefill": False})
    assert " ".join(f"{entry['role']}:{entry['content'][0]['text']}" for entry in asked["messages"]) == turns


def test_blank_texts_are_left_out():
    asked = body(said("user", "a", "  "), said("assistant", "\n", ToolCallPart(id="c", name="f")), answered("c"))
    assert [entry["content"] for entry in asked["messages"]] == [[text("a")], [use("c")], [result("c", "42")]]


def test_ids_of_other_vendors_are_converted_and_results_follow_their_calls():
    asked = body(said("user", "a"), called("a.b", "x" * 50, "a.b"), *[answered(i) for i in ("a.b", "x" * 50, "a.b")])
    calls, results = (asked["messages"][i]["content"] for i in (1, 2))
    ids = [call["id"] for call in calls]
    assert ids == [each["tool_use_id"] for each in results]
    assert len(set(ids)) == 3
    assert all(call_id.isalnum() and len(call_id) == 9 for call_id in ids)


@pytest.mark.parametrize(("origin", "items"), [("here", [THINKING, USE]), ("there", [])])
def test_kept_blocks_stand_in_place_of_the_parts_at_their_origin_alone(origin, items):
    answer = called("toolu_1", kept=Kept(origin=origin, items=(THINKING, USE)), cache_mark=True)
    asked = prompt(said("user", "a"), answer, answered("toolu_1"), model={"cache_min": 1})
    sent = msgspec.json.encode(message_body(asked, origin="here"))
    assert all(item.encode() in sent for item in items)
    assert (b"c2ln" in sent) == bool(items)
    blocks = json.loads(sent)["messages"][1]["content"]
    assert len(blocks) == (len(items) or 1)


@pytest.mark.parametrize(
    ("asked", "model", "estimated", "sent"),
    [
        (None, {}, 0, 4096),
        (None, {"max_output_tokens": 64_000}, 0, 64_000),
        (99, {"max_output_tokens": 64_000}, 0, 99),
        (64_000, {"context_tokens": 100_000}, 50_000, 50_000),
        (64_000, {"context_tokens": 100_000}, 0, 64_000),
        (64_000, {"context_tokens": 100_000}, 120_000, 1024),
        (99, {"context_tokens": 100_000}, 120_000, 99),
    ],
)
def test_the_output_limit(asked, model, estimated, sent):
    sampling = Sampling(max_output_tokens=asked)
    got = body(said("user", "a"), model=model, sampling=sampling, estimated_tokens=estimated)
    assert got["max_tokens"] == sent


def test_options_that_are_not_set_are_left_out():
    usual = {"model": "n", "max_tokens": 4096, "stream": True}
    assert body(said("user", "a")) == usual | {"messages": [{"role": "user", "content": [text("a")]}]}


def test_options():
    asked = body(
        said("user", "a"),
        model={"thinking": "adaptive"},
        sampling=Sampling(temperature=1.5, top_p=0.5, seed=7, stop=("x", "y"), reasoning_effort="high"),
        tools=(Tool(name="f", description="d", parameters='{"properties": {"a": {}}}'), Tool(name="g")),
        json_schema='{"type": "object"}',
    )
    asked = {name: asked[name] for name in asked if name not in ("model", "messages", "max_tokens", "stream")}
    assert asked == {
        "temperature": 1.0,
        "top_p": 0.5,
        "stop_sequences": ["x", "y"],
        "tools": [
            {"name": "f", "description": "d", "input_schema": {"type": "object", "properties": {"a": {}}}},
            {"name": "g", "input_schema": {"type": "object", "properties": {}}},
        ],
        "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": {"type": "object"}}},
        "thinking": {"type": "adaptive", "display": "summarized"},
    }


@pytest.mark.parametrize(
    ("choice", "sent", "thinks"),
    [
        ("auto", {"type": "auto"}, True),
        ("none", {"type": "none"}, True),
        ("required", {"type": "any"}, False),
        ("f", {"type": "tool", "name": "f"}, False),
    ],
)
def test_the_choice_of_tools(choice, sent, thinks):
    asked = body(said("user", "a"), model={"thinking": "adaptive"}, tools=(Tool(name="f"),), tool_choice=choice)
    assert (asked["tool_choice"], "thinking" in asked) == (sent, thinks)
    assert "tool_choice" not in body(said("user", "a"), tool_choice=choice)


@pytest.mark.parametrize("thinking", ["", "enabled"])
def test_thinking_is_requested_in_its_adaptive_mode_alone(thinking):
    assert "thinking" not in body(said("user", "a"), model={"thinking": thinking})


@pytest.mark.parametrize(
    "fields",
    [{"json_schema": "[]"}, {"json_schema": "{"}, {"tools": (Tool(name="f", parameters="7"),)}],
)
def test_a_schema_that_is_no_object_is_rejected(fields):
    with pytest.raises(ProviderRejected):
        body(said("user", "a"), **fields)


@pytest.mark.parametrize(("cache_min", "marks"), [(512, [False, False, True, True, True, True]), (0, [False] * 6)])
def test_the_newest_four_marks_are_sent_to_a_model_with_a_cache(cache_min, marks):
    asked = body(
        said("system", "one", "two", cache_mark=True),
        said("user", "a", cache_mark=True),
        said("assistant", "b", cache_mark=True),
        said("user", "c", cache_mark=True),
        called("d", "e", cache_mark=True),
        answered("d"),
        answered("e", cache_mark=True),
        model={"cache_min": cache_min},
    )
    ends = [asked["system"][-1], *[entry["content"][-1] for entry in asked["messages"]]]
    assert [block.get("cache_control") == MARK for block in ends] == marks
    assert json.dumps(asked).count("ephemeral") == sum(marks)


def test_a_mark_stays_at_the_end_of_messages_that_are_joined():
    asked = body(
        said("user", "a"),
        said("user", "b"),
        said("system", "s"),
        said("user", "c", cache_mark=True),
        model={"cache_min": 1},
    )
    assert asked["messages"] == [{"role": "user", "content": [text("a\n\nb\n\ns\n\nc", cache_control=MARK)]}]
