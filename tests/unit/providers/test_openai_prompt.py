"""Conversion of a prompt to a request in OpenAI's dialect."""

import re

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
from parley_server.providers.openai.profile import PROFILES
from parley_server.providers.openai.prompt import messages_of, options_of, stream_options_of

OPENAI, GENERIC = PROFILES["openai"], PROFILES["generic"]


def prompt(*messages, **fields):
    shown = tuple(PromptMessage(role=role, parts=parts) for role, *parts in messages for parts in [tuple(parts)])
    return Prompt(model=Model(alias="a", provider="p", name="n"), messages=shown, **fields)


def words(text):
    return TextPart(text=text)


def test_messages_of_all_roles_and_parts():
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
    assert messages_of(asked, OPENAI) == [
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


def test_an_answer_with_only_reasoning_is_not_sent():
    assert messages_of(prompt(("assistant", ReasoningPart(text="hm")), ("user", words("hi"))), OPENAI) == [
        {"role": "user", "content": "hi"}
    ]


def test_unset_options_are_not_sent():
    assert options_of(prompt(), GENERIC) == {}


def test_sampling_options_are_sent():
    sampling = Sampling(
        temperature=0.0, top_p=0.5, max_output_tokens=9, seed=0, stop=("a", "b"), reasoning_effort="low"
    )
    assert options_of(prompt(sampling=sampling), OPENAI) == {
        "store": False,
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
def test_tools_and_tool_choice_are_sent(choice, sent):
    tools = (Tool(name="f", description="does f", parameters='{"type":"object"}'), Tool(name="g"))
    assert options_of(prompt(tools=tools, tool_choice=choice), GENERIC) == {
        "tools": [
            {"type": "function", "function": {"name": "f", "description": "does f", "parameters": {"type": "object"}}},
            {"type": "function", "function": {"name": "g"}},
        ],
        "tool_choice": sent,
    }


def test_a_json_schema_is_sent():
    assert options_of(prompt(json_schema='{"type":"object"}'), GENERIC)["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": {"type": "object"}},
    }


@pytest.mark.parametrize("schema", ["{", "[]", "7"])
def test_a_schema_that_is_not_an_object_is_refused(schema):
    with pytest.raises(ProviderRejected):
        options_of(prompt(json_schema=schema), GENERIC)
    with pytest.raises(ProviderRejected, match="tool f"):
        options_of(prompt(tools=(Tool(name="f", parameters=schema),)), GENERIC)


@pytest.mark.parametrize(
    ("profile", "field"),
    [(name, "max_completion_tokens" if name in ("openai", "azure") else "max_tokens") for name in PROFILES],
)
def test_the_output_limit_has_the_field_of_the_profile(profile, field):
    options = options_of(prompt(sampling=Sampling(max_output_tokens=9)), PROFILES[profile])
    assert {name: value for name, value in options.items() if name.startswith("max")} == {field: 9}


@pytest.mark.parametrize(
    ("profile", "options"),
    [
        ("openai", {"include_usage": True, "include_obfuscation": False}),
        ("azure", {"include_usage": True}),
        ("openrouter", {}),
        ("mistral", {}),
        ("deepseek", {"include_usage": True}),
        ("generic", {"include_usage": True}),
    ],
)
def test_stream_options_follow_the_profile(profile, options):
    assert stream_options_of(PROFILES[profile]) == options


def test_cache_key_and_store_follow_the_profile():
    asked = prompt(cache_key="k")
    assert options_of(asked, OPENAI) == {"store": False, "prompt_cache_key": "k"}
    assert options_of(asked, PROFILES["azure"]) == {"prompt_cache_key": "k"}
    assert options_of(asked, GENERIC) == {}


def turns(asked, profile):
    return [(entry["role"], entry.get("content")) for entry in messages_of(asked, PROFILES[profile])]


def test_adjacent_user_messages_are_joined_if_turns_must_alternate():
    asked = prompt(("user", words("one")), ("user", words("two")))
    assert turns(asked, "generic") == [("user", "one\n\ntwo")]
    assert turns(asked, "openai") == [("user", "one"), ("user", "two")]


def test_an_image_stays_a_part_of_the_joined_message():
    asked = prompt(("user", words("one")), ("user", ImagePart(url="https://a.example/b"), words("two")))
    [(role, content)] = turns(asked, "generic")
    assert (role, [part["type"] for part in content]) == ("user", ["text", "image_url", "text"])


def test_a_later_system_message_is_prepended_to_the_next_user_message():
    asked = prompt(("system", words("s")), ("user", words("one")), ("assistant", words("two")), ("system", words("p")))
    followed = prompt(*[("system", words("s")), ("user", words("one"))], ("assistant", words("two")))
    assert turns(asked, "generic")[-1] == ("user", "p")
    assert turns(followed, "generic")[-1] == ("assistant", "two")
    asked = prompt(("user", words("one")), ("assistant", words("two")), ("system", words("p")), ("user", words("3")))
    assert turns(asked, "generic") == [("user", "one"), ("assistant", "two"), ("user", "p\n\n3")]
    assert turns(asked, "mistral") == turns(asked, "generic")
    assert turns(asked, "openrouter")[2:] == [("system", "p"), ("user", "3")]


def test_an_empty_message_does_not_separate_its_neighbours():
    asked = prompt(("user", words("one")), ("assistant", words("")), ("user", words("two")))
    assert turns(asked, "generic") == [("user", "one\n\ntwo")]


def test_missing_turns_are_filled_in():
    asked = prompt(("assistant", words("a")), ("assistant", words("b")))
    assert turns(asked, "generic") == [
        ("user", "(start)"),
        ("assistant", "a"),
        ("user", "(continue)"),
        ("assistant", "b"),
    ]
    assert turns(asked, "mistral")[-1] == ("user", "(continue)")
    assert turns(asked, "openrouter") == [("assistant", "a"), ("assistant", "b"), ("user", "(continue)")]


def test_a_user_message_after_a_result_follows_an_assistant_message():
    asked = prompt(
        ("user", words("q")),
        ("assistant", ToolCallPart(id="c", name="f")),
        ("tool", ToolResultPart(tool_call_id="c", content="42")),
        ("user", words("next")),
    )
    assert turns(asked, "generic")[2:] == [("tool", "42"), ("assistant", "(no answer)"), ("user", "next")]
    assert turns(asked, "openai")[2:] == [("tool", "42"), ("user", "next")]


def ids(asked, profile):
    entries = messages_of(asked, PROFILES[profile])
    calls = [call["id"] for entry in entries for call in entry.get("tool_calls", ())]
    return calls, [entry["tool_call_id"] for entry in entries if entry["role"] == "tool"]


def called(*call_ids):
    return [
        ("user", words("q")),
        ("assistant", *[ToolCallPart(id=each, name="f") for each in call_ids]),
        ("tool", *[ToolResultPart(tool_call_id=each, content="42") for each in call_ids]),
    ]


@pytest.mark.parametrize("call_id", ["fc_" + "a" * 50, "call_1", "a b", "é23456789", "x"])
def test_a_refused_id_becomes_nine_letters_and_digits(call_id):
    asked = prompt(*called(call_id))
    (call,), (result,) = ids(asked, "mistral")
    assert call == result
    assert re.fullmatch(r"[A-Za-z0-9]{9}", call)
    assert ids(asked, "mistral") == ids(prompt(*called(call_id)), "mistral")


def test_an_accepted_id_is_sent_unchanged():
    assert ids(prompt(*called("a1B2c3D4e")), "mistral") == (["a1B2c3D4e"], ["a1B2c3D4e"])
    assert ids(prompt(*called("call_1-x")), "openai") == (["call_1-x"], ["call_1-x"])


def test_a_repeated_id_is_replaced():
    calls, results = ids(prompt(*called("call_1", "call_1"), ("assistant", words("so")), *called("call_1")), "openai")
    assert calls == results
    assert (calls[0], len(set(calls))) == ("call_1", 3)
