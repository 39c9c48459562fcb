"""Gemini through a real server: streaming, usage, cost, filters, and tool turns whose parts go back unchanged."""

import asyncio
import json

import pytest
from parley.v1 import chat_pb2, resources_pb2

from tests.dialects.gemini import SIGNATURE, GeminiSpeaker
from tests.dialects.speakers import Counts, Reasoning, Text
from tests.integration.served import COMPLETED, KEY, new_message, reason, text_of
from tests.upstream import Script, Wait, done, finish, refusal, role, tool_call

MODELS = """
[providers.google]
kind = "gemini"
base_url = "{url}"
api_key = "env:UPSTREAM_KEY"
retries = 0
[models.gemini]
provider = "google"
name = "gemini-9-flash"
prices = {{ prompt = 2.0, cached_prompt = 0.5, completion = 8.0 }}
"""
SPEAKER = GeminiSpeaker()
TOOLS = [chat_pb2.Tool(name="weather", parameters="{}")]
CALL = '{ "functionCall": {"name": "weather","args": {"city":  "Oslo"}}, "thoughtSignature": "' + SIGNATURE + '"}'
THOUGHT = '{"text": "hm \\u003c","thought":true}'
SKIP = "skip_thought_signature_validator"


@pytest.fixture
async def server(serve, upstream):
    return await serve(models=MODELS.format(url=upstream.url))


def calling():
    """An answer of a thought and a call, in the vendor's own spacing and escapes, and the chunk that ends it."""
    events = [f'data: {{"candidates": [{{"content": {{"parts": [{part}]}}}}]}}\r\n\r\n' for part in (THOUGHT, CALL)]
    return Script([*[event.encode() for event in events], SPEAKER.speak().body])


def result_of(message):
    [call] = [part.tool_call for part in message.parts if part.HasField("tool_call")]
    return new_message("tool", tool_result=resources_pb2.ToolResult(tool_call_id=call.id, content="5 degrees"))


async def test_s0_3_gemini_answers_are_streamed_with_usage_and_cost(server, upstream):
    counts = Counts(prompt=1000, cached=400, completion=100, reasoning=60)
    spoken = SPEAKER.speak(Reasoning("hm"), Text("Hel"), Text("lo"), counts=counts)
    rest = asyncio.Event()
    upstream.reply_with(SPEAKER.scripted([*spoken.events[:2], Wait(rest), *spoken.events[2:]]))
    watch = server.stream("Hi", model="gemini")
    await watch.until_text("Hel")
    rest.set()
    finished = (await watch.end()).terminal.finished
    assert (watch.text, finished.reason, finished.provider_reason) == ("Hello", reason("STOP"), "STOP")
    assert (finished.model, finished.provider) == ("gemini", "google")
    usage = finished.usage
    counted = (usage.prompt_tokens, usage.cached_prompt_tokens, usage.completion_tokens, usage.reasoning_tokens)
    assert counted == (1000, 400, 100, 60)
    assert usage.cost_nano_usd == 600 * 2000 + 400 * 500 + 100 * 8000
    reply = await server.get(watch.reply_id)
    assert (reply.state, text_of(reply), reply.usage) == (COMPLETED, "Hello", usage)
    [request] = upstream.requests
    assert request.path == "/v1/models/gemini-9-flash:streamGenerateContent?alt=sse"
    assert request.headers["x-goog-api-key"] == KEY


async def test_a_prompt_that_the_filter_refuses_finishes_without_a_message_and_costs_nothing(server, upstream):
    [script] = SPEAKER.filtered()
    upstream.reply_with(script)
    watch = await server.stream("Hi", model="gemini").end()
    finished = watch.terminal.finished
    assert (finished.reason, finished.usage.prompt_tokens) == (reason("CONTENT_FILTER"), 0)
    assert not (await server.get(watch.reply_id)).HasField("message")


async def test_parts_go_back_unchanged_within_the_tool_turn_and_not_after_it(server, upstream):
    upstream.reply_with(SPEAKER.script(Text("Cold.")))
    upstream.reply_next(calling())
    watch = await server.stream("Weather?", model="gemini", tools=TOOLS).end()
    assert watch.terminal.finished.reason == reason("TOOL_CALLS")
    message = (await server.get(watch.reply_id)).message
    same = {"model": "gemini", "tools": TOOLS, "conversation_id": watch.conversation_id}
    assert (await server.stream("", input=[result_of(message)], **same).end()).text == "Cold."
    request = upstream.requests[-1]
    assert f'"parts":[{THOUGHT},{CALL}]'.encode() in request.body
    answered = {"functionResponse": {"name": "weather", "response": {"result": "5 degrees"}}}
    assert request.json["contents"][-1] == {"role": "user", "parts": [answered]}
    await server.stream("Thanks", **same).end()
    assert b"thought" not in upstream.requests[-1].body


async def test_refused_parts_are_left_out_of_one_more_request(server, upstream):
    upstream.reply_with(SPEAKER.script(Text("Cold.")))
    refused = [{"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "Corrupted thought signature."}}]
    upstream.reply_next(calling(), refusal(400, refused))
    watch = await server.stream("Weather?", model="gemini", tools=TOOLS).end()
    message = (await server.get(watch.reply_id)).message
    same = {"model": "gemini", "tools": TOOLS, "conversation_id": watch.conversation_id}
    assert (await server.stream("", input=[result_of(message)], **same).end()).text == "Cold."
    signatures = [request.json["contents"][1]["parts"][-1]["thoughtSignature"] for request in upstream.requests[1:]]
    assert signatures == [SIGNATURE, SKIP]


async def test_a_call_that_another_vendor_made_is_continued(server, upstream):
    called = [
        role(),
        tool_call(0, json.dumps({"city": "Oslo"}), call_id="call_1", name="weather"),
        finish("tool_calls"),
    ]
    upstream.reply_with(SPEAKER.script(Text("Cold.")))
    upstream.reply_next(Script([*called, done()]))
    watch = await server.stream("Weather?", tools=TOOLS).end()
    message = (await server.get(watch.reply_id)).message
    same = {"model": "gemini", "tools": TOOLS, "conversation_id": watch.conversation_id}
    assert (await server.stream("", input=[result_of(message)], **same).end()).text == "Cold."
    call = {"functionCall": {"id": "call_1", "name": "weather", "args": {"city": "Oslo"}}, "thoughtSignature": SKIP}
    assert upstream.requests[-1].json["contents"][1]["parts"] == [call]
