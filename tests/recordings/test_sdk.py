"""OpenAI's own SDK reads the same from the recorded streams as the plain readers, over a socket."""

import pytest

from tests.recordings.dialects import DIALECTS
from tests.recordings.folder import VARIABLE, recordings, streams_of
from tests.sdks import openai_client
from tests.upstream import Script, Upstream

FOLDER = recordings()
if FOLDER is None:
    pytest.skip(f"{VARIABLE} names no folder of recorded answers", allow_module_level=True)

PLAIN = {dialect.name: dialect for dialect in DIALECTS}
DIFFERENT = {
    # An error in the stream, which the SDK raises.
    "openai-responses/vercelai-openai-error.1",
    "groq/pydanticai-groq--tool_use_failed_error_streaming.0",
    "groq/pydanticai-groq--tool_use_failed_error_streaming_with_text.0",
    "openrouter/pydanticai-openrouter--openrouter_stream_error.0",
    # Usage in `x_groq` alone, which the SDK does not read.
    "groq/openllmetry-chat_tracing--chat_streaming_with_events_with_content.0",
    "groq/openllmetry-chat_tracing--chat_streaming_with_events_with_no_content.0",
    "groq/pydanticai-groq--groq_model_thinking_part_iter.0",
    "groq/pydanticai-groq--groq_model_thinking_part_iter.1",
    "groq/pydanticai-groq--groq_model_web_search_tool_stream.0",
    # Content as a list of parts.
    "mistral/vercelai-mistral-reasoning",
}
"""Streams from which the SDK reads something else, or which it refuses."""


def names(dialect):
    return [name for name in streams_of(FOLDER, dialect) if name not in DIFFERENT]


@pytest.mark.parametrize("name", names("responses"))
async def test_responses(name):
    body = streams_of(FOLDER, "responses")[name].read_bytes()
    expected = PLAIN["responses"].read_plainly(body)
    text, calls, usage = "", [], None
    async with Upstream() as upstream, openai_client(upstream.url) as client:
        upstream.reply_with(Script([body]))
        async for event in await client.responses.create(model="m", input="Hi", stream=True):
            if event.type in ("response.output_text.delta", "response.refusal.delta"):
                text += event.delta
            elif event.type == "response.output_item.done" and event.item.type == "function_call":
                calls.append((event.item.call_id, event.item.name, event.item.arguments))
            elif event.type == "response.completed":
                usage = event.response.usage
                break  # some recordings hold the answers to several requests
    assert (text, tuple(calls)) == (expected.text, expected.calls)
    details = usage and (usage.input_tokens_details, usage.output_tokens_details)
    counts = usage and (
        usage.input_tokens,
        details[0].cached_tokens if details[0] else 0,
        usage.output_tokens,
        details[1].reasoning_tokens if details[1] else 0,
    )
    assert counts == expected.counts


@pytest.mark.parametrize("name", names("chat"))
async def test_chat(name):
    body = streams_of(FOLDER, "chat")[name].read_bytes()
    expected = PLAIN["chat"].read_plainly(body)
    text, calls, usage, word = "", {}, None, ""
    async with Upstream() as upstream, openai_client(upstream.url) as client:
        upstream.reply_with(Script([body]))
        stream = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "Hi"}], stream=True
        )
        async for chunk in stream:
            usage = chunk.usage or usage
            for choice in [choice for choice in chunk.choices if not choice.index]:
                if not choice.delta:
                    continue
                text += (choice.delta.content or "") + (choice.delta.refusal or "")
                word = choice.finish_reason or word
                for piece in choice.delta.tool_calls or ():
                    call = calls.setdefault(piece.index, ["", "", ""])
                    call[0] = call[0] or piece.id
                    call[1] = call[1] or piece.function.name
                    call[2] += piece.function.arguments or ""
    assert (text, word) == (expected.text, expected.word.replace("[DONE]", ""))
    assert tuple(map(tuple, calls.values())) == expected.calls
    assert (usage and usage.prompt_tokens) == (expected.counts and expected.counts[0])
