"""The request to the provider: order of the prompt, selection of the history, and settings."""

import asyncio

from parley.v1 import chat_pb2, conversations_pb2, resources_pb2

from tests.clock import until
from tests.integration.served import KEY, ask, refused, said, text_of
from tests.upstream import Close, Hang, Script, Wait, answer, done, finish, reasoning, role, text, tool_call

TOOL, TIME = (chat_pb2.Tool(name=name, parameters="{}") for name in ("weather", "time"))


def answered(call_id: str, content: str) -> resources_pb2.Message:
    return said("tool", tool_result=resources_pb2.ToolResult(tool_call_id=call_id, content=content))


def prompt(upstream, number=-1):
    """The messages of a request as (role, content)."""
    return [(each["role"], each.get("content")) for each in upstream.requests[number].json["messages"]]


async def test_the_order_of_a_prompt(server, upstream):
    made = await server.new_conversation(
        [said("user", "Old question"), said("assistant", "Old answer")],
        system=["Pre", "", "System", "Character", "Profile"],
        post_system="Post",
    )
    await server.stream("New question", conversation_id=made.id).end()
    assert prompt(upstream) == [
        ("system", "Pre\n---\nSystem\n---\nCharacter\n---\nProfile"),
        ("user", "Old question"),
        ("assistant", "Old answer"),
        ("user", "Post\n\nNew question"),
    ]
    await server.stream("Next", conversation_id=made.id, system=["Only now"]).end()
    assert prompt(upstream) == [
        ("system", "Only now"),
        ("user", "Old question"),
        ("assistant", "Old answer"),
        ("user", "New question"),
        ("assistant", "Hello, world"),
        ("user", "Post\n\nNext"),
    ]


async def test_a_changed_key_file_gives_the_next_request_its_key(serve, upstream, tmp_path):
    (tmp_path / "key").write_text("sk-first\n")
    server = await serve(key="file:key")
    await server.stream("Hi").end()
    (tmp_path / "key").write_text("sk-second\n")
    await server.stream("Hi").end()
    assert [request.headers["authorization"] for request in upstream.requests] == [
        "Bearer sk-first",
        "Bearer sk-second",
    ]


async def test_the_request_of_a_plain_question(server, upstream):
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


async def test_every_setting_is_passed_on(server, upstream):
    sampling = chat_pb2.Sampling(
        temperature=0, top_p=0.5, max_output_tokens=50, seed=0, stop=["END", "."], reasoning_effort="low"
    )
    tool = chat_pb2.Tool(name="weather", description="Says it", parameters='{"type":"object"}')
    schema = '{"type":"object","properties":{"a":{"type":"string"}}}'
    await server.stream(sampling=sampling, tools=[tool], tool_choice="weather", json_schema=schema).end()
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
                "function": {"name": "weather", "description": "Says it", "parameters": {"type": "object"}},
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


async def test_the_model_of_a_request_of_the_conversation_and_the_default(server, upstream):
    first = await server.stream(model="plain").end()
    made = await server.new_conversation(model="plain")
    second = await server.stream(conversation_id=made.id).end()
    third = await server.stream(conversation_id=made.id, model="test").end()
    fourth = await server.stream().end()
    names = [request.json["model"] for request in upstream.requests]
    assert names == ["vendor/plain-1", "vendor/plain-1", "vendor/test-1", "vendor/test-1"]
    models = [watch.chunks[0].accepted.model for watch in (first, second, third, fourth)]
    assert models == ["plain", "plain", "test", "test"]


async def test_a_cancelled_answer_is_part_of_the_next_prompt_and_a_failed_one_is_not(server, upstream):
    """P38."""
    made = await server.new_conversation()
    upstream.reply_next(Script([role(), text("cancelled"), Hang()]), Script([role(), text("failed"), Close()]))
    first = await server.stream("One", conversation_id=made.id).until_text("cancelled")
    await server.cancel(first.reply_id)
    await server.stream("Two", conversation_id=made.id).end()
    await server.stream("Three", conversation_id=made.id).end()
    assert prompt(upstream) == [("user", "One"), ("assistant", "cancelled"), ("user", "Two\n\nThree")]
    page = await server.messages(made.id)
    shown = [(text_of(message), message.partial) for message in reversed(page.messages)]
    assert shown == [
        ("One", False),
        ("cancelled", True),
        ("Two", False),
        ("failed", True),
        ("Three", False),
        ("Hello, world", False),
    ]


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
        said("tool", tool_result=resources_pb2.ToolResult(tool_call_id="c1c1c1c1c", content="rain")),
        said("tool", tool_result=resources_pb2.ToolResult(tool_call_id="c2c2c2c2c", content="sun")),
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


async def test_reasoning_text_does_not_go_back(server, upstream):
    upstream.reply_next(Script([role(), reasoning("hm"), text("42"), finish(), done()]))
    first = await server.stream("One").end()
    await server.stream("Two", conversation_id=first.conversation_id).end()
    assert prompt(upstream) == [("user", "One"), ("assistant", "42"), ("user", "Two")]


async def test_the_trace_is_passed_on(server, upstream):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    for given in (trace, "not a trace", trace.upper()):
        call = server.chat.StreamReply(ask(), metadata=(("traceparent", given),))
        async for _ in call:
            pass
    assert [request.headers.get("traceparent") for request in upstream.requests] == [trace, None, None]


async def test_an_answer_in_progress_is_not_in_anothers_prompt(server, upstream):
    go = asyncio.Event()
    upstream.reply_next(Script([role(), text("half"), Wait(go), text(" whole"), finish(), done()]))
    first = await server.stream("One").until_text("half")
    told = await refused(server.chat.StreamReply(ask("Two", conversation_id=first.conversation_id)))
    assert told.reason == "REPLY_IN_PROGRESS"
    go.set()
    await first.end()
    await server.stream("Two", conversation_id=first.conversation_id).end()
    assert prompt(upstream) == [("user", "One"), ("assistant", "half whole"), ("user", "Two")]
    await until(lambda: not server.running)


async def test_a_result_whose_call_the_conversation_does_not_have_is_refused_by_its_id(server, upstream):
    result = said("tool", tool_result=resources_pb2.ToolResult(tool_call_id="call_x", content="x"))
    first = await server.stream("Hi").end()
    message = "{}.parts[0].tool_result.tool_call_id: no tool call above it has the id 'call_x'"
    for request, place in (
        (ask("", input=[result]), "input[0]"),
        (ask("", input=[said("user", "Hi"), result]), "input[1]"),
        (ask("", input=[result], conversation_id=first.conversation_id), "input[0]"),
    ):
        told = await refused(server.chat.StreamReply(request))
        assert (told.reason, told.message) == ("INVALID_REQUEST", message.format(place))
    creation = conversations_pb2.CreateConversationRequest(messages=[said("user", "Hi"), result])
    told = await refused(server.conversations.CreateConversation(creation))
    assert (told.reason, told.message) == ("INVALID_REQUEST", message.format("messages[1]"))
    assert len(upstream.requests) == 1
