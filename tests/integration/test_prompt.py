"""The request to the provider: order of the prompt, selection of the history, and settings."""

import json

from parley.v1 import chat_pb2, conversations_pb2, resources_pb2

from tests.integration.served import KEY, ask, new_message, refused, text_of
from tests.upstream import Close, Hang, Script, answer, done, finish, reasoning, role, text, tool_call


def prompt(upstream, number=-1):
    """The messages of a request as (role, content)."""
    return [(each["role"], each.get("content")) for each in upstream.requests[number].json["messages"]]


async def test_a_prompt_has_system_history_and_post_system_in_this_order(server, upstream):
    created = await server.new_conversation(
        [new_message("user", "Old question"), new_message("assistant", "Old answer")],
        system=["Pre", "", "System", "Character", "Profile"],
        post_system="Post",
    )
    await server.stream("New question", conversation_id=created.id).end()
    assert prompt(upstream) == [
        ("system", "Pre\n---\nSystem\n---\nCharacter\n---\nProfile"),
        ("user", "Old question"),
        ("assistant", "Old answer"),
        ("user", "Post\n\nNew question"),
    ]
    await server.stream("Next", conversation_id=created.id, system=["Only now"]).end()
    assert prompt(upstream) == [
        ("system", "Only now"),
        ("user", "Old question"),
        ("assistant", "Old answer"),
        ("user", "New question"),
        ("assistant", "Hello, world"),
        ("user", "Post\n\nNext"),
    ]


async def test_the_next_request_uses_the_key_of_a_changed_key_file(serve, upstream, tmp_path):
    (tmp_path / "key").write_text("sk-first\n")
    server = await serve(key="file:key")
    await server.stream("Hi").end()
    (tmp_path / "key").write_text("sk-second\n")
    await server.stream("Hi").end()
    keys = [request.headers["authorization"] for request in upstream.requests]
    assert keys == ["Bearer sk-first", "Bearer sk-second"]


async def test_a_plain_question_sends_only_the_required_fields(server, upstream):
    await server.stream("Hi").end()
    (request,) = upstream.requests
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.json == {
        "model": "vendor/test-1",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 1000,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_every_setting_of_a_request_is_passed_on(server, upstream):
    sampling = chat_pb2.Sampling(
        temperature=0, top_p=0.5, max_output_tokens=50, seed=0, stop=["END", "."], reasoning_effort="low"
    )
    tool = chat_pb2.Tool(name="weather", description="The weather", parameters='{"type":"object"}')
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    fields = {"tools": [tool], "tool_choice": "weather", "json_schema": json.dumps(schema)}
    await server.stream(sampling=sampling, **fields).end()
    body = upstream.requests[0].json
    assert {name: body[name] for name in body if name not in ("messages", "model", "stream", "stream_options")} == {
        "temperature": 0,
        "top_p": 0.5,
        "max_tokens": 50,
        "seed": 0,
        "stop": ["END", "."],
        "reasoning_effort": "low",
        "tools": [
            {
                "type": "function",
                "function": {"name": "weather", "description": "The weather", "parameters": {"type": "object"}},
            }
        ],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": {"type": "object", "properties": {"a": {"type": "string"}}}},
        },
    }


async def test_max_output_tokens_is_limited_to_that_of_the_model(server, upstream):
    await server.stream(sampling=chat_pb2.Sampling(max_output_tokens=5000)).end()
    assert upstream.requests[0].json["max_tokens"] == 1000


async def test_the_model_comes_from_the_request_then_the_conversation_then_the_default(server, upstream):
    first = await server.stream(model="plain").end()
    created = await server.new_conversation(model="plain")
    second = await server.stream(conversation_id=created.id).end()
    third = await server.stream(conversation_id=created.id, model="test").end()
    fourth = await server.stream().end()
    names = [request.json["model"] for request in upstream.requests]
    assert names == ["vendor/plain-1", "vendor/plain-1", "vendor/test-1", "vendor/test-1"]
    models = [watch.chunks[0].accepted.model for watch in (first, second, third, fourth)]
    assert models == ["plain", "plain", "test", "test"]


async def test_a_cancelled_answer_is_part_of_the_next_prompt_and_a_failed_one_is_not(server, upstream):
    """P38."""
    created = await server.new_conversation()
    upstream.reply_next(Script([role(), text("cancelled"), Hang()]), Script([role(), text("failed"), Close()]))
    first = await server.stream("One", conversation_id=created.id).until_text("cancelled")
    await server.cancel(first.reply_id)
    await server.stream("Two", conversation_id=created.id).end()
    await server.stream("Three", conversation_id=created.id).end()
    assert prompt(upstream) == [("user", "One"), ("assistant", "cancelled"), ("user", "Two\n\nThree")]
    page = await server.messages(created.id)
    texts = ["One", "cancelled", "Two", "failed", "Three", "Hello, world"]
    assert [text_of(message) for message in reversed(page.messages)] == texts
    assert [text_of(message) for message in page.messages if message.partial] == ["failed", "cancelled"]


async def test_a_tool_call_and_its_result_round_trip(server, upstream):
    tools = [chat_pb2.Tool(name="weather", parameters="{}")]
    upstream.reply_next(
        Script(
            [
                role(),
                text("Let me look. "),
                tool_call(0, '{"city":"Oslo"}', call_id="c1c1c1c1c", name="weather"),
                tool_call(1, "", call_id="c2c2c2c2c", name="weather"),
                finish("tool_calls"),
                done(),
            ]
        ),
        answer("It rains."),
    )
    first = await server.stream("Weather?", tools=tools).end()
    results = [
        new_message("tool", tool_result=resources_pb2.ToolResult(tool_call_id="c1c1c1c1c", content="rain")),
        new_message("tool", tool_result=resources_pb2.ToolResult(tool_call_id="c2c2c2c2c", content="sun")),
    ]
    second = await server.stream("", input=results, tools=tools, conversation_id=first.conversation_id).end()
    assert second.text == "It rains."
    assert upstream.requests[1].json["messages"] == [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": "Let me look. ",
            "tool_calls": [
                {
                    "id": "c1c1c1c1c",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city":"Oslo"}'},
                },
                {"id": "c2c2c2c2c", "type": "function", "function": {"name": "weather", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1c1c1c1c", "content": "rain"},
        {"role": "tool", "tool_call_id": "c2c2c2c2c", "content": "sun"},
    ]


async def test_reasoning_text_is_not_part_of_the_next_prompt(server, upstream):
    upstream.reply_next(Script([role(), reasoning("hm"), text("42"), finish(), done()]))
    first = await server.stream("One").end()
    await server.stream("Two", conversation_id=first.conversation_id).end()
    assert prompt(upstream) == [("user", "One"), ("assistant", "42"), ("user", "Two")]


async def test_a_valid_trace_is_passed_on(server, upstream):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    for given in (trace, "not a trace", trace.upper()):
        call = server.chat.StreamReply(ask(), metadata=(("traceparent", given),))
        async for _ in call:
            pass
    assert [request.headers.get("traceparent") for request in upstream.requests] == [trace, None, None]


async def test_a_tool_result_without_its_call_is_refused_with_its_id(server, upstream):
    result = new_message("tool", tool_result=resources_pb2.ToolResult(tool_call_id="call_x", content="x"))
    first = await server.stream("Hi").end()
    message = "{}.parts[0].tool_result.tool_call_id: no tool call above it has the id 'call_x'"
    for request, place in (
        (ask("", input=[result]), "input[0]"),
        (ask("", input=[new_message("user", "Hi"), result]), "input[1]"),
        (ask("", input=[result], conversation_id=first.conversation_id), "input[0]"),
    ):
        error = await refused(server.chat.StreamReply(request))
        assert (error.reason, error.message) == ("INVALID_REQUEST", message.format(place))
    creation = conversations_pb2.CreateConversationRequest(messages=[new_message("user", "Hi"), result])
    error = await refused(server.conversations.CreateConversation(creation))
    assert (error.reason, error.message) == ("INVALID_REQUEST", message.format("messages[1]"))
    assert len(upstream.requests) == 1
