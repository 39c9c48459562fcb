"""P39: resources of another end user give the same answer, from the same queries, as an unknown id."""

import pytest
from parley.v1 import chat_pb2, conversations_pb2, resources_pb2
from sqlalchemy import event

from tests.integration.served import COMPLETED, STREAMING, ask, refused, said, until_sql
from tests.upstream import Hang, Script, role, text

PNG = b"\x89PNG\r\n\x1a\n" + b"\x00" * 20
HANGING = Script([role(), text("on and"), Hang()])
Conversation = resources_pb2.Conversation


def calls_of(caller, ids):
    """Every call that names something, with these ids."""
    chat, conversations = caller.chat, caller.conversations
    image = said("user", "x", image=resources_pb2.Image(image_id=ids["image"]))
    return {
        "StreamReply": lambda: chat.StreamReply(ask(conversation_id=ids["conversation"])),
        "StreamReply INTERRUPT": lambda: chat.StreamReply(ask(conversation_id=ids["conversation"], concurrency=2)),
        "StreamReply after": lambda: chat.StreamReply(
            ask(conversation_id=ids["conversation"], after_message_id=ids["message"])
        ),
        "StreamReply replace": lambda: chat.StreamReply(
            ask("", conversation_id=ids["conversation"], replace_message_id=ids["message"])
        ),
        "StreamReply after, own conversation": lambda: chat.StreamReply(
            ask(conversation_id=ids["own"], after_message_id=ids["message"])
        ),
        "StreamReply replace, own conversation": lambda: chat.StreamReply(
            ask("", conversation_id=ids["own"], replace_message_id=ids["answer"])
        ),
        "StreamReply image, own conversation": lambda: chat.StreamReply(
            ask("", input=[image], conversation_id=ids["own"])
        ),
        "CreateReply": lambda: chat.CreateReply(ask(conversation_id=ids["conversation"])),
        "ResumeReply": lambda: chat.ResumeReply(chat_pb2.ResumeReplyRequest(reply_id=ids["reply"])),
        "PollReply": lambda: chat.PollReply(chat_pb2.PollReplyRequest(reply_id=ids["reply"])),
        "GetReply": lambda: chat.GetReply(chat_pb2.GetReplyRequest(reply_id=ids["reply"])),
        "Cancel reply": lambda: chat.Cancel(chat_pb2.CancelRequest(reply_id=ids["reply"])),
        "Cancel conversation": lambda: chat.Cancel(chat_pb2.CancelRequest(conversation_id=ids["conversation"])),
        "Cancel request": lambda: chat.Cancel(chat_pb2.CancelRequest(request_id=ids["request"])),
        "GetConversation": lambda: conversations.GetConversation(
            conversations_pb2.GetConversationRequest(conversation_id=ids["conversation"])
        ),
        "UpdateConversation": lambda: conversations.UpdateConversation(
            conversations_pb2.UpdateConversationRequest(conversation=Conversation(id=ids["conversation"], title="x"))
        ),
        "UpdateConversation head": lambda: conversations.UpdateConversation(
            conversations_pb2.UpdateConversationRequest(
                conversation=Conversation(id=ids["own"], head_message_id=ids["message"])
            )
        ),
        "UpdateConversation etag": lambda: conversations.UpdateConversation(
            conversations_pb2.UpdateConversationRequest(
                conversation=Conversation(id=ids["conversation"], title="x", etag="nonsense")
            )
        ),
        "DeleteConversation": lambda: conversations.DeleteConversation(
            conversations_pb2.DeleteConversationRequest(conversation_id=ids["conversation"])
        ),
        "ListMessages": lambda: conversations.ListMessages(
            conversations_pb2.ListMessagesRequest(conversation_id=ids["conversation"])
        ),
        "ListMessages tree": lambda: conversations.ListMessages(
            conversations_pb2.ListMessagesRequest(conversation_id=ids["conversation"], all_branches=True)
        ),
        "ListMessages leaf": lambda: conversations.ListMessages(
            conversations_pb2.ListMessagesRequest(conversation_id=ids["own"], leaf_message_id=ids["message"])
        ),
        "GetImage": lambda: conversations.GetImage(conversations_pb2.GetImageRequest(image_id=ids["image"])),
    }


CALLS = list(calls_of(type("", (), {"chat": None, "conversations": None}), dict.fromkeys(("image",), "")))


@pytest.fixture(params=["running", "ended", "restarted"])
async def theirs(request, server, upstream):
    """Ada's ids, those of nothing, and Ben, who has a conversation of his own; and the server."""
    ada = server.caller("ada")
    if request.param == "running":
        upstream.reply_next(HANGING)
    message = said("user", "secret", image=resources_pb2.Image(data=PNG))
    watch = ada.stream("", input=[message], request_id="adas-key")
    if request.param == "running":
        await watch.until_text("on and")
        await until_sql(server, "select to_sequence from checkpoint", [(1,)])  # nothing is left to journal
    else:
        await watch.end()
    accepted = watch.chunks[0].accepted
    page = await ada.messages(accepted.conversation_id)
    names = {
        "conversation": accepted.conversation_id,
        "reply": watch.reply_id,
        "message": accepted.input_message_ids[0],
        "answer": accepted.message_id,
        "image": page.messages[-1].parts[1].image.image_id,
        "request": "adas-key",
    }
    if request.param == "restarted":
        server = await server.restart()
    ben = server.caller("ben")
    own = (await ben.new_conversation([said("user", "mine")])).id
    nothing = {name: "0" * len(value) for name, value in names.items()}
    state = STREAMING if request.param == "running" else COMPLETED
    return server, ben, names | {"own": own}, nothing | {"own": own}, state


def counted(server):
    """A list that the SQL statements of both engines are added to."""
    statements = []
    database = server.app.mode.store._database
    for engine in (database.reader, database.writer):

        @event.listens_for(engine, "before_cursor_execute")
        def _note(connection, cursor, statement, parameters, context, executemany):
            if not statement.startswith(("BEGIN", "PRAGMA")):
                statements.append(statement)

    return statements


async def test_a_resource_of_another_end_user_is_not_found(theirs):
    server, ben, names, nothing, state = theirs
    statements = counted(server)
    for task in server.app._background:
        task.cancel()  # their queries are not the calls'
    hers, unknown = calls_of(ben, names), calls_of(ben, nothing)
    rows = server.sql("select count(*) from message")
    for call in CALLS:
        statements.clear()
        told = await refused(hers[call]())
        queries = list(statements)
        statements.clear()
        expected = await refused(unknown[call]())
        assert told.code.name == "NOT_FOUND", call
        same = (told.code, told.message, told.raw, told.plain, told.initial_metadata)
        assert same == (expected.code, expected.message, expected.raw, expected.plain, expected.initial_metadata), call
        assert told.trailer_bytes == expected.trailer_bytes
        assert queries == statements, call
    ada = server.caller("ada")
    reply = await ada.get(names["reply"])
    assert (reply.state, server.sql("select count(*) from message")) == (state, rows)
    assert server.sql("select title from conversation where end_user = 'ada'") == [("",)]


async def test_lists_contain_only_own_resources(server):
    ada, ben = server.caller("ada"), server.caller("ben")
    for caller, name in ((ada, "a"), (ben, "b"), (server, "t")):
        await caller.new_conversation(id=name)
    found = {}
    for who, caller in (("ada", ada), ("ben", ben), ("tenant", server)):
        page = await caller.conversations.ListConversations(conversations_pb2.ListConversationsRequest())
        found[who] = sorted(each.id for each in page.conversations)
    assert found == {"ada": ["a"], "ben": ["b"], "tenant": ["a", "b", "t"]}


async def test_the_tenant_sees_all_and_an_end_user_only_its_own(server, upstream):
    ada = server.caller("ada")
    watch = await ada.stream().end()
    assert (await server.get(watch.reply_id)).state == COMPLETED
    assert (await server.resume(watch.reply_id).end()).text == watch.text
    second = await server.stream("More", conversation_id=watch.conversation_id).end()
    assert (await ada.get(second.reply_id)).state == COMPLETED  # a reply in Ada's conversation is Ada's
    assert server.sql("select distinct end_user from message") == [("ada",)]
    own = await server.stream().end()
    assert (await refused(ada.get(own.reply_id))).reason == "REPLY_NOT_FOUND"
