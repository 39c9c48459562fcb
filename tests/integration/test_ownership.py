"""P39: resources of another end user or tenant give the same answer, from the same queries, as an unknown id."""

from functools import partial

import pytest
from parley.v1 import chat_pb2, conversations_pb2, resources_pb2
from sqlalchemy import event

from tests.integration.served import COMPLETED, STREAMING, ask, new_message, refused, tenant, until_sql
from tests.upstream import Hang, Script, role, text

PNG = b"\x89PNG\r\n\x1a\n" + b"\x00" * 20
HANGING = Script([role(), text("on and"), Hang()])
Conversation = resources_pb2.Conversation


def calls_of(caller, ids):
    """A function for every call that names a resource, with these ids."""
    conversation, message, own = ids["conversation"], ids["message"], ids["own"]
    image = new_message("user", "x", image=resources_pb2.Image(image_id=ids["image"]))
    pb = conversations_pb2
    chat = {
        "StreamReply": ask(conversation_id=conversation),
        "StreamReply INTERRUPT": ask(conversation_id=conversation, concurrency=2),
        "StreamReply after": ask(conversation_id=conversation, after_message_id=message),
        "StreamReply replace": ask("", conversation_id=conversation, replace_message_id=message),
        "StreamReply after, own conversation": ask(conversation_id=own, after_message_id=message),
        "StreamReply replace, own conversation": ask("", conversation_id=own, replace_message_id=ids["answer"]),
        "StreamReply image, own conversation": ask("", input=[image], conversation_id=own),
        "CreateReply": ask(conversation_id=conversation),
        "ResumeReply": chat_pb2.ResumeReplyRequest(reply_id=ids["reply"]),
        "PollReply": chat_pb2.PollReplyRequest(reply_id=ids["reply"]),
        "GetReply": chat_pb2.GetReplyRequest(reply_id=ids["reply"]),
        "Cancel reply": chat_pb2.CancelRequest(reply_id=ids["reply"]),
        "Cancel conversation": chat_pb2.CancelRequest(conversation_id=conversation),
        "Cancel request": chat_pb2.CancelRequest(request_id=ids["request"]),
    }
    changes = {
        "UpdateConversation": Conversation(id=conversation, title="x"),
        "UpdateConversation head": Conversation(id=own, head_message_id=message),
        "UpdateConversation etag": Conversation(id=conversation, title="x", etag="nonsense"),
    }
    conversations = {
        "GetConversation": pb.GetConversationRequest(conversation_id=conversation),
        **{name: pb.UpdateConversationRequest(conversation=change) for name, change in changes.items()},
        "DeleteConversation": pb.DeleteConversationRequest(conversation_id=conversation),
        "ListMessages": pb.ListMessagesRequest(conversation_id=conversation),
        "ListMessages tree": pb.ListMessagesRequest(conversation_id=conversation, all_branches=True),
        "ListMessages leaf": pb.ListMessagesRequest(conversation_id=own, leaf_message_id=message),
        "GetImage": pb.GetImageRequest(image_id=ids["image"]),
    }
    return {
        name: partial(getattr(stub, name.split()[0]), request)
        for stub, requests in ((caller.chat, chat), (caller.conversations, conversations))
        for name, request in requests.items()
    }


STRANGERS = {"another user": ("ben", "key-of-shop"), "another tenant": ("ada", "key-of-bank")}


@pytest.fixture(params=STRANGERS)
def stranger(request):
    """The end user and the API key of the stranger."""
    return STRANGERS[request.param]


@pytest.fixture(params=["running", "ended", "restarted"])
async def foreign(request, serve, upstream, stranger):
    """The server, a stranger as a caller, ids of ada's resources, unknown ids of the same lengths, and her reply's
    state.

    Both sets of ids contain a conversation of the stranger as `own`."""
    server = await serve(access=tenant("shop", "key-of-shop") + tenant("bank", "key-of-bank"))
    ada = server.caller("ada", bearer="key-of-shop")
    if request.param == "running":
        upstream.reply_next(HANGING)
    message = new_message("user", "secret", image=resources_pb2.Image(data=PNG))
    watch = ada.stream("", input=[message], request_id="adas-key")
    if request.param == "running":
        await watch.until_text("on and")
        await until_sql(server, "select to_sequence from checkpoint", [(1,)])  # no journal write follows
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
    end_user, key = stranger
    ben = server.caller(end_user, bearer=key)
    own = (await ben.new_conversation([new_message("user", "mine")])).id
    unknown = {name: "0" * len(value) for name, value in names.items()}
    state = STREAMING if request.param == "running" else COMPLETED
    return server, ben, names | {"own": own}, unknown | {"own": own}, state


def counted(server):
    """A list to which both engines append their SQL statements."""
    statements = []
    database = server.app.mode.store._database
    for engine in (database.reader, database.writer):

        @event.listens_for(engine, "before_cursor_execute")
        def _note(connection, cursor, statement, parameters, context, executemany):
            if not statement.startswith(("BEGIN", "PRAGMA")):
                statements.append(statement)

    return statements


async def test_a_resource_of_a_stranger_is_not_found(foreign):
    server, ben, names, unknown, state = foreign
    statements = counted(server)
    for task in server.app._background:
        task.cancel()  # so that only the queries of calls are counted
    foreign_calls, unknown_calls = calls_of(ben, names), calls_of(ben, unknown)
    rows = server.sql("select count(*) from message")
    for call in foreign_calls:
        statements.clear()
        error = await refused(foreign_calls[call]())
        queries = list(statements)
        statements.clear()
        expected = await refused(unknown_calls[call]())
        assert error.code.name == "NOT_FOUND", call
        assert vars(error) == vars(expected), call
        assert queries == statements, call
    ada = server.caller("ada", bearer="key-of-shop")
    reply = await ada.get(names["reply"])
    assert (reply.state, server.sql("select count(*) from message")) == (state, rows)
    assert server.sql("select title from conversation where tenant = 'shop' and end_user = 'ada'") == [("",)]


async def test_lists_contain_only_own_resources(server):
    ada, ben = server.caller("ada"), server.caller("ben")
    for caller, name in ((ada, "a"), (ben, "b"), (server, "t")):
        await caller.new_conversation(id=name)
    found = {}
    for who, caller in (("ada", ada), ("ben", ben), ("tenant", server)):
        page = await caller.conversations.ListConversations(conversations_pb2.ListConversationsRequest())
        found[who] = sorted(each.id for each in page.conversations)
    assert found == {"ada": ["a"], "ben": ["b"], "tenant": ["a", "b", "t"]}


async def test_the_tenant_sees_all_replies_and_an_end_user_only_its_own(server, upstream):
    ada = server.caller("ada")
    watch = await ada.stream().end()
    assert (await server.get(watch.reply_id)).state == COMPLETED
    assert (await server.resume(watch.reply_id).end()).text == watch.text
    second = await server.stream("More", conversation_id=watch.conversation_id).end()
    assert (await ada.get(second.reply_id)).state == COMPLETED  # a reply in Ada's conversation is Ada's
    assert server.sql("select distinct end_user from message") == [("ada",)]
    own = await server.stream().end()
    assert (await refused(ada.get(own.reply_id))).reason == "REPLY_NOT_FOUND"
