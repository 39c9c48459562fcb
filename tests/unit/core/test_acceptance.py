"""A request is refused without a trace, or accepted once, whatever happens meanwhile."""

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
    Identity,
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
from tests.fakes import ADA, CoreHarness, reply_request, say_hello


async def hold(prompt, sink):
    """Says a word, then nothing more."""
    sink.text("word")
    sink.flush()
    await asyncio.get_running_loop().create_future()


def accept(harness: CoreHarness, *given, **named):
    return harness.core.acceptances.accept(reply_request(*given, **named))


async def ended(harness: CoreHarness, generation: Generation):
    generation.cancel(Cancel(finish=FinishReason.CANCELLED))
    return await harness.stored_end(generation)


async def nothing_left(harness: CoreHarness) -> None:
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
    for identity in (Identity(tenant="shop", end_user="ben"), Identity(tenant="bank", end_user="ada")):
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
    created = await _conversation(harness)
    first = await harness.begin(request_id="r", conversation_id=created.id)
    if refused_as == "draining":
        harness.core.acceptances.draining = Draining("going")
    if refused_as == "unknown model":
        harness.catalog.model = msgspec.structs.replace(harness.catalog.model, alias="other")
        harness.catalog.resolve = _no_model
    again = await accept(harness, request_id="r", conversation_id=created.id)
    assert isinstance(again, Replayed)
    assert again.reply.id == first.log.reply.id
    with pytest.raises(ParleyError):
        await accept(harness, request_id="new", conversation_id=created.id)


def _no_model(alias: str, fallbacks: tuple[str, ...]):
    raise ModelNotFound("gone")


async def test_concurrent_requests_with_one_id_start_one_reply(harness):
    accepted = await asyncio.gather(*[accept(harness, request_id="r") for _ in range(8)])
    started = [each for each in accepted if isinstance(each, Generation)]
    assert len(started) == 1
    ids = {each.reply.id for each in accepted}
    assert ids == {started[0].log.reply.id}
    await harness.stored_end(started[0])
    assert len(harness.provider.prompts) == 1
    await nothing_left(harness)


# --- refusals leave nothing


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
    await nothing_left(harness)
    assert isinstance(await accept(harness, request_id="r"), Generation)


async def _conversation(harness: CoreHarness, *texts: str, **fields) -> Conversation:
    """A new conversation that begins with these texts of a user."""
    messages = tuple(Message(role=Role.USER, parts=(TextPart(text=text),)) for text in texts)
    creation = Creation(conversation=Conversation(**fields), messages=messages)
    return await harness.conversations.create(ADA, creation, "")


async def test_refusals_by_the_transaction_leave_no_trace(harness):
    taken = await _conversation(harness, id="mine")
    with pytest.raises(ConversationExists):
        await accept(harness, new_conversation=Conversation(id=taken.id))
    with pytest.raises(MessageNotFound):
        await accept(harness, conversation_id=taken.id, position=Position(after="unknown"))
    await nothing_left(harness)


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
    await ended(harness, first)
    await ended(harness, second)
    await nothing_left(harness)
    await ended(harness, await accept(harness, "x" * 1000))


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
    assert again.reply is not None
    assert again.reply.id == running.log.reply.id
    assert not running.log.sealed
    harness.observer.overloaded = False
    await ended(harness, await accept(harness))
    await ended(harness, running)
    await nothing_left(harness)


async def test_a_drain_refuses_new_requests(harness):
    await harness.replies.drain(0.0)
    with pytest.raises(Draining):
        await accept(harness)
    await nothing_left(harness)


async def test_a_drain_that_begins_during_an_acceptance_refuses_it_or_ends_its_reply(harness):
    created = await _conversation(harness)
    reading, go_on = asyncio.Event(), asyncio.Event()

    async def hook(*_):
        reading.set()
        await go_on.wait()

    for method, started in (("read_turn", False), ("accept", True)):
        harness.core.acceptances.draining = None
        harness.replies.going_away_at = None
        reading.clear()
        go_on.clear()
        harness.store.before = {method: hook}
        accepting = asyncio.ensure_future(accept(harness, conversation_id=created.id))
        await reading.wait()
        draining = asyncio.ensure_future(harness.replies.drain(0.0))
        await settle()
        go_on.set()
        await draining
        if started:
            stored = await harness.stored_end(await accepting)
            assert stored.error.reason is Reason.OWNER_LOST
        else:
            with pytest.raises(Draining):
                await accepting
        await nothing_left(harness)


async def test_a_drain_does_not_wait_for_an_acceptance_that_fails(harness):
    reading, go_on = asyncio.Event(), asyncio.Event()

    async def hook(*_):
        reading.set()
        await go_on.wait()
        raise StorageUnavailable

    harness.store.before["accept"] = hook
    accepting = asyncio.ensure_future(accept(harness))
    await reading.wait()
    draining = asyncio.ensure_future(harness.replies.drain(0.0))
    await settle()
    go_on.set()
    with pytest.raises(StorageUnavailable):
        await accepting
    async with asyncio.timeout(5):
        await draining
    await nothing_left(harness)


# --- one at a time


async def test_a_second_reply_in_a_conversation_is_refused_with_the_id_of_the_first(harness):
    created = await _conversation(harness)
    first = await harness.begin(hold, conversation_id=created.id)
    with pytest.raises(ReplyInProgress) as refused:
        await accept(harness, conversation_id=created.id)
    assert refused.value.metadata == {"reply_id": first.log.reply.id}
    assert refused.value.retry_after_s
    assert not first.log.sealed


async def test_one_of_many_concurrent_requests_in_a_conversation_is_accepted(harness):
    harness.provider.answer = hold
    created = await _conversation(harness)
    results = await asyncio.gather(
        *[accept(harness, conversation_id=created.id) for _ in range(10)], return_exceptions=True
    )
    assert sum(isinstance(result, Generation) for result in results) == 1
    assert sum(isinstance(result, ReplyInProgress) for result in results) == 9


async def test_an_interrupt_ends_the_running_reply_and_follows_its_answer(harness):
    created = await _conversation(harness)
    first = await harness.begin(hold, conversation_id=created.id)
    await settle()
    second = await harness.begin(hold, conversation_id=created.id, interrupt=True)
    stored = await harness.stored(first.log.reply.id)
    assert (stored.state, stored.finish_reason) == (State.CANCELLED, FinishReason.INTERRUPTED)
    assert [_said(message) for message in harness.provider.prompts[-1].messages] == [
        ("user", "hi"),
        ("assistant", "word"),
        ("user", "hi"),
    ]
    turn = await harness.store.get_conversation(ADA, created.id)
    assert turn.head_message_id == second.log.reply.parent_message_id


async def test_an_interrupt_of_a_reply_without_text_follows_the_user_message(harness):
    created = await _conversation(harness)

    async def silent(prompt, sink):
        await asyncio.get_running_loop().create_future()

    await harness.begin(silent, conversation_id=created.id)
    await settle()
    await harness.begin(silent, conversation_id=created.id, interrupt=True)
    await settle()
    assert [role for role, _ in map(_said, harness.provider.prompts[-1].messages)] == ["user", "user"]


def _said(message) -> tuple[str, str]:
    return message.role, "".join(part.text for part in message.parts if isinstance(part, TextPart))


async def test_an_interrupt_is_refused_if_the_running_reply_does_not_end_in_5_seconds(harness):
    created = await _conversation(harness)

    harness.store.fail("finalise", times=8)
    await harness.begin(hold, conversation_id=created.id)
    await settle()
    began = harness.clock.monotonic()
    second = asyncio.ensure_future(accept(harness, conversation_id=created.id, interrupt=True))
    while not second.done():
        await asyncio.sleep(0.001)
        await harness.clock.advance(0.1)
    with pytest.raises(ReplyInProgress) as refused:
        await second
    assert refused.value.retry_after_s
    assert harness.clock.monotonic() - began >= harness.limits.interrupt_wait_s
    while harness.live_replies.running:
        await asyncio.sleep(0.001)
        await harness.clock.advance(1.0)


async def test_an_interrupt_ends_a_stored_reply_without_a_task(harness):
    created = await _conversation(harness)
    first = await harness.begin(hold, conversation_id=created.id)
    del harness.live_replies.running[first.log.reply.id]
    async with asyncio.timeout(5):
        second = await accept(harness, conversation_id=created.id, interrupt=True)
    stored = await harness.stored(first.log.reply.id)
    assert (stored.state, stored.finish_reason) == (State.CANCELLED, FinishReason.INTERRUPTED)
    assert isinstance(second, Generation)
    harness.live_replies.running[first.log.reply.id] = first


async def test_a_refused_interrupt_leaves_the_running_reply_alone(make_harness):
    harness = make_harness(hold, max_prompt_bytes=100)
    created = await _conversation(harness)
    first = await harness.begin(conversation_id=created.id)
    for refused in ({"model": "unknown"}, {"messages": (Message(role=Role.USER, parts=(TextPart(text="x" * 99),)),)}):
        with pytest.raises(ParleyError):
            await accept(harness, conversation_id=created.id, interrupt=True, **refused)
    assert not first.log.sealed


async def test_a_retried_interrupt_attaches_to_its_own_reply(harness):
    created = await _conversation(harness)
    fields = {"request_id": "r", "conversation_id": created.id, "interrupt": True}
    first = await harness.begin(hold, **fields)
    assert (await accept(harness, **fields)).reply.id == first.log.reply.id
    assert not first.log.sealed


async def test_concurrent_interrupts_with_one_id_start_one_reply(harness):
    created = await _conversation(harness)
    older = await harness.begin(hold, conversation_id=created.id)
    fields = {"request_id": "r", "conversation_id": created.id, "interrupt": True}
    accepted = await asyncio.gather(*[accept(harness, **fields) for _ in range(6)])
    started = [each for each in accepted if isinstance(each, Generation)]
    assert len(started) == 1
    assert not started[0].log.sealed
    assert older.log.over


# --- the head


async def test_the_prompt_is_rebuilt_when_the_head_moves(harness):
    created = await _conversation(harness, "hello", "there")
    moves = [2]
    await _move_head_before_commits(harness, created, moves)
    generation = await accept(harness, conversation_id=created.id)
    assert isinstance(generation, Generation)
    assert moves == [0]
    await harness.stored_end(generation)
    assert generation.log.reply.parent_message_id == generation.log.reply.input_message_ids[-1]


async def test_a_head_that_moves_three_times_refuses_the_request(harness):
    created = await _conversation(harness, "hello", "there")
    await _move_head_before_commits(harness, created, [3])
    with pytest.raises(ReplyInProgress) as refused:
        await accept(harness, conversation_id=created.id)
    assert refused.value.retry_after_s
    await nothing_left(harness)


async def _move_head_before_commits(harness: CoreHarness, created: Conversation, moves: list[int]) -> None:
    turn = await harness.store.read_turn(ADA, created.id, Position(), has_input=True)
    first, last = (message.id for message in turn.path)

    async def hook(*_):
        if moves[0]:
            moves[0] -= 1
            current = await harness.store.get_conversation(ADA, created.id)
            head = last if current.head_message_id == first else first
            update = ConversationUpdate(conversation_id=created.id, head_message_id=head)
            await harness.store.update_conversation(ADA, update, harness.clock.now_us())

    harness.store.before["accept"] = hook


# --- an outcome that nobody knows


async def test_a_commit_with_a_lost_answer_starts_the_reply(harness):
    harness.store.fail("accept", times=1, after=True, unknown=True)
    generation = await accept(harness)
    assert isinstance(generation, Generation)
    assert (await harness.stored_end(generation)).state is State.COMPLETED


async def test_a_commit_that_did_not_happen_raises_after_two_checks(harness):
    """Looked for twice: a server that stood still may not have come to it the first time."""
    harness.store.fail("accept", times=1, unknown=True)
    looks = []

    async def look(*_) -> None:
        looks.append(harness.clock.monotonic())

    harness.store.before["get_reply"] = look
    with pytest.raises(StorageUnavailable):
        await in_time(harness, accept(harness, request_id="r"))
    assert looks[-1] - looks[0] >= ABSENT_AFTER_S
    await nothing_left(harness)
    assert isinstance(await accept(harness, request_id="r"), Generation)


async def test_an_unknown_commit_is_checked_until_the_store_answers(harness):
    harness.store.fail("accept", times=1, after=True, unknown=True)
    harness.store.fail("get_reply", times=3)
    generation = await in_time(harness, accept(harness))
    assert (await harness.stored_end(generation)).state is State.COMPLETED


async def test_an_unknown_commit_is_reported_at_the_deadline_and_its_reply_starts_later(harness):
    harness.store.fail("accept", times=1, after=True, unknown=True)
    harness.store.fail("get_reply", times=10_000)
    began = harness.clock.monotonic()
    with pytest.raises(StorageUnavailable) as told:
        await in_time(harness, accept(harness, request_id="r"))
    assert told.value.outcome_unknown
    assert REPORT_UNKNOWN_S <= harness.clock.monotonic() - began < REPORT_UNKNOWN_S + 1
    await in_time(harness, harness.clock.sleep(60))
    [generation] = harness.live_replies.running.values()
    assert generation.task is None
    harness.store.fail("get_reply", times=0)
    await in_time(harness, until(lambda: generation.task is not None))
    assert (await harness.stored_end(generation)).state is State.COMPLETED
    known = await accept(harness, request_id="r")
    assert isinstance(known, Replayed)
    assert known.reply.id == generation.log.reply.id
    assert len(harness.provider.prompts) == 1
    await nothing_left(harness)


async def test_a_stopping_process_leaves_an_unknown_commit_to_recovery(harness):
    harness.store.fail("accept", times=1, after=True, unknown=True)
    harness.store.fail("get_reply", times=10_000)
    with pytest.raises(StorageUnavailable):
        await in_time(harness, accept(harness, request_id="r"))
    [generation] = harness.live_replies.running.values()
    generation.cancel(Cancel(finish=None))
    await in_time(harness, until(lambda: not harness.live_replies.running))
    assert await harness.store.unfinished_ids() == [generation.log.reply.id]
    assert harness.provider.open_calls == 0


async def in_time(harness, work):
    """The result of what waits by the clock, which stands still while the store is asked."""
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
        await harness.replies.cancel(ADA, CancelTarget(request_id="r"), "changed my mind")
    generation = await accept(harness, request_id="r")
    assert generation.log.ended
    assert (generation.log.reply.state, generation.log.reply.cancel_reason) == (State.CANCELLED, "changed my mind")
    assert generation.log.last_sequence == 1
    assert harness.provider.prompts == []
    assert harness.observer.started == len(harness.observer.ended) == 1
    await nothing_left(harness)


# --- the caller leaves


def _accepting(harness: CoreHarness) -> bool:
    return any(task.get_name() == "accept" for task in harness.tasks.running)


@pytest.mark.parametrize("interrupt", [False, True])
async def test_a_caller_that_disconnects_at_any_await_leaves_no_trace_or_a_running_reply(make_harness, interrupt):
    harness = make_harness(hold)
    outcomes = set()
    for step in range(40):
        created = await _conversation(harness)
        if interrupt:
            await settle()
            await harness.begin(conversation_id=created.id)
        calling = asyncio.ensure_future(
            harness.replies.start(reply_request(conversation_id=created.id, interrupt=interrupt, request_id=f"r{step}"))
        )
        for _ in range(step):
            await asyncio.sleep(0)
        left = calling.cancel()
        results = await asyncio.gather(calling, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError) is left
        await until(lambda: not _accepting(harness))
        rows = set(await harness.store.unfinished_ids())
        running = harness.live_replies.running
        assert rows == set(running)
        assert all(generation.task is not None and not generation.dead for generation in running.values())
        outcomes.add(len(rows))
        for generation in list(running.values()):
            await ended(harness, generation)
    assert 1 in outcomes
    await nothing_left(harness)


async def test_a_caller_that_disconnects_before_the_acceptance_starts_the_orphan_timer(harness):
    harness.provider.answer = hold
    calling = asyncio.ensure_future(harness.replies.start(reply_request(orphan_ttl_s=30.0)))
    await settle()
    calling.cancel()
    await until(
        lambda: bool(harness.live_replies.running) and not any(t.get_name() == "accept" for t in harness.tasks.running)
    )
    await settle()
    (generation,) = harness.live_replies.running.values()
    await harness.clock.advance(29.9)
    assert not generation.log.sealed
    await harness.clock.advance(0.2)
    assert (await harness.stored_end(generation)).finish_reason is FinishReason.ORPHANED


async def test_request_fields_override_those_of_the_conversation_in_the_prompt(harness):
    created = await _conversation(harness, system=("be kind",), post_system="now", model="fast")
    asked = {"sampling": Sampling(max_output_tokens=1000), "system": ("be brief",)}
    generation = await harness.begin(conversation_id=created.id, **asked)
    await harness.stored_end(generation)
    prompt = harness.provider.prompts[-1]
    assert [_said(message) for message in prompt.messages] == [
        ("system", "be brief"),
        ("system", "now"),
        ("user", "hi"),
    ]
    assert prompt.sampling.max_output_tokens == 100
    await harness.stored_end(await harness.begin(conversation_id=created.id))
    assert [_said(message) for message in harness.provider.prompts[-1].messages] == [
        ("system", "be kind"),
        ("user", "hi"),
        ("assistant", "Hello"),
        ("system", "now"),
        ("user", "hi"),
    ]


async def test_configured_output_tokens_are_the_default_of_max_output_tokens(harness):
    catalog = harness.catalog
    catalog.model = msgspec.structs.replace(catalog.model, output_tokens=100)
    await harness.stored_end(await harness.begin())
    await harness.stored_end(await harness.begin(sampling=Sampling(max_output_tokens=7)))
    assert [prompt.sampling.max_output_tokens for prompt in harness.provider.prompts] == [100, 7]


async def test_the_cache_key_is_stable_per_conversation_and_hides_its_id(harness):
    one, two = await _conversation(harness), await _conversation(harness)
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
    created = await _conversation(harness)
    await harness.stored_end(await harness.begin(call_twice, conversation_id=created.id))
    with pytest.raises(InvalidRequest, match="'c'"):
        await harness.begin(conversation_id=created.id, messages=(result("a"), result("c")))
    await nothing_left(harness)
    assert len(harness.provider.prompts) == 1


async def test_tool_results_may_arrive_in_several_requests(harness):
    created = await _conversation(harness)
    await harness.stored_end(await harness.begin(call_twice, conversation_id=created.id))
    for messages in ((result("a"),), (result("a"), result("b"))):  # the one that is sent again is known, too
        stored = await harness.stored_end(await harness.begin(say_hello, conversation_id=created.id, messages=messages))
        assert stored.state is State.COMPLETED


async def test_a_result_of_a_call_outside_the_context_policy_is_accepted(harness):
    created = await _conversation(harness, context=ContextPolicy(max_messages=1))
    await harness.stored_end(await harness.begin(call_twice, conversation_id=created.id))
    for _ in range(3):
        await harness.stored_end(await harness.begin(say_hello, conversation_id=created.id))
    await harness.stored_end(await harness.begin(conversation_id=created.id, messages=(result("a"),)))
    assert [_said(message) for message in harness.provider.prompts[-1].messages] == [("user", "[result of a] 42")]
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
    where = {"conversation_id": running.log.reply.conversation_id, "interrupt": True}
    with pytest.raises(InvalidRequest, match="'b'"):
        await harness.begin(messages=(result("b"),), **where)
    assert not running.log.sealed
    await harness.stored_end(await harness.begin(say_hello, messages=(result("a"),), **where))
    assert running.log.reply.finish_reason is FinishReason.INTERRUPTED
    roles = [message.role for message in harness.provider.prompts[-1].messages]
    assert roles == ["user", "assistant", "tool"]


# --- the provider is asked after the commit


class Commits:
    """Stands in front of the commits of a world's database: each waits until `let` is set, in the writer's thread, and
    fails while `failing` is."""

    def __init__(self, harness: CoreHarness) -> None:
        self.reached, self.let = threading.Event(), threading.Event()
        self.failing = False
        event.listen(harness.store._store._database.writer, "commit", self._commit)

    def _commit(self, _connection) -> None:
        self.reached.set()
        assert self.let.wait(10)
        if self.failing:
            raise OperationalError("COMMIT", {}, sqlite3.OperationalError("disk I/O error"))


async def test_the_provider_is_called_after_the_commit(harness):
    commits = Commits(harness)
    accepting = asyncio.ensure_future(accept(harness, request_id="r"))
    await until(commits.reached.is_set)
    await settle()
    assert harness.provider.prompts == []
    assert harness.observer.started == 0
    commits.let.set()
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
    await ended(harness, generation)


async def test_a_failed_commit_prevents_the_provider_call(harness):
    commits = Commits(harness)
    commits.failing = True
    commits.let.set()
    with pytest.raises(StorageUnavailable):
        await in_time(harness, asyncio.ensure_future(accept(harness, request_id="r")))
    await nothing_left(harness)
    assert harness.provider.prompts == []
    commits.failing = False
    await harness.stored_end(await accept(harness, request_id="r"))
    assert len(harness.provider.prompts) == 1


async def test_a_cancel_during_the_commit_prevents_the_provider_call(harness):
    commits = Commits(harness)
    accepting = asyncio.ensure_future(accept(harness))
    await until(commits.reached.is_set)
    [running] = harness.live_replies.running.values()
    running.cancel(Cancel(finish=FinishReason.CANCELLED, reason="too late"))
    commits.let.set()
    generation = await accepting
    reply = await harness.stored_end(generation)
    assert (reply.state, reply.cancel_reason) == (State.CANCELLED, "too late")
    assert harness.provider.prompts == []
