"""What a vendor requires back within a tool turn goes through the whole server, and only within that turn."""

import pytest
from parley.v1 import chat_pb2, resources_pb2

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
async def turn(serve, upstream, speaker):
    """`await turn(*answers)` answers a tool call, then another question; returns the requests and the last text."""
    server = await serve(provider='profile = "openrouter"', models=MODELS)

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


async def test_kept_items_are_sent_within_the_tool_turn(turn, speaker):
    sent, text = await turn(speaker.script(Text("It is 42")), speaker.script(Text("Bye")))
    assert (sent, text) == ([False, True, False], "It is 42")


async def test_kept_items_that_are_refused_are_left_out(turn, speaker):
    sent, text = await turn(REFUSED, speaker.script(Text("It is 42")), speaker.script(Text("Bye")))
    assert (sent, text) == ([False, True, False, False], "It is 42")
