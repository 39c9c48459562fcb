"""The limits of a tenant are checked in order; a refused or repeated request is not counted."""

from __future__ import annotations

import asyncio

import pytest
from parley_server.core.access import Quota, TenantLimits, TenantPolicy, Tenants
from parley_server.core.model import Identity, Message, Role, TextPart, ToolCallPart, ToolResultPart
from parley_server.core.rate_values import rate_key
from parley_server.core.replies.accept import REPORT_UNKNOWN_S
from parley_server.core.replies.generate import Generation
from parley_server.core.store_types import CancelTarget, ConversationUpdate, OverQuota, Position, Replayed
from parley_server.errors import (
    ConversationNotFound,
    LimitsUnavailable,
    MessageNotFound,
    ModelNotFound,
    ParleyError,
    QuotaExceeded,
    RateLimited,
    Reason,
    ReplyInProgress,
    StorageUnavailable,
)

from tests.clock import settle, until
from tests.fakes import ADA, OTHERS, CoreHarness, reply_request

BEN = Identity(tenant="shop", end_user="ben")


@pytest.fixture
def limited(make_harness):
    """Makes a harness whose tenants have these limits."""

    def make(answer=None, *, quotas: Quota | None = None, **limits: int) -> CoreHarness:
        policy = TenantPolicy(limits=TenantLimits(**limits), quotas=quotas or Quota())
        given = () if answer is None else (answer,)
        return make_harness(*given, tenants=Tenants({"*": policy}))

    return make


async def hold(prompt, sink):
    sink.text("word")
    sink.flush()
    await asyncio.get_running_loop().create_future()


async def cancel_reply(harness: CoreHarness, generation: Generation) -> None:
    await harness.replies.cancel(ADA, CancelTarget(reply_id=generation.log.reply.id), "")


def accept(harness: CoreHarness, *given, **named):
    return harness.core.acceptances.accept(reply_request(*given, **named))


async def used(harness: CoreHarness, identity: Identity = ADA) -> int:
    states = await harness.core.admission.states(identity, harness.tenants.policy(identity.tenant))
    return {state.name: state.used for state in states}["messages_per_minute"]


async def fill(harness: CoreHarness, count: int, **fields) -> list[Generation]:
    return [await harness.begin(**fields) for _ in range(count)]


async def refused(harness: CoreHarness, *given, **named) -> ParleyError:
    with pytest.raises(ParleyError) as error:
        await accept(harness, *given, **named)
    return error.value


async def test_a_message_over_the_limit_is_refused_until_an_earlier_one_leaves_the_window(limited):
    harness = limited(messages_per_minute=2)
    await fill(harness, 1)
    await harness.clock.advance(10.0004)
    second = await harness.begin()
    assert (second.quota.name, second.quota.used, second.quota.limit) == ("messages_per_minute", 2, 2)
    error = await refused(harness)
    assert isinstance(error, RateLimited)
    assert (error.reason, error.retryable, error.metadata) == (
        Reason.RATE_LIMITED,
        True,
        {"limit": "messages_per_minute", "used": "2", "max": "2", "subject": "end_user"},
    )
    assert error.retry_after_s == 50.0, "49.9996 s, rounded up to milliseconds"
    assert error.violations == (("end_user", "messages_per_minute: 2 of 2 used"),)
    for other in OTHERS:
        await harness.begin(identity=other)
    await harness.clock.advance(error.retry_after_s)
    await harness.begin()
    assert harness.observer.counted == ["taken", "taken", "refused", "taken", "taken", "taken"]
    assert harness.observer.refusals == [Reason.RATE_LIMITED]


async def test_calls_of_a_tenant_without_an_end_user_count_as_one_user(limited):
    harness = limited(messages_per_minute=1)
    await harness.begin(identity=Identity(tenant="shop"))
    assert isinstance(await refused(harness, identity=Identity(tenant="shop")), RateLimited)
    await harness.begin(identity=Identity(tenant="bank"))
    assert rate_key(Identity(tenant="a", end_user="b")) != rate_key(Identity(tenant="ab"))


async def test_only_requests_with_a_message_of_the_user_count(limited):
    harness = limited(messages_per_minute=1)
    call = Message(role=Role.ASSISTANT, parts=(ToolCallPart(id="1", name="find", arguments="{}"),))
    question = Message(role=Role.USER, parts=(TextPart(text="hi"),))
    result = Message(role=Role.TOOL, parts=(ToolResultPart(tool_call_id="1", content="found"),))
    first = await harness.begin(messages=(question, call, result))
    stored = await harness.stored_end(first)
    again = Position(replace=stored.parent_message_id)
    await harness.stored_end(await harness.begin(conversation_id=stored.conversation_id, position=again, messages=()))
    after = Position(after=first.log.reply.input_message_ids[1])
    await harness.begin(conversation_id=stored.conversation_id, position=after, messages=(result,))
    assert await used(harness) == 1
    assert isinstance(await refused(harness), RateLimited)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"conversation_id": "unknown"}, ConversationNotFound),
        ({"model": "unknown"}, ModelNotFound),
        ({"position": Position(after="unknown"), "own": True}, MessageNotFound),
        ({"own": True}, ReplyInProgress),
    ],
)
async def test_a_refused_request_is_not_counted(limited, fields, error):
    harness = limited(hold, messages_per_minute=2)
    running = await harness.begin()
    named = dict(fields)
    if named.pop("own", False):
        named["conversation_id"] = running.log.reply.conversation_id
    for _ in range(3):
        assert isinstance(await refused(harness, **named), error)
    assert await used(harness) == 1
    await harness.begin()


async def test_a_request_whose_transaction_fails_is_not_counted(limited):
    harness = limited(messages_per_minute=5)
    harness.store.fail("accept", times=1)
    assert isinstance(await refused(harness), StorageUnavailable)
    assert await used(harness) == 0


async def test_a_request_with_an_unknown_outcome_is_counted(limited):
    harness = limited(messages_per_minute=5)
    harness.store.fail("accept", times=1, error=StorageUnavailable(outcome_unknown=True))
    harness.store.fail("get_reply")
    accepting = asyncio.ensure_future(accept(harness))
    await until(lambda: "get_reply" in harness.store.calls)
    while not accepting.done():
        await harness.clock.advance(REPORT_UNKNOWN_S / 10)
    assert accepting.exception().outcome_unknown
    assert await used(harness) == 1


async def test_a_retry_of_an_accepted_request_attaches_over_the_limit_and_counts_once(limited):
    harness = limited(messages_per_minute=2)
    first = await harness.begin(request_id="r")
    assert isinstance(await accept(harness, request_id="r"), Replayed)
    assert await used(harness) == 1
    await fill(harness, 1)
    again = await accept(harness, request_id="r")
    assert again.reply.id == first.log.reply.id
    await harness.clock.advance(61)
    await fill(harness, 2)
    late = await accept(harness, request_id="r")
    assert (late.reply.id, await used(harness)) == (first.log.reply.id, 2)
    assert isinstance(await refused(harness, "another text", request_id="new"), RateLimited)


async def test_a_retry_after_the_window_of_its_request_is_not_counted(limited):
    harness = limited(messages_per_minute=2)
    await harness.begin(request_id="r")
    await harness.clock.advance(61)
    assert isinstance(await accept(harness, request_id="r"), Replayed)
    assert await used(harness) == 0


async def test_concurrent_requests_with_one_id_count_once(limited):
    harness = limited(messages_per_minute=2)
    await asyncio.gather(*[accept(harness, request_id="r") for _ in range(8)])
    assert await used(harness) == 1


async def test_the_message_is_counted_while_the_conversation_is_read(limited):
    harness = limited(messages_per_minute=2, concurrent_replies=2)
    stored = await harness.stored_end(await harness.begin())
    block = harness.store.block("read_turn")
    accepting = asyncio.ensure_future(accept(harness, conversation_id=stored.conversation_id))
    await block.reached.wait()
    await settle()
    assert {"read_turn", "count_running"} <= set(harness.store.calls[-2:])
    assert await used(harness) == 2
    block.released.set()
    await accepting


# --- running replies


async def test_replies_of_a_tenant_over_the_limit_are_refused(limited):
    harness = limited(hold, concurrent_replies=2, messages_per_minute=5)
    running = await fill(harness, 1)
    await harness.begin(identity=BEN)
    error = await refused(harness)
    assert isinstance(error, RateLimited)
    assert error.metadata == {"limit": "concurrent_replies", "used": "2", "max": "2", "subject": "tenant"}
    assert error.retry_after_s == 1.0
    assert error.violations == (("tenant", "concurrent_replies: 2 of 2 used"),)
    assert await used(harness) == 1, "the message was given back"
    await harness.begin(identity=Identity(tenant="bank"))
    await cancel_reply(harness, running[0])
    await harness.begin()


async def test_the_reply_that_a_request_interrupts_is_not_counted(limited):
    harness = limited(hold, concurrent_replies=1)
    running = await harness.begin()
    conversation_id = running.log.reply.conversation_id
    assert isinstance(await refused(harness, conversation_id=conversation_id), RateLimited)
    again = await harness.begin(conversation_id=conversation_id, interrupt=True)
    assert running.log.over
    assert not again.log.over


async def test_a_repeated_acceptance_does_not_count_the_interrupted_reply(limited):
    harness = limited(hold, concurrent_replies=1)
    running = await harness.begin()
    conversation_id, question = running.log.reply.conversation_id, running.log.reply.input_message_ids[0]

    async def move_head(*_) -> None:
        harness.store.before.clear()
        update = ConversationUpdate(conversation_id=conversation_id, head_message_id=question)
        await harness.store.update_conversation(ADA, update, harness.clock.now_us())

    harness.store.before["accept"] = move_head
    again = await harness.begin(conversation_id=conversation_id, interrupt=True)
    assert harness.store.calls.count("accept") == 3
    assert not again.log.over


# --- order of the checks


async def test_the_model_is_checked_before_the_message_limit_and_that_before_the_reply_limit(limited):
    harness = limited(hold, messages_per_minute=1, concurrent_replies=1)
    await harness.begin()
    assert isinstance(await refused(harness, model="unknown"), ModelNotFound)
    assert (await refused(harness)).metadata["limit"] == "messages_per_minute"
    assert (await refused(harness, identity=BEN)).metadata["limit"] == "concurrent_replies"


@pytest.mark.parametrize(("replies", "error"), [(1, RateLimited), (2, QuotaExceeded)])
async def test_the_reply_limit_is_checked_before_the_quota(limited, replies, error):
    harness = limited(hold, concurrent_replies=replies, quotas=Quota(tokens_per_day=150))
    await harness.begin()
    assert isinstance(await refused(harness), error)


class QuotaFreedAfterRefusal:
    """A store in which other replies end after it has refused an acceptance for a quota, and before it reads the use of
    that quota, so that the refusal has no use. It does so `times` times; `end` ends the replies."""

    def __init__(self, store, times, end):
        self._store, self._times, self._end = store, times, end

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def accept(self, acceptance):
        outcome = await self._store.accept(acceptance)
        if not isinstance(outcome, OverQuota) or not self._times:
            return outcome
        self._times -= 1
        await self._end()
        return OverQuota(uses=())


async def test_a_request_is_accepted_if_its_quota_is_freed_after_the_refusal(limited):
    harness = limited(hold, quotas=Quota(tokens_per_day=150))
    running = await harness.begin()
    assert isinstance(await refused(harness), QuotaExceeded)

    async def end():
        await cancel_reply(harness, running)
        await harness.stored_end(running)

    harness.core.acceptances._store = QuotaFreedAfterRefusal(harness.store, 1, end)
    assert not (await harness.begin()).log.over


async def test_a_request_whose_quota_changes_at_each_attempt_is_refused_as_retryable(limited):
    harness = limited(hold, quotas=Quota(tokens_per_day=150))
    await harness.begin()
    harness.core.acceptances._store = QuotaFreedAfterRefusal(harness.store, 99, settle)
    error = await refused(harness)
    assert (error.reason, error.retryable, error.retry_after_s) == (Reason.REPLY_IN_PROGRESS, True, 0.5)


async def test_a_refused_request_does_not_interrupt_the_running_reply(limited):
    harness = limited(hold, messages_per_minute=1)
    running = await harness.begin()
    error = await refused(harness, conversation_id=running.log.reply.conversation_id, interrupt=True)
    assert isinstance(error, RateLimited)
    assert not running.log.over


# --- unavailable limiter


class UnavailableLimiter:
    """Implements `RateLimiter`; every count fails."""

    async def take(self, key, member, limit):
        raise LimitsUnavailable

    async def give_back(self, key, member):
        raise AssertionError("nothing was taken")

    async def look(self, key):
        raise LimitsUnavailable


async def test_without_the_limiter_new_requests_are_refused_and_retries_attach(limited):
    harness = limited(messages_per_minute=2)
    first = await harness.begin(request_id="r")
    harness.core.admission._limiter = UnavailableLimiter()
    error = await refused(harness)
    assert (error.reason, error.retryable, error.retry_after_s) == (Reason.STORAGE_UNAVAILABLE, True, 1.0)
    assert isinstance(await refused(harness, model="unknown"), ModelNotFound)
    again = await accept(harness, request_id="r")
    assert again.reply.id == first.log.reply.id
    assert harness.observer.counted == ["taken", "error", "error", "error"]


async def test_without_limits_nothing_is_counted(make_harness):
    harness = make_harness()
    generation = await harness.begin()
    assert (generation.quota, harness.observer.counted) == (None, [])
    assert "count_running" not in harness.store.calls
    assert await harness.core.admission.states(ADA, TenantPolicy()) == []
