"""Rows S4.1 to S4.5 through the HTTP face of document 004: one endpoint, and `Accept` decides.

How fast S4.3 is, is measured by `benchmarks/products.py`; the codes of the client's own faults are tested in the page.
"""

from __future__ import annotations

import asyncio

import pytest
from parley_server.errors import Failure

from tests.dialects.openai import REFUSALS
from tests.products.browsing import new_key, shape
from tests.products.lanes import START_LIMIT, lane
from tests.products.models import KEY
from tests.products.wires import EVENT_STREAM
from tests.upstream import Close, Pause, Wait

PRODUCT = "negotiate"
pytestmark = [lane(PRODUCT), START_LIMIT]
MESSAGES = "/api/v1/messages"


async def answered(browser, accept, **body):
    """The whole answer for a value of `Accept`; None sends none."""
    headers = {"Idempotency-Key": new_key()} | ({"Accept": accept} if accept else {})
    return await browser.call("POST", MESSAGES, json={"message": "Hi", **body}, headers=headers)


@pytest.mark.parametrize(
    ("accept", "streams"),
    [
        ("text/event-stream", True),
        ("text/event-stream, */*;q=0.1", True),
        ("application/json", False),
        ("*/*", False),
        (None, False),
    ],
)
async def test_s4_1_the_header_accept_decides_between_a_stream_and_json(ada, model, accept, streams):
    answer = await answered(ada, accept)
    assert answer.status_code == 200, answer.text
    kind = answer.headers["content-type"].split(";")[0]
    if streams:
        assert kind == "text/event-stream"
        return
    assert kind == "application/json"
    body = answer.json()
    assert body["content"] == "Hello, world"
    assert (body["model"], body["totalTokens"]) == ("chat", 57)


async def test_s4_1_history_may_come_with_the_message(ada, model):
    history = [{"role": "user", "content": "I am Ada."}, {"role": "assistant", "content": "Hello, Ada."}]
    answer = await answered(ada, "application/json", history=history, message="Who am I?")
    assert answer.status_code == 200, answer.text
    (asked,) = model.asked()
    assert asked.turns[-3:] == [("user", "I am Ada."), ("assistant", "Hello, Ada."), ("user", "Who am I?")]


@pytest.mark.parametrize(
    "history", ["x", [7], [{"role": "system", "content": "x"}], [{"role": "user"}], [{"role": "user", "content": 7}]]
)
async def test_s4_1_a_history_of_another_shape_is_400(ada, history):
    answer = await answered(ada, "application/json", history=history)
    assert answer.status_code == 400, answer.text
    shape(answer.json())


async def test_s4_2_events_are_tokens_and_one_complete(stand, ada, model):
    model.says("one ", "two")
    async with stand.wire.send(ada, stand.wire.new_conversation()) as events:
        received = await events.rest()
    *tokens, last = received
    assert "".join(each["content"] for each in tokens) == "one two"
    assert {each["type"] for each in tokens} == {"token"}
    assert (last["type"], last["model"], last["totalTokens"]) == ("complete", "chat", 57)


async def test_s4_3_a_hundred_streams_at_once_are_all_complete(stand, ada, model):
    """How fast they are is measured by `benchmarks/products.py`."""
    words = [f"w{number} " for number in range(20)]
    model.says(*(step for word in words for step in (word, Pause(0.05))))
    answers = await asyncio.gather(*(stand.wire.ask(ada, stand.wire.new_conversation()) for _ in range(100)))
    assert answers == ["".join(words)] * 100


FAULTS = [
    (Failure.RATE, "RATE_LIMIT"),
    (Failure.KEY, "AUTH"),
    (Failure.CREDIT, "QUOTA"),
    (Failure.REJECTED, "LLM_ERROR"),
]


@pytest.mark.parametrize(("failure", "code"), FAULTS, ids=[code for _, code in FAULTS])
async def test_s4_4_every_fault_of_the_model_reaches_the_user_with_a_code(stand, ada, model, failure, code):
    assert failure in REFUSALS
    conversation = stand.wire.new_conversation()
    model.upstream.reply_next(model.speaker.refusal(failure))
    async with stand.wire.send(ada, conversation) as events:
        last = (await events.rest())[-1] if events.streams else events.body
    assert last["code"] == code, last
    assert len(last["error"].split()) > 2, "a sentence"
    assert "secret" not in str(last)
    async with ada.retry(conversation, (await ada.messages(conversation))[-1]["id"]) as events:
        assert (await events.rest())[-1]["type"] == "finished", "a retry is offered"


async def test_s4_4_the_text_before_a_break_is_kept(stand, ada, model):
    go_on = asyncio.Event()
    model.says("half of", Wait(go_on), Close())
    conversation = stand.wire.new_conversation()
    async with stand.wire.send(ada, conversation) as events:
        await events.until("token")
        go_on.set()
        last = (await events.rest())[-1]
    assert (last["type"], last["code"]) == ("error", "LLM_ERROR")
    shown = (await ada.messages(conversation))[-1]
    assert (shown["text"], shown["partial"]) == ("half of", True)


@pytest.mark.parametrize("accept", [EVENT_STREAM["Accept"], "application/json"])
async def test_s4_5_nothing_internal_is_in_an_error(ada, model, accept):
    model.upstream.reply_next(model.speaker.refusal(Failure.KEY))
    answer = await answered(ada, accept)
    assert "secret" not in answer.text
    assert KEY not in answer.text
    for word in ("Traceback", "site-packages", "grpc", "127.0.0.1", str(model.upstream.port)):
        assert word not in answer.text, answer.text
