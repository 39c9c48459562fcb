"""P33: a reply that nobody reads on any replica is cancelled, and one that somebody reads on some replica is not."""

import asyncio

from tests.integration.replicas.plays import Repertoire
from tests.integration.served import reason

A, B, C = range(3)


async def test_a_reader_elsewhere_keeps_it_until_he_leaves(cluster, upstream):
    repertoire = Repertoire()
    upstream.reply_with(repertoire)
    play = repertoire.add("elsewhere", 6, hold=3)
    first = await cluster.caller(A).stream("elsewhere", orphan_ttl=2).until_text(play.held_text)
    other = await cluster.caller(B).resume(first.reply_id).until_text(play.held_text)
    first.call.cancel()
    await asyncio.sleep(5)
    assert not (await cluster.stored(first.reply_id)).ended
    other.call.cancel()
    assert (await cluster.ended(first.reply_id)).finish_reason == "ORPHANED"
    late = await cluster.caller(C).resume(first.reply_id).end()
    assert late.terminal.finished.reason == reason("ORPHANED")
