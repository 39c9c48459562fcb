"""Traces of several replicas: each exports its own spans, and a takeover leads to the reply of the dead replica."""

import asyncio

from tests.otlp import Collector
from tests.upstream import Script, Wait, role, text

A, B = range(2)


async def test_a_takeover_is_linked_with_the_reply_of_the_dead_replica(start_cluster, upstream):
    upstream.reply_with(Script([role(), text("One "), Wait(asyncio.Event())]))
    async with Collector() as collector:
        cluster = await start_cluster(replicas=2, environment=collector.environment)
        watch = await cluster.caller(A).stream("Count").until_text("One ")
        await cluster.kill9(A)
        assert (await cluster.ended(watch.reply_id)).error == "OWNER_LOST"
        (takeover,) = await collector.receive("parley.takeover")
        await cluster.drain(B)
    traceparent = upstream.requests[0].headers["traceparent"].split("-")
    (link,) = takeover.links
    assert link[0] == traceparent[1]  # the trace of the reply, which the provider has received from the dead replica
    assert link[1] == link[0][16:]
    assert takeover.parent_id == ""
    assert takeover.trace_id != link[0]
    assert takeover.attributes["parley.reply.id"] == watch.reply_id
    assert takeover.attributes["parley.outcome"] == "ended"
    (line,) = cluster[B].events("reply_taken_over")
    assert (line["trace_id"], line["span_id"]) == (takeover.trace_id, takeover.span_id)
