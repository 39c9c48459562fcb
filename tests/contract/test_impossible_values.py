"""A provider pushes a value that the store or the contract cannot hold: the reply still ends, its conversation accepts
the next message, and recovery ends such replies after a restart."""

from __future__ import annotations

import asyncio
import json
import math

import msgspec
import pytest
from parley_server.core.counts import MOST_COST
from parley_server.core.events import TextDelta, UsageUpdate
from parley_server.core.model import Finish, FinishReason, Prices, State, TextPart, Usage
from parley_server.core.replies.log import Reader
from parley_server.core.store_types import Checkpoint, MessageFilter
from parley_server.errors import ProviderError, ProviderRateLimited, ProviderRejected, Reason
from parley_server.rpc.status import trailers_of
from parley_server.rpc.to_proto import message, reply_message, token_chunk

from tests.fakes import ADA, FAST, STOP, CoreHarness, say_hello

IMPOSSIBLE_COUNTS = [2**31, 2**63, 2**64 - 1, 2**64, 10**30, -1, 10**8 + 1]
DEAR = msgspec.structs.replace(FAST, prices=Prices(prompt=10**18, completion=10**18))


def telling(usage: Usage):
    async def answer(prompt, sink):
        sink.text("said")
        sink.usage(usage)
        sink.flush()
        return STOP

    return answer


def calling(index: int, call_id: str = "call_1"):
    async def answer(prompt, sink):
        sink.text("said")
        sink.tool_call(index, call_id, "look", "{}")
        sink.flush()
        return STOP

    return answer


def writing(text: str):
    async def answer(prompt, sink):
        sink.text("said")
        sink.flush()
        sink.text(text)
        sink.flush()
        return STOP

    return answer


def ending(word: str):
    async def answer(prompt, sink):
        sink.text("said")
        sink.flush()
        return Finish(reason=FinishReason.STOP, provider_reason=word)

    return answer


def failing(error: ProviderError):
    async def answer(prompt, sink):
        sink.text("said")
        sink.flush()
        raise error

    return answer


@pytest.fixture
async def harness(store):
    made = CoreHarness(store, journal=True)
    made.catalog.only = DEAR
    yield made
    await made.aclose()


async def ended_and_shown(harness: CoreHarness, answer):
    """The stored reply, after checks that readers and calls can see its end, and that the conversation accepts another
    message."""
    generation = await harness.begin(answer)
    reader = Reader(generation.log, 0)
    stored = await harness.stored_end(generation)
    chunks = [token_chunk(chunk) for chunk in reader.take()]
    assert chunks[-1].WhichOneof("event") in ("finished", "failed")
    assert reply_message(stored).state == reply_message(generation.log.reply).state
    page = await harness.store.list_messages(ADA, MessageFilter(conversation_id=stored.conversation_id), 9)
    assert [message(each).id for each in page.messages]
    again = await harness.stored_end(await harness.begin(say_hello, conversation_id=stored.conversation_id))
    assert again.state is State.COMPLETED
    return stored


@pytest.mark.parametrize("count", IMPOSSIBLE_COUNTS)
@pytest.mark.parametrize("field", ["prompt_tokens", "cached_prompt_tokens", "completion_tokens", "reasoning_tokens"])
async def test_an_impossible_count_is_replaced_by_an_estimate_without_cost(harness, count, field):
    stored = await ended_and_shown(harness, telling(Usage(**{field: count})))
    assert (stored.state, stored.usage.estimated) == (State.COMPLETED, True)
    assert 0 < stored.usage.completion_tokens < 10


async def test_an_impossible_count_does_not_replace_a_possible_one(harness):
    async def answer(prompt, sink):
        sink.text("said")
        sink.usage(Usage(prompt_tokens=3, completion_tokens=1))
        sink.flush()
        sink.usage(Usage(prompt_tokens=2**64 - 1))
        sink.flush()
        return STOP

    stored = await ended_and_shown(harness, answer)
    assert (stored.usage.prompt_tokens, stored.usage.completion_tokens, stored.usage.estimated) == (3, 1, False)


async def test_a_cost_above_the_most_that_is_stored_is_clamped(harness):
    stored = await ended_and_shown(harness, telling(Usage(prompt_tokens=10**8, completion_tokens=10**8)))
    assert (stored.state, stored.usage.cost_nano_usd) == (State.COMPLETED, MOST_COST)


@pytest.mark.parametrize("index", [2**31, 2**63, 2**64, -1])
async def test_a_tool_call_index_out_of_range_fails_the_reply_as_malformed(harness, index):
    stored = await ended_and_shown(harness, calling(index))
    assert (stored.state, stored.error.reason) == (State.FAILED, Reason.PROVIDER_MALFORMED)
    assert stored.message.parts == (TextPart(text="said"),)


@pytest.mark.parametrize("word", ["st\0op", "st\ud800op", "\udc00", "\0"])
async def test_a_finish_reason_that_no_row_can_hold_is_stored_with_replacements(harness, word):
    stored = await ended_and_shown(harness, ending(word))
    assert stored.state is State.COMPLETED
    assert "\ufffd" in stored.provider_reason


async def test_text_with_a_nul_is_kept(harness):
    stored = await ended_and_shown(harness, writing(" a\0b"))
    assert (stored.state, stored.message.parts) == (State.COMPLETED, (TextPart(text="said a\0b"),))


@pytest.mark.parametrize("answer", [writing("\ud800"), calling(0, "call\ud800")])
async def test_a_lone_surrogate_fails_the_reply_and_keeps_the_text_before_it(harness, answer):
    stored = await ended_and_shown(harness, answer)
    assert (stored.state, stored.error.reason) == (State.FAILED, Reason.INTERNAL)
    assert all(part == TextPart(text="said") for part in (stored.message.parts if stored.message else ()))


@pytest.mark.parametrize("text", ["no\0", "no\ud800"])
async def test_an_error_with_texts_that_no_row_can_hold_ends_the_reply(harness, text):
    stored = await ended_and_shown(harness, failing(ProviderRejected(text, metadata={"provider_code": text})))
    assert (stored.state, stored.error.reason) == (State.FAILED, Reason.PROVIDER_REJECTED)
    assert stored.error.message == "no\ufffd"


@pytest.mark.parametrize("wait_s", [math.inf, math.nan, -1.0, 1e300])
async def test_an_impossible_retry_delay_does_not_hide_the_error(harness, wait_s):
    stored = await ended_and_shown(harness, failing(ProviderRateLimited("later", retry_after_s=wait_s)))
    assert (stored.state, stored.error.reason) == (State.FAILED, Reason.PROVIDER_RATE_LIMITED)
    assert trailers_of(stored.error)


async def test_a_finalisation_that_the_store_cannot_hold_becomes_internal_and_keeps_the_text(harness, caplog):
    async def refuse(finalisation):
        if finalisation.state is State.COMPLETED:
            raise OverflowError("a value that nothing has bounded")

    harness.store.before["finalise"] = refuse
    stored = await ended_and_shown_once(harness)
    assert (stored.state, stored.error.reason) == (State.FAILED, Reason.INTERNAL)
    assert stored.message.parts == (TextPart(text="Hello"),)
    assert (stored.message.partial, stored.message.failed) == (True, True)
    assert "finalisation_failed" in caplog.messages


async def test_a_finalisation_whose_text_the_store_cannot_hold_is_stored_without_it(harness):
    async def refuse(finalisation):
        if finalisation.message is not None:
            raise OverflowError("a value that nothing has bounded")

    harness.store.before["finalise"] = refuse
    stored = await ended_and_shown_once(harness)
    assert (stored.state, stored.error.reason, stored.message) == (State.FAILED, Reason.INTERNAL, None)


async def ended_and_shown_once(harness: CoreHarness):
    generation = await harness.begin(say_hello)
    stored = await harness.stored_end(generation)
    harness.store.before.clear()
    assert reply_message(stored).state == reply_message(generation.log.reply).state
    return stored


async def test_a_drain_does_not_wait_for_a_reply_that_cannot_be_finalised(harness):
    async def refuse(_):
        raise RuntimeError("a defect of the store")

    harness.store.before["finalise"] = refuse
    generation = await harness.begin(say_hello)
    async with asyncio.timeout(10):
        await harness.replies.drain(0.0)
    assert generation.dead
    harness.store.before.clear()
    await harness.recovery.reconcile()
    assert (await harness.stored_end(generation)).state is State.FAILED


# --- after a crash


@pytest.fixture
async def abandoned(store):
    """Create a reply left unfinished by a process, with the text "said" and a usage in its checkpoint."""
    worlds = []

    async def hold(prompt, sink):
        await asyncio.get_running_loop().create_future()

    async def begin():
        worlds.append(CoreHarness(store, hold))
        reply = (await worlds[-1].begin()).log.reply
        left = Checkpoint(
            reply_id=reply.id,
            epoch=reply.epoch,
            model=reply.model,
            provider=reply.provider,
            from_sequence=1,
            to_sequence=2,
            entries=(TextDelta("said"), UsageUpdate(Usage(prompt_tokens=1))),
            first_token_time_us=1,
        )
        await store.append_checkpoints([left])
        return reply

    yield begin
    for harness in worlds:
        await harness.aclose()


@pytest.mark.parametrize("count", [2**64 - 1, 2**31, -5, 10**30])
async def test_recovery_ends_a_reply_whose_log_has_an_impossible_count(store, query, abandoned, count):
    left = await abandoned()
    usage = {"type": "usage", "usage": {"prompt_tokens": count}}
    entries = json.dumps([{"type": "text", "text": "said"}, usage])
    query("UPDATE checkpoint SET entries = ?", entries)
    born = CoreHarness(store)
    born.catalog.only = DEAR

    assert await born.recovery.recover() == 1

    stored = await store.get_reply(ADA, left.id)
    assert (stored.state, stored.error.reason) == (State.FAILED, Reason.OWNER_LOST)
    assert (stored.message.parts, stored.usage.estimated) == ((TextPart(text="said"),), True)
    assert 0 < stored.usage.prompt_tokens < 100  # the estimate of the acceptance
    assert reply_message(stored).usage.prompt_tokens == stored.usage.prompt_tokens
    await born.aclose()


async def test_recovery_continues_after_a_reply_that_cannot_be_finalised(store, abandoned, caplog):
    first = await abandoned()
    second = await abandoned()
    born = CoreHarness(store)

    async def refuse(finalisation):
        if finalisation.reply_id == first.id:
            raise RuntimeError("a defect of this one reply")

    born.store.before["finalise"] = refuse
    assert await born.recovery.recover() == 2
    assert "recovery_failed" in caplog.messages
    assert (await store.get_reply(ADA, second.id)).state is State.FAILED
    assert await store.unfinished_ids() == [first.id]
    await born.aclose()
