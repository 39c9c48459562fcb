"""Conversion of a prompt to a generateContent request."""

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
from parley_server.providers.gemini.prompt import gemini_body

from tests.dialects.speakers import said

ORIGIN = "0123456789abcdef"
SKIP = {"thoughtSignature": "skip_thought_signature_validator"}


def body_of(*messages, model=None, **fields):
    entry = Model(alias="a", provider="p", name="n", **(model or {}))
    encoded = msgspec.json.encode(gemini_body(Prompt(model=entry, messages=messages, **fields), origin=ORIGIN))
    return json.loads(encoded)


def contents_of(*messages, **fields):
    """Role and parts of each content; a part that is only a text is that text."""
    contents = body_of(*messages, **fields)["contents"]
    return [
        (content["role"], *[part["text"] if part.keys() == {"text"} else part for part in content["parts"]])
        for content in contents
    ]


def call(call_id, name, args=None, **fields):
    named = {"id": call_id} if call_id else {}
    return {"functionCall": {**named, "name": name, "args": args or {}}, **fields}


def response(call_id, name, result):
    named = {"id": call_id} if call_id else {}
    return {"functionResponse": {**named, "name": name, "response": {"result": result}}}


def test_system_texts_that_follow_the_first_message_become_user_text():
    body = body_of(
        said("system", "one"),
        said("user", "Hi"),
        said("assistant", "Hello"),
        said("system", "two"),
        said("user", "Bye"),
    )
    assert body["systemInstruction"] == {"parts": [{"text": "one"}]}
    assert body["contents"][-1] == {"role": "user", "parts": [{"text": "two\n\nBye"}]}


@pytest.mark.parametrize(
    ("messages", "contents"),
    [
        ([said("assistant", "a"), said("user", "b")], [("user", "(start)"), ("model", "a"), ("user", "b")]),
        (
            [said("user", "a"), said("assistant", "b"), said("assistant", "c")],
            [("user", "a"), ("model", "b"), ("user", "(continue)"), ("model", "c"), ("user", "(continue)")],
        ),
        (
            [said("user", "a"), said("assistant", ReasoningPart(text="hm"), ""), said("user", "", "b")],
            [("user", "a\n\nb")],
        ),
    ],
)
def test_contents_alternate_and_none_is_empty(messages, contents):
    assert contents_of(*messages, model={"prefill": False}) == contents


def test_an_answer_may_end_the_prompt_of_a_model_with_prefill():
    assert contents_of(said("user", "a"), said("assistant", "b"))[-1] == ("model", "b")


def test_the_first_call_of_each_step_of_the_current_turn_has_a_signature():
    step = said("assistant", "Hm.", ToolCallPart(id="c1", name="f"), ToolCallPart(id="c2", name="g", arguments="{}"))
    results = said("tool", *[ToolResultPart(tool_call_id=each, content=each) for each in ("c1", "c2")])
    answered = ("user", response("c1", "f", "c1"), response("c2", "g", "c2"))
    contents = contents_of(said("user", "a"), step, results, said("assistant", "b"), said("user", "c"), step, results)
    assert contents[1:3] == [("model", "Hm.", call("c1", "f"), call("c2", "g")), answered]
    # The ids of the second step are hashed, because they repeat those of the first one.
    [_, said_first, first, second], [_, *responses] = contents[-2:]
    assert (said_first, first["thoughtSignature"]) == ("Hm.", SKIP["thoughtSignature"])
    assert "thoughtSignature" not in second
    sent_ids = [part["functionCall"]["id"] for part in (first, second)]
    assert len({*sent_ids, "c1", "c2"}) == 4
    assert [part["functionResponse"]["id"] for part in responses] == sent_ids


@pytest.mark.parametrize("vendor_ids", [True, False])
def test_kept_parts_stand_in_place_of_the_answer_and_results_follow_the_order_of_its_calls(vendor_ids):
    ids = ["v1", "v2"] if vendor_ids else ["", ""]
    items = (
        '{"text": "Hm.",  "thought": true, "unknown": 1e400}',
        json.dumps(call(ids[0], "f", thoughtSignature="c2ln")),
        json.dumps(call(ids[1], "f")),
    )
    ours = ids if vendor_ids else ["call_1", "call_2"]
    answer = said(
        "assistant",
        *[ToolCallPart(id=each, name="f") for each in ours],
        kept=Kept(origin=ORIGIN, items=items),
    )
    results = [ToolResultPart(tool_call_id=each, content=f"of {each}") for each in reversed(ours)]
    prompt = Prompt(
        model=Model(alias="a", provider="p", name="n"), messages=(said("user", "Hi"), answer, said("tool", *results))
    )
    encoded = msgspec.json.encode(gemini_body(prompt, origin=ORIGIN))
    assert ("[" + ",".join(items) + "]").encode() in encoded
    expected = [response(sent, "f", f"of {each}") for sent, each in zip(ids, ours, strict=True)]
    assert json.loads(encoded)["contents"][-1]["parts"] == expected
    others = gemini_body(prompt, origin="f" * 16)
    assert others["contents"][1]["parts"][0] == call(ours[0], "f", msgspec.Raw(b"{}"), **SKIP)


@pytest.mark.parametrize(
    ("arguments", "args"),
    [("", {}), (' {"a": 1}', {"a": 1}), ("[1]", {"arguments": [1]}), ("7", {"arguments": 7})],
)
def test_arguments_are_always_an_object(arguments, args):
    step = said("assistant", ToolCallPart(id="c", name="f", arguments=arguments))
    contents = contents_of(said("user", "a"), step, said("tool", ToolResultPart(tool_call_id="c", content="")))
    assert contents[1] == ("model", call("c", "f", args, **SKIP))


def test_large_numbers_in_arguments_and_schemas_are_unchanged():
    number = 10**30
    text = json.dumps({"n": number})
    step = said("assistant", ToolCallPart(id="c", name="f", arguments=text))
    body = body_of(said("user", "a"), step, tools=(Tool(name="f", parameters=text),), json_schema=text)
    assert body["contents"][1]["parts"][0]["functionCall"]["args"] == {"n": number}
    assert body["tools"][0]["functionDeclarations"][0]["parametersJsonSchema"] == {"n": number}
    assert body["generationConfig"]["responseJsonSchema"] == {"n": number}


@pytest.mark.parametrize(("seed", "sent"), [(7, 7), (2**31, -(2**31)), (2**63 - 1, -1), (-1, -1)])
def test_a_seed_is_brought_into_the_vendors_range(seed, sent):
    body = body_of(said("user", "a"), sampling=Sampling(seed=seed))
    assert body["generationConfig"] == {"seed": sent}


@pytest.mark.parametrize(("reasoning", "thoughts"), [(True, {"includeThoughts": True}), (False, {})])
def test_thoughts_are_asked_of_models_that_reason(reasoning, thoughts):
    body = body_of(said("user", "a"), model={"reasoning": reasoning}, sampling=Sampling(reasoning_effort="minimal"))
    assert body["generationConfig"] == {"thinkingConfig": {**thoughts, "thinkingLevel": "MINIMAL"}}


def test_without_settings_there_is_no_configuration():
    assert body_of(said("user", "a")) == {"contents": [{"role": "user", "parts": [{"text": "a"}]}]}


@pytest.mark.parametrize(
    "fields",
    [
        {"json_schema": "[]"},
        {"tools": (Tool(name="f", parameters="{"),)},
        {"messages": [said("user", ImagePart(url="https://a.example/b.png"))]},
    ],
)
def test_what_cannot_be_sent_is_rejected(fields):
    messages = fields.pop("messages", [said("user", "a")])
    with pytest.raises(ProviderRejected):
        body_of(*messages, **fields)
