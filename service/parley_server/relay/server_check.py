"""Asks the relay's Redis whether it can be used: at the start of a server, and for a command."""

from __future__ import annotations

from redis.exceptions import AuthenticationError, ResponseError

from parley_server.relay.redis_check import RedisServer, RelayUnusable, check_server, connector
from parley_server.relay.redis_pipeline import RedisPipeline, RelayAway
from parley_server.relay.scripts import command


async def ask_server(pipeline: RedisPipeline) -> RedisServer:
    """What the server is. Raises RelayUnusable, and RelayAway if it does not answer."""
    try:
        (info,) = await pipeline.run([command("INFO")])
    except RelayAway as away:
        # A wrong password does not become right by itself, unlike a server that is unreachable: the operator must
        # see it at the start.
        if isinstance(away.__cause__, AuthenticationError):
            raise RelayUnusable(f"the relay's Redis refuses the URL's user or password: {away}") from None
        raise
    if isinstance(info, ResponseError):
        raise RelayUnusable(f"the relay's Redis does not let its user see INFO: {info}")
    return check_server(info)


async def look_at(url: str) -> RedisServer:
    """What the server at this URL is. Raises RelayUnusable and RelayAway."""
    pipeline = RedisPipeline(connector(url), "parley-check")
    try:
        return await ask_server(pipeline)
    finally:
        await pipeline.close()
