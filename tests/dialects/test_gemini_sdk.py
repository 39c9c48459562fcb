"""Google's own SDK sends the same requests as the provider, and reads the answers of the test upstream."""

import itertools
import json
import re
import warnings

import pytest
from parley_server.core.model import ImagePart, Sampling, Tool, ToolCallPart, ToolResultPart

from tests.dialects.gemini import GeminiSpeaker
from tests.dialects.speakers import Call, Reasoning, Text, said
from tests.integration.providers.recording import RecordingSink
from tests.sdks import gemini_client
from tests.upstream import Upstream

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # at import, the SDK uses functions that Python has deprecated
    from google.genai import types

SPEAKER = GeminiSpeaker()
PNG = b"\x89PNG\xfb\xff\xbf"
SCHEMA = {"type": "object", "properties": {"snake_case": {"type": "string"}}}
SKIP = "skip_thought_signature_validator"
VERBATIM = ("args", "response", "parametersJsonSchema", "responseJsonSchema")
BINARY = ("data", "thoughtSignature")


def text(words):
    return types.Part(text=words)


def call(call_id, name, args, **fields):
    return types.Part(function_call=types.FunctionCall(id=call_id, name=name, args=args), **fields)


def result(call_id, name, words):
    return types.Part(function_response=types.FunctionResponse(id=call_id, name=name, response={"result": words}))


CALLS = said("assistant", ToolCallPart(id="c1", name="w", arguments='{"a_b": 1}'), ToolCallPart(id="c2", name="v"))
RESULTS = (ToolResultPart(tool_call_id="c2", content="two"), ToolResultPart(tool_call_id="c1", content="one"))
SDK_RESULTS = ("user", result("c1", "w", "one"), result("c2", "v", "two"))
CONVERSATIONS = {
    "one question": ([said("user", "Hi")], [("user", text("Hi"))]),
    "a system text": (
        [said("system", "Be brief."), said("user", "Größe 😀")],
        [("system", text("Be brief.")), ("user", text("Größe 😀"))],
    ),
    "an image": (
        [said("user", "What?", ImagePart(mime_type="image/png", data=PNG))],
        [("user", text("What?"), types.Part(inline_data=types.Blob(mime_type="image/png", data=PNG)))],
    ),
    "an answer": (
        [said("user", "Hi"), said("assistant", "Hello"), said("user", "Bye")],
        [("user", text("Hi")), ("model", text("Hello")), ("user", text("Bye"))],
    ),
    "two questions in a row": (
        [said("user", "Hi"), said("user", "Well?")],
        [("user", text("Hi\n\nWell?"))],
    ),
    "a tool turn": (
        [said("user", "Hi"), CALLS, said("tool", *RESULTS)],
        [
            ("user", text("Hi")),
            ("model", call("c1", "w", {"a_b": 1}, thought_signature=SKIP), call("c2", "v", {})),
            SDK_RESULTS,
        ],
    ),
    "results in two messages": (
        [said("user", "Hi"), CALLS, said("tool", RESULTS[0]), said("tool", RESULTS[1])],
        [
            ("user", text("Hi")),
            ("model", call("c1", "w", {"a_b": 1}, thought_signature=SKIP), call("c2", "v", {})),
            SDK_RESULTS,
        ],
    ),
    "an older tool turn": (
        [said("user", "Hi"), CALLS, said("tool", *RESULTS), said("assistant", "So."), said("user", "Bye")],
        [
            ("user", text("Hi")),
            ("model", call("c1", "w", {"a_b": 1}), call("c2", "v", {})),
            SDK_RESULTS,
            ("model", text("So.")),
            ("user", text("Bye")),
        ],
    ),
}
TOOLS = (Tool(name="w", description="d", parameters=json.dumps(SCHEMA)), Tool(name="v"))
SDK_TOOLS = [
    types.Tool(
        function_declarations=[
            types.FunctionDeclaration(name="w", description="d", parameters_json_schema=SCHEMA),
            types.FunctionDeclaration(name="v"),
        ]
    )
]


def calling(mode, *names):
    config = types.FunctionCallingConfig(mode=mode, allowed_function_names=list(names) or None)
    return types.ToolConfig(function_calling_config=config)


OPTIONS = {
    "none": ({}, {}),
    "sampling": (
        {
            "sampling": Sampling(temperature=0.5, top_p=0.9, max_output_tokens=99, seed=7, stop=("X",)),
            "tools": TOOLS,
            "tool_choice": "auto",
        },
        {
            "temperature": 0.5,
            "top_p": 0.9,
            "max_output_tokens": 99,
            "seed": 7,
            "stop_sequences": ["X"],
            "tools": SDK_TOOLS,
            "tool_config": calling("AUTO"),
        },
    ),
    "a named tool": (
        {"tools": TOOLS, "tool_choice": "w"},
        {"tools": SDK_TOOLS, "tool_config": calling("ANY", "w")},
    ),
    "a schema": (
        {"json_schema": json.dumps(SCHEMA), "tools": TOOLS, "tool_choice": "none"},
        {
            "response_mime_type": "application/json",
            "response_json_schema": SCHEMA,
            "tools": SDK_TOOLS,
            "tool_config": calling("NONE"),
        },
    ),
    "reasoning": (
        {
            "sampling": Sampling(reasoning_effort="low"),
            "model": {"reasoning": True},
            "tools": TOOLS,
            "tool_choice": "required",
        },
        {
            "thinking_config": types.ThinkingConfig(include_thoughts=True, thinking_level="LOW"),
            "tools": SDK_TOOLS,
            "tool_config": calling("ANY"),
        },
    ),
}


@pytest.fixture
async def upstream():
    async with Upstream() as server:
        server.reply_with(SPEAKER.script(Text("ok")))
        yield server


@pytest.fixture
async def models(upstream):
    """The SDK's `models`, which ask the upstream."""
    client = gemini_client(upstream.url)
    yield client.aio.models
    await client.aio.aclose()
    client.close()


def normalised(value, key=""):
    """The body without differences that mean nothing: the case of keys, base64's two alphabets, the order of keys, an
    empty `generationConfig`, and the role that the SDK gives the system instruction."""
    if isinstance(value, list):
        return [normalised(each) for each in value]
    if not isinstance(value, dict):
        return value.replace("-", "+").replace("_", "/") if key in BINARY else value
    camel = {re.sub("_([a-z])", lambda found: found[1].upper(), name): each for name, each in value.items()}
    if key == "systemInstruction":
        camel.pop("role", None)
    if not camel.get("generationConfig", True):
        del camel["generationConfig"]
    return {name: each if name in VERBATIM else normalised(each, name) for name, each in camel.items()}


@pytest.mark.parametrize(("conversation", "options"), list(itertools.product(CONVERSATIONS, OPTIONS)))
async def test_the_sdk_sends_the_same_request(upstream, models, conversation, options):
    messages, contents = CONVERSATIONS[conversation]
    ours, config = OPTIONS[options]
    system = [types.Content(parts=parts) for role, *parts in contents if role == "system"]
    provider = SPEAKER.provider(upstream.url)
    prompt = SPEAKER.prompt(*messages, **ours)
    await provider.generate(prompt, RecordingSink())
    await provider.close()
    stream = await models.generate_content_stream(
        model="acme-1",
        contents=[types.Content(role=role, parts=parts) for role, *parts in contents if role != "system"],
        config=types.GenerateContentConfig(system_instruction=system[0] if system else None, **config),
    )
    assert [chunk.text async for chunk in stream] == ["ok", ""]
    sent, expected = upstream.requests
    assert (sent.method, sent.path) == (expected.method, expected.path)
    assert sent.headers["x-goog-api-key"] == expected.headers["x-goog-api-key"]
    assert normalised(sent.json) == normalised(expected.json)
    assert provider.body_of(prompt) == sent.body


async def test_the_sdk_reads_the_upstream(upstream, models):
    spoken = (Reasoning("hm"), Text("Hel"), Text("lo"), Call("c1", "w", ('{"a": 1}',)))
    upstream.reply_with(SPEAKER.script(*spoken))
    chunks = [chunk async for chunk in await models.generate_content_stream(model="acme-1", contents="Hi")]
    parts = [part for chunk in chunks for part in chunk.candidates[0].content.parts]
    assert [(part.text, bool(part.thought)) for part in parts if part.text] == [
        ("hm", True),
        ("Hel", False),
        ("lo", False),
    ]
    [called] = [part.function_call for part in parts if part.function_call]
    assert (called.id, called.name, called.args) == ("c1", "w", {"a": 1})
    counted = chunks[-1].usage_metadata
    assert (counted.prompt_token_count, counted.candidates_token_count) == (50, 7)
    assert chunks[-1].candidates[0].finish_reason.value == "STOP"
