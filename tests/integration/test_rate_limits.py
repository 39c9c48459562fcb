"""Limits of messages and of running replies, as callers see them."""

import grpc
import pytest
from google.rpc import error_details_pb2
from parley.v1 import catalog_pb2

from tests.clock import ManualClock
from tests.integration.served import ask, refused
from tests.upstream import Hang, Script, done, finish, role, text, usage

ANSWER = Script([role(), text("Hello"), finish(), usage(), done()])
HANGING = Script([role(), text("on"), Hang()])


@pytest.fixture
async def shop(serve, upstream):
    upstream.reply_with(ANSWER)
    limits = "limits = { messages_per_minute = 10, concurrent_replies = 2 }"
    return await serve(models=f"[tenants.default]\n{limits}", clock=ManualClock())


async def completed(server, caller, **fields):
    watch = caller.stream(**fields)
    await server.in_time(watch.end())
    assert watch.kinds[-1] == "finished", watch.error
    return watch


async def quotas(caller):
    answer = await caller.catalog.GetQuota(catalog_pb2.GetQuotaRequest())
    return {quota.name: (quota.used, quota.limit) for quota in answer.quotas}


def violation(error):
    [found] = error.detail(error_details_pb2.QuotaFailure).violations
    return found.subject, found.description


async def test_s0_5_the_11th_message_of_a_minute_is_refused(shop, upstream):
    ada, ben = shop.caller("ada"), shop.caller("ben")
    watches = [await completed(shop, ada, request_id=f"r{number}") for number in range(10)]
    tenth = watches[-1].chunks[0].accepted.quota
    assert (tenth.name, tenth.used, tenth.limit, tenth.HasField("reset_time")) == ("messages_per_minute", 10, 10, False)
    error = await refused(ada.chat.StreamReply(ask()))
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    assert (error.initial_metadata, error.plain.retryable, error.fields) == ((), True, [])
    numbers = {"used": "10", "max": "10", "subject": "end_user"}
    assert dict(error.info.metadata) == {"limit": "messages_per_minute", **numbers}
    assert violation(error) == ("end_user", "messages_per_minute: 10 of 10 used")
    assert 0 < error.retry_after_s <= 60
    assert len(error.raw) < 4096
    assert len(upstream.requests) == 10, "the model was not asked"
    assert shop.sql("SELECT count(*) FROM reply") == [(10,)]
    assert await quotas(ada) == {"messages_per_minute": (10, 10), "concurrent_replies": (0, 2)}

    again = await completed(shop, ada, request_id="r3")
    assert (again.reply_id, again.chunks[0].accepted.replayed) == (watches[3].reply_id, True)
    await completed(shop, ben)
    await shop._clock.advance(error.retry_after_s)
    await completed(shop, ada)


async def test_a_reply_over_the_limit_of_the_tenant_is_refused(shop, upstream):
    upstream.reply_with(HANGING)
    ada, ben = shop.caller("ada"), shop.caller("ben")
    running = [await caller.stream().until_text("on") for caller in (ada, ben)]
    error = await refused(ada.chat.StreamReply(ask()))
    assert (error.code, error.reason, error.retry_after_s) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED", 1.0)
    assert dict(error.info.metadata) == {"limit": "concurrent_replies", "used": "2", "max": "2", "subject": "tenant"}
    assert violation(error) == ("tenant", "concurrent_replies: 2 of 2 used")
    assert await quotas(ada) == {"messages_per_minute": (1, 10), "concurrent_replies": (2, 2)}
    await shop.in_time(ben.cancel(running[1].reply_id))
    await ada.stream().until_text("on")
