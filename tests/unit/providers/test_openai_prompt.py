"""A prompt in the words of the dialect."""

import pytest
from parley_server.core.model import (
    ImagePart,
    Model,
    Prompt,
    PromptMessage,
    ReasoningPart,
    Sampling,
    TextPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
)
from parley_server.errors import ProviderRejected
from parley_server.providers.openai_prompt import messages_of, options_of


def prompt(*messages, **fields):
    shown = tuple(PromptMessage(role=role, parts=parts) for role, *parts in messages for parts in [tuple(parts)])
    return Prompt(model=Model(alias="a", provider="p", name="n"), messages=shown, **fields)


def words(text):
    return TextPart(text=text)


def test_messages():
    asked = prompt(
        ("system", words("one")),
        ("system", words("two")),
        ("user", words("see "), words("this")),
        (
            "user",
            words("look"),
            ImagePart(mime_type="image/png", data=b"\x00\x01"),
            ImagePart(url="https://a.example/b"),
        ),
        ("assistant", ReasoningPart(text="secret"), words("calling"), ToolCallPart(id="c1", name="f", arguments="{}")),
        ("tool", ToolResultPart(tool_call_id="c1", content="42"), ToolResultPart(tool_call_id="c2", content="43")),
        ("assistant", ToolCallPart(id="c3", name="g")),
        ("assistant", words("done")),
    )
    assert messages_of(asked) == [
        {"role": "system", "content": "one"},
        {"role": "system", "content": "two"},
        {"role": "user", "content": "see this"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAE="}},
                {"type": "image_url", "image_url": {"url": "https://a.example/b"}},
            ],
        },
        {
            "role": "assistant",
            "content": "calling",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
        {"role": "tool", "tool_call_id": "c2", "content": "43"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c3", "type": "function", "function": {"name": "g", "arguments": "{}"}}],
        },
        {"role": "assistant", "content": "done"},
    ]


def test_an_answer_of_reasoning_alone_is_not_sent():
    assert messages_of(prompt(("assistant", ReasoningPart(text="hm")), ("user", words("hi")))) == [
        {"role": "user", "content": "hi"}
    ]


def test_nothing_set_is_nothing_sent():
    assert options_of(prompt()) == {}


def test_sampling():
    sampling = Sampling(
        temperature=0.0, top_p=0.5, max_output_tokens=9, seed=0, stop=("a", "b"), reasoning_effort="low"
    )
    assert options_of(prompt(sampling=sampling)) == {
        "temperature": 0.0,
        "top_p": 0.5,
        "max_completion_tokens": 9,
        "seed": 0,
        "stop": ["a", "b"],
        "reasoning_effort": "low",
    }


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ("auto", "auto"),
        ("none", "none"),
        ("required", "required"),
        ("f", {"type": "function", "function": {"name": "f"}}),
    ],
)
def test_tools(choice, sent):
    tools = (Tool(name="f", description="does f", parameters='{"type":"object"}'), Tool(name="g"))
    assert options_of(prompt(tools=tools, tool_choice=choice)) == {
        "tools": [
            {"type": "function", "function": {"name": "f", "description": "does f", "parameters": {"type": "object"}}},
            {"type": "function", "function": {"name": "g"}},
        ],
        "tool_choice": sent,
    }


def test_a_schema_of_the_answer():
    assert options_of(prompt(json_schema='{"type":"object"}'))["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": {"type": "object"}},
    }


@pytest.mark.parametrize("schema", ["{", "[]", "7"])
def test_a_schema_that_is_no_object_is_refused(schema):
    with pytest.raises(ProviderRejected):
        options_of(prompt(json_schema=schema))
    with pytest.raises(ProviderRejected, match="tool f"):
        options_of(prompt(tools=(Tool(name="f", parameters=schema),)))
