"""Finalisation (only the first one wins), cancel requests, and checkpoints."""

import asyncio

import msgspec
import pytest
from parley_server.core.events import ReasoningDelta, TextDelta, ToolCallDelta, UsageUpdate
from parley_server.core.model import FinishReason, Message, ReplyError, Role, State, TextPart, Usage
from parley_server.core.store_types import (
    Busy,
    CancelTarget,
    ConversationUpdate,
    Finalised,
    MessageFilter,
    Position,
    Unfinished,
)
from parley_server.errors import ConversationNotFound, ProviderContextTooLarge, Reason, ReplyNotFound

from tests.contract.store_values import (
    ADA,
    BEN,
    NOW_US,
    RIVAL,
    SECOND_US,
    SHOP,
    USAGE,
    acceptance,
    accepted,
    answered,
    chain,
    checkpoint,
    created,
    finalisation,
)

CANCELLED = FinishReason.CANCELLED


async def test_a_completed_reply_is_stored_with_message_and_usage(store, query):
    conversation = await created(store)
    asked = await accepted(store, conversation)

    outcome = await store.finalise(finalisation(asked, "done"))

    answer = Message(
        id=asked.message_id,
        role=Role.ASSISTANT,
        parts=(TextPart(text="done"),),
        parent_id=asked.parent_message_id,
        reply_id=asked.id,
        create_time_us=NOW_US + 2 * SECOND_US,
    )
    ended = msgspec.structs.replace(
        asked,
        state=State.COMPLETED,
        message=answer,
        finish_reason=FinishReason.STOP,
        provider_reason="stop",
        usage=USAGE,
        last_sequence=5,
        first_token_time_us=NOW_US + SECOND_US,
        end_time_us=NOW_US + 2 * SECOND_US,
    )
    assert outcome == Finalised(reply=ended, won=True)
    assert await store.get_reply(ADA, asked.id) == ended
    after = await store.get_conversation(ADA, conversation.id)
    assert (after.head_message_id, after.active_reply_id, after.etag) == (answer.id, "", "3")
    assert after.update_time_us == ended.end_time_us
    page = await store.list_messages(ADA, MessageFilter(conversation_id=conversation.id), 1)
    assert page.messages == (answer,)
    assert page.replies == (msgspec.structs.replace(ended, message=None),)
    columns = "reply_id, tenant, end_user, model, provider, state, finish_reason, error_reason, text_length"
    assert query(f"SELECT {columns} FROM usage") == [
        (asked.id, "shop", "ada", "fast", "scripted", "COMPLETED", "STOP", None, 4)
    ]
    tokens = "prompt_tokens, cached_prompt_tokens, completion_tokens, reasoning_tokens, cost_nano_usd, estimated"
    assert query(f"SELECT {tokens} FROM usage") == [(7, 2, 3, 1, 1234, 0)]
    times = (NOW_US, NOW_US + SECOND_US, NOW_US + 2 * SECOND_US)
    assert query("SELECT create_time_us, first_token_time_us, end_time_us FROM usage") == [times]


async def test_a_failed_reply_keeps_its_error_and_its_partial_text_out_of_prompts(store, query):
    conversation = await created(store)
    asked = await accepted(store, conversation)
    error = ReplyError(
        reason=Reason.PROVIDER_TIMEOUT, message="too slow", retryable=True, retry_after_s=1.5, metadata={"a": "b"}
    )
    partial = Message(role=Role.ASSISTANT, parts=(TextPart(text="half"),), partial=True, failed=True)
    outcome = await store.finalise(
        finalisation(asked, state=State.FAILED, finish_reason=None, error=error, message=partial)
    )
    assert outcome.reply.error == error
    assert outcome.reply.message.partial
    assert outcome.reply.message.failed
    assert await store.get_reply(ADA, asked.id) == outcome.reply
    turn = await store.read_turn(ADA, conversation.id, Position(), has_input=True)
    assert turn.parent_id == asked.message_id
    assert [message.id for message in turn.path] == [asked.parent_message_id]
    assert query("SELECT error_reason, finish_reason FROM usage") == [("PROVIDER_TIMEOUT", None)]


async def test_a_reply_without_a_message_keeps_the_head_at_its_parent(store):
    conversation = await created(store)
    asked = await accepted(store, conversation)
    outcome = await store.finalise(
        finalisation(asked, "", state=State.CANCELLED, finish_reason=CANCELLED, cancel_reason="enough")
    )
    assert (outcome.reply.message, outcome.reply.cancel_reason) == (None, "enough")
    assert await store.get_reply(ADA, asked.id) == outcome.reply
    after = await store.get_conversation(ADA, conversation.id)
    assert (after.head_message_id, after.active_reply_id) == (asked.parent_message_id, "")
    await accepted(store, after)


async def test_a_finalisation_does_not_move_a_head_that_has_moved(store):
    first, second = chain("one", "two")
    conversation = await created(store, ADA, first, second)
    asked = await accepted(store, conversation)
    await store.update_conversation(
        ADA, ConversationUpdate(conversation_id=conversation.id, head_message_id=first.id), NOW_US
    )
    await store.finalise(finalisation(asked))
    assert (await store.get_conversation(ADA, conversation.id)).head_message_id == first.id


async def test_only_the_first_finalisation_wins(store, query):
    asked = await accepted(store, await created(store))
    attempts = [finalisation(asked, f"text {number}") for number in range(20)]
    outcomes = await asyncio.gather(*map(store.finalise, attempts))
    assert [outcome.won for outcome in outcomes].count(True) == 1
    stored = await store.get_reply(ADA, asked.id)
    assert {outcome.reply.message.parts for outcome in outcomes} == {stored.message.parts}
    assert all(outcome.reply == stored for outcome in outcomes)
    assert query("SELECT count(*) FROM usage") == [(1,)]
    assert query("SELECT count(*) FROM message WHERE reply_id = ?", asked.id) == [(1,)]


async def test_another_epoch_does_not_end_a_reply(store):
    asked = await accepted(store, await created(store))
    outcome = await store.finalise(finalisation(asked, epoch=asked.epoch + 1))
    assert outcome == Finalised(reply=asked, won=False)
    assert await store.unfinished_ids() == [asked.id]


async def test_finalising_an_erased_reply_returns_none(store):
    conversation = await created(store)
    ended = await answered(store, conversation)
    await store.delete_conversation(ADA, conversation.id, "")
    assert await store.finalise(finalisation(ended)) is None


async def test_tokens_written_to_a_cache_are_stored(store, query):
    asked = await accepted(store, await created(store))
    counted = Usage(prompt_tokens=9, cache_write_prompt_tokens=5)
    assert (await store.finalise(finalisation(asked, usage=counted))).reply.usage == counted
    assert query("SELECT cache_write_tokens, kind, rolled FROM usage") == [(5, "reply", False)]


async def test_unknown_costs_stay_unknown(store, query):
    asked = await accepted(store, await created(store))
    outcome = await store.finalise(finalisation(asked, usage=Usage(completion_tokens=1, estimated=True)))
    assert outcome.reply.usage == Usage(completion_tokens=1, estimated=True)
    assert query("SELECT cost_nano_usd, estimated FROM usage") == [(None, 1)]


# --- cancel


async def test_the_first_cancel_request_is_kept(store):
    asked = await accepted(store, await created(store))
    target = CancelTarget(reply_id=asked.id)
    first = await store.request_cancel(ADA, target, FinishReason.INTERRUPTED, "first", NOW_US)
    second = await store.request_cancel(ADA, target, CANCELLED, "second", NOW_US)
    assert first == second == msgspec.structs.replace(asked, cancel_reason="first")
    assert await store.unfinished(10) == [Unfinished(reply=first, cancel=FinishReason.INTERRUPTED)]


async def test_a_reply_can_be_cancelled_by_request_id_and_by_conversation(store):
    conversation = await created(store)
    asked = await accepted(store, conversation, request_id="r")
    by_request = await store.request_cancel(ADA, CancelTarget(request_id="r"), CANCELLED, "stop", NOW_US)
    by_conversation = await store.request_cancel(
        ADA, CancelTarget(conversation_id=conversation.id), CANCELLED, "later", NOW_US
    )
    assert by_request == by_conversation == msgspec.structs.replace(asked, cancel_reason="stop")


async def test_a_reply_that_has_ended_is_returned_unchanged(store):
    conversation = await created(store)
    ended = await answered(store, conversation, request_id="r")
    for target in (CancelTarget(reply_id=ended.id), CancelTarget(request_id="r")):
        assert await store.request_cancel(ADA, target, CANCELLED, "too late", NOW_US) == ended
    with pytest.raises(ReplyNotFound):
        await store.request_cancel(ADA, CancelTarget(conversation_id=conversation.id), CANCELLED, "", NOW_US)


async def test_cancelling_unknown_or_foreign_targets_is_not_found(store):
    conversation = await created(store)
    asked = await accepted(store, conversation, request_id="anns")
    for identity in (BEN, RIVAL):
        with pytest.raises(ReplyNotFound):
            await store.request_cancel(identity, CancelTarget(reply_id=asked.id), CANCELLED, "", NOW_US)
        with pytest.raises(ConversationNotFound):
            await store.request_cancel(identity, CancelTarget(conversation_id=conversation.id), CANCELLED, "", NOW_US)
        assert await store.request_cancel(identity, CancelTarget(request_id="anns"), CANCELLED, "", NOW_US) is None
    assert await store.get_reply(ADA, asked.id) == asked
    by_tenant = await store.request_cancel(SHOP, CancelTarget(reply_id=asked.id), CANCELLED, "boss", NOW_US)
    assert by_tenant.cancel_reason == "boss"


async def test_cancelling_the_request_of_an_erased_reply_is_not_found(store):
    conversation = await created(store)
    await answered(store, conversation, request_id="erased")
    await store.delete_conversation(ADA, conversation.id, "")
    with pytest.raises(ReplyNotFound):
        await store.request_cancel(ADA, CancelTarget(request_id="erased"), CANCELLED, "", NOW_US)


# --- checkpoints


async def test_an_unfinished_reply_has_its_checkpointed_entries(store):
    first = await accepted(store, await created(store))
    second = await accepted(store, await created(store), now_us=NOW_US + 1)
    await store.append_checkpoints([checkpoint(first, "he", "llo"), checkpoint(second, "other")])
    await store.append_checkpoints([checkpoint(first, " world", start=3)])
    left = await store.unfinished(10)
    streaming = {"state": State.STREAMING, "first_token_time_us": NOW_US + SECOND_US}
    assert left == [
        Unfinished(
            reply=msgspec.structs.replace(first, **streaming),
            entries=(TextDelta("he"), TextDelta("llo"), TextDelta(" world")),
            durable_sequence=3,
        ),
        Unfinished(
            reply=msgspec.structs.replace(second, **streaming), entries=(TextDelta("other"),), durable_sequence=1
        ),
    ]
    assert await store.unfinished(1) == left[:1]


async def test_the_first_checkpoint_stores_the_model_that_answers(store):
    asked = await accepted(store, await created(store))
    await store.append_checkpoints([checkpoint(asked, "a", model="second", provider="other")])
    await store.append_checkpoints([checkpoint(asked, "b", start=2, model="third", provider="third")])
    stored = await store.get_reply(ADA, asked.id)
    assert (stored.requested_model, stored.model, stored.provider) == ("fast", "second", "other")
    assert (await store.unfinished(1))[0].reply == stored


async def test_checkpoints_keep_entries_of_every_kind(store):
    asked = await accepted(store, await created(store))
    entries = (
        TextDelta("ü\u0000🦜"),
        ReasoningDelta("why", b"\x00\xff"),
        ToolCallDelta(0, "id", "name", '{"a":'),
        ToolCallDelta(0, arguments="1}"),
        UsageUpdate(USAGE),
    )
    stretch = msgspec.structs.replace(checkpoint(asked, "x"), entries=entries, to_sequence=5)
    await store.append_checkpoints([stretch])
    assert (await store.unfinished(1))[0].entries == entries


async def test_a_repeated_checkpoint_counts_once(store):
    asked = await accepted(store, await created(store))
    await store.append_checkpoints([checkpoint(asked, "a")])
    await store.append_checkpoints([checkpoint(asked, "a", "b")])
    await store.append_checkpoints([checkpoint(asked, "a")])
    (left,) = await store.unfinished(1)
    assert (left.entries, left.durable_sequence) == ((TextDelta("a"), TextDelta("b")), 2)


async def test_checkpoints_of_ended_erased_and_taken_replies_are_skipped(store, query):
    conversation = await created(store)
    ended = await answered(store, conversation)
    other = await accepted(store, await created(store))
    missing = msgspec.structs.replace(other, id="unknown")
    running = await accepted(store, await created(store))
    await store.append_checkpoints(
        [
            checkpoint(ended, "late"),
            checkpoint(missing, "nobody's"),
            checkpoint(other, "zombie's", epoch=2),
            checkpoint(running, "kept"),
        ]
    )
    assert query("SELECT reply_id FROM checkpoint") == [(running.id,)]
    assert (await store.get_reply(ADA, other.id)).state is State.PENDING
    assert await store.get_reply(ADA, ended.id) == ended
    await store.append_checkpoints([])


async def test_finalising_deletes_the_checkpoints(store, query):
    asked = await accepted(store, await created(store))
    await store.append_checkpoints([checkpoint(asked, "a"), checkpoint(asked, "b", start=2)])
    await store.finalise(finalisation(asked))
    assert query("SELECT count(*) FROM checkpoint") == [(0,)]
    assert await store.unfinished(10) == []


async def test_a_finalisation_without_first_token_time_keeps_the_stored_one(store):
    asked = await accepted(store, await created(store))
    await store.append_checkpoints([checkpoint(asked, "a")])
    outcome = await store.finalise(finalisation(asked, first_token_time_us=0))
    assert outcome.reply.first_token_time_us == NOW_US + SECOND_US


async def test_concurrent_turns_and_refusals_leave_consecutive_positions(store, query):
    conversations = [await created(store) for _ in range(8)]

    async def talk(conversation):
        for _ in range(10):
            current = await store.get_conversation(ADA, conversation.id)
            outcomes = await asyncio.gather(*(store.accept(acceptance(current)) for _ in range(3)))
            reply = next(outcome.reply for outcome in outcomes if not isinstance(outcome, Busy))
            await asyncio.gather(*(store.finalise(finalisation(reply)) for _ in range(2)))

    await asyncio.gather(*map(talk, conversations))
    for conversation in conversations:
        positions = query("SELECT position FROM message WHERE conversation_id = ? ORDER BY position", conversation.id)
        assert positions == [(number,) for number in range(1, 21)]
        assert (await store.get_conversation(ADA, conversation.id)).etag == "21"


async def test_a_context_overflow_is_stored_in_the_form_of_older_releases(store, query):
    conversation = await created(store)
    asked = await accepted(store, conversation)
    error = ReplyError.of(ProviderContextTooLarge("too long"))

    ended = await store.finalise(
        finalisation(asked, "", state=State.FAILED, finish_reason=None, error=error, provider_reason="")
    )

    assert ended.reply.error == error == (await store.get_reply(ADA, asked.id)).error
    [(kept, counted)] = query(
        "SELECT reply.error, usage.error_reason FROM reply JOIN usage ON usage.reply_id = reply.id"
    )
    assert '"reason":"PROVIDER_REJECTED"' in kept
    assert counted == "PROVIDER_CONTEXT_TOO_LARGE"
