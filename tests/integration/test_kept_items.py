"""What a vendor requires back within a tool turn goes through the whole server, and only within that turn."""

import pytest
from parley.v1 import chat_pb2, resources_pb2
from parley_server.providers.reading.kept import MAX_KEPT_BYTES

from tests.dialects.openai import ChatSpeaker, ResponsesSpeaker
from tests.dialects.speakers import Call, Reasoning, Text
from tests.integration.served import new_message
from tests.upstream import refusal

TOOL = chat_pb2.Tool(name="look", parameters="{}")
REFUSED = refusal(400, {"error": {"message": "x", "code": "invalid_encrypted_content"}})
KEPT = {"responses": b'"encrypted_content":"c2VhbGVk"', "chat": b'"signature":"c2ln"'}
MODELS = """
[models.responses]
provider = "up"
name = "r"
api = "responses"
"""


@pytest.fixture(params=[ChatSpeaker(), ResponsesSpeaker()], ids=lambda speaker: speaker.name)
def speaker(request):
    return request.param


@pytest.fixture
async def tools_server(serve):
    return await serve(provider='profile = "openrouter"', models=MODELS)


@pytest.fixture
async def turn(tools_server, upstream, speaker):
    """`await turn(*answers)` answers a tool call, then another question; returns the requests and the last text."""
    server = tools_server

    async def turn(*answers):
        model = "responses" if speaker.api == "responses" else "test"
        created = await server.new_conversation(model=model)
        called = speaker.script(Reasoning("hm"), Call("call_1", "look", ('{"a": 1}',)))
        upstream.reply_next(called, *answers)
        await server.stream("Look", tools=[TOOL], conversation_id=created.id).end()
        result = new_message("tool", tool_result=resources_pb2.ToolResult(tool_call_id="call_1", content="42"))
        answer = await server.stream("", input=[result], tools=[TOOL], conversation_id=created.id).end()
        await server.stream("Thanks", tools=[TOOL], conversation_id=created.id).end()
        return [KEPT[speaker.name] in request.body for request in upstream.requests], answer.text

    return turn


def counted(server, outcome):
    return server.app.telemetry.registry.get_sample_value("parley_kept_total", {"outcome": outcome})


async def test_kept_items_are_sent_within_the_tool_turn(turn, speaker, tools_server):
    sent, text = await turn(speaker.script(Text("It is 42")), speaker.script(Text("Bye")))
    assert (sent, text) == ([False, True, False], "It is 42")
    assert (counted(tools_server, "stored"), counted(tools_server, "too_large")) == (1, None)


async def test_kept_items_that_are_refused_are_left_out(turn, speaker):
    sent, text = await turn(REFUSED, speaker.script(Text("It is 42")), speaker.script(Text("Bye")))
    assert (sent, text) == ([False, True, False, False], "It is 42")


async def test_kept_items_that_are_too_large_are_dropped_and_counted(tools_server, upstream):
    speaker = ResponsesSpeaker()
    created = await tools_server.new_conversation(model="responses")
    arguments = '{"a": "' + "x" * MAX_KEPT_BYTES + '"}'
    upstream.reply_next(speaker.script(Reasoning("hm"), Call("call_1", "look", (arguments,))))
    await tools_server.stream("Look", tools=[TOOL], conversation_id=created.id).end()
    assert (counted(tools_server, "stored"), counted(tools_server, "too_large")) == (None, 1)
