"""The page's routes over HTTP, with a real server."""

import asyncio

from tests.upstream import Script, Wait, answer, done, finish, role, text, usage
from tests.web import text_of

ONE = "/api/page/conversations/c1"


def held(event, *texts, then=()):
    """An answer that pauses after these texts until the event is set."""
    pieces = [*map(text, texts), Wait(event), *map(text, then)]
    return Script([role(), *pieces, finish(), usage(), done()])


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
