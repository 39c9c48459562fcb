"""Rows S2.1 to S2.4 through the HTTP face of document 002: Fastify, an image with the question, a fallback."""

from __future__ import annotations

import asyncio
import base64

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.processes import until
from tests.products.browsing import new_key, shape
from tests.products.lanes import START_LIMIT, lane
from tests.products.wires import PIXEL
from tests.upstream import Close, Hang, Wait

PRODUCT = "vision"
pytestmark = [lane(PRODUCT), START_LIMIT]
STREAMS = ["/api/ai/chat-image-stream", "/api/v1/chat-image-stream"]
FALLBACKS = ["/api/ai/chat-image", "/api/v1/chat-image"]
PNG = base64.b64decode(PIXEL)


def body_of(stand, browser, **fields):
    """The body of a question with an image."""
    _, body = stand.wire.request(browser, stand.wire.new_conversation(), "What is it?")
    return body | fields


async def ask(browser, path, body):
    """The whole answer."""
    return await browser.call("POST", path, json=body, headers={"Idempotency-Key": new_key()})


@pytest.mark.parametrize("path", [*STREAMS, *FALLBACKS])
async def test_s2_1_the_image_and_the_subject_reach_the_model(stand, ada, model, path):
    answer = await ask(ada, path, body_of(stand, ada))
    assert answer.status_code == 200, answer.text
    (asked,) = model.asked()
    assert [each.rpartition(",")[2] for each in asked.images] == [PIXEL]
    assert "Mathematics" in asked.system
    assert asked.turns[-1] == ("user", "What is it?")


@pytest.mark.parametrize("path", [STREAMS[0], FALLBACKS[0]])
async def test_s2_1_a_body_over_3_mb_is_413_and_one_below_is_taken(stand, ada, model, path):
    large = base64.b64encode(PNG + bytes(3 * 1024 * 1024)).decode()
    answer = await ask(ada, path, body_of(stand, ada, base64_image=large))
    assert answer.status_code == 413, answer.text
    shape(answer.json())
    assert not model.requests
    below = base64.b64encode(PNG + bytes(2_200_000)).decode()
    assert (await ask(ada, path, body_of(stand, ada, base64_image=below))).status_code == 200


@pytest.mark.parametrize("image", ["", "no base64!", base64.b64encode(b"no image").decode(), None, 7])
async def test_s2_1_an_image_that_is_none_is_400(stand, ada, image):
    answer = await ask(ada, STREAMS[0], body_of(stand, ada, base64_image=image))
    assert answer.status_code == 400, answer.text
    shape(answer.json())


@pytest.mark.parametrize("path", [STREAMS[0], FALLBACKS[0]])
async def test_s2_1_the_student_must_be_the_user_of_the_token(stand, ada, ben, path):
    answer = await ask(ada, path, body_of(stand, ada, student_id=ben.user))
    assert answer.status_code == 403, answer.text
    shape(answer.json())


async def test_s2_2_events_are_start_content_and_end(stand, ada, model):
    model.says("This ", "is ", "a dot")
    async with stand.wire.send(ada, stand.wire.new_conversation()) as events:
        start, *contents, end = await events.rest()
    assert (start["type"], start["model"]) == ("start", "chat")
    assert start["timestamp"]
    shown = ""
    for each in contents:
        shown += each["delta"]
        assert (each["type"], each["content"]) == ("content", shown)
    assert (end["type"], end["content"], end["finish_reason"]) == ("end", "This is a dot", "stop")
    assert end["tokens"] > 0
    assert end["processing_time_ms"] >= 0


async def test_s2_3_a_browser_that_leaves_ends_the_reply(stand, ada, model):
    model.says("one ", Hang())
    conversation = stand.wire.new_conversation()
    async with stand.wire.send(ada, conversation) as events:
        await events.until("content")
    await asyncio.wait_for(model.upstream.aborted.wait(), 20)
    await until(lambda: _is_idle(ada, conversation), "the reply has ended")
    assert (await ada.messages(conversation))[-1]["reply"]["state"] == "cancelled"


async def _is_idle(browser, conversation) -> bool:
    return (await browser.conversation(conversation))["active_reply_id"] is None


@pytest.mark.parametrize("path", FALLBACKS)
async def test_s2_3_a_plain_answer_for_clients_that_cannot_stream(stand, ada, model, path):
    answer = await ask(ada, path, body_of(stand, ada))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].split(";")[0] == "application/json"
    assert "Hello, world" in answer.text


async def test_s2_3_a_failure_within_the_stream_can_be_repeated_without_one(stand, ada, model):
    go_on = asyncio.Event()
    model.says("half", Wait(go_on), Close())
    conversation = stand.wire.new_conversation()
    async with stand.wire.send(ada, conversation) as events:
        await events.until("content")
        go_on.set()
        last = (await events.rest())[-1]
    assert last["type"] == "error"
    assert len(last["error"].split()) > 2
    model.says("Hello, world")
    assert "Hello, world" in (await ask(ada, FALLBACKS[0], body_of(stand, ada, session_id=conversation))).text


async def test_s2_4_streams_ends_errors_disconnects_and_fallbacks_are_counted(stand, ada, model):
    before = await counts(ada)
    await stand.wire.ask(ada, stand.wire.new_conversation())
    await ask(ada, FALLBACKS[0], body_of(stand, ada))
    model.says("half", Close())
    async with stand.wire.send(ada, stand.wire.new_conversation()) as events:
        await events.rest()
    model.says("half", Hang())
    async with stand.wire.send(ada, stand.wire.new_conversation()) as events:
        await events.until("content")

    async def counted() -> bool:
        now = await counts(ada)
        grown = {name: value - before.get(name, 0.0) for name, value in now.items()}
        return all(any(word in name and by > 0 for name, by in grown.items()) for word in WORDS)

    await until(counted, f"counters of {WORDS} have grown")


WORDS = ("start", "end", "error", "disconnect", "fallback")


async def counts(browser) -> dict[str, float]:
    """Samples of the product's own counters."""
    text = (await browser.call("GET", "/metrics")).text
    families = text_string_to_metric_families(text)
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value for each in families for sample in each.samples
    }
