"""The limits of what the calls about conversations and replies take: the limit is accepted, one more is refused."""

from __future__ import annotations

import grpc
import pytest
from parley.v1 import admin_pb2, chat_pb2, conversations_pb2, resources_pb2

from tests.integration.served import Refusal, refused


def listing(**fields):
    return lambda caller: caller.conversations.ListConversations(conversations_pb2.ListConversationsRequest(**fields))


def update(**fields):
    given = resources_pb2.Conversation(id="c", **fields)
    return lambda caller: caller.conversations.UpdateConversation(
        conversations_pb2.UpdateConversationRequest(conversation=given)
    )


def delete(etag):
    return lambda caller: caller.conversations.DeleteConversation(
        conversations_pb2.DeleteConversationRequest(conversation_id="c", etag=etag)
    )


def cancel(reason):
    return lambda caller: caller.chat.Cancel(chat_pb2.CancelRequest(request_id="r", reason=reason))


def usage(**fields):
    return lambda caller: caller.admin.ListUsage(admin_pb2.ListUsageRequest(**fields))


def key(rpc, kind, **fields):
    return lambda caller: getattr(caller.admin, rpc)(kind(**fields))


def set_key(**fields):
    return key("SetProviderKey", admin_pb2.SetProviderKeyRequest, **fields)


def delete_key(**fields):
    return key("DeleteProviderKey", admin_pb2.DeleteProviderKeyRequest, **fields)


ROWS = {
    "provider": (lambda n: set_key(provider="x" * n), 128, "provider"),
    "provider of a deleted key": (lambda n: delete_key(provider="x" * n), 128, "provider"),
    "query": (lambda n: listing(query="x" * n), 256, "query"),
    "title": (lambda n: update(title="x" * n), 1024, "conversation.title"),
    "model": (lambda n: update(model="x" * n), 128, "conversation.model"),
    "system": (lambda n: update(system=["x"] * n), 64, "conversation.system"),
    "labels": (lambda n: update(labels={str(i): "" for i in range(n)}), 16, "conversation.labels"),
    "etag": (lambda n: update(etag="x" * n, title="t"), 64, "conversation.etag"),
    "etag of a delete": (lambda n: delete("x" * n), 64, "etag"),
    "reason": (lambda n: cancel("x" * n), 1024, "reason"),
    "tenant of usage": (lambda n: usage(tenant="x" * n), 128, "tenant"),
    "page token": (lambda n: listing(page_token="x" * n), 2048, "page_token"),
    "page token of usage": (lambda n: usage(page_token="x" * n), 2048, "page_token"),
}
# At the limit, these calls are refused for other reasons: nothing has the invented name.
OTHERS = {
    "provider": "NOT_CONFIGURED",
    "model": "MODEL_NOT_FOUND",
    "etag": "ETAG_MISMATCH",
    "etag of a delete": "ETAG_MISMATCH",
}
OTHERS |= {"page token": "INVALID_REQUEST", "page token of usage": "INVALID_REQUEST", "reason": "REPLY_NOT_FOUND"}


@pytest.fixture
async def conversation(server):
    return await server.new_conversation(id="c")


async def reason_of(call):
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return Refusal(error).reason
    return None


async def test_the_limit_is_accepted_and_one_more_is_refused(server, conversation):
    for name, (call_of, limit, path) in ROWS.items():
        above = await refused(call_of(limit + 1)(server))
        assert (above.reason, above.fields) == ("INPUT_TOO_LARGE", [path]), name
        assert above.info.metadata["limit"].startswith(f"{limit} "), name
        assert await reason_of(call_of(limit)(server)) == OTHERS.get(name), name


@pytest.mark.parametrize(
    "call",
    [listing(query="a\x1b"), update(title="a\n"), cancel("a\x85"), delete("a\x7f"), listing(labels={"a\t": "b"})],
)
async def test_control_characters_are_refused_in_names(server, call):
    assert (await refused(call(server))).reason == "INVALID_REQUEST"


async def test_a_full_conversation_takes_no_more_messages(server, upstream, conversation):
    server.sql("UPDATE conversation SET next_position = 99999")
    assert (
        await server.create("Hi", model="scripted", conversation_id="c")
    ).state == resources_pb2.Reply.STATE_COMPLETED
    refusal = await refused(server.chat.CreateReply(chat_pb2.ReplyRequest(text="Hi", conversation_id="c")))
    assert (refusal.reason, refusal.fields) == ("INPUT_TOO_LARGE", ["conversation_id"])
