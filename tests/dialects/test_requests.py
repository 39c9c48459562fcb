"""Requests in every dialect say the same, and send back unchanged what the vendor requires."""

import json

import pytest
from parley_server.core.model import (
    ImagePart,
    Kept,
    ReasoningPart,
    Sampling,
    Tool,
    ToolCallPart,
    ToolResultPart,
)

from tests.dialects.speakers import Call, Reasoning, Text, said
from tests.integration.providers.recording import RecordingSink

PNG = b"\x89PNG\r\n\x1a\n\xfb\xff\xbf"
SCHEMA = {"type": "object", "properties": {"größe": {"type": "integer", "maximum": 10**30}}}


@pytest.fixture
def ask(speaker, provider, upstream):
    async def ask(*messages, **fields):
        upstream.reply_with(speaker.script(Text("ok")))
        await provider.generate(speaker.prompt(*messages, **fields), RecordingSink())
        return upstream.requests[-1]

    return ask


async def test_a_turn_with_everything(speaker, ask):
    request = await ask(
        said("system", "Be brief."),
        said("user", "What is this?", ImagePart(mime_type="image/png", data=PNG)),
        said("assistant", ReasoningPart(text="hidden"), "A picture.", ToolCallPart(id="call_1", name="look")),
        said("tool", ToolResultPart(tool_call_id="call_1", content="42")),
        sampling=Sampling(max_output_tokens=99),
        tools=(Tool(name="look", description="looks", parameters=json.dumps(SCHEMA)), Tool(name="other")),
        tool_choice="auto",
        json_schema=json.dumps(SCHEMA),
    )
    asked = speaker.asked(request.json)
    assert asked.system.strip() == "Be brief."
    assert asked.turns == [("user", "What is this?"), ("assistant", "A picture."), ("tool", "42")]
    assert len(asked.images) == 1
    assert (asked.calls, asked.results) == ({"call_1": ("look", {})}, {"call_1": "42"})
    assert (asked.tools, asked.schema, asked.max_tokens) == (["look", "other"], SCHEMA, 99)
    assert b"sk-secret" not in request.body
    assert b"hidden" not in request.body


async def test_p38_a_partial_answer_stays_a_message_of_its_own(speaker, ask):
    request = await ask(said("user", "One"), said("assistant", "par"), said("user", "Two"))
    assert speaker.asked(request.json).turns == [("user", "One"), ("assistant", "par"), ("user", "Two")]


async def test_extra_fields_and_headers_are_sent(speaker, ask):
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    request = await ask(model={"extra_body": '{"service_tier": "flex"}'}, traceparent=traceparent)
    assert request.json["service_tier"] == "flex"
    assert request.headers["traceparent"] == traceparent
    assert request.headers["user-agent"].startswith("parley/")
    assert not any(name.startswith(("x-stainless", "openai-")) for name in request.headers)


async def test_the_body_that_an_operator_sees_is_the_one_that_is_sent(speaker, provider, ask):
    fields = {"model": {"extra_body": '{"service_tier": "flex"}'}, "tools": (Tool(name="look"),)}
    request = await ask(said("user", "Hi"), **fields)
    assert provider.body_of(speaker.prompt(said("user", "Hi"), **fields)) == request.body


async def test_kept_items_are_sent_back_unchanged_to_their_origin_alone(speaker, provider, upstream, ask):
    if not speaker.keeps:
        return
    upstream.reply_with(speaker.script(Reasoning("hm"), Call("call_1", "look", ('{"a": 1}',))))
    sink = RecordingSink()
    await provider.generate(speaker.prompt(tools=(Tool(name="look"),)), sink)
    kept = [(origin, item) for kind, origin, *rest in sink.events if kind == "keep" for item in rest]
    assert kept
    [origin] = {origin for origin, _ in kept}
    items = tuple(item for _, item in kept)
    [call_id] = [event[2] for event in sink.events if event[0] == "tool_call" and event[3]]

    async def sent(kept_origin):
        answer = said("assistant", ToolCallPart(id=call_id, name="look", arguments='{"a": 1}'))
        known = said("assistant", *answer.parts, kept=Kept(origin=kept_origin, items=items))
        result = said("tool", ToolResultPart(tool_call_id=call_id, content="42"))
        return (await ask(said("user", "Hi"), known, result)).body

    body = await sent(origin)
    assert all(fragment_of(item) in body for item in items)
    others = await sent("0" * 16)
    assert not all(fragment_of(item) in others for item in items)


def fragment_of(item):
    """The item as it stands in the body, without its outer braces: it may be merged into a larger object."""
    return item[1:-1].encode()
