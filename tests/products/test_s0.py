"""Rows S0.1 to S0.12 through the HTTP face of document 000: Spring Boot, polling, PostgreSQL, Redis and Gemini.

The page of S0.12 is tested in a browser, too (`tests/browser`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import pytest
from parley.v1 import resources_pb2

from tests.processes import until
from tests.products.browsing import Browser, new_key, shape
from tests.products.lanes import START_LIMIT, lane
from tests.products.models import KEY
from tests.upstream import Hang, Pause, Wait, refusal

PRODUCT = "spring-boot"
pytestmark = [lane(PRODUCT), START_LIMIT]
TASK = {"status", "chunks", "final_message", "error"}


async def send(browser: Browser, conversation: str, text: str = "Hi", *, key: str = "") -> Any:
    """The answer to a message."""
    return await browser.call(
        "POST",
        f"/api/conversations/{conversation}/messages",
        json={"content": text},
        headers={"Idempotency-Key": key or new_key()},
    )


async def accepted(browser: Browser, conversation: str, text: str = "Hi", *, key: str = "") -> str:
    """Send a message that is accepted; returns the task id."""
    answer = await send(browser, conversation, text, key=key)
    assert answer.status_code == 202, answer.text
    assert set(answer.json()) == {"task_id", "status"}
    assert answer.json()["status"] == "processing"
    return str(answer.json()["task_id"])


async def poll(browser: Browser, task: str, **query: Any) -> dict[str, Any]:
    """The state of a task, in its documented shape."""
    state: dict[str, Any] = await browser.get(f"/api/tasks/{task}", params=query)
    assert set(state) == TASK
    assert all(isinstance(chunk, str) and chunk for chunk in state["chunks"])
    return state


async def ended(browser: Browser, task: str) -> dict[str, Any]:
    """Its state once it is not processing."""

    async def over() -> Any:
        state = await poll(browser, task, wait=5)
        return state if state["status"] != "processing" else None

    state: dict[str, Any] = await until(over, "the task has ended")
    return state


async def chunks_with(browser: Browser, task: str, text: str) -> list[str]:
    """The chunks of a running task once they contain this text."""

    async def there() -> Any:
        answer = await browser.call("GET", f"/api/tasks/{task}")
        if answer.status_code == 503:  # a backend that has just started: a page polls again
            return None
        chunks = answer.json()["chunks"]
        return chunks if text in "".join(chunks) else None

    found: list[str] = await until(there, f"chunks with {text!r}")
    return found


async def test_s0_1_a_message_is_answered_by_a_task_that_is_polled(stand, ada, model):
    steps = [asyncio.Event() for _ in range(2)]
    model.says("Once upon ", "a ti", Wait(steps[0]), "me there ", Wait(steps[1]), "was")
    conversation = stand.wire.new_conversation()
    task = await accepted(ada, conversation)
    first = await chunks_with(ada, task, "upon")
    assert "".join(first) == "Once upon a ti"[: len("".join(first))], "the last piece may be held back"
    steps[0].set()
    second = await chunks_with(ada, task, "time")
    assert second[: len(first)] == first, "append-only: a page does chunks.slice(n)"
    alias = await ada.get(f"/api/conversations/tasks/{task}")
    assert alias["status"] == "processing"
    steps[1].set()
    state = await ended(ada, task)
    assert (state["status"], state["chunks"], state["error"]) == ("completed", [], None)
    message = state["final_message"]
    assert set(message) == {"id", "role", "content", "created_at"}
    assert (message["role"], message["content"]) == ("assistant", "Once upon a time there was")
    assert message["id"] == (await ada.messages(conversation))[-1]["id"]


async def test_s0_1_a_long_poll_waits_for_news(stand, ada, model):
    go_on = asyncio.Event()
    model.says("one ", "two ", Wait(go_on), "three")
    task = await accepted(ada, stand.wire.new_conversation())
    waiting = asyncio.create_task(poll(ada, task, wait=20))
    await chunks_with(ada, task, "one")
    go_on.set()
    await waiting
    assert (await ended(ada, task))["final_message"]["content"] == "one two three"


async def test_s0_1_a_second_message_while_one_runs_names_the_running_task(stand, ada, model):
    model.says("one ", Hang())
    conversation = stand.wire.new_conversation()
    task = await accepted(ada, conversation)
    answer = await send(ada, conversation, "and?")
    assert answer.status_code == 409
    assert answer.json()["task_id"] == task
    shape(answer.json())
    await ada.stop(conversation)
    state = await ended(ada, task)
    assert state["status"] in {"completed", "failed"}


async def test_s0_1_a_repeated_message_is_the_same_task(stand, ada, model):
    conversation, key = stand.wire.new_conversation(), new_key()
    tasks = await asyncio.gather(*(accepted(ada, conversation, key=key) for _ in range(3)))
    assert len(set(tasks)) == 1
    await ended(ada, tasks[0])
    assert len(model.requests) == 1


@pytest.mark.parametrize("content", ["", None])
async def test_s0_1_an_empty_message_is_400(stand, ada, content):
    answer = await send(ada, stand.wire.new_conversation(), content)
    assert answer.status_code == 400
    shape(answer.json())


async def test_s0_2_a_task_outlives_a_kill_of_the_backend(stand, ada, model):
    go_on = asyncio.Event()
    model.says("one ", "two ", Wait(go_on), "three")
    conversation = stand.wire.new_conversation()
    task = await accepted(ada, conversation)
    before = await chunks_with(ada, task, "one")
    await asyncio.to_thread(stand.product.restart)
    after = await chunks_with(ada, task, "one")
    assert after[: len(before)] == before
    go_on.set()
    assert (await ended(ada, task))["final_message"]["content"] == "one two three"
    assert len(model.requests) == 1


async def test_s0_2_a_task_outlives_a_kill_of_parley(stand, ada, model):
    """The generation dies with its only replica: the task ends as failed, with a sentence, and its text is kept."""
    model.says("one ", "two ", Hang())
    conversation = stand.wire.new_conversation()
    task = await accepted(ada, conversation)
    await chunks_with(ada, task, "two")
    await asyncio.sleep(0.25)  # the longest loss of text: a crash may lose that of one checkpoint
    await asyncio.to_thread(stand.product.parley.restart)
    state = await ended(ada, task)
    assert state["status"] == "failed"
    assert len(state["error"].split()) > 3
    assert KEY not in state["error"]
    assert (await ada.messages(conversation))[-1]["text"] == "one two "
    model.says("back")
    again = await accepted(ada, conversation, "again")
    assert (await ended(ada, again))["final_message"]["content"] == "back"


async def test_s0_2_a_task_is_gone_600_s_after_its_end(stand, ada, model):
    """The end of one of two tasks is moved back in the database, and Parley starts again, so that it reads it."""
    conversation = stand.wire.new_conversation()
    old, young = [await accepted(ada, each) for each in (conversation, stand.wire.new_conversation())]
    for task in (old, young):
        await ended(ada, task)
    await stand.postgres.query("UPDATE reply SET end_time_us = end_time_us - 601000000 WHERE id = $1", old)
    await asyncio.to_thread(stand.product.parley.restart)
    answer = await ada.call("GET", f"/api/tasks/{old}")
    assert answer.status_code == 404, answer.text
    shape(answer.json())
    assert (await poll(ada, young))["status"] == "completed"
    assert (await ada.messages(conversation))[-1]["text"] == "Hello, world", "the answer itself stays"


async def test_s0_3_gemini_is_asked_with_the_temperature_and_length_of_the_document(stand, ada, model):
    task = await accepted(ada, stand.wire.new_conversation())
    await ended(ada, task)
    (request,) = model.requests
    assert "streamGenerateContent" in request.path
    config = request.json["generationConfig"]
    assert (config["temperature"], config["maxOutputTokens"]) == (0.8, 8192)


async def test_s0_3_a_failure_of_gemini_is_a_failed_task_with_a_sentence(stand, ada, model):
    model.upstream.reply_next(refusal(500))
    task = await accepted(ada, stand.wire.new_conversation())
    state = await ended(ada, task)
    assert (state["status"], state["final_message"]) == ("failed", None)
    assert len(state["error"].split()) > 3


async def test_s0_4_the_answer_is_stored_once_after_the_stream(stand, ada, model):
    go_on = asyncio.Event()
    model.says("one ", "more ", Wait(go_on), "two")
    conversation = stand.wire.new_conversation()
    task = await accepted(ada, conversation)
    await chunks_with(ada, task, "one")
    count = "SELECT count(*) FROM message WHERE reply_id = $1"
    rows = stand.postgres.query
    assert await rows(count, task) == [(0,)], "the running answer is in the log, not in the table"
    go_on.set()
    await ended(ada, task)
    await asyncio.gather(*(poll(ada, task) for _ in range(5)))
    assert await rows(count, task) == [(1,)]
    assert await rows("SELECT count(*) FROM usage WHERE reply_id = $1", task) == [(1,)]


async def test_s0_5_the_11th_message_of_a_minute_is_429(stand, ada, ben, model):
    for _ in range(10):
        await ended(ada, await accepted(ada, stand.wire.new_conversation()))
    asked = len(model.requests)
    answer = await send(ada, stand.wire.new_conversation())
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert answer.json()["code"] == "RATE_LIMITED"
    assert answer.json()["retryable"] is True
    shape(answer.json())
    assert len(model.requests) == asked, "the model is not asked"
    await accepted(ben, stand.wire.new_conversation())


async def test_s0_6_only_the_owner_may_send_and_poll(stand, ada, ben, model):
    conversation = stand.wire.new_conversation()
    task = await accepted(ada, conversation)
    await ended(ada, task)
    assert (await send(ben, conversation)).status_code == 404
    for path in (f"/api/tasks/{task}", f"/api/conversations/tasks/{task}"):
        answer = await ben.call("GET", path)
        assert answer.status_code == 404
        shape(answer.json())
    ben.forget_token()
    assert (await ben.call("GET", f"/api/tasks/{task}")).status_code == 401
    assert (await send(ben, conversation)).status_code == 401


async def test_s0_6_task_ids_cannot_be_guessed(stand, ada, model):
    tasks = [await accepted(ada, stand.wire.new_conversation()) for _ in range(3)]
    for task in tasks:
        await ended(ada, task)
    assert all(len(task) >= 20 for task in tasks), tasks
    assert len({task[-12:] for task in tasks}) == 3


async def test_s0_7_history_is_whole_up_to_10000_tokens_and_reminds_every_50_messages(stand, ada, model):
    conversation = stand.wire.new_conversation()
    await ended(ada, await accepted(ada, conversation, "first"))
    async with stand.client(ada.user) as client:
        made = await client.conversations.get(conversation)
    assert made.context.reminder_interval == 50
    assert made.context.reminder
    assert made.context.max_tokens == 10_000
    long = stand.wire.new_conversation()
    roles = (resources_pb2.ROLE_USER, resources_pb2.ROLE_ASSISTANT)
    messages = [
        resources_pb2.Message(role=roles[n % 2], parts=[resources_pb2.Part(text=f"text {n} " + "x" * 100)])
        for n in range(1000)
    ]
    seeded = resources_pb2.Conversation(id=long, system=made.system, context=made.context, model=made.model)
    async with stand.client(ada.user) as client:
        await client.conversations.create(seeded, messages=messages)
    await ended(ada, await accepted(ada, conversation, "second"))
    assert [text for _, text in model.asked()[-1].turns] == ["first", "Hello, world", "second"]
    await ended(ada, await accepted(ada, long, "and now?"))
    turns = model.asked()[-1].turns
    # Gemini has no system messages within a conversation: the reminder after 1,000 messages stands before the question.
    assert turns[-1] == ("user", f"{made.context.reminder}\n\nand now?")
    size = sum(len(text) for _, text in turns)
    assert 0.5 * 10_000 < size / 3 < 1.5 * 10_000, "trimmed to about 10,000 tokens"


async def test_s0_8_the_system_instruction_is_the_scenario(stand, ada, model):
    await ended(ada, await accepted(ada, stand.wire.new_conversation()))
    (asked,) = model.asked()
    assert len(asked.system) > 40, "a scenario"


async def test_s0_9_ten_users_at_once_get_their_own_answers_without_doubles(stand, model):
    words = [f"w{n} " for n in range(30)]
    model.says(*(step for word in words for step in (word, Pause(0.01))))
    async with contextlib.AsyncExitStack() as stack:
        users = [await stack.enter_async_context(stand.browser(stand.user())) for _ in range(10)]

        async def converse(browser: Browser) -> tuple[str, str]:
            task = await accepted(browser, stand.wire.new_conversation())
            shown: list[str] = []
            while (state := await poll(browser, task))["status"] == "processing":
                assert state["chunks"][: len(shown)] == shown
                shown += state["chunks"][len(shown) :]
                await asyncio.sleep(0.02)
            return "".join(shown), state["final_message"]["content"]

        results = await asyncio.gather(*(converse(each) for each in users))
    whole = "".join(words)
    for shown, final in results:
        assert final == whole
        assert whole.startswith(shown)


async def test_s0_9_a_task_takes_less_than_1_mb_of_redis(stand, ada, model):
    text = "x" * 99 + " "
    model.says(*[text] * 300, Hang())
    conversation = stand.wire.new_conversation()
    before = int(stand.redis.command("INFO", "memory")["used_memory"])
    task = await accepted(ada, conversation)
    await until(lambda: _has_chunks(ada, task, 290), "the text of 8,192 tokens")
    used = int(stand.redis.command("INFO", "memory")["used_memory"]) - before
    await ada.stop(conversation)
    assert used < 1_000_000


async def _has_chunks(browser: Browser, task: str, count: int) -> bool:
    return len((await poll(browser, task))["chunks"]) >= count


async def test_s0_10_an_unknown_task_is_404(ada):
    for task in ("nobody-s", "0" * 36):
        answer = await ada.call("GET", f"/api/tasks/{task}")
        assert answer.status_code == 404
        shape(answer.json())


async def test_s0_10_without_the_database_a_message_is_503_as_a_sentence(stand, ada, model):
    await asyncio.to_thread(stand.postgres.stop)
    try:
        start = time.monotonic()
        answer = await send(ada, stand.wire.new_conversation())
        assert answer.status_code == 503, answer.text
        assert answer.json()["retryable"] is True
        assert len(answer.json()["message"].split()) > 3
        shape(answer.json())
        assert time.monotonic() - start < 30
    finally:
        await asyncio.to_thread(stand.postgres.start)

    async def works() -> bool:
        return (await send(ada, stand.wire.new_conversation())).status_code == 202

    await until(works, "messages are accepted again")


async def test_s0_10_without_redis_polling_goes_on(stand, ada, model):
    """One replica holds the log itself; limits count locally."""
    go_on = asyncio.Event()
    model.says("one ", "more ", Wait(go_on), "two")
    task = await accepted(ada, stand.wire.new_conversation())
    await chunks_with(ada, task, "one")
    await asyncio.to_thread(stand.redis.stop)
    try:
        assert (await poll(ada, task))["status"] == "processing"
        go_on.set()
        assert (await ended(ada, task))["final_message"]["content"] == "one more two"
    finally:
        await asyncio.to_thread(stand.redis.start)


async def test_s0_11_the_cost_of_a_message_is_shown(stand, ada, model):
    conversation = stand.wire.new_conversation()
    await ended(ada, await accepted(ada, conversation))
    reply = (await ada.messages(conversation))[-1]["reply"]
    assert reply["cost_usd"] == pytest.approx(50 * 2e-6 + 7 * 8e-6)


async def test_s0_12_a_page_that_appends_new_chunks_types_the_answer(stand, ada, model):
    """What a page does every 2 s, as in the document; how it looks is tested in a browser."""
    steps = [asyncio.Event() for _ in range(2)]
    model.says("One ", "two ", Wait(steps[0]), "three ", "four ", Wait(steps[1]), "five")
    task = await accepted(ada, stand.wire.new_conversation())
    typed = ""
    for word, step in (("One", steps[0]), ("three", steps[1])):
        chunks = await chunks_with(ada, task, word)
        typed += "".join(chunks)[len(typed) :]
        assert "One two three four five".startswith(typed)
        step.set()
    assert (await ended(ada, task))["final_message"]["content"] == "One two three four five"
