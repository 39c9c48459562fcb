"""The page routes of every product that follow, stop and repeat a reply."""

from __future__ import annotations

import asyncio

import pytest

from tests.products.browsing import PAGE, Events, new_key, shape
from tests.products.lanes import EACH
from tests.products.models import KEY
from tests.upstream import Close, Hang, Wait, refusal

pytestmark = EACH

FINISHED = {"reason", "cancel_reason", "model", "input_tokens", "output_tokens", "cost_usd", "message_id"}
FAILED = {"message", "error", "code", "retryable", "retry_after_s", "message_id"}


@pytest.fixture
def go_on():
    """Lets the model write the rest of its answer."""
    return asyncio.Event()


def said(events: Events) -> str:
    """The text that a page shows after these events."""
    shown = ""
    for event in events.received:
        if event["type"] == "text":
            shown += event["text"]
        elif event["type"] == "snapshot":
            shown = event["text"]
    return shown


async def test_nothing_runs_is_204(stand, ada, model):
    conversation = stand.wire.new_conversation()
    await stand.wire.ask(ada, conversation)
    for query in ({}, {"reply_id": "another", "after": 3}):
        answer = await ada.call("GET", f"{PAGE}/conversations/{conversation}/stream", params=query)
        assert (answer.status_code, answer.content) == (204, b"")


async def test_a_second_reader_gets_all_text_and_then_the_live_tail(stand, ada, model, go_on):
    model.says("one ", "two ", Wait(go_on), "three")
    conversation = stand.wire.new_conversation()
    async with stand.wire.send(ada, conversation) as sent, ada.attach(conversation) as events:
        assert events.status == 200
        assert events.headers["content-type"].replace(" ", "") == "text/event-stream;charset=utf-8"
        assert events.headers["cache-control"] == "no-cache"
        assert events.headers["x-accel-buffering"] == "no"
        reply = await events.next()
        assert reply == {"type": "reply", "reply_id": reply["reply_id"], "message_id": reply["message_id"], "after": 0}
        while said(events) != "one two ":
            await events.next()
        page = await ada.get(f"{PAGE}/conversations/{conversation}/messages")
        assert page["active_reply_id"] == reply["reply_id"] == (await ada.conversation(conversation))["active_reply_id"]
        assert [each["role"] for each in page["messages"]] == ["user"], "the stream brings the running one"
        go_on.set()
        last = (await events.rest())[-1]
        received = await sent.rest()
    assert set(last) == FINISHED | {"type"}
    assert (last["type"], last["reason"], last["model"]) == ("finished", "STOP", "chat")
    assert (last["input_tokens"], last["output_tokens"]) == (50, 7)
    assert last["message_id"] == reply["message_id"] == (await ada.messages(conversation))[-1]["id"]
    assert said(events) == "one two three" == stand.wire.answer(received)
    sequences = [each["sequence"] for each in events.received if each["type"] == "text"]
    assert sequences == sorted(set(sequences))


async def test_a_reader_goes_on_after_the_text_that_it_has(stand, ada, model, go_on):
    model.says("one ", "two ", Wait(go_on), "three")
    conversation = stand.wire.new_conversation()
    async with stand.wire.send(ada, conversation):
        async with ada.attach(conversation) as first:
            while said(first) != "one two ":
                event = await first.next()
        reply_id, after = first.received[0]["reply_id"], event["sequence"]
        async with (
            ada.attach(conversation, reply_id=reply_id, after=after) as events,
            ada.attach(conversation, reply_id="another", after=after) as others,
        ):
            assert (await events.next())["after"] == after
            assert (await others.next())["after"] == 0, "a cursor of another reply does not count"
            go_on.set()
            await events.rest()
            await others.rest()
    assert said(events) == "three"
    assert said(others) == "one two three"
    assert all(each["sequence"] > after for each in events.received if each["type"] == "text")


@pytest.mark.parametrize("after", ["x", "-1", "1.5", "99999999999999999999"])
async def test_a_cursor_that_is_no_number_is_refused(stand, ada, model, go_on, after):
    model.says("one", Wait(go_on))
    conversation = stand.wire.new_conversation()
    async with stand.wire.send(ada, conversation):
        reply = (await ada.conversation(conversation))["active_reply_id"]
        async with ada.attach(conversation, reply_id=reply, after=after) as events:
            assert events.status == 400
            shape(events.body)
        go_on.set()


async def test_stop_ends_the_reply_for_every_reader_and_keeps_its_text(stand, ada, model):
    model.says("half of", Hang())
    conversation = stand.wire.new_conversation()
    async with stand.wire.send(ada, conversation) as sent, ada.attach(conversation) as events:
        await events.until("text")
        answer = await ada.stop(conversation)
        assert (answer.status_code, answer.json()) == (200, {"status": "cancelled"})
        last = (await events.rest())[-1]
        assert (last["type"], last["reason"]) == ("finished", "CANCELLED")
        received = await sent.rest()
    assert received[-1]["type"] == stand.wire.cancelled
    shown = (await ada.messages(conversation))[-1]
    assert (shown["text"], shown["partial"]) == ("half of", True)
    assert (shown["reply"]["state"], shown["reply"]["finish_reason"]) == ("cancelled", "CANCELLED")
    async with stand.wire.send(ada, conversation, "go on") as again:
        assert again.status == 200, "the conversation is free"


async def test_stop_when_nothing_runs_is_409(stand, ada, model):
    conversation = stand.wire.new_conversation()
    await stand.wire.ask(ada, conversation)
    answer = await ada.stop(conversation)
    assert answer.status_code == 409
    shape(answer.json())


async def test_stop_by_the_key_of_an_ended_question_says_so(stand, ada, model):
    conversation, key = stand.wire.new_conversation(), new_key()
    await stand.wire.ask(ada, conversation, key=key)
    answer = await ada.stop(conversation, request_id=key)
    assert (answer.status_code, answer.json()) == (200, {"status": "already_finished"})


async def test_stop_before_the_question_arrives_starts_it_cancelled(stand, ada, model):
    conversation, key = stand.wire.new_conversation(), new_key()
    await stand.wire.ask(ada, conversation)
    answer = await ada.stop(conversation, request_id=key)
    assert (answer.status_code, answer.json()) == (202, {"status": "cancelled"})
    async with stand.wire.send(ada, conversation, "too late", key=key) as sent:
        received = await sent.rest()
    assert received[-1]["type"] == stand.wire.cancelled
    assert len(model.requests) == 1, "the model is not asked"
    last = (await ada.messages(conversation))[-1]
    assert (last["role"], last["text"], last["reply"]["state"]) == ("assistant", "", "cancelled")


async def test_a_failed_reply_can_be_tried_again(stand, ada, model):
    model.upstream.reply_next(refusal(500))
    conversation = stand.wire.new_conversation()
    async with stand.wire.send(ada, conversation) as sent:
        received = await sent.rest() if sent.streams else [{"type": stand.wire.failed}]
    assert received[-1]["type"] == stand.wire.failed
    question, failed = await ada.messages(conversation)
    assert (failed["text"], failed["reply"]["state"]) == ("", "failed")
    error = failed["reply"]["error"]
    assert shape(error) == {"message", "error", "code", "retryable"}
    assert error["code"].startswith("PROVIDER_")
    async with ada.retry(conversation, failed["id"]) as events:
        assert (await events.next())["type"] == "reply"
        last = (await events.rest())[-1]
    assert (last["type"], said(events)) == ("finished", "Hello, world")
    shown = await ada.messages(conversation)
    assert [(each["role"], each["text"]) for each in shown] == [("user", "Hi"), ("assistant", "Hello, world")]
    assert shown[0]["id"] == question["id"]


async def test_a_reply_that_breaks_shows_its_text_and_why(stand, ada, model, go_on):
    model.says("half of", Wait(go_on), Close())
    conversation = stand.wire.new_conversation()
    async with stand.wire.send(ada, conversation) as sent, ada.attach(conversation) as events:
        await events.until("text")
        go_on.set()
        last = (await events.rest())[-1]
        received = await sent.rest()
    assert received[-1]["type"] == stand.wire.failed
    assert stand.wire.answer(received) == "half of"
    assert shape(last) == FAILED | {"type"}
    assert (last["type"], last["code"]) == ("failed", "PROVIDER_TRUNCATED")
    shown = (await ada.messages(conversation))[-1]
    assert (shown["id"], shown["text"], shown["partial"]) == (last["message_id"], "half of", True)
    assert KEY not in str(events.received) + str(received)


async def test_retry_with_the_same_key_attaches_to_the_same_attempt(stand, ada, model):
    conversation, key = stand.wire.new_conversation(), new_key()
    await stand.wire.ask(ada, conversation)
    message = (await ada.messages(conversation))[-1]["id"]
    model.says("better")
    async with ada.retry(conversation, message, key=key) as first:
        await first.rest()
    async with ada.retry(conversation, message, key=key) as second:
        await second.rest()
    assert said(first) == said(second) == "better"
    assert first.received[0]["reply_id"] == second.received[0]["reply_id"]
    assert len(model.requests) == 2
    assert [each["text"] for each in await ada.messages(conversation)] == ["Hi", "better"]


async def test_retry_of_an_unknown_message_is_refused(stand, ada, model):
    conversation = stand.wire.new_conversation()
    await stand.wire.ask(ada, conversation)
    async with ada.retry(conversation, "no-such-message") as events:
        assert events.status in {400, 404}, events.body
        shape(events.body)


async def test_a_second_question_while_a_reply_runs_is_409(stand, ada, model):
    model.says("one", Hang())
    conversation = stand.wire.new_conversation()
    async with stand.wire.send(ada, conversation):
        async with stand.wire.send(ada, conversation, "and?") as refused:
            assert refused.status == 409, refused.body
            shape(refused.body)
            assert refused.body["code"] == "REPLY_IN_PROGRESS"
        await ada.stop(conversation)


async def test_a_reused_key_with_another_question_is_409(stand, ada, model):
    conversation, key = stand.wire.new_conversation(), new_key()
    await stand.wire.ask(ada, conversation, "one", key=key)
    async with stand.wire.send(ada, conversation, "two", key=key) as refused:
        assert refused.status == 409, refused.body
        shape(refused.body)
        assert refused.body["code"] == "REQUEST_ID_REUSED"


async def test_a_browser_that_leaves_does_not_end_the_reply(stand, ada, model, go_on):
    """002 alone ends it: tests of its row show that."""
    if stand.product.name == "vision":
        pytest.skip("ends the reply of a browser that leaves")
    model.says("one ", Wait(go_on), "two")
    conversation = stand.wire.new_conversation()
    async with stand.wire.send(ada, conversation) as sent:
        await sent.next()
    go_on.set()
    async with ada.attach(conversation) as events:
        if events.status == 200:
            await events.rest()
    assert (await ada.messages(conversation))[-1]["text"] == "one two"


async def test_a_silent_stream_sends_a_comment_every_10_s(stand, upstream):
    silence = stand.silence
    await asyncio.to_thread(silence.heard, 1)
    assert silence.comments[0] == ": alive"
    assert silence.waited_s[0] > 8, "not more often than needed"
