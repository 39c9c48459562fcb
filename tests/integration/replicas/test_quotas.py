"""Quotas are exact over several replicas, also if one of them is killed."""

import asyncio
import json

import pytest

from tests.processes import until
from tests.upstream import Script, Wait, done, finish, role, text, usage

A, B = range(2)
LEASE_S = 5.0
"""Longer than 200 acceptances keep a server busy."""
QUOTA = "\n[tenants.default]\ntotals = { tokens_per_day = 100000 }\n"
CHARGED = """
SELECT coalesce(sum(prompt_tokens + completion_tokens), 0) FROM usage WHERE state <> 'FAILED' OR text_length > 0
"""


@pytest.mark.parametrize("replicas", [2, 3])
async def test_200_requests_at_once_against_100_replies_worth_with_one_replica_killed(
    start_cluster, upstream, replicas
):
    """Each request holds and uses about 1,000 tokens."""
    gate = asyncio.Event()
    upstream.reply_with(Script([role(), text("Hello"), Wait(gate), finish(), usage(900, 100), done()]))
    cluster = await start_cluster(replicas=replicas, lease_s=LEASE_S, toml=QUOTA)
    callers = [cluster.caller(number % replicas, f"user{number % 7}") for number in range(14)]
    watches = [callers[number % 14].stream(sampling={"max_output_tokens": 900}) for number in range(200)]

    async def decided() -> bool:
        return sum(bool(watch.chunks) or watch.error is not None for watch in watches) == 200

    await until(decided, "each request is accepted or refused", limit_s=60)
    accepted = [watch for watch in watches if watch.chunks]
    refused = [watch for watch in watches if not watch.chunks]
    assert {str(watch.error.code()) for watch in refused} == {"StatusCode.RESOURCE_EXHAUSTED"}
    assert 90 <= len(accepted) <= 110
    plans = [json.loads(plan)["held"]["tokens"] for (plan,) in await cluster.rows("SELECT plan FROM reply")]
    assert await cluster.rows("SELECT held_tokens, used_tokens FROM quota_use") == [(sum(plans), 0)]
    assert sum(plans) <= 100_000 < sum(plans) + max(plans)

    await cluster.kill9(A)
    gate.set()

    async def over() -> bool:
        return await cluster.rows("SELECT count(*) FROM usage") == [(len(accepted),)]

    await until(over, "each reply has ended", limit_s=60)
    [(charged,)] = await cluster.rows(CHARGED)
    assert await cluster.rows("SELECT held_tokens, used_tokens FROM quota_use") == [(0, charged)]
    states = dict(await cluster.rows("SELECT state, count(*) FROM reply GROUP BY state"))
    assert set(states) == {"COMPLETED", "FAILED"}
    watch = await cluster.caller(B, "ben").stream(sampling={"max_output_tokens": 900}).end()
    assert watch.kinds[-1] == "finished", "what the dead replica held is free again"
