"""Conversations: create, get, list, update, delete, and their messages."""

import asyncio

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from parley.v1 import chat_pb2, conversations_pb2, resources_pb2

from tests.clock import until
from tests.integration.served import ask, error_reason, new_message, refused, text_of
from tests.upstream import Hang, Script, role, text

Conversation = resources_pb2.Conversation
INTERRUPT = chat_pb2.CONCURRENCY_POLICY_INTERRUPT
HANGING = Script([role(), text("on and"), Hang()])


async def listed(caller, **fields):
    request = conversations_pb2.ListConversationsRequest(**fields)
    return await caller.conversations.ListConversations(request)


async def updated(caller, *paths, **fields):
    mask = FieldMask(paths=paths) if paths else None
    request = conversations_pb2.UpdateConversationRequest(conversation=Conversation(**fields), update_mask=mask)
    return await caller.conversations.UpdateConversation(request)


async def test_a_created_conversation_is_returned_unchanged(server):
    ada = server.caller("ada")
    fields = {
        "id": "my-chat",
        "title": "A title",
        "system": ["One", "Two"],
        "post_system": "Post",
        "model": "plain",
        "context": resources_pb2.ContextPolicy(max_messages=10, max_tokens=9, overflow=2, reminder="r"),
        "labels": {"page": "home"},
    }
    texts = [("assistant", "Welcome"), ("user", "Hi"), ("assistant", "Yes?")]
    created = await ada.new_conversation([new_message(*each) for each in texts], **fields)
    page = await ada.messages("my-chat")
    assert created == Conversation(
        **fields,
        head_message_id=page.messages[0].id,
        create_time=created.create_time,
        update_time=created.create_time,
        etag=created.etag,
        end_user="ada",
    )
    assert created.etag
    assert await ada.conversation("my-chat") == await server.conversation("my-chat") == created
    messages = list(reversed(page.messages))
    assert [(text_of(each), each.role) for each in messages] == [("Welcome", 2), ("Hi", 1), ("Yes?", 2)]
    assert [each.parent_id for each in messages] == ["", messages[0].id, messages[1].id]
    brief = Conversation.FromString(created.SerializeToString())
    brief.ClearField("system")
    brief.ClearField("post_system")
    assert list((await listed(ada)).conversations) == [brief]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"id": "not valid"}, "conversation.id"),
        ({"id": "x" * 65}, "conversation.id"),
        ({"head_message_id": "m"}, "conversation.head_message_id"),
        ({"context": resources_pb2.ContextPolicy(max_messages=-1)}, "conversation.context.max_messages"),
        ({"context": resources_pb2.ContextPolicy(max_tokens=-1)}, "conversation.context.max_tokens"),
        ({"context": resources_pb2.ContextPolicy(overflow=3)}, "conversation.context.overflow"),
        ({"context": resources_pb2.ContextPolicy(reminder="\0")}, "conversation.context.reminder"),
        ({"context": resources_pb2.ContextPolicy(reminder_interval=-5)}, "conversation.context.reminder_interval"),
        ({"title": "a\x00"}, "conversation.title"),
        ({"labels": {"": ""}}, "conversation.labels"),
    ],
)
async def test_an_invalid_conversation_is_refused(server, fields, field):
    error = await refused(server.new_conversation(**fields))
    assert (error.reason, error.fields) == ("INVALID_REQUEST", [field])
    if field in ("conversation.id", "conversation.head_message_id"):
        return
    created = await server.new_conversation()
    error = await refused(updated(server, id=created.id, **fields))
    assert (error.reason, error.fields[0].split(".")[0]) == ("INVALID_REQUEST", "conversation")
    assert await server.conversation(created.id) == created


async def test_a_creation_is_refused_with_its_reason(server):
    await server.new_conversation(id="taken")
    assert (await refused(server.new_conversation(id="taken"))).reason == "CONVERSATION_EXISTS"
    assert (await refused(server.new_conversation(model="no-such"))).reason == "MODEL_NOT_FOUND"
    image = resources_pb2.Image(image_id="x")
    assert (await refused(server.new_conversation([new_message("user", image=image)]))).fields == ["messages"]
    assert (await refused(server.new_conversation([new_message("user")]))).fields == ["messages[0].parts"]
    assert (await refused(server.new_conversation(title="t" * 1025))).reason == "INPUT_TOO_LARGE"


async def test_an_update_changes_only_the_named_fields(server):
    created = await server.new_conversation(
        title="One", system=["S"], post_system="P", labels={"a": "1", "b": "2"}, model="plain"
    )
    second = await updated(server, id=created.id, title="Two", labels={"c": "3"})
    assert (second.title, dict(second.labels), second.system, second.model) == ("Two", {"c": "3"}, ["S"], "plain")
    assert second.etag != created.etag
    third = await updated(server, "system", "post_system", "model", "labels", id=created.id, title="ignored")
    assert (third.title, third.post_system, third.model) == ("Two", "", "")
    assert (list(third.system), dict(third.labels)) == ([], {})
    assert third.create_time == created.create_time
    assert await server.conversation(created.id) == third


async def test_each_field_of_the_context_is_updated_alone_or_with_all_others(server):
    full = resources_pb2.ContextPolicy(
        max_messages=7, max_tokens=900, overflow="OVERFLOW_SUMMARIZE", reminder="Be kind", reminder_interval=4
    )
    created = await server.new_conversation()
    expected = resources_pb2.ContextPolicy()
    for field, value in full.ListFields():
        changed = await updated(server, f"context.{field.name}", id=created.id, context=full)
        setattr(expected, field.name, value)
        assert changed.context == expected
    cleared = await updated(server, "context", id=created.id, etag=changed.etag)
    assert not cleared.HasField("context")
    assert (await updated(server, id=created.id, context=full)).context == full
    assert (await server.conversation(created.id)).context == full
    large = resources_pb2.ContextPolicy(reminder="ä" * 4097)
    error = await refused(updated(server, id=created.id, context=large))
    assert (error.reason, error.fields) == ("INPUT_TOO_LARGE", ["conversation.context.reminder"])


async def test_a_refused_update_changes_nothing(server):
    created = await server.new_conversation(title="One")
    for paths in (["id"], ["etag"], ["no_such"], ["title", "create_time"], ["context.no_such"]):
        error = await refused(updated(server, *paths, id=created.id, title="Two"))
        assert (error.reason, error.fields) == ("INVALID_REQUEST", ["update_mask"])
    assert (await refused(updated(server, title="Two"))).fields == ["conversation.id"]
    assert (await refused(updated(server, id=created.id, head_message_id="x"))).reason == "MESSAGE_NOT_FOUND"
    assert (await refused(updated(server, id=created.id, model="no-such"))).reason == "MODEL_NOT_FOUND"
    assert (await refused(updated(server, id="unknown", title="x"))).reason == "CONVERSATION_NOT_FOUND"
    assert (await refused(updated(server, id=created.id, title="x", etag="stale"))).reason == "ETAG_MISMATCH"
    assert await server.conversation(created.id) == created


async def test_of_concurrent_updates_with_one_etag_one_succeeds(server):
    created = await server.new_conversation()
    outcomes = await asyncio.gather(
        *(updated(server, id=created.id, title=str(n), etag=created.etag) for n in range(10)), return_exceptions=True
    )
    won = [each for each in outcomes if isinstance(each, Conversation)]
    assert len(won) == 1
    assert await server.conversation(created.id) == won[0]
    assert {each.code() for each in outcomes if each not in won} == {grpc.StatusCode.ABORTED}


async def test_a_page_token_belongs_to_its_query(server):
    created = [await server.new_conversation([new_message("user", str(n)) for n in range(3)]) for _ in range(3)]
    token = (await listed(server, page_size=1)).next_page_token
    messages = (await server.messages(created[0].id, page_size=1)).next_page_token
    assert token
    assert messages
    for call in (
        listed(server, page_token=token, query="x"),
        listed(server, page_token=token, labels={"a": "b"}),
        listed(server, page_token="garbage"),
        listed(server, page_token=messages),
        server.messages(created[1].id, page_token=messages),
        server.messages(created[0].id, page_token=messages, all_branches=True),
        server.messages(created[0].id, page_token=token),
    ):
        error = await refused(call)
        assert (error.reason, error.fields) == ("INVALID_REQUEST", ["page_token"])
    for call in (listed(server, page_size=-1), server.messages(created[0].id, page_size=-1)):
        assert (await refused(call)).fields == ["page_size"]
    assert len((await listed(server, page_token=token, page_size=50)).conversations) == 2


async def test_a_delete_cancels_then_erases(server, upstream):
    upstream.reply_with(HANGING)
    watch = await server.stream("Ask", labels={"a": "b"}).until_text("on and")
    other = await server.resume(watch.reply_id).until_text("on and")
    await server.delete(watch.conversation_id)
    await until(lambda: upstream.aborts)
    for each in (watch, other):
        await each.end()
        if each.kinds[-1] == "finished":
            assert each.terminal.finished.cancel_reason == "conversation deleted"
        else:
            assert await each.code() == grpc.StatusCode.NOT_FOUND
    assert (await refused(server.get(watch.reply_id))).reason == "REPLY_NOT_FOUND"
    assert (await refused(server.poll(watch.reply_id))).reason == "REPLY_NOT_FOUND"
    assert (await refused(server.cancel(watch.reply_id))).reason == "REPLY_NOT_FOUND"
    assert await server.resume(watch.reply_id).code() == grpc.StatusCode.NOT_FOUND
    for call in (
        server.chat.StreamReply(ask(conversation_id=watch.conversation_id, concurrency=INTERRUPT)),
        server.conversation(watch.conversation_id),
        server.messages(watch.conversation_id),
        server.delete(watch.conversation_id),
        updated(server, id=watch.conversation_id, title="x"),
    ):
        assert (await refused(call)).reason == "CONVERSATION_NOT_FOUND"
    for table in ("conversation", "message", "reply", "checkpoint", "conversation_label", "image"):
        assert server.sql(f"select count(*) from {table}") == [(0,)], table
    assert server.sql("select state, finish_reason, estimated from usage") == [("CANCELLED", "CANCELLED", 1)]
    assert not (await listed(server)).conversations


async def test_a_delete_checks_its_etag(server, upstream):
    created = await server.new_conversation()
    stale = created.etag
    await updated(server, id=created.id, title="x")
    assert (await refused(server.delete(created.id, stale))).reason == "ETAG_MISMATCH"
    fresh = await server.conversation(created.id)
    await server.delete(created.id, fresh.etag)
    upstream.reply_with(HANGING)
    watch = await server.stream().until_text("on and")
    running = await server.conversation(watch.conversation_id)
    await server.delete(watch.conversation_id, running.etag)  # its own cancel changes the etag
    assert (await refused(server.conversation(watch.conversation_id))).reason == "CONVERSATION_NOT_FOUND"


async def test_a_delete_races_the_end(server, upstream):
    """Readers get the terminal chunk or REPLY_NOT_FOUND, and no row remains."""
    for i in range(20):
        watch = server.stream(f"{i}")
        await watch.accepted()
        for _ in range(i * 3):
            await asyncio.sleep(0)
        await server.delete(watch.conversation_id)
        await watch.end()
        assert await watch.code() in (grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND)
        if await watch.code() == grpc.StatusCode.OK:
            assert watch.terminal.finished.reason
    await until(lambda: not server.running)
    for table in ("conversation", "message", "reply", "checkpoint"):
        assert server.sql(f"select count(*) from {table}") == [(0,)], table
    assert server.sql("select count(*) from usage") == [(20,)]


async def test_failed_replies_are_listed_with_their_error(server, upstream):
    upstream.reply_next(Script([role(), text("half")]))
    watch = await server.stream("Ask").end()
    page = await server.messages(watch.conversation_id)
    reply = await server.get(watch.reply_id)
    reply.ClearField("message")
    assert list(page.replies) == [reply]
    assert reply.error.reason == error_reason("PROVIDER_TRUNCATED")


async def test_a_conversation_created_by_a_request_keeps_its_settings(server):
    given = Conversation(
        title="T", system=["S"], labels={"a": "b"}, context=resources_pb2.ContextPolicy(max_messages=3)
    )
    watch = await server.stream(new_conversation=given).end()
    created = await server.conversation(watch.conversation_id)
    for name in ("title", "system", "labels", "context"):
        assert getattr(created, name) == getattr(given, name)
