"""A model of Anthropic behind a real server: usage, cost, settings, and the blocks that go back within a tool turn."""

import json

from parley.v1 import chat_pb2, resources_pb2

from tests.dialects.anthropic import MISFIT, MessagesSpeaker
from tests.dialects.speakers import Call, Counts, Reasoning, Text, refused
from tests.integration.served import COMPLETED, KEY, new_message, reason, text_of

SPEAKER = MessagesSpeaker()
COUNTS = Counts(prompt=50, cached=20, written=10, completion=40, reasoning=30)
TOOLS = [chat_pb2.Tool(name="look", parameters='{"type": "object"}')]
CALL = Call("toolu_1", "look", ('{"at": 1e', "2}"))
BLOCKS = [
    '{"type":"thinking","thinking":"hm \U0001f600","signature":"c2ln"}',
    '{"type":"text","text":"Let me see."}',
    '{"type":"tool_use","id":"toolu_1","name":"look","input":{"at": 1e2}}',
]


async def server_of(serve, upstream):
    """A server whose default model is an Anthropic one of the catalog."""
    lines = f"""
[providers.anthropic]
kind = "anthropic"
base_url = "{upstream.url.removesuffix("/v1")}"
api_key = "env:UPSTREAM_KEY"
[models.claude]
provider = "anthropic"
name = "claude-haiku-5-5"
"""
    return await serve(models=lines)


async def tool_turn(server, upstream):
    """A first request that the model answers with thinking and a call; returns its stream."""
    upstream.reply_with(SPEAKER.script(Reasoning("hm \U0001f600"), Text("Let me see."), CALL))
    asked = await server.stream("Where?", model="claude", tools=TOOLS).end()
    assert asked.terminal.finished.reason == reason("TOOL_CALLS")
    return asked


def result_of(asked, **fields):
    """The request with the result of the call."""
    result = resources_pb2.ToolResult(tool_call_id="toolu_1", content="here")
    message = new_message("tool", tool_result=result)
    return {"input": [message], "conversation_id": asked.conversation_id, "model": "claude", "tools": TOOLS, **fields}


async def test_usage_cost_and_settings(serve, upstream):
    server = await server_of(serve, upstream)
    upstream.reply_with(SPEAKER.script(Reasoning("hm"), Text("Hello"), counts=COUNTS))
    sampling = chat_pb2.Sampling(temperature=0.5, seed=7, reasoning_effort="minimal", max_output_tokens=99)
    watch = await server.stream("Hi", model="claude", sampling=sampling, reasoning=True).end()
    finished = watch.terminal.finished
    assert (finished.reason, finished.provider_reason) == (reason("STOP"), "end_turn")
    usage = finished.usage
    assert (usage.prompt_tokens, usage.cached_prompt_tokens, usage.cache_write_prompt_tokens) == (50, 20, 10)
    assert (usage.completion_tokens, usage.reasoning_tokens, usage.estimated) == (40, 30, False)
    assert usage.cost_nano_usd == 20 * 100 + 20 * 10 + 10 * 125 + 40 * 500
    assert {"temperature", "seed"} <= set(watch.chunks[0].accepted.ignored_settings)
    reply = await server.get(watch.reply_id)
    assert (reply.state, text_of(reply)) == (COMPLETED, "Hello")
    (request,) = upstream.requests
    assert (request.path, request.headers["x-api-key"]) == ("/v1/messages", KEY)
    assert request.json == {
        "model": "claude-haiku-5-5",
        "max_tokens": 99,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        "stream": True,
        "output_config": {"effort": "low"},
        "thinking": {"type": "adaptive", "display": "summarized"},
    }


async def test_blocks_go_back_unchanged_within_the_tool_turn_alone(serve, upstream):
    server = await server_of(serve, upstream)
    asked = await tool_turn(server, upstream)
    upstream.reply_with(SPEAKER.script(Text("There.")))
    assert (await server.stream("", **result_of(asked)).end()).text == "There."
    body = upstream.requests[-1].body
    assert f'{{"role":"assistant","content":[{",".join(BLOCKS)}]}}'.encode() in body
    assert upstream.requests[-1].json["max_tokens"] == 128_000
    await server.stream("Thanks", model="claude", conversation_id=asked.conversation_id, tools=TOOLS).end()
    roles = [entry["role"] for entry in upstream.requests[-1].json["messages"]]
    assert roles == ["user", "assistant", "user", "assistant", "user"]
    assert b"thinking" not in json.dumps(upstream.requests[-1].json["messages"]).encode()


async def test_a_refusal_of_kept_blocks_is_followed_by_a_request_without_them(serve, upstream):
    server = await server_of(serve, upstream)
    asked = await tool_turn(server, upstream)
    refusal = refused(400, {"type": "error", "error": {"type": "invalid_request_error", "message": MISFIT}})
    upstream.reply_next(refusal, SPEAKER.script(Text("There.")))
    assert (await server.stream("", **result_of(asked)).end()).text == "There."
    first, second = (request.json["messages"][1]["content"] for request in upstream.requests[-2:])
    assert [block["type"] for block in first] == ["thinking", "text", "tool_use"]
    assert [block["type"] for block in second] == ["text", "tool_use"]


async def test_a_refusal_without_any_content_completes_the_reply(serve, upstream):
    server = await server_of(serve, upstream)
    upstream.reply_with(SPEAKER.script(word="refusal"))
    reply = await server.create("Hi", model="claude", wait=10)
    assert (reply.state, reply.finish_reason) == (COMPLETED, reason("CONTENT_FILTER"))
