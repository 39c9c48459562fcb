"""Three replicas count the messages of an end user together, and without Redis each for itself or not at all."""

from __future__ import annotations

import asyncio
import itertools

import grpc
import pytest

from tests.integration.served import Refusal, ask
from tests.processes import until
from tests.upstream import Script, done, finish, role, text, usage

LIMITS = "\n[tenants.default]\nlimits = { messages_per_minute = 10 }\n"
LEASE_S = 12.0  # so that no lease expires on a busy machine
COUNTED = {"limits_without_redis": "refuse"}
"""With this, no message is counted by one replica alone, if Redis answers late on a busy machine."""


async def ask_as(cluster, user: str, index: int, count: int, *, retries: bool = False) -> list[str]:
    """Ask so many times at once; returns the reasons of the refusals, and "" for accepted requests. `retries`: until
    the message was counted."""

    async def once() -> str:
        request = ask(wait=0)
        while True:
            try:
                await cluster.caller(index, user).chat.CreateReply(request, timeout=20)
            except grpc.aio.AioRpcError as error:
                reason = Refusal(error).reason
                if reason == "STORAGE_UNAVAILABLE" and retries:
                    await asyncio.sleep(0.1)
                    continue
                return reason
            return ""

    return await asyncio.gather(*[once() for _ in range(count)])


async def restored(cluster) -> bool:
    metrics = await asyncio.gather(*[cluster[index].metrics() for index in range(3)])
    return all(each["parley_relay_lost_seconds"] == 0 for each in metrics)


@pytest.fixture(autouse=True)
def answers(upstream):
    upstream.reply_with(Script([role(), text("Hello"), finish(), usage(), done()]))


async def test_s0_5_the_11th_message_of_a_minute_is_refused_by_every_replica(start_cluster):
    cluster = await start_cluster(toml=LIMITS, lease_s=LEASE_S, server=COUNTED)
    reasons = await asyncio.gather(*[ask_as(cluster, "ada", index, 7, retries=True) for index in range(3)])
    assert sorted(itertools.chain(*reasons)) == [""] * 10 + ["RATE_LIMITED"] * 11
    assert await ask_as(cluster, "ada", 0, 1, retries=True) == ["RATE_LIMITED"]
    assert await cluster.rows("SELECT count(*) FROM reply") == [(10,)]
    assert cluster.problems == []


@pytest.mark.parametrize("policy", ["local", "refuse"])
async def test_without_redis_each_replica_counts_for_itself_or_refuses(start_cluster, own_redis, policy):
    cluster = await start_cluster(
        redis=own_redis, toml=LIMITS, lease_s=LEASE_S, server={"limits_without_redis": policy}
    )
    for user, fail in (("ada", own_redis.kill9), ("ben", own_redis.pause)):
        assert await ask_as(cluster, user, 0, 3, retries=True) == [""] * 3
        await asyncio.to_thread(fail)
        reasons = [sorted(await ask_as(cluster, user, index, 12)) for index in range(3)]
        if policy == "refuse":
            assert reasons == [["STORAGE_UNAVAILABLE"] * 12] * 3
        else:
            accepted = [7, 10, 10]  # and three by the first replica before
            assert reasons == [[""] * count + ["RATE_LIMITED"] * (12 - count) for count in accepted]
        if fail == own_redis.kill9:
            await asyncio.to_thread(own_redis.start)
            await until(lambda: restored(cluster), "all replicas use Redis again")
    outcome = "error" if policy == "refuse" else "local"
    metrics = await cluster[2].metrics()
    assert metrics[f"parley_limiter_calls_total{{{outcome}}}"] == (24 if policy == "refuse" else 20)
