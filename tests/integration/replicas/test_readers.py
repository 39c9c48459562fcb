"""P30, P31, P40, G1 to G3: many readers of what other replicas write, what they cost, and that every one is exact."""

import asyncio

from tests.integration.replicas.plays import Repertoire
from tests.integration.served import COMPLETED

A, B, C = range(3)


async def test_polls_through_alternating_replicas_add_up(cluster, upstream):
    repertoire = Repertoire()
    upstream.reply_with(repertoire)
    play = repertoire.add("polled", 100)
    created = await cluster.caller(A).create("polled", wait=0)
    text, cursor, turn = "", 0, 0
    async with asyncio.timeout(20):
        while True:
            polled = await cluster.caller(turn % 3).poll(created.id, after=cursor, wait=5, gather=0.05)
            text += "".join(chunk.text for chunk in polled.chunks)
            cursor, turn = polled.after_sequence, turn + 1
            if polled.reply.state == COMPLETED:
                break
    assert text == play.whole
