"""Erases replies in Redis, for a command that runs beside the servers."""

from __future__ import annotations

from collections.abc import Sequence

from redis.exceptions import ResponseError

from parley_server.relay import wire
from parley_server.relay.redis_check import connector
from parley_server.relay.redis_pipeline import RedisPipeline, RelayAway
from parley_server.relay.scripts import ERASE, command, groups

ERASED_PER_CALL = 500
FENCE_MS = 600_000
"""For as long, no late append of a server can create an erased reply again."""


def erase_commands(reply_ids: Sequence[str], fence_ms: int) -> list[bytes]:
    """The commands that erase these replies (at most `ERASED_PER_CALL`), also in the memory of all replicas."""
    # The fence comes before the message: once a replica has received the erasure, no late append can create the
    # reply again.
    keys = [wire.reply_key(each) for each in reply_ids]
    return [
        ERASE.call(keys, fence_ms, wire.CLOSED_FENCE),
        command("PUBLISH", wire.ERASED_CHANNEL, wire.pack_replies(reply_ids)),
    ]


async def erase_replies(url: str, reply_ids: Sequence[str]) -> None:
    """Erase replies in the Redis at this URL. Raises `RelayUnusable` and `RelayAway`."""
    pipeline = RedisPipeline(connector(url), "parley-erase")
    try:
        for some in groups(reply_ids, ERASED_PER_CALL):
            answers = await pipeline.run(erase_commands(some, FENCE_MS))
            refused = [each for each in answers if isinstance(each, ResponseError)]
            if refused:
                raise RelayAway(str(refused[0]))
    finally:
        await pipeline.close()
