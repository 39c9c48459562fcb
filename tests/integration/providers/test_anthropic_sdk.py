"""Requests compared with those of Anthropic's client, and answers of the test server that the client reads."""

import itertools
import json
import random

import msgspec
import pytest
from parley_server.core.model import ImagePart, Kept, Model, Prompt, Sampling, Tool, ToolCallPart, ToolResultPart
from parley_server.providers.anthropic.prompt import message_body

from tests.dialects.anthropic import MessagesSpeaker
from tests.dialects.speakers import Call, Counts, Reasoning, Text, said
from tests.dialects.typed import typed
from tests.integration.providers.anthropic_sdk import outcome_of, read_by_sdk
from tests.integration.providers.recording import RecordingSink
from tests.sdks import anthropic_client

pytestmark = pytest.mark.xdist_group("anthropic-sdk")  # one process imports it, which takes a second
PROMPTS = 40
SPEAKER = MessagesSpeaker()
SCHEMA = '{"type": "object", "properties": {"größe": {"type": "integer"}}, "additionalProperties": false}'
KEPT = (
    '{"type":"thinking","thinking":"hm","signature":"c2ln"}',
    '{"type":"redacted_thinking","data":"c2VhbGVk"}',
    '{"type":"tool_use","id":"toolu_1","name":"f","input":{"a":1.5}}',
)


def message_like(chance, role):
    parts = [chance.choice(["Hi", "Größe 日本 👩‍👩‍👧", " ", "two\nlines"]) for _ in range(chance.randint(1, 3))]
    if role == "user" and chance.random() < 0.3:
        parts.append(ImagePart(mime_type="image/png", data=b"\xfb\xff"))
        parts.append(ImagePart(url="https://a.example/b.png"))
    return said(role, "a", *parts, cache_mark=chance.random() < 0.3)


def tool_turn(chance, number):
    ids = [chance.choice([f"toolu_{number}_{i}", f"chatcmpl.tool:{i}", "x" * 53]) for i in range(chance.randint(1, 3))]
    calls = [ToolCallPart(id=call_id, name="f", arguments=chance.choice(["", "{}", '{"a": 1.5}'])) for call_id in ids]
    results = [said("tool", ToolResultPart(tool_call_id=call_id, content="42")) for call_id in ids]
    return [said("assistant", "calling", *calls), *results]


def prompt_like(chance):
    """A prompt with a random part of everything that a request of the newest version can contain."""
    messages = [message_like(chance, "system") for _ in range(chance.randint(0, 2))]
    for number in range(chance.randint(1, 5)):
        messages.append(message_like(chance, chance.choice(["user", "user", "assistant", "system"])))
        if chance.random() < 0.4:
            messages += tool_turn(chance, number)
    messages.append(message_like(chance, "user"))
    if chance.random() < 0.4:
        kept = Kept(origin="here", items=KEPT)
        messages.append(said("assistant", ToolCallPart(id="toolu_1", name="f", arguments='{"a":1.5}'), kept=kept))
        messages.append(said("tool", ToolResultPart(tool_call_id="toolu_1", content=""), cache_mark=True))
    options = {
        "tools": (Tool(name="f", description="d", parameters=SCHEMA), Tool(name="g")),
        "tool_choice": chance.choice(["auto", "none", "required", "f"]),
        "json_schema": SCHEMA,
        "sampling": Sampling(max_output_tokens=7, stop=("x",), reasoning_effort="high"),
    }
    model = Model(
        alias="a",
        provider="p",
        name="acme-1",
        cache_min=chance.choice([0, 512]),
        thinking=chance.choice(["", "adaptive"]),
        prefill=chance.random() < 0.5,
    )
    chosen = {name: value for name, value in options.items() if chance.random() < 0.5}
    return Prompt(model=model, messages=tuple(messages), **chosen)


async def test_bodies_equal_those_of_the_client_and_fit_its_types(upstream):
    from anthropic.types.message_create_params import MessageCreateParamsStreaming  # takes a second

    upstream.reply_with(SPEAKER.script(Text("ok")))
    async with anthropic_client(upstream.url) as client:
        for seed in range(PROMPTS):
            prompt = prompt_like(random.Random(seed))
            body = json.loads(msgspec.json.encode(message_body(prompt, origin="here")))
            assert typed(body, MessageCreateParamsStreaming) == body, seed
            await (await client.messages.create(**body)).close()
            assert upstream.requests[-1].json == body, seed
            roles = [entry["role"] for entry in body["messages"]]
            assert roles[0] == "user", seed
            assert all(before != after for before, after in itertools.pairwise(roles)), seed


async def test_a_request_has_the_path_and_version_of_the_client(upstream):
    upstream.reply_with(SPEAKER.script(Text("ok")))
    await read_by_sdk(upstream.url)
    provider = SPEAKER.provider(upstream.url)
    await provider.generate(SPEAKER.prompt(), RecordingSink())
    await provider.close()
    theirs, ours = upstream.requests
    assert (ours.method, ours.path) == (theirs.method, theirs.path)
    assert ours.headers["anthropic-version"] == theirs.headers["anthropic-version"]
    assert ours.headers["x-api-key"] == "sk-secret"


async def test_the_client_reads_the_answers_of_the_test_server(upstream):
    call = Call("toolu_1", "look", ('{"a":', "1}"))
    counts = Counts(prompt=50, cached=20, written=10, completion=40, reasoning=30)
    upstream.reply_with(SPEAKER.script(Reasoning("hm"), Text("Hel"), Text("lo"), call, counts=counts))
    read = outcome_of(await read_by_sdk(upstream.url), "TOOL_CALLS")
    assert (read.text, read.reasoning, read.calls) == ("Hello", "hm", (("toolu_1", "look", {"a": 1}),))
    assert (read.word, read.counts) == ("tool_use", (50, 20, 40, 30))
