"""What a page sees of every product when its backend or Parley goes down while a reply runs."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.processes import until
from tests.products.lanes import EACH
from tests.upstream import Hang, Wait

pytestmark = EACH

KILLED = {"spring-boot", "express", "negotiate", "ui"}
"""One product of each client library: a kill of Parley takes the test several seconds."""
AWAY = "express"
"""Each client library has a test of its own for an address without a server; a backend waits 10 s for it."""
STOP_S = 15.0
CLEAN = {0, 143, -15}
"""Java ends with 143 after SIGTERM, other programs with 0 or by the signal."""


@pytest.fixture(autouse=True)
def _silence_was_heard(stand):
    """These tests end the stream that `test_a_silent_stream_sends_a_comment_every_10_s` follows from the start."""
    stand.silence.heard(1)


async def test_a_backend_that_shuts_down_ends_its_streams_and_the_page_attaches_again(stand, ada, model):
    go_on = asyncio.Event()
    model.says("one ", Wait(go_on), "two")
    conversation = stand.wire.new_conversation()
    async with stand.wire.send(ada, conversation) as sent, ada.attach(conversation) as events:
        await events.until("text")
        start = time.monotonic()
        if stand.product.name == "ui":  # Parley itself: the reply ends with it, after its grace
            go_on.set()
        status = await asyncio.to_thread(stand.product.terminate)
        assert time.monotonic() - start < STOP_S
        assert status in CLEAN
        await events.rest()
        await sent.rest()
    await asyncio.to_thread(stand.product.restart)
    go_on.set()
    if stand.product.name == "vision":  # it ends the reply of a browser that leaves
        assert (await ada.messages(conversation))[0]["text"] == "Hi"
        return
    async with ada.attach(conversation) as again:
        if again.status == 200:
            assert (await again.rest())[-1]["type"] == "finished"
    assert (await ada.messages(conversation))[-1]["text"] == "one two"


async def test_a_kill_of_parley_is_bridged_and_ends_with_a_sentence(stand, ada, model):
    """The reply dies with its only replica; what was written is kept, and the conversation goes on."""
    if stand.product.name not in KILLED:
        pytest.skip("another product with the same library is tested")
    model.says("one ", Hang())
    conversation = stand.wire.new_conversation()
    async with stand.wire.send(ada, conversation) as sent, ada.attach(conversation) as events:
        await events.until("text")
        await sent.next()
        await asyncio.sleep(0.25)  # the longest loss of text: a crash may lose that of one checkpoint
        await asyncio.to_thread(stand.product.parley.restart)
        received = await events.rest()
        await sent.rest()
    if stand.product.name != "ui":  # there the page's server died, too
        assert any(each["type"] == "waiting" for each in received), "the page can say that it reconnects"
    await until(lambda: is_idle(ada, conversation), "the reply has ended")
    shown = (await ada.messages(conversation))[-1]
    assert (shown["text"], shown["partial"]) == ("one ", True)
    assert shown["reply"]["error"]["code"] == "OWNER_LOST"
    assert len(shown["reply"]["error"]["message"].split()) > 3
    model.says("back")
    assert await stand.wire.ask(ada, conversation, "again") == "back"


async def is_idle(browser, conversation):
    """Whether no reply runs."""
    return (await browser.conversation(conversation))["active_reply_id"] is None


async def test_while_parley_is_away_a_question_is_503_as_a_sentence(stand, ada, model):
    if stand.product.name != AWAY:
        pytest.skip("another product is tested")
    await asyncio.to_thread(stand.product.parley.kill)
    try:
        async with stand.wire.send(ada, stand.wire.new_conversation()) as refused:
            assert refused.status == 503, refused.body
            assert refused.body["retryable"] is True
            assert len(refused.body["message"].split()) > 3
            assert str(stand.product.parley.port) not in str(refused.body)
            assert "grpc" not in str(refused.body).lower()
    finally:
        await asyncio.to_thread(stand.product.parley.start)
    assert await stand.wire.ask(ada, stand.wire.new_conversation()) == "Hello, world"
