"""Conversations continue after failures with an upstream that requires alternating roles."""

import itertools

import pytest
from parley.v1 import chat_pb2, resources_pb2

from tests.clock import until
from tests.integration.served import new_message
from tests.upstream import Close, Hang, Script, answer, done, finish, refusal, role, text, tool_call

TOOL = chat_pb2.Tool(name="weather", parameters="{}")


def strict(request) -> Script:
    """Accepts only the order of roles that the chat templates of Mistral and Llama accept."""
    roles = [message["role"] for message in request.json["messages"]]
    if roles[:1] == ["system"]:
        roles = roles[1:]
    allowed = {"user": ("assistant",), "assistant": ("user", "tool"), "tool": ("tool", "assistant")}
    follows = all(after in allowed[before] for before, after in itertools.pairwise(roles))
    if roles[:1] == ["user"] and follows:
        return answer("Hello")
    return refusal(400, {"error": {"message": "roles must alternate user/assistant/user/assistant/..."}})


@pytest.fixture
def upstream(upstream):
    upstream.reply_with(strict)
    return upstream


async def test_roles_alternate_after_failed_turns(server, upstream):
    created = await server.new_conversation(post_system="Be brief.")
    upstream.reply_next(refusal(500), Script([role(), text("half"), Close()]))
    texts = [(await server.stream(str(n), conversation_id=created.id).end()).text for n in range(4)]
    assert texts == ["", "half", "Hello", "Hello"]


async def test_roles_alternate_after_a_cancel_before_the_first_token(server, upstream):
    created = await server.new_conversation()
    upstream.reply_next(Script([Hang()]))
    first = server.stream("One", conversation_id=created.id)
    await first.accepted()
    await until(lambda: len(upstream.requests) == 1)
    await server.cancel(first.reply_id)
    for question in ("Two", "Three"):
        assert (await server.stream(question, conversation_id=created.id).end()).text == "Hello"


async def test_roles_alternate_after_a_failed_turn_with_tool_results(server, upstream):
    created = await server.new_conversation()
    called = Script([role(), tool_call(0, "{}", call_id="c1", name="weather"), finish("tool_calls"), done()])
    upstream.reply_next(called, refusal(500))
    await server.stream("Weather?", tools=[TOOL], conversation_id=created.id).end()
    result = new_message("tool", tool_result=resources_pb2.ToolResult(tool_call_id="c1", content="rain"))
    failed = await server.stream("", input=[result], tools=[TOOL], conversation_id=created.id).end()
    assert failed.terminal.HasField("failed")
    for question in ("And now?", "Thanks"):
        assert (await server.stream(question, conversation_id=created.id).end()).text == "Hello"
