"""Rows S3.1 to S3.5 through the HTTP face of document 003: Express, server-sent events, a quota before the model."""

from __future__ import annotations

import asyncio

from parley.v1 import resources_pb2

from tests.dialects.speakers import Counts
from tests.products.browsing import shape
from tests.products.lanes import START_LIMIT, lane
from tests.products.models import KEY
from tests.upstream import Close, Wait

PRODUCT = "express"
pytestmark = [lane(PRODUCT), START_LIMIT]


async def test_s3_1_the_question_is_stored_at_once_and_the_answer_after_the_stream(stand, ada, model):
    go_on = asyncio.Event()
    model.says("one ", Wait(go_on), "two")
    conversation = stand.wire.new_conversation()
    async with stand.wire.send(ada, conversation, "Now?") as events:
        await events.until("chunk")
        assert [each["text"] for each in await ada.messages(conversation)] == ["Now?"]
        go_on.set()
        await events.rest()
    assert [each["text"] for each in await ada.messages(conversation)] == ["Now?", "one two"]


async def test_s3_1_the_last_10_messages_are_the_context(stand, ada, model):
    conversation = stand.wire.new_conversation()
    for number in range(7):
        await stand.wire.ask(ada, conversation, f"question {number}")
    turns = model.asked()[-1].turns
    assert len(turns) in {10, 11}, turns
    assert turns[-1] == ("user", "question 6")


async def test_s3_2_a_quota_that_is_used_up_is_429_before_the_model_is_asked(stand, ada, ben, model):
    before = await ada.get("/api/ai/quota")
    model.upstream.reply_with(model.script("Hello", counts=Counts(prompt=9000, completion=500)))
    await stand.wire.ask(ada, stand.wire.new_conversation())
    assert await ada.get("/api/ai/quota") != before, "consumed on success"
    asked = len(model.requests)
    async with stand.wire.send(ada, stand.wire.new_conversation()) as refused:
        assert refused.status == 429, refused.body
        assert refused.body["code"] == "QUOTA_EXCEEDED"
        assert int(refused.headers["retry-after"]) >= 1
        shape(refused.body)
    assert len(model.requests) == asked
    assert await stand.wire.ask(ben, stand.wire.new_conversation()) == "Hello"


async def test_s3_2_a_reply_that_fails_consumes_nothing(stand, ada, model):
    before = await ada.get("/api/ai/quota")
    model.says(Close())
    async with stand.wire.send(ada, stand.wire.new_conversation()) as events:
        if events.streams:
            assert (await events.rest())[-1]["type"] == "error"
    assert await ada.get("/api/ai/quota") == before


async def test_s3_3_the_mock_types_word_by_word(stand, ada, model):
    conversation = stand.wire.new_conversation()
    async with stand.client(ada.user) as client:
        await client.conversations.create(resources_pb2.Conversation(id=conversation, model="typewriter"))
    async with stand.wire.send(ada, conversation, "Say a few words about the sea.") as events:
        received = await events.rest()
    assert received[-1]["type"] == "done"
    assert len(received) > 5, "pieces, not one text"
    assert not model.requests, "no vendor is asked"


async def test_s3_4_the_text_before_a_break_is_kept(stand, ada, model):
    go_on = asyncio.Event()
    model.says("half of", Wait(go_on), Close())
    conversation = stand.wire.new_conversation()
    async with stand.wire.send(ada, conversation) as events:
        await events.until("chunk")
        go_on.set()
        last = (await events.rest())[-1]
    assert (set(last) >= {"type", "message"}, last["type"]) == (True, "error")
    assert len(last["message"].split()) > 2
    assert KEY not in str(events.received)
    shown = (await ada.messages(conversation))[-1]
    assert (shown["text"], shown["partial"]) == ("half of", True)


async def test_s3_5_events_are_chunks_and_one_end(stand, ada, model):
    model.says("one ", "two")
    async with stand.wire.send(ada, stand.wire.new_conversation()) as events:
        received = await events.rest()
    assert [each["type"] for each in received[:-1]] == ["chunk"] * (len(received) - 1)
    assert received[-1]["type"] == "done"
    assert "".join(each["content"] for each in received[:-1]) == "one two"
