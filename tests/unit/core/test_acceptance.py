"""A request is refused without a trace or accepted exactly once, also when calls race, callers disconnect and the store
fails."""

from __future__ import annotations

import asyncio
import sqlite3
import threading

import msgspec
import pytest
from parley_server.core.conversations.service import Creation
from parley_server.core.events import TextDelta
from parley_server.core.model import (
    ContextPolicy,
    Conversation,
    Finish,
    FinishReason,
    Message,
    Role,
    Sampling,
    State,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from parley_server.core.replies.accept import ABSENT_AFTER_S, REPORT_UNKNOWN_S
from parley_server.core.replies.endings import Cancel
from parley_server.core.replies.generate import Generation
from parley_server.core.replies.service import Started
from parley_server.core.store_types import CancelTarget, ConversationUpdate, Position, Replayed
from parley_server.errors import (
    ConversationExists,
    ConversationNotFound,
    Draining,
    InvalidRequest,
    MessageNotFound,
    ModelNotFound,
    Overloaded,
    ParleyError,
    Reason,
    ReplyInProgress,
    ReplyNotFound,
    RequestIdReused,
    StorageUnavailable,
)
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from tests.clock import settle, until
from tests.fakes import ADA, OTHERS, CoreHarness, ManualAnswer, reply_request, say_hello


async def hold(prompt, sink):
    """Write one word, then wait."""
    sink.text("word")
    sink.flush()
    await asyncio.get_running_loop().create_future()


def accept(harness: CoreHarness, *given, **named):
    return harness.core.acceptances.accept(reply_request(*given, **named))


async def cancel_and_wait(harness: CoreHarness, generation: Generation):
    generation.cancel(Cancel(finish=FinishReason.CANCELLED))
    return await harness.stored_end(generation)


async def assert_no_trace(harness: CoreHarness) -> None:
    assert harness.live_replies.running == {}
    assert (harness.live_replies.capacity._replies, harness.live_replies.capacity._prompt_bytes) == (0, 0)
    assert await harness.store.unfinished_ids() == []


# --- retries


async def test_a_retry_attaches_to_the_running_reply(harness):
    first = await harness.begin(hold, request_id="r")
    again = await accept(harness, request_id="r")
    assert isinstance(again, Replayed)
    assert again.reply.id == first.log.reply.id
    started = await harness.replies.start(reply_request(request_id="r"))
    assert (started.log, started.replayed) == (first.log, True)
    assert len(harness.provider.prompts) == 1
    assert harness.observer.refusals == []


async def test_a_retry_attaches_to_the_ended_reply(harness):
    first = await harness.begin(request_id="r")
    stored = await harness.stored_end(first)
    started = await harness.replies.start(reply_request(request_id="r"))
    assert started == Started(first.log, replayed=True)
    await harness.clock.advance(61)
    late = await harness.replies.start(reply_request(request_id="r"))
    assert late.replayed
    assert late.log.reply == stored
    assert len(harness.provider.prompts) == 1


async def test_request_ids_are_separate_per_end_user_and_tenant(harness):
    await harness.stored_end(await harness.begin(request_id="r"))
    for identity in OTHERS:
        assert isinstance(await accept(harness, request_id="r", identity=identity), Generation)


async def test_a_reused_request_id_with_another_payload_is_refused(harness):
    await harness.stored_end(await harness.begin(request_id="r"))
    with pytest.raises(RequestIdReused):
        await accept(harness, "other", request_id="r")
    assert harness.observer.refusals == [Reason.REQUEST_ID_REUSED]


async def test_a_retry_after_the_erasure_is_not_found_and_starts_no_reply(harness):
    stored = await harness.stored_end(await harness.begin(request_id="r"))
    await harness.store.delete_conversation(ADA, stored.conversation_id, "")
    with pytest.raises(ReplyNotFound):
        await accept(harness, request_id="r")
    assert len(harness.provider.prompts) == 1


@pytest.mark.parametrize("refused_as", ["draining", "overloaded", "in progress", "unknown model"])
async def test_a_retry_attaches_where_a_new_request_is_refused(make_harness, refused_as):
    harness = make_harness(hold, max_replies=1 if refused_as == "overloaded" else 10)
    created = await create_conversation(harness)
    first = await harness.begin(request_id="r", conversation_id=created.id)
    if refused_as == "draining":
        harness.core.acceptances.draining = Draining("draining")
    if refused_as == "unknown model":
        harness.catalog.only = msgspec.structs.replace(harness.catalog.only, alias="other")
        harness.catalog.candidates = raise_model_not_found
    again = await accept(harness, request_id="r", conversation_id=created.id)
    assert isinstance(again, Replayed)
    assert again.reply.id == first.log.reply.id
    with pytest.raises(ParleyError):
        await accept(harness, request_id="new", conversation_id=created.id)


def raise_model_not_found(alias: str, fallbacks: tuple[str, ...]):
    raise ModelNotFound("removed")


async def test_concurrent_requests_with_one_id_start_one_reply(harness):
    accepted = await asyncio.gather(*[accept(harness, request_id="r") for _ in range(8)])
    started = [each for each in accepted if isinstance(each, Generation)]
    assert len(started) == 1
    ids = {each.reply.id for each in accepted}
    assert ids == {started[0].log.reply.id}
    await harness.stored_end(started[0])
    assert len(harness.provider.prompts) == 1
    await assert_no_trace(harness)


# --- refusals


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"conversation_id": "unknown"}, ConversationNotFound),
        ({"model": "unknown"}, ModelNotFound),
        ({"messages": (Message(role=Role.TOOL, parts=()),)}, InvalidRequest),
    ],
)
async def test_a_refused_request_leaves_no_trace(harness, fields, kind):
    with pytest.raises(kind) as refused:
        await accept(harness, request_id="r", **fields)
    assert harness.observer.refusals == [refused.value.reason]
    await assert_no_trace(harness)
    assert isinstance(await accept(harness, request_id="r"), Generation)


async def create_conversation(harness: CoreHarness, *texts: str, **fields) -> Conversation:
    """Create a conversation with these messages of a user."""
    messages = tuple(Message(role=Role.USER, parts=(TextPart(text=text),)) for text in texts)
    creation = Creation(conversation=Conversation(**fields), messages=messages)
    return await harness.conversations.create(ADA, creation, "")


async def test_refusals_by_the_transaction_leave_no_trace(harness):
    taken = await create_conversation(harness, id="mine")
    with pytest.raises(ConversationExists):
        await accept(harness, new_conversation=Conversation(id=taken.id))
    with pytest.raises(MessageNotFound):
        await accept(harness, conversation_id=taken.id, position=Position(after="unknown"))
    await assert_no_trace(harness)


async def test_requests_over_the_limit_of_replies_or_prompt_bytes_are_refused(make_harness):
    harness = make_harness(hold, max_replies=2, max_prompt_bytes=100)
    first = await harness.begin()
    with pytest.raises(Overloaded):
        await accept(harness, "x" * 99)
    second = await harness.begin()
    with pytest.raises(Overloaded):
        await accept(harness)
    assert harness.observer.refusals == [Reason.OVERLOADED] * 2
    assert not first.log.sealed
    await cancel_and_wait(harness, first)
    await cancel_and_wait(harness, second)
    await assert_no_trace(harness)
    await cancel_and_wait(harness, await accept(harness, "x" * 1000))


async def test_an_overloaded_event_loop_refuses_new_requests_and_keeps_running_replies(make_harness):
    harness = make_harness(hold)
    running = await harness.begin(request_id="first")
    harness.observer.overloaded = True
    with pytest.raises(Overloaded) as refused:
        await accept(harness)
    assert refused.value.retry_after_s
    assert harness.observer.refusals == [Reason.OVERLOADED]
    again = await accept(harness, request_id="first")
    assert isinstance(again, Replayed)
    assert again.reply.id == running.log.reply.id
    assert not running.log.sealed
    harness.observer.overloaded = False
    await cancel_and_wait(harness, await accept(harness))
    await cancel_and_wait(harness, running)
    await assert_no_trace(harness)


async def test_a_drain_refuses_new_requests(harness):
    await harness.replies.drain(0.0)
    with pytest.raises(Draining):
        await accept(harness)
    await assert_no_trace(harness)


async def test_a_drain_that_begins_during_an_acceptance_refuses_it_or_ends_its_reply(harness):
    created = await create_conversation(harness)
    for method, started in (("read_turn", False), ("accept", True)):
        harness.core.acceptances.draining = None
        harness.replies.going_away_at = None
        harness.store.before.clear()
        block = harness.store.block(method)
        accepting = asyncio.ensure_future(accept(harness, conversation_id=created.id))
        await block.reached.wait()
        draining = asyncio.ensure_future(harness.replies.drain(0.0))
        await settle()
        block.released.set()
        await draining
        if started:
            stored = await harness.stored_end(await accepting)
            assert stored.error.reason is Reason.OWNER_LOST
        else:
            with pytest.raises(Draining):
                await accepting
        await assert_no_trace(harness)


async def test_a_drain_does_not_wait_for_an_acceptance_that_fails(harness):
    reached, released = asyncio.Event(), asyncio.Event()

    async def hook(*_):
        reached.set()
        await released.wait()
        raise StorageUnavailable

    harness.store.before["accept"] = hook
    accepting = asyncio.ensure_future(accept(harness))
    await reached.wait()
    draining = asyncio.ensure_future(harness.replies.drain(0.0))
    await settle()
    released.set()
    with pytest.raises(StorageUnavailable):
        await accepting
    async with asyncio.timeout(5):
        await draining
    await assert_no_trace(harness)


# --- one running reply per conversation


async def test_a_second_reply_in_a_conversation_is_refused_with_the_id_of_the_first(harness):
    created = await create_conversation(harness)
    first = await harness.begin(hold, conversation_id=created.id)
    with pytest.raises(ReplyInProgress) as refused:
        await accept(harness, conversation_id=created.id)
    assert refused.value.metadata == {"reply_id": first.log.reply.id}
    assert refused.value.retry_after_s
    assert not first.log.sealed


async def test_one_of_many_concurrent_requests_in_a_conversation_is_accepted(harness):
    harness.provider.answer = hold
    created = await create_conversation(harness)
    results = await asyncio.gather(
        *[accept(harness, conversation_id=created.id) for _ in range(10)], return_exceptions=True
    )
    assert sum(isinstance(result, Generation) for result in results) == 1
    assert sum(isinstance(result, ReplyInProgress) for result in results) == 9


async def test_an_interrupt_ends_the_running_reply_and_follows_its_answer(harness):
    created = await create_conversation(harness)
    first = await harness.begin(hold, conversation_id=created.id)
    await settle()
    second = await harness.begin(hold, conversation_id=created.id, interrupt=True)
    stored = await harness.stored(first.log.reply.id)
    assert (stored.state, stored.finish_reason) == (State.CANCELLED, FinishReason.INTERRUPTED)
    assert [role_and_text(message) for message in harness.provider.prompts[-1].messages] == [
        ("user", "hi"),
        ("assistant", "word"),
        ("user", "hi"),
    ]
    conversation = await harness.store.get_conversation(ADA, created.id)
    assert conversation.head_message_id == second.log.reply.parent_message_id


async def test_an_interrupt_of_a_reply_without_text_follows_the_user_message(harness):
    created = await create_conversation(harness)
    silent = ManualAnswer().generate
    await harness.begin(silent, conversation_id=created.id)
    await settle()
    await harness.begin(silent, conversation_id=created.id, interrupt=True)
    await settle()
    assert [role for role, _ in map(role_and_text, harness.provider.prompts[-1].messages)] == ["user", "user"]


def role_and_text(message) -> tuple[str, str]:
    return message.role, "".join(part.text for part in message.parts if isinstance(part, TextPart))


async def test_an_interrupt_is_refused_if_the_running_reply_does_not_end_in_5_seconds(harness):
    created = await create_conversation(harness)

    harness.store.fail("finalise", times=8)
    await harness.begin(hold, conversation_id=created.id)
    await settle()
    began = harness.clock.monotonic()
    with pytest.raises(ReplyInProgress) as refused:
        await run_with_clock(harness, accept(harness, conversation_id=created.id, interrupt=True))
    assert refused.value.retry_after_s
    assert harness.clock.monotonic() - began >= harness.limits.interrupt_wait_s


async def test_an_interrupt_ends_a_stored_reply_without_a_task(harness):
    created = await create_conversation(harness)
    first = await harness.begin(hold, conversation_id=created.id)
    del harness.live_replies.running[first.log.reply.id]
    async with asyncio.timeout(5):
        second = await accept(harness, conversation_id=created.id, interrupt=True)
    stored = await harness.stored(first.log.reply.id)
    assert (stored.state, stored.finish_reason) == (State.CANCELLED, FinishReason.INTERRUPTED)
    assert isinstance(second, Generation)
    harness.live_replies.running[first.log.reply.id] = first


async def test_a_refused_interrupt_does_not_end_the_running_reply(make_harness):
    harness = make_harness(hold, max_prompt_bytes=100)
    created = await create_conversation(harness)
    first = await harness.begin(conversation_id=created.id)
    for refused in ({"model": "unknown"}, {"messages": (Message(role=Role.USER, parts=(TextPart(text="x" * 99),)),)}):
        with pytest.raises(ParleyError):
            await accept(harness, conversation_id=created.id, interrupt=True, **refused)
    assert not first.log.sealed


async def test_a_retried_interrupt_attaches_to_its_own_reply(harness):
    created = await create_conversation(harness)
    fields = {"request_id": "r", "conversation_id": created.id, "interrupt": True}
    first = await harness.begin(hold, **fields)
    assert (await accept(harness, **fields)).reply.id == first.log.reply.id
    assert not first.log.sealed


async def test_concurrent_interrupts_with_one_id_start_one_reply(harness):
    created = await create_conversation(harness)
    older = await harness.begin(hold, conversation_id=created.id)
    fields = {"request_id": "r", "conversation_id": created.id, "interrupt": True}
    accepted = await asyncio.gather(*[accept(harness, **fields) for _ in range(6)])
    started = [each for each in accepted if isinstance(each, Generation)]
    assert len(started) == 1
    assert not started[0].log.sealed
    assert older.log.over


# --- the head


async def test_the_prompt_is_rebuilt_when_the_head_moves(harness):
    created = await create_conversation(harness, "hello", "there")
    moves = [2]
    await move_head_before_commits(harness, created, moves)
    generation = await accept(harness, conversation_id=created.id)
    assert isinstance(generation, Generation)
    assert moves == [0]
    await harness.stored_end(generation)
    assert generation.log.reply.parent_message_id == generation.log.reply.input_message_ids[-1]


async def test_a_head_that_moves_three_times_refuses_the_request(harness):
    created = await create_conversation(harness, "hello", "there")
    await move_head_before_commits(harness, created, [3])
    with pytest.raises(ReplyInProgress) as refused:
        await accept(harness, conversation_id=created.id)
    assert refused.value.retry_after_s
    await assert_no_trace(harness)


async def move_head_before_commits(harness: CoreHarness, created: Conversation, moves: list[int]) -> None:
    read = await harness.store.read_turn(ADA, created.id, Position(), has_input=True)
    first, last = (message.id for message in read.path)

    async def hook(*_):
        if moves[0]:
            moves[0] -= 1
            current = await harness.store.get_conversation(ADA, created.id)
            head = last if current.head_message_id == first else first
            update = ConversationUpdate(conversation_id=created.id, head_message_id=head)
            await harness.store.update_conversation(ADA, update, harness.clock.now_us())

    harness.store.before["accept"] = hook


# --- unknown commit outcomes


async def test_a_commit_that_did_not_happen_raises_after_two_checks(harness):
    """A stopped database server may execute the commit after the first check, so there is a second one."""
    harness.store.fail("accept", times=1, error=StorageUnavailable(outcome_unknown=True))
    checked_at = []

    async def note_time(*_) -> None:
        checked_at.append(harness.clock.monotonic())

    harness.store.before["get_reply"] = note_time
    with pytest.raises(StorageUnavailable):
        await run_with_clock(harness, accept(harness, request_id="r"))
    assert checked_at[-1] - checked_at[0] >= ABSENT_AFTER_S
    await assert_no_trace(harness)
    assert isinstance(await accept(harness, request_id="r"), Generation)


@pytest.mark.parametrize("failed_checks", [0, 3])
async def test_a_commit_with_a_lost_answer_is_checked_until_the_store_answers(harness, failed_checks):
    harness.store.fail("accept", times=1, after=True)
    harness.store.fail("get_reply", times=failed_checks)
    generation = await run_with_clock(harness, accept(harness))
    assert (await harness.stored_end(generation)).state is State.COMPLETED


async def test_an_unknown_commit_is_reported_at_the_deadline_and_its_reply_starts_later(harness):
    harness.store.fail("accept", times=1, after=True)
    harness.store.fail("get_reply")
    began = harness.clock.monotonic()
    with pytest.raises(StorageUnavailable) as refused:
        await run_with_clock(harness, accept(harness, request_id="r"))
    assert refused.value.outcome_unknown
    assert REPORT_UNKNOWN_S <= harness.clock.monotonic() - began < REPORT_UNKNOWN_S + 1
    await run_with_clock(harness, harness.clock.sleep(60))
    [generation] = harness.live_replies.running.values()
    assert generation.task is None
    harness.store.before.clear()
    await run_with_clock(harness, until(lambda: generation.task is not None))
    assert (await harness.stored_end(generation)).state is State.COMPLETED
    replayed = await accept(harness, request_id="r")
    assert isinstance(replayed, Replayed)
    assert replayed.reply.id == generation.log.reply.id
    assert len(harness.provider.prompts) == 1
    await assert_no_trace(harness)


async def test_a_stopping_process_leaves_an_unknown_commit_to_recovery(harness):
    harness.store.fail("accept", times=1, after=True)
    harness.store.fail("get_reply")
    with pytest.raises(StorageUnavailable):
        await run_with_clock(harness, accept(harness, request_id="r"))
    [generation] = harness.live_replies.running.values()
    generation.cancel(Cancel(finish=None))
    await run_with_clock(harness, until(lambda: not harness.live_replies.running))
    assert await harness.store.unfinished_ids() == [generation.log.reply.id]
    assert harness.provider.open_calls == 0


async def run_with_clock(harness, work):
    """The result of `work`, with the clock moved on whenever no call of the store is pending."""
    task = asyncio.ensure_future(work)
    while not task.done():
        await settle()
        if harness.store.pending_calls:
            await asyncio.sleep(0.0005)
        else:
            await harness.clock.advance(0.1)
    return await task


async def test_a_cancel_before_the_acceptance_prevents_the_provider_call(harness):
    with pytest.raises(ReplyNotFound):
        await harness.replies.cancel(ADA, CancelTarget(request_id="r"), "enough")
    generation = await accept(harness, request_id="r")
    assert generation.log.ended
    assert (generation.log.reply.state, generation.log.reply.cancel_reason) == (State.CANCELLED, "enough")
    assert generation.log.last_sequence == 1
    assert harness.provider.prompts == []
    assert harness.observer.started == len(harness.observer.ended) == 1
    await assert_no_trace(harness)


# --- disconnected callers


def is_accepting(harness: CoreHarness) -> bool:
    return any(task.get_name() == "accept" for task in harness.tasks.running)


@pytest.mark.parametrize("interrupt", [False, True])
async def test_a_caller_that_disconnects_at_any_await_leaves_no_trace_or_a_running_reply(make_harness, interrupt):
    harness = make_harness(hold)
    outcomes = set()
    for step in range(40):
        created = await create_conversation(harness)
        if interrupt:
            await settle()
            await harness.begin(conversation_id=created.id)
        calling = asyncio.ensure_future(
            harness.replies.start(reply_request(conversation_id=created.id, interrupt=interrupt, request_id=f"r{step}"))
        )
        for _ in range(step):
            await asyncio.sleep(0)
        cancelled = calling.cancel()
        results = await asyncio.gather(calling, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError) is cancelled
        await until(lambda: not is_accepting(harness))
        rows = set(await harness.store.unfinished_ids())
        running = harness.live_replies.running
        assert rows == set(running)
        assert all(generation.task is not None and not generation.dead for generation in running.values())
        outcomes.add(len(rows))
        for generation in list(running.values()):
            await cancel_and_wait(harness, generation)
    assert 1 in outcomes
    await assert_no_trace(harness)


async def test_a_caller_that_disconnects_before_the_acceptance_starts_the_orphan_timer(harness):
    harness.provider.answer = hold
    calling = asyncio.ensure_future(harness.replies.start(reply_request(orphan_ttl_s=30.0)))
    await settle()
    calling.cancel()
    await until(lambda: bool(harness.live_replies.running) and not is_accepting(harness))
    await settle()
    (generation,) = harness.live_replies.running.values()
    await harness.clock.advance(29.9)
    assert not generation.log.sealed
    await harness.clock.advance(0.2)
    assert (await harness.stored_end(generation)).finish_reason is FinishReason.ORPHANED


async def test_request_fields_override_those_of_the_conversation_in_the_prompt(harness):
    created = await create_conversation(harness, system=("be polite",), post_system="now", model="fast")
    fields = {"sampling": Sampling(max_output_tokens=1000), "system": ("be brief",)}
    generation = await harness.begin(conversation_id=created.id, **fields)
    await harness.stored_end(generation)
    prompt = harness.provider.prompts[-1]
    assert [role_and_text(message) for message in prompt.messages] == [
        ("system", "be brief"),
        ("system", "now"),
        ("user", "hi"),
    ]
    assert prompt.sampling.max_output_tokens == 100
    await harness.stored_end(await harness.begin(conversation_id=created.id))
    assert [role_and_text(message) for message in harness.provider.prompts[-1].messages] == [
        ("system", "be polite"),
        ("user", "hi"),
        ("assistant", "Hello"),
        ("system", "now"),
        ("user", "hi"),
    ]


async def test_configured_output_tokens_are_the_default_of_max_output_tokens(harness):
    catalog = harness.catalog
    catalog.only = msgspec.structs.replace(catalog.only, output_tokens=100)
    await harness.stored_end(await harness.begin())
    await harness.stored_end(await harness.begin(sampling=Sampling(max_output_tokens=7)))
    assert [prompt.sampling.max_output_tokens for prompt in harness.provider.prompts] == [100, 7]


async def test_the_cache_key_is_stable_per_conversation_and_hides_its_id(harness):
    one, two = await create_conversation(harness), await create_conversation(harness)
    for created in (one, one, two):
        await harness.stored_end(await harness.begin(conversation_id=created.id))
    first, second, third = [prompt.cache_key for prompt in harness.provider.prompts]
    assert first == second != third
    assert (one.id in first, len(first)) == (False, 32)


# --- tool results


def result(call_id: str) -> Message:
    return Message(role=Role.TOOL, parts=(ToolResultPart(tool_call_id=call_id, content="42"),))


async def call_twice(prompt, sink):
    sink.tool_call(0, "a", "f", "{}")
    sink.tool_call(1, "b", "f", "{}")
    sink.flush()
    return Finish(reason=FinishReason.TOOL_CALLS)


async def test_a_result_of_an_unknown_tool_call_is_refused_and_leaves_no_trace(harness):
    created = await create_conversation(harness)
    await harness.stored_end(await harness.begin(call_twice, conversation_id=created.id))
    with pytest.raises(InvalidRequest, match="'c'"):
        await harness.begin(conversation_id=created.id, messages=(result("a"), result("c")))
    await assert_no_trace(harness)
    assert len(harness.provider.prompts) == 1


async def test_tool_results_may_arrive_in_several_requests(harness):
    created = await create_conversation(harness)
    await harness.stored_end(await harness.begin(call_twice, conversation_id=created.id))
    for messages in ((result("a"),), (result("a"), result("b"))):  # a repeated result is accepted
        stored = await harness.stored_end(await harness.begin(say_hello, conversation_id=created.id, messages=messages))
        assert stored.state is State.COMPLETED


async def test_a_result_of_a_call_outside_the_context_policy_is_accepted(harness):
    created = await create_conversation(harness, context=ContextPolicy(max_messages=1))
    await harness.stored_end(await harness.begin(call_twice, conversation_id=created.id))
    for _ in range(3):
        await harness.stored_end(await harness.begin(say_hello, conversation_id=created.id))
    await harness.stored_end(await harness.begin(conversation_id=created.id, messages=(result("a"),)))
    assert [role_and_text(message) for message in harness.provider.prompts[-1].messages] == [
        ("user", "[result of a] 42")
    ]
    with pytest.raises(InvalidRequest, match="'c'"):
        await harness.begin(conversation_id=created.id, messages=(result("c"),))


async def test_a_result_may_follow_its_call_in_one_request(harness):
    call = Message(role=Role.ASSISTANT, parts=(ToolCallPart(id="x", name="f"),))
    payload = Message(role=Role.USER, parts=(TextPart(text="q"),))
    stored = await harness.stored_end(await harness.begin(messages=(payload, call, result("x"))))
    assert stored.state is State.COMPLETED
    with pytest.raises(InvalidRequest, match="'x'"):
        await harness.begin(messages=(payload, result("x"), call))


async def test_an_interrupt_may_contain_the_result_of_a_call_of_the_interrupted_reply(harness):
    async def call_and_hold(prompt, sink):
        sink.tool_call(0, "a", "f", "{}")
        sink.flush()
        await asyncio.get_running_loop().create_future()

    running = await harness.begin(call_and_hold)
    await settle()
    interrupt = {"conversation_id": running.log.reply.conversation_id, "interrupt": True}
    with pytest.raises(InvalidRequest, match="'b'"):
        await harness.begin(messages=(result("b"),), **interrupt)
    assert not running.log.sealed
    await harness.stored_end(await harness.begin(say_hello, messages=(result("a"),), **interrupt))
    assert running.log.reply.finish_reason is FinishReason.INTERRUPTED
    roles = [message.role for message in harness.provider.prompts[-1].messages]
    assert roles == ["user", "assistant", "tool"]


# --- the provider call follows the commit


class BlockedCommits:
    """Makes every commit wait in the writer's thread until `released` is set, and fail while `failing` is True."""

    def __init__(self, harness: CoreHarness) -> None:
        self.reached, self.released = threading.Event(), threading.Event()
        self.failing = False
        event.listen(harness.store._store._database.writer, "commit", self._commit)

    def _commit(self, _connection) -> None:
        self.reached.set()
        assert self.released.wait(10)
        if self.failing:
            raise OperationalError("COMMIT", {}, sqlite3.OperationalError("disk I/O error"))


async def test_the_provider_is_called_after_the_commit(harness):
    commits = BlockedCommits(harness)
    accepting = asyncio.ensure_future(accept(harness, request_id="r"))
    await until(commits.reached.is_set)
    await settle()
    assert harness.provider.prompts == []
    assert harness.observer.started == 0
    commits.released.set()
    generation = await accepting
    reply = await harness.stored_end(generation)
    assert (reply.state, reply.message.parts) == (State.COMPLETED, (TextPart(text="Hello"),))
    assert len(harness.provider.prompts) == 1


async def test_entries_of_a_fast_provider_are_journaled(make_harness):
    harness = make_harness(journal=True)
    generation = await harness.begin(hold)
    await until(lambda: generation.log.last_sequence == 1)
    while not (unfinished := await harness.store.unfinished(1))[0].entries:
        await asyncio.sleep(0.001)
        await harness.clock.advance(0.1)
    assert unfinished[0].entries == (TextDelta("word"),)
    await cancel_and_wait(harness, generation)


async def test_a_failed_commit_prevents_the_provider_call(harness):
    commits = BlockedCommits(harness)
    commits.failing = True
    commits.released.set()
    with pytest.raises(StorageUnavailable):
        await run_with_clock(harness, asyncio.ensure_future(accept(harness, request_id="r")))
    await assert_no_trace(harness)
    assert harness.provider.prompts == []
    commits.failing = False
    await harness.stored_end(await accept(harness, request_id="r"))
    assert len(harness.provider.prompts) == 1


async def test_a_cancel_during_the_commit_prevents_the_provider_call(harness):
    commits = BlockedCommits(harness)
    accepting = asyncio.ensure_future(accept(harness))
    await until(commits.reached.is_set)
    [running] = harness.live_replies.running.values()
    running.cancel(Cancel(finish=FinishReason.CANCELLED, reason="too late"))
    commits.released.set()
    generation = await accepting
    reply = await harness.stored_end(generation)
    assert (reply.state, reply.cancel_reason) == (State.CANCELLED, "too late")
    assert harness.provider.prompts == []
