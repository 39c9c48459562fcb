"""The page's routes over HTTP, with a real server."""

import asyncio
import base64

import pytest

from tests.clock import until
from tests.integration.served import COMPLETED, new_message
from tests.upstream import Script, Wait, answer, done, finish, refusal, role, text, usage
from tests.web import LIMIT_S, text_of

ONE = "/api/page/conversations/c1"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
IMAGE_HEADERS = {
    "content-type": "image/png",
    "x-content-type-options": "nosniff",
    "cache-control": "private, max-age=31536000, immutable",
    "content-security-policy": "sandbox",
}


def held(event, *texts, then=()):
    """An answer that pauses after these texts until the event is set."""
    pieces = [*map(text, texts), Wait(event), *map(text, then)]
    return Script([role(), *pieces, finish(), usage(), done()])


async def until_ended(server, reply_id):
    """The reply once it has ended."""
    async with asyncio.timeout(LIMIT_S):
        while not (reply := await server.get(reply_id)).HasField("end_time"):
            await asyncio.sleep(0.01)
    return reply


async def test_a_message_is_streamed_then_listed_with_its_reply(page, upstream):
    browser = await (await page())()
    events = await browser.events("POST", f"{ONE}/messages", {"text": "Tell me\na story"})
    first, last = events[0], events[-1]
    assert first == {"type": "reply", "reply_id": first["reply_id"], "message_id": last["message_id"], "after": 0}
    assert text_of(events) == "Hello, world"
    assert last | {"cost_usd": None} == {
        "type": "finished",
        "reason": "STOP",
        "cancel_reason": "",
        "model": "test",
        "input_tokens": 5,
        "output_tokens": 7,
        "cost_usd": None,
        "message_id": first["message_id"],
    }
    assert last["cost_usd"] > 0

    listed = (await browser.call("GET", f"{ONE}/messages")).json()
    question, reply = listed["messages"]
    assert (question["role"], question["text"], question["reply"]) == ("user", "Tell me\na story", None)
    assert (reply["role"], reply["text"], reply["partial"]) == ("assistant", "Hello, world", False)
    assert reply["reply"]["state"] == "completed"
    assert (listed["active_reply_id"], listed["next_page_token"]) == (None, None)
    (conversation,) = (await browser.call("GET", "/api/page/conversations")).json()["conversations"]
    assert (conversation["id"], conversation["title"]) == ("c1", "Tell me a story")


async def test_a_running_reply_is_left_out_of_the_messages_and_its_stream_brings_it(page, upstream):
    go = asyncio.Event()
    upstream.reply_next(held(go, "One ", then=("two",)))
    browser = await (await page())()
    async with browser.stream("POST", f"{ONE}/messages", {"text": "Count"}) as sse:
        reply_id = (await sse.next())["reply_id"]
        await sse.until("text")
    listed = (await browser.call("GET", f"{ONE}/messages")).json()
    assert [message["text"] for message in listed["messages"]] == ["Count"]
    assert listed["active_reply_id"] == reply_id
    async with browser.stream("GET", f"{ONE}/stream") as sse:
        assert (await sse.next())["after"] == 0
        assert (await sse.next())["text"] == "One "
        go.set()
        assert text_of(await sse.rest()) == "two"
    assert (await browser.call("GET", f"{ONE}/stream")).status_code == 204


async def test_a_stream_attaches_after_the_last_event_of_the_same_reply(page, upstream):
    go = asyncio.Event()
    upstream.reply_next(held(go, "One ", then=("two ", "three")))
    browser = await (await page())()
    async with browser.stream("POST", f"{ONE}/messages", {"text": "Count"}) as sse:
        reply_id = (await sse.next())["reply_id"]
        sequence = (await sse.until("text"))["sequence"]
    path = f"{ONE}/stream?reply_id={reply_id}&after={sequence}"
    async with browser.stream("GET", path) as same, browser.stream("GET", f"{ONE}/stream?reply_id=x&after=9") as other:
        assert (await same.next())["after"] == sequence
        assert (await other.next())["after"] == 0
        go.set()
        assert text_of(await same.rest()) == "two three"
        assert text_of(await other.rest()) == "One two three"


async def test_a_repeated_idempotency_key_attaches_instead_of_sending_twice(page, upstream):
    browser = await (await page())()
    key = {"Idempotency-Key": "send-1"}
    first = await browser.events("POST", f"{ONE}/messages", {"text": "Hi"}, headers=key)
    again = await browser.events("POST", f"{ONE}/messages", {"text": "Hi"}, headers=key)
    assert first[0] == again[0]
    assert text_of(again) == "Hello, world"
    assert len(upstream.requests) == 1


async def test_a_browser_that_leaves_ends_the_call_and_not_the_reply(page, upstream, server):
    go = asyncio.Event()
    upstream.reply_next(held(go, "One ", then=("two",)))
    browser = await (await page())()
    async with browser.stream("POST", f"{ONE}/messages", {"text": "Count"}) as sse:
        reply_id = (await sse.next())["reply_id"]
        await sse.until("text")
        (generation,) = server.running.values()
        assert generation.reader_count.readers == 1
    await until(lambda: generation.reader_count.readers == 0, LIMIT_S)
    go.set()
    reply = await until_ended(server, reply_id)
    assert (reply.state, reply.message.parts[0].text) == (COMPLETED, "One two")


@pytest.mark.parametrize("by_request", [True, False])
async def test_stop_cancels_the_running_reply_and_its_partial_text_is_listed(page, upstream, by_request):
    upstream.reply_next(held(asyncio.Event(), "One "))
    browser = await (await page())()
    key = {"Idempotency-Key": "send-1"}
    body = {"request_id": "send-1"} if by_request else None
    async with browser.stream("POST", f"{ONE}/messages", {"text": "Count"}, headers=key) as sse:
        await sse.until("text")
        stopped = await browser.call("POST", f"{ONE}/stop", body)
        end = await sse.until("finished")
    assert (stopped.status_code, stopped.json()) == (200, {"status": "cancelled"})
    assert (end["reason"], end["cancel_reason"]) == ("CANCELLED", "user_cancelled")
    _, reply = (await browser.call("GET", f"{ONE}/messages")).json()["messages"]
    assert (reply["text"], reply["partial"], reply["reply"]["state"]) == ("One ", True, "cancelled")
    again = await browser.call("POST", f"{ONE}/stop", body)
    expected = (200, "cancelled") if by_request else (409, "No answer is being written.")
    assert (again.status_code, again.json().get("status", again.json().get("message"))) == expected


async def test_stop_after_the_end_answers_already_finished(page):
    browser = await (await page())()
    await browser.events("POST", f"{ONE}/messages", {"text": "Hi"}, headers={"Idempotency-Key": "send-1"})
    stopped = await browser.call("POST", f"{ONE}/stop", {"request_id": "send-1"})
    assert (stopped.status_code, stopped.json()) == (200, {"status": "already_finished"})


async def test_a_message_that_was_stopped_before_it_arrived_starts_cancelled(page, upstream):
    browser = await (await page())()
    stopped = await browser.call("POST", f"{ONE}/stop", {"request_id": "send-1"})
    assert (stopped.status_code, stopped.json()) == (202, {"status": "cancelled"})
    events = await browser.events("POST", f"{ONE}/messages", {"text": "Hi"}, headers={"Idempotency-Key": "send-1"})
    assert [event["type"] for event in events] == ["reply", "finished"]
    assert events[-1]["reason"] == "CANCELLED"
    assert not upstream.requests


async def test_a_reply_that_failed_before_its_first_token_is_listed_and_can_be_retried(page, upstream):
    upstream.reply_next(refusal(500), answer("Better"))
    browser = await (await page(settings=lambda _: {"labels": {"from": "settings"}}))()
    events = await browser.events("POST", f"{ONE}/messages", {"text": "Hi"})
    failed = events[-1]
    assert [event["type"] for event in events] == ["reply", "failed"]
    assert (failed["code"], failed["retryable"], failed["retry_after_s"]) == ("PROVIDER_UNAVAILABLE", True, None)
    assert failed["error"] == failed["message"]

    question, missing = (await browser.call("GET", f"{ONE}/messages")).json()["messages"]
    assert (missing["id"], missing["role"], missing["text"]) == (failed["message_id"], "assistant", "")
    assert missing["reply"]["state"] == "failed"
    assert missing["reply"]["error"] == {name: failed[name] for name in ("message", "error", "code", "retryable")}

    key = {"Idempotency-Key": "retry-1"}
    retried = await browser.events("POST", f"{ONE}/retry", {"replace_message_id": missing["id"]}, headers=key)
    assert text_of(retried) == "Better"
    listed = (await browser.call("GET", f"{ONE}/messages")).json()["messages"]
    assert [(each["id"], each["text"]) for each in listed] == [(question["id"], "Hi"), (listed[1]["id"], "Better")]


async def test_while_a_retry_runs_the_failed_answer_is_not_listed(page, upstream):
    upstream.reply_next(refusal(500), held(asyncio.Event(), "On"))
    browser = await (await page())()
    failed = (await browser.events("POST", f"{ONE}/messages", {"text": "Hi"}))[-1]
    async with browser.stream("POST", f"{ONE}/retry", {"replace_message_id": failed["message_id"]}) as sse:
        await sse.until("text")
        listed = (await browser.call("GET", f"{ONE}/messages")).json()
        assert [message["text"] for message in listed["messages"]] == ["Hi"]
        assert listed["active_reply_id"]


async def test_while_an_answer_is_replaced_only_the_new_one_is_shown(page, upstream):
    go = asyncio.Event()
    upstream.reply_next(answer("Old"), held(go, "New "))
    browser = await (await page())()
    old = (await browser.events("POST", f"{ONE}/messages", {"text": "Hi"}))[-1]
    async with browser.stream("POST", f"{ONE}/retry", {"replace_message_id": old["message_id"]}) as sse:
        await sse.until("text")
        listed = (await browser.call("GET", f"{ONE}/messages")).json()
        assert [message["text"] for message in listed["messages"]] == ["Hi"]
        go.set()
        await sse.rest()
    listed = (await browser.call("GET", f"{ONE}/messages")).json()
    assert [message["text"] for message in listed["messages"]] == ["Hi", "New "]


async def test_messages_are_listed_oldest_first_in_pages_of_50(page, server):
    browser = await (await page())()
    messages = [new_message("user" if i % 2 == 0 else "assistant", f"{i}") for i in range(60)]
    await server.caller("ada").new_conversation(messages, id="c1")
    newest = (await browser.call("GET", f"{ONE}/messages")).json()
    assert [message["text"] for message in newest["messages"]] == [str(i) for i in range(10, 60)]
    older = (await browser.call("GET", f"{ONE}/messages", params={"page_token": newest["next_page_token"]})).json()
    assert [message["text"] for message in older["messages"]] == [str(i) for i in range(10)]
    assert older["next_page_token"] is None


async def test_conversations_are_listed_by_activity_in_pages_and_deleted(page, server):
    browser = await (await page())()
    for i in range(51):
        await server.caller("ada").new_conversation(id=f"c{i}")
    first = (await browser.call("GET", "/api/page/conversations")).json()
    token = first["next_page_token"]
    rest = (await browser.call("GET", "/api/page/conversations", params={"page_token": token})).json()
    assert [each["id"] for each in first["conversations"]] == [f"c{i}" for i in range(50, 0, -1)]
    assert [each["id"] for each in rest["conversations"]] == ["c0"]
    assert (await browser.call("GET", "/api/page/conversations/c0")).json() == rest["conversations"][0]
    assert (await browser.call("DELETE", "/api/page/conversations/c0")).status_code == 204
    assert (await browser.call("GET", "/api/page/conversations/c0")).status_code == 404


async def test_another_users_conversation_is_404_on_every_route(page, upstream):
    browser = await page()
    ada, ben = await browser("ada"), await browser("ben")
    await ada.events("POST", f"{ONE}/messages", {"text": "Hi"})
    answers = [
        await ben.call("GET", ONE),
        await ben.call("DELETE", ONE),
        await ben.call("GET", f"{ONE}/messages"),
        await ben.call("GET", f"{ONE}/stream"),
        await ben.call("POST", f"{ONE}/stop"),
        await ben.call("POST", f"{ONE}/retry", {"replace_message_id": "m"}),
        await ben.call("POST", f"{ONE}/messages", {"text": "Hi"}),
    ]
    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(404, "CONVERSATION_NOT_FOUND")] * 7
    assert len(upstream.requests) == 1


async def test_images_are_sent_listed_and_fetched_by_their_owner_alone(page):
    browser = await page()
    ada, ben = await browser("ada"), await browser("ben")
    image = {"mime_type": "image/png", "data": base64.b64encode(PNG).decode()}
    await ada.events("POST", f"{ONE}/messages", {"text": "What is it?", "images": [image]})
    question = (await ada.call("GET", f"{ONE}/messages")).json()["messages"][0]
    (listed,) = question["images"]
    assert listed["mime_type"] == "image/png"
    fetched = await ada.call("GET", f"/api/page/images/{listed['id']}")
    assert fetched.content == PNG
    assert {name: fetched.headers[name] for name in IMAGE_HEADERS} == IMAGE_HEADERS
    assert (await ben.call("GET", f"/api/page/images/{listed['id']}")).status_code == 404


async def test_models_are_listed_and_a_message_may_name_one(page, upstream):
    browser = await (await page())()
    models = (await browser.call("GET", "/api/page/models")).json()["models"]
    assert {"id": "plain", "name": "plain", "images": False, "is_default": False} in models
    assert [each["is_default"] for each in models].count(True) == 1
    await browser.events("POST", f"{ONE}/messages", {"text": "Hi", "model": "plain"})
    assert upstream.requests[0].json["model"] == "vendor/plain-1"


async def test_config_needs_no_user_and_every_other_route_does(page):
    nobody = await (await page())("")
    config = await nobody.call("GET", "/api/page/config")
    assert config.json() == {"wire": "page", "title": "Test chat", "login": "token", "images": True}
    refused = await nobody.call("GET", "/api/page/conversations")
    assert (refused.status_code, refused.json()["code"]) == (401, "UNAUTHENTICATED")
    assert refused.headers["www-authenticate"] == "Bearer"


async def test_without_sends_there_is_neither_a_send_nor_a_models_route(page):
    browser = await (await page(sends=False))()
    assert (await browser.call("POST", f"{ONE}/messages", {"text": "Hi"})).status_code == 405
    assert (await browser.call("GET", "/api/page/models")).status_code == 404
