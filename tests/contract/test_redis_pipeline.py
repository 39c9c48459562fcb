"""The pipeline of commands to Redis, in the event loop of a server."""

from __future__ import annotations

import asyncio
import gc

import pytest
import uvloop
from parley_server.relay.redis_check import connector
from parley_server.relay.redis_pipeline import RedisPipeline, RelayAway

from tests.clock import until
from tests.proxy import Proxy

PING = b"*1\r\n$4\r\nPING\r\n"


def test_a_connection_that_was_reset_while_idle_is_an_outage_and_no_defect(shared_redis):
    reported: list[str] = []

    async def reset_and_ask() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["message"]))
        async with Proxy(shared_redis.port) as wire:
            pipeline = RedisPipeline(connector(shared_redis.url(port=wire.port)), "pipeline")
            assert await pipeline.run([PING]) == [b"PONG"]
            await wire.reset()
            await until(pipeline._connection._writer.transport.is_closing)
            with pytest.raises(RelayAway):
                await pipeline.run([PING])
            assert await pipeline.run([PING]) == [b"PONG"]
            await pipeline.close()
        gc.collect()

    uvloop.run(reset_and_ask())
    assert reported == []
