"""Replies that ended without a message are listed in the branch that they belong to."""

from __future__ import annotations

import msgspec
import pytest
from parley_server.core.model import FinishReason, ReplyError, State
from parley_server.core.store_types import MessageFilter
from parley_server.errors import Reason

from tests.contract.store_values import (
    ADA,
    NOW_US,
    SECOND_US,
    accepted,
    chain,
    created,
    finalisation,
    user_message,
)

ERROR = ReplyError(reason=Reason.PROVIDER_TIMEOUT, message="no first token came", retryable=True)


async def started(store, conversation, *, after_s=0, **fields):
    """A reply after the head, or at the position in `fields`, and its input, accepted at `NOW_US` plus `after_s`."""
    now_us = NOW_US + after_s * SECOND_US
    current = await store.get_conversation(ADA, conversation.id)
    parent = fields.get("parent", current.head_message_id)
    said = msgspec.structs.replace(user_message(parent=parent), create_time_us=now_us)
    return await accepted(store, current, **{"messages": (said,), "now_us": now_us} | fields)


async def failed(store, conversation, **fields):
    """A turn whose reply fails before its first token."""
    reply = await started(store, conversation, **fields)
    ended = await store.finalise(finalisation(reply, "", state=State.FAILED, finish_reason=None, error=ERROR))
    return ended.reply


async def went_well(store, conversation, **fields):
    """A turn whose reply is stored with a message."""
    return (await store.finalise(finalisation(await started(store, conversation, **fields)))).reply


async def replies(store, conversation, **which):
    page = await store.list_messages(ADA, MessageFilter(conversation_id=conversation.id, **which), 50)
    return [reply.id for reply in page.replies]


async def test_a_reply_that_failed_before_its_first_token_is_listed_with_its_error(store):
    conversation = await created(store)
    first = await went_well(store, conversation)
    second = await failed(store, conversation)
    page = await store.list_messages(ADA, MessageFilter(conversation_id=conversation.id), 50)
    assert [message.id for message in page.messages] == [
        second.parent_message_id,
        first.message_id,
        first.parent_message_id,
    ]
    assert [reply.id for reply in page.replies] == [second.id, first.id]
    assert page.replies[0].state is State.FAILED
    assert page.replies[0].error == ERROR
    assert page.replies[0].message_id == second.message_id


@pytest.mark.parametrize(
    "end",
    [
        {"state": State.CANCELLED, "finish_reason": FinishReason.CANCELLED},
        {"state": State.COMPLETED, "finish_reason": FinishReason.CONTENT_FILTER},
    ],
    ids=["cancelled", "filtered"],
)
async def test_a_reply_that_ended_otherwise_without_a_message_is_listed(store, end):
    conversation = await created(store)
    reply = await accepted(store, conversation)
    assert await replies(store, conversation) == []
    await store.finalise(finalisation(reply, "", **end))
    assert await replies(store, conversation) == [reply.id]


async def test_a_reply_without_message_is_not_listed_in_another_branch(store):
    conversation = await created(store)
    first = await went_well(store, conversation)
    second = await failed(store, conversation)
    edit = await went_well(store, conversation, parent=first.message_id)
    assert await replies(store, conversation, leaf=first.message_id) == [first.id]
    assert await replies(store, conversation, leaf=second.parent_message_id) == [second.id, first.id]
    assert await replies(store, conversation, leaf=edit.message_id) == [edit.id, first.id]
    assert await replies(store, conversation, all_branches=True) == [edit.id, second.id, first.id]


async def test_a_successful_attempt_replaces_a_failed_one(store):
    conversation = await created(store)
    failure = await failed(store, conversation)
    attempt = await went_well(store, conversation, messages=(), parent=failure.parent_message_id)
    assert await replies(store, conversation) == [attempt.id]
    assert await replies(store, conversation, leaf=failure.parent_message_id) == [failure.id]
    assert await replies(store, conversation, all_branches=True) == [attempt.id, failure.id]


async def test_the_newest_of_several_failed_attempts_is_listed(store):
    conversation = await created(store)
    first = await failed(store, conversation)
    again = {"messages": (), "parent": first.parent_message_id}
    await failed(store, conversation, after_s=1, **again)
    third = await failed(store, conversation, after_s=2, **again)
    assert await replies(store, conversation) == [third.id]
    assert await replies(store, conversation, all_branches=True) == [third.id]


async def test_a_failed_reply_keeps_its_place_when_the_conversation_continues(store):
    conversation = await created(store)
    failure = await failed(store, conversation)
    answer = await went_well(store, conversation, after_s=1)
    other = await failed(store, conversation, messages=(), parent=failure.parent_message_id, after_s=2)
    assert await replies(store, conversation, leaf=answer.message_id) == [answer.id, failure.id]
    assert await replies(store, conversation, leaf=failure.parent_message_id) == [other.id]


async def test_a_failed_first_reply_is_listed_without_any_message(store):
    (greeting,) = chain("hello")
    conversation = await created(store, ADA, greeting)
    failure = await failed(store, conversation, messages=(), parent="")
    page = await store.list_messages(ADA, MessageFilter(conversation_id=conversation.id), 50)
    assert (page.messages, [reply.id for reply in page.replies]) == ((), [failure.id])
    assert await replies(store, conversation, leaf=greeting.id) == []


@pytest.mark.parametrize("all_branches", [False, True])
@pytest.mark.parametrize("limit", [1, 2, 3, 50])
async def test_a_reply_without_message_is_on_exactly_one_page(store, limit, all_branches):
    conversation = await created(store)
    ended = []
    for number, turn in enumerate([failed, went_well, failed, failed, went_well, failed]):
        ended.append(await turn(store, conversation, after_s=number))
    found, cursor = [], ""
    while True:
        which = MessageFilter(conversation_id=conversation.id, cursor=cursor, all_branches=all_branches)
        page = await store.list_messages(ADA, which, limit)
        found += [reply.id for reply in page.replies]
        if not (cursor := page.next_cursor):
            break
    assert found == [reply.id for reply in reversed(ended)]


async def test_a_reply_without_message_is_not_listed_in_another_conversation(store):
    conversation, other = await created(store), await created(store)
    await failed(store, conversation)
    assert await replies(store, other) == []
    assert await replies(store, other, all_branches=True) == []
