"""Rows S1.1 to S1.12 through the HTTP face of document 001: FastAPI, sessions, OpenRouter, many watchers."""

from __future__ import annotations

import asyncio
import contextlib
import json

import httpx2
import pytest
from parley.v1 import resources_pb2

from tests.processes import until
from tests.products.browsing import new_key, shape
from tests.products.lanes import START_LIMIT, lane
from tests.products.models import KEY
from tests.upstream import Close, Hang, Request, Script, Wait, refusal

PRODUCT = "roleplay"
pytestmark = [lane(PRODUCT), START_LIMIT]
NEW_KEY = "sk-or-a-key-of-the-tests-9f3c"
ANALYTICS = "/api/analytics/cancellations"
SETTINGS = "/api/settings/openrouter-key"


@pytest.fixture
async def operator(stand):
    """A browser of a user who may change settings."""
    async with stand.browser(stand.user("ops"), operator=True) as browser:
        yield browser


def watch(browser, session):
    """One more connection of a session."""
    return browser.events("GET", f"/api/chat-sessions/{session}/stream")


async def cancel(browser, session):
    return await browser.call("POST", f"/api/chat-sessions/{session}/cancel-message")


async def test_s1_1_openrouter_is_asked_with_the_model_of_the_session(stand, ada, model):
    await stand.wire.ask(ada, stand.wire.new_conversation())
    (request,) = model.requests
    assert request.path.endswith("/api/v1/chat/completions")
    assert request.json["model"] == "vendor/test-1"
    assert request.json["stream"] is True


async def test_s1_2_the_key_of_openrouter_is_checked_stored_encrypted_and_shown_as_a_hint(stand, ada, operator, model):
    def choose(request: Request) -> Script:
        if request.method == "GET":
            good = request.headers["authorization"] == f"Bearer {NEW_KEY}"
            return refusal(200, {"data": {}}) if good else refusal(401)
        return model.script("Hello")

    model.upstream.reply_with(choose)
    refused = await operator.call("PUT", SETTINGS, json={"api_key": "sk-or-a-wrong-key-0000"})
    assert refused.status_code == 400, refused.text
    shape(refused.json())
    assert (await ada.call("PUT", SETTINGS, json={"api_key": NEW_KEY})).status_code == 403
    stored = await operator.call("PUT", SETTINGS, json={"api_key": NEW_KEY})
    assert stored.status_code == 200, stored.text
    assert stored.json()["hint"].endswith("9f3c")
    shown = await operator.get(SETTINGS)
    assert shown["hint"] == stored.json()["hint"]
    assert NEW_KEY not in json.dumps([stored.json(), shown])
    await stand.wire.ask(ada, stand.wire.new_conversation())
    assert model.requests[-1].headers["authorization"] == f"Bearer {NEW_KEY}"
    for file in stand.product.parley.folder.glob("parley.db*"):
        assert NEW_KEY.encode() not in file.read_bytes(), file


async def test_s1_3_the_prompt_is_sections_then_history_then_post_system_then_the_new_message(stand, ada, model):
    session = stand.wire.new_conversation()
    await stand.wire.ask(ada, session, "first")
    await stand.wire.ask(ada, session, "second")
    messages = [(each["role"], each["content"]) for each in model.requests[-1].json["messages"]]
    (first, *rest) = messages
    assert first[0] == "system"
    assert first[1].count("\n---\n") == 3, "pre, system, character, profile"
    assert rest[:2] == [("user", "first"), ("assistant", "Hello, world")]
    assert rest[2][0] == "system", "post-system"
    assert rest[3:] == [("user", "second")]


async def test_s1_4_without_a_stream_both_messages_are_answered(stand, ada, model):
    session = stand.wire.new_conversation()
    answer = await ada.call(
        "POST",
        f"/api/chat-sessions/{session}/send-message",
        json={"content": "Hi", "stream": False},
        headers={"Idempotency-Key": new_key()},
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].split(";")[0] == "application/json"
    shown = await ada.messages(session)
    assert [each["text"] for each in shown] == ["Hi", "Hello, world"]
    for each in shown:
        assert each["id"] in answer.text
        assert json.dumps(each["text"]) in json.dumps(answer.json())


async def test_s1_4_streaming_is_the_default(stand, ada, model):
    path, body = stand.wire.request(ada, stand.wire.new_conversation(), "Hi")
    del body["stream"]
    async with ada.events("POST", path, json=body) as events:
        assert (await events.rest())[-1]["type"] == "done"


async def test_s1_5_one_generation_at_a_time(stand, ada, model):
    model.says("one ", Hang())
    session = stand.wire.new_conversation()
    async with stand.wire.send(ada, session):
        async with stand.wire.send(ada, session, "and?") as refused:
            assert refused.status == 409
            assert refused.body["message"]
        await cancel(ada, session)
    model.says("free")
    assert await stand.wire.ask(ada, session, "and now?") == "free"


async def test_s1_6_tabs_and_devices_watch_one_stream_up_to_a_limit(stand, ada, model):
    go_on = asyncio.Event()
    model.says("one ", Wait(go_on), "two")
    session = stand.wire.new_conversation()
    async with contextlib.AsyncExitStack() as stack:
        tabs = [await stack.enter_async_context(stand.wire.send(ada, session))]
        while tabs[-1].status == 200:
            assert len(tabs) < 50, "there is a limit"
            tabs.append(await stack.enter_async_context(watch(ada, session)))
        refused = tabs.pop()
        assert refused.status == 429, refused.body
        shape(refused.body)
        assert len(tabs) >= 3
        go_on.set()
        texts = [stand.wire.answer(await tab.rest()) for tab in tabs]
    assert texts == ["one two"] * len(tabs)


async def test_s1_6_a_connection_that_has_gone_frees_its_place(stand, ada, model):
    model.says("one ", Hang())
    session = stand.wire.new_conversation()
    async with stand.wire.send(ada, session):
        async with contextlib.AsyncExitStack() as stack:
            while (await stack.enter_async_context(watch(ada, session))).status == 200:
                pass

        async def admitted() -> bool:
            async with watch(ada, session) as tab:
                return tab.status == 200

        await until(admitted, "a place is free")
        await cancel(ada, session)


async def test_s1_7_a_reload_gets_all_text_so_far_first_and_then_the_tail(stand, ada, model):
    go_on = asyncio.Event()
    model.says("one ", "two ", Wait(go_on), "three")
    session = stand.wire.new_conversation()
    async with stand.wire.send(ada, session) as events:
        while stand.wire.answer(events.received) != "one two ":
            await events.next()
    async with watch(ada, session) as tab:  # the first connection has gone
        assert await tab.next() == {"type": "content", "data": "one two "}
        go_on.set()
        received = await tab.rest()
    assert stand.wire.answer(received) == "one two three"
    assert received[-1]["type"] == "done"
    async with watch(ada, session) as late:
        assert late.status == 204


async def test_s1_7_a_stream_outlives_a_kill_of_the_backend(stand, ada, model):
    go_on = asyncio.Event()
    model.says("one ", Wait(go_on), "two")
    session = stand.wire.new_conversation()
    async with stand.wire.send(ada, session) as events:
        await events.until("content")
        await asyncio.to_thread(stand.product.kill)
        await events.rest()
        assert events.cut
    await asyncio.to_thread(stand.product.restart)
    async with watch(ada, session) as tab:
        assert await tab.next() == {"type": "content", "data": "one "}
        go_on.set()
        assert stand.wire.answer(await tab.rest()) == "one two"


async def test_s1_8_a_stream_that_nobody_watches_is_stopped(stand, ada, model):
    """The reply is started at Parley itself, with a shorter time than the product's 5 minutes."""
    model.says("one ", Hang())
    session = await started_at_parley(stand, ada, orphan_ttl_s=0.5)
    async with watch(ada, session) as tab:
        await tab.until("content")
    ended = await until(lambda: last_reply(ada, session), "the reply has ended")
    assert (ended["state"], ended["finish_reason"]) == ("cancelled", "ORPHANED")


async def test_s1_10_a_stream_over_its_time_limit_is_cancelled_with_the_reason(stand, ada, model):
    model.says("one ", Hang())
    session = await started_at_parley(stand, ada, time_limit_s=1.5)
    async with watch(ada, session) as tab:
        assert (await tab.rest())[-1] == {"type": "cancelled", "reason": "time_limit"}


async def test_s1_10_a_lost_server_is_shown_as_a_notice_until_another_one_answers(stand, ada, model):
    model.says("one ", Hang())
    session = stand.wire.new_conversation()
    async with stand.wire.send(ada, session) as events:
        await events.until("content")
        await asyncio.to_thread(stand.product.parley.restart)
        received = await events.rest()
    assert any(each["type"] == "notice" and len(each["message"].split()) > 3 for each in received), received


async def test_s1_10_maintenance_ends_a_stream_with_a_sentence(stand, ada, model):
    """The reply has the grace of the shutdown to end by itself; its text is kept."""
    model.says("one ", Hang())
    session = stand.wire.new_conversation()
    async with stand.wire.send(ada, session) as events:
        await events.until("content")
        await asyncio.to_thread(stand.product.parley.terminate)
        last = (await events.rest())[-1]
    await asyncio.to_thread(stand.product.parley.start)
    assert last["type"] in {"error", "cancelled"}
    assert len((last.get("error") or last["reason"]).split()) > 3
    assert (await ada.messages(session))[-1]["text"] == "one "


async def started_at_parley(stand, browser, **fields) -> str:
    """A session whose reply was started with these fields."""
    session = stand.wire.new_conversation()
    async with stand.client(browser.user) as client:
        await client.conversations.create(resources_pb2.Conversation(id=session))
        await client.create_reply("Hi", conversation_id=session, wait_s=0, **fields)
    return session


async def last_reply(browser, session):
    """The last reply of a session without a running one; None while one runs."""
    if (await browser.conversation(session))["active_reply_id"]:
        return None
    return (await browser.messages(session))[-1]["reply"]


async def test_s1_9_cancel_ends_the_vendor_s_stream_and_tells_every_watcher(stand, ada, model):
    model.says("one ", Hang())
    session = stand.wire.new_conversation()
    async with stand.wire.send(ada, session) as events, watch(ada, session) as tab:
        await tab.until("content")
        answer = await cancel(ada, session)
        assert (answer.status_code, answer.json()) == (200, {"status": "cancelled"})
        for each in (events, tab):
            assert (await each.rest())[-1] == {"type": "cancelled", "reason": "user_cancelled"}
    await asyncio.wait_for(model.upstream.aborted.wait(), 20)
    model.says("free")
    assert await stand.wire.ask(ada, session, "go on") == "free"


async def test_s1_9_cancel_when_nothing_runs_is_409(stand, ada, model):
    session = stand.wire.new_conversation()
    await stand.wire.ask(ada, session)
    answer = await cancel(ada, session)
    assert answer.status_code == 409
    shape(answer.json())


async def test_s1_9_a_cancel_that_races_with_the_end_has_one_outcome(stand, ada, model):
    for _ in range(10):
        go_on = asyncio.Event()
        model.says("one", Wait(go_on))
        session = stand.wire.new_conversation()
        async with stand.wire.send(ada, session) as events:
            await events.until("content")
            go_on.set()
            answer, received = await asyncio.gather(cancel(ada, session), events.rest())
        last = received[-1]["type"]
        assert last in {"done", "cancelled"}
        if answer.status_code == 409:
            assert last == "done"
        else:
            assert answer.json()["status"] == ("cancelled" if last == "cancelled" else "already_finished")


async def test_s1_11_cancellations_are_analysed(stand, ada, operator, model):
    model.says("half of", Hang())
    session = stand.wire.new_conversation()
    async with stand.wire.send(ada, session) as events:
        await events.until("content")
        await cancel(ada, session)
        await events.rest()
    assert (await ada.call("GET", ANALYTICS)).status_code == 403
    shown = await operator.get(ANALYTICS)
    assert 0 < shown["rate"] <= 1
    assert shown["cancelled"] >= 1
    assert shown["mean_text_length"] > 0
    assert "user_cancelled" in json.dumps(shown) or "CANCELLED" in json.dumps(shown)


async def test_s1_12_a_failing_provider_is_an_error_event_and_leaves_a_usable_session(stand, ada, model):
    session = stand.wire.new_conversation()
    for fault in (refusal(500), refusal(401), model.script("half of", Close())):
        model.upstream.reply_next(fault)
        async with stand.wire.send(ada, session) as events:
            last = (await events.rest())[-1]
        assert last["type"] == "error", last
        assert len(last["error"].split()) > 2
        assert KEY not in str(last)
    assert await stand.wire.ask(ada, session, "and now?") == "Hello, world"
    states = [each["reply"]["state"] for each in await ada.messages(session) if each["role"] == "assistant"]
    assert states[-1] == "completed"


async def test_s1_12_the_interface_is_described_by_openapi(stand):
    async with httpx2.AsyncClient(base_url=stand.product.url, trust_env=False) as client:
        document = (await client.get("/openapi.json")).json()
    paths = document["paths"]
    for path in ("send-message", "stream", "cancel-message"):
        (found,) = (each for each in paths if each.endswith(path) and "chat-sessions" in each)
        (operation,) = paths[found].values()
        assert {"200", "401"} <= set(operation["responses"]), (path, operation["responses"])
    assert SETTINGS in paths
    assert ANALYTICS in paths
