"""Quotas of end users and tenants, as callers see them."""

import asyncio
import datetime

import grpc
import pytest
from google.rpc import error_details_pb2
from parley.v1 import catalog_pb2, chat_pb2

from tests.clock import ManualClock
from tests.integration.served import ask, refused
from tests.upstream import Hang, Script, chunk, done, finish, role, text, usage

QUOTAS = """
[tenants.default]
quotas = { tokens_per_day = 3000, cost_per_month = 0.05 }
totals = { tokens_per_month = 5000 }
"""
ANSWER = Script([role(), text("Hello"), finish(), usage(900, 100), done()])
MONTH_END = datetime.datetime(2023, 12, 1, tzinfo=datetime.UTC)
"""The clock of the tests starts in November 2023."""
SHORT = chat_pb2.Sampling(max_output_tokens=100)


async def quotas(caller):
    answer = await caller.catalog.GetQuota(catalog_pb2.GetQuotaRequest())
    return {quota.name: (quota.used, quota.limit) for quota in answer.quotas}


@pytest.fixture
async def shop(serve, upstream):
    upstream.reply_with(ANSWER)
    return await serve(models=QUOTAS, clock=ManualClock())


async def completed(server, caller, **fields):
    watch = caller.stream(sampling=SHORT, **fields)
    await server.in_time(watch.end())
    assert watch.kinds[-1] == "finished", watch.error
    return watch


async def test_s3_2_the_quota_is_checked_before_the_model_is_asked_and_consumed_by_answers(shop, upstream):
    ada, ben = shop.caller("ada"), shop.caller("ben")
    watch = await completed(shop, ada)
    tightest = watch.chunks[0].accepted.quota
    assert (tightest.name, tightest.limit) == ("tokens_per_day", 3000)
    assert 100 < tightest.used < 400, "what the running reply holds"
    for _ in range(2):
        await completed(shop, ada)
    # 1,000 tokens of an answer cost 900 * 2 + 100 * 8 dollars per million.
    spent = {"tokens_per_day": (3000, 3000), "cost_nano_usd_per_month": (7_800_000, 50_000_000)}
    assert await quotas(ada) == spent | {"tenant_tokens_per_month": (3000, 5000)}
    assert (await quotas(ben))["tokens_per_day"] == (0, 3000)

    error = await refused(ada.chat.StreamReply(ask("Again", sampling=SHORT)))
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    assert (error.initial_metadata, error.plain.retryable, error.fields) == ((), False, [])
    metadata = dict(error.info.metadata)
    needed = metadata.pop("needed")
    assert metadata == {
        "limit": "tokens_per_day",
        "used": "3000",
        "max": "3000",
        "subject": "end_user",
        "reset_time": "2023-11-15T00:00:00Z",
    }
    [violation] = error.detail(error_details_pb2.QuotaFailure).violations
    assert violation.subject == "end_user"
    assert violation.description == f"tokens_per_day: 3000 of 3000 used, {needed} needed"
    assert 0 < error.retry_after_s < 86_400
    assert len(upstream.requests) == 3, "the model was not asked"
    metrics = shop.app.telemetry.registry
    assert metrics.get_sample_value("parley_quota_refusals_total", {"limit": "tokens_per_day"}) == 1
    assert shop.sql("SELECT count(*) FROM reply") == [(3,)]

    for _ in range(2):
        await completed(shop, ben)
    error = await refused(shop.caller("cleo").chat.StreamReply(ask(sampling=SHORT)))
    assert (error.info.metadata["limit"], error.info.metadata["subject"]) == ("tenant_tokens_per_month", "tenant")
    now = datetime.datetime.fromtimestamp(shop._clock.now_us() / 1e6, datetime.UTC)
    assert abs(error.retry_after_s - (MONTH_END - now).total_seconds()) < 1


async def test_a_reply_that_fails_before_its_first_token_costs_the_user_nothing(shop, upstream):
    ada = shop.caller("ada")
    upstream.reply_next(Script([role(), usage(900, 0)], framing="close"))
    watch = ada.stream(sampling=SHORT)
    await shop.in_time(watch.end())
    assert watch.kinds == ["accepted", "usage", "failed"]
    assert (await quotas(ada))["tokens_per_day"] == (0, 3000)
    assert shop.sql("SELECT prompt_tokens FROM usage") == [(900,)], "the operator sees what the provider counted"
    upstream.reply_next(Script([role(), text("Hel")], framing="close"))
    watch = ada.stream(sampling=SHORT)
    await shop.in_time(watch.end())
    assert (await quotas(ada))["tokens_per_day"][0] > 0, "an answer that breaks later is charged"


async def test_a_reply_over_midnight_is_charged_to_the_day_of_its_acceptance(shop, upstream):
    ada = shop.caller("ada")
    midnight_s = 86_400 - shop._clock.now_us() // 1_000_000 % 86_400
    await shop._clock.advance(midnight_s - 5)
    upstream.reply_next(Script([role(), text("Hello"), Hang()]))
    watch = await ada.stream(sampling=SHORT).until_text("Hello")
    await shop._clock.advance(10)
    assert (await quotas(ada))["tokens_per_day"] == (0, 3000), "a new day has begun"
    await shop.in_time(ada.cancel(watch.reply_id))
    assert (await quotas(ada))["tokens_per_day"] == (0, 3000)
    days = shop.sql("SELECT period, used_tokens > 0, held_tokens FROM quota_use WHERE scope = 'user' ORDER BY 1")
    assert days == [("2023-11", 1, 0), ("2023-11-14", 1, 0)]


async def test_a_retry_of_an_accepted_request_attaches_although_the_quota_is_used_up(shop):
    ada = shop.caller("ada")
    first = await completed(shop, ada, request_id="r")
    for _ in range(2):
        await completed(shop, ada)
    again = await completed(shop, ada, request_id="r")
    assert (again.reply_id, again.chunks[0].accepted.replayed) == (first.reply_id, True)
    assert not again.chunks[0].accepted.HasField("quota")


async def test_a_request_over_its_quota_interrupts_nothing(shop, upstream):
    ada = shop.caller("ada")
    for _ in range(2):
        await completed(shop, ada)
    upstream.reply_next(Script([role(), text("on"), Hang()]))
    running = await ada.stream(sampling=SHORT).until_text("on")
    interrupt = ask("Stop", conversation_id=running.conversation_id, concurrency=chat_pb2.CONCURRENCY_POLICY_INTERRUPT)
    error = await refused(ada.chat.StreamReply(interrupt))
    assert error.reason == "QUOTA_EXCEEDED"
    assert shop.sql("SELECT cancel_requested FROM reply WHERE id = ?", running.reply_id) == [(None,)]


async def test_200_requests_at_once_against_100_replies_worth(serve, upstream):
    upstream.reply_with(ANSWER)
    # Each holds its estimate of the prompt and 1,000 tokens, and uses 1,000 tokens.
    server = await serve(models="[tenants.default]\ntotals = { tokens_per_day = 100000 }")
    callers = [server.caller(f"user{number}") for number in range(10)]
    watches = [callers[number % 10].stream() for number in range(200)]
    await asyncio.gather(*(watch.end(limit_s=60) for watch in watches))
    accepted = [watch for watch in watches if watch.chunks]
    assert {watch.kinds[-1] for watch in accepted} == {"finished"}
    assert 80 <= len(accepted) <= 100
    [(used, held)] = server.sql("SELECT used_tokens, held_tokens FROM quota_use")
    assert (used, held) == (1000 * len(accepted), 0)
    assert server.sql("SELECT count(*), sum(prompt_tokens + completion_tokens) FROM usage") == [(len(accepted), used)]


async def test_without_quotas_nothing_is_held_and_nothing_shown(server, upstream):
    upstream.reply_with(Script([role(), chunk({"content": "Hi"}), finish(), usage(), done()]))
    watch = await server.stream().end()
    assert not watch.chunks[0].accepted.HasField("quota")
    assert await quotas(server) == {}
    assert server.sql("SELECT count(*) FROM quota_use") == [(0,)]
