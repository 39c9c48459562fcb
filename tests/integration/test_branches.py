"""The message tree of a conversation: forks, edits, regenerations, and the position of the head."""

import pytest
from parley.v1 import conversations_pb2, resources_pb2

from tests.integration.served import COMPLETED, ask, new_message, refused, text_of
from tests.upstream import Close, Hang, Script, answer, refusal, role, text


@pytest.fixture
async def dialogue(server, upstream):
    """The id of a conversation with the messages q1 - a1 - q2 - a2."""
    upstream.reply_next(answer("a1"), answer("a2"))
    first = await server.stream("q1").end()
    await server.stream("q2", conversation_id=first.conversation_id).end()
    return first.conversation_id


async def ids(server, conversation_id):
    """Message ids by text, of all branches."""
    tree = await server.messages(conversation_id, all_branches=True)
    return {text_of(message): message.id for message in tree.messages}


async def tree(server, conversation_id):
    """The whole tree as (text, text of its parent), oldest first."""
    page = await server.messages(conversation_id, all_branches=True)
    texts = {message.id: text_of(message) for message in page.messages}
    return [(text_of(each), texts.get(each.parent_id, "")) for each in reversed(page.messages)]


async def branch(server, conversation_id, **fields):
    """The texts of a branch, oldest first."""
    page = await server.messages(conversation_id, **fields)
    return [text_of(message) for message in reversed(page.messages)]


async def test_a_message_after_an_older_answer_forks_the_conversation(server, upstream, dialogue):
    message_ids = await ids(server, dialogue)
    upstream.reply_next(answer("a3"))
    await server.stream("q3", conversation_id=dialogue, after_message_id=message_ids["a1"]).end()
    before = [("q1", ""), ("a1", "q1"), ("q2", "a1"), ("a2", "q2")]
    assert await tree(server, dialogue) == [*before, ("q3", "a1"), ("a3", "q3")]
    assert await branch(server, dialogue) == ["q1", "a1", "q3", "a3"]
    assert await branch(server, dialogue, leaf_message_id=message_ids["a2"]) == ["q1", "a1", "q2", "a2"]
    assert await branch(server, dialogue, leaf_message_id=message_ids["q2"]) == ["q1", "a1", "q2"]


async def test_replacing_a_question_starts_a_new_branch(server, upstream, dialogue):
    message_ids = await ids(server, dialogue)
    upstream.reply_next(answer("a2'"))
    await server.stream("q2'", conversation_id=dialogue, replace_message_id=message_ids["q2"]).end()
    assert (await tree(server, dialogue))[-2:] == [("q2'", "a1"), ("a2'", "q2'")]
    assert [each["content"] for each in upstream.requests[-1].json["messages"]] == ["q1", "a1", "q2'"]
    upstream.reply_next(answer("a1'"))
    await server.stream("q1'", conversation_id=dialogue, replace_message_id=message_ids["q1"]).end()
    assert await branch(server, dialogue) == ["q1'", "a1'"]
    assert [each["content"] for each in upstream.requests[-1].json["messages"]] == ["q1'"]


@pytest.mark.parametrize(("replaced", "prompt"), [("a2", ["q1", "a1", "q2"]), ("q1", ["q1"])])
async def test_replacing_without_a_message_regenerates_the_answer(server, upstream, dialogue, replaced, prompt):
    message_ids = await ids(server, dialogue)
    upstream.reply_next(answer("again"))
    watch = await server.stream("", conversation_id=dialogue, replace_message_id=message_ids[replaced]).end()
    assert not watch.chunks[0].accepted.input_message_ids
    assert (await tree(server, dialogue))[-1] == ("again", prompt[-1])
    assert await branch(server, dialogue) == [*prompt, "again"]
    assert [each["content"] for each in upstream.requests[-1].json["messages"]] == prompt


@pytest.mark.parametrize("script", [refusal(500), Script([role(), Hang()])], ids=["failed", "cancelled"])
async def test_a_retry_after_a_reply_without_text_answers_the_question(server, upstream, script):
    upstream.reply_next(script, answer("at last"))
    watch = server.stream("q")
    accepted = (await watch.accepted()).accepted
    if script.status == 200:
        await server.cancel(watch.reply_id)
    await watch.end()
    conversation_id = accepted.conversation_id
    again = await server.stream("", conversation_id=conversation_id, replace_message_id=accepted.message_id).end()
    assert again.text == "at last"
    assert await tree(server, conversation_id) == [("q", ""), ("at last", "q")]
    assert [each["content"] for each in upstream.requests[-1].json["messages"]] == ["q"]


async def test_a_retry_after_a_failure_becomes_a_sibling_of_the_partial_answer(server, upstream):
    upstream.reply_next(Script([role(), text("half"), Close()]), answer("whole"))
    watch = await server.stream("q").end()
    accepted = watch.chunks[0].accepted
    await server.stream("", conversation_id=watch.conversation_id, replace_message_id=accepted.message_id).end()
    assert [each["content"] for each in upstream.requests[-1].json["messages"]] == ["q"]
    assert await tree(server, watch.conversation_id) == [("q", ""), ("half", "q"), ("whole", "q")]
    assert await branch(server, watch.conversation_id) == ["q", "whole"]


async def test_the_end_of_a_reply_does_not_move_a_switched_head(server, upstream, dialogue):
    message_ids = await ids(server, dialogue)
    upstream.reply_next(Script([role(), text("late"), Hang()]))
    watch = await server.stream("q3", conversation_id=dialogue).until_text("late")
    changed = resources_pb2.Conversation(id=dialogue, head_message_id=message_ids["a1"])
    request = conversations_pb2.UpdateConversationRequest(conversation=changed)
    assert (await server.conversations.UpdateConversation(request)).head_message_id == message_ids["a1"]
    await server.cancel(watch.reply_id)
    await watch.end()
    assert (await server.conversation(dialogue)).head_message_id == message_ids["a1"]
    assert await branch(server, dialogue) == ["q1", "a1"]
    assert ("late", "q3") in await tree(server, dialogue)
    upstream.reply_next(answer("a4"))
    await server.stream("q4", conversation_id=dialogue).end()
    assert await branch(server, dialogue) == ["q1", "a1", "q4", "a4"]


async def test_the_head_moves_to_the_message_and_then_to_the_answer(server, upstream):
    upstream.reply_next(Script([role(), text("x"), Hang()]))
    watch = await server.stream("q").until_text("x")
    accepted = watch.chunks[0].accepted
    assert (await server.conversation(watch.conversation_id)).head_message_id == accepted.input_message_ids[0]
    await server.cancel(watch.reply_id)
    assert (await server.conversation(watch.conversation_id)).head_message_id == accepted.message_id


async def test_a_request_without_a_message_to_answer_is_refused(server, dialogue):
    created = await server.new_conversation()
    for fields in ({"conversation_id": dialogue}, {"conversation_id": created.id}):
        error = await refused(server.chat.StreamReply(ask("", **fields)))
        assert (error.reason, error.fields) == ("INVALID_REQUEST", ["input"])


async def test_an_imported_history_can_be_continued(server, upstream):
    created = await server.new_conversation([new_message("user", "old q"), new_message("assistant", "old a")])
    upstream.reply_next(answer("new a"))
    watch = await server.stream("new q", conversation_id=created.id).end()
    assert await branch(server, created.id) == ["old q", "old a", "new q", "new a"]
    assert (await server.get(watch.reply_id)).state == COMPLETED
    greeting = await server.new_conversation([new_message("assistant", "Welcome!")])
    upstream.reply_next(answer("a"))
    await server.stream("q", conversation_id=greeting.id).end()
    assert await tree(server, greeting.id) == [("Welcome!", ""), ("q", "Welcome!"), ("a", "q")]
