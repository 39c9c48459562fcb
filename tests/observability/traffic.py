"""A pair of replicas, one of them with two workers, and traffic that ends in every way that the dashboard shows."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from parley import Backoff, Client, ParleyError, Text
from parley.v1 import resources_pb2

from tests.integration.process.test_workers import Workers
from tests.integration.process.watching import script, words
from tests.processes import ServerProcess, until
from tests.upstream import Request, Script, answer, done, finish, refusal, role, text, usage

LEASE_S: Final = 3.0
KEYS: Final = {name: f"key-of-{name}" for name in ("shop", "limited", "spent")}
CONFIG: Final = """
[providers.up]
kind = "openai"
base_url = "{url}"
api_key = "env:UPSTREAM_KEY"
retries = 1
[providers.gone]
kind = "openai"
base_url = "{url}"
api_key = "env:UPSTREAM_KEY"
retries = 0
[providers.typewriter]
kind = "scripted"

[models.fast]
provider = "up"
name = "vendor/fast"
retires = 2099-01-01
prices = {{ prompt = 2.0, cached_prompt = 0.5, completion = 8.0 }}
[models.odd]
provider = "up"
name = "vendor/odd"
[models.flaky]
provider = "up"
name = "vendor/flaky"
[models.locked]
provider = "up"
name = "vendor/locked"
[models.broken]
provider = "gone"
name = "vendor/broken"
[models.covered]
provider = "gone"
name = "vendor/broken"
fallback = ["fast"]
[models.scripted]
provider = "typewriter"
name = "scripted"

[tenants.shop]
api_keys_sha256 = ["{shop}"]
[tenants.limited]
api_keys_sha256 = ["{limited}"]
limits = {{ messages_per_minute = 1 }}
[tenants.spent]
api_keys_sha256 = ["{spent}"]
quotas = {{ tokens_per_day = 10 }}

[server]
default_model = "fast"
lease_s = {lease_s}
sweep_interval_s = 0.5
reconcile_interval_s = 0.5
relay_heartbeat_s = 0.5
drain_pause_s = 0
"""
ANSWER: Final = Script([role(), text("Hello"), finish(), usage(900, 100, cached=400), done()])
ODD: Final = Script([role(), text("Hello"), finish(), usage(-1, 7), done()])
BREAKER_FAILURES: Final = 5
SLOW: Final = script(words("w", 2000), delay_s=0.05)


class Pair(NamedTuple):
    """Two running servers on one database; `second` has two workers."""

    first: ServerProcess
    second: Workers


def answer_by_model() -> Callable[[Request], Script]:
    """What the upstream answers; the model `flaky` fails once."""
    once = {"vendor/flaky": [refusal(503)]}
    always = {"vendor/broken": refusal(503), "vendor/locked": refusal(401), "vendor/odd": ODD, "vendor/fast": ANSWER}

    def choose(request: Request) -> Script:
        model = request.json["model"]
        return once[model].pop() if once.get(model) else always.get(model, answer("Hello"))

    return choose


@contextlib.asynccontextmanager
async def running_pair(
    folder: Path, metrics_ports: list[int], database_url: str, redis_url: str, upstream_url: str
) -> AsyncIterator[Pair]:
    """The pair on a migrated database; the first of the ports is for the metrics of the first server."""
    digests = {name: hashlib.sha256(key.encode()).hexdigest() for name, key in KEYS.items()}
    toml = CONFIG.format(url=upstream_url, lease_s=LEASE_S, **digests)
    variables = {
        "PARLEY_DATABASE_URL": database_url,
        "PARLEY_REDIS_URL": redis_url,
        "UPSTREAM_KEY": "sk-of-the-upstream",
    }
    first, second = ({**variables, "PARLEY_METRICS_LISTEN": f"127.0.0.1:{port}"} for port in metrics_ports)
    async with (
        ServerProcess(folder / "first", toml=toml, forked=True, **first) as one,
        Workers(folder / "second", second, toml=toml) as two,
    ):
        yield Pair(one, two)


async def send_traffic(pair: Pair) -> None:
    """Replies that complete, fail, are cancelled, lose their owner, are repeated, refused or answered by another model.

    The last call is the one that a quota refuses."""
    async with contextlib.AsyncExitStack() as stack:

        async def client(server: ServerProcess, key: str) -> Client:
            once = Backoff(max_elapsed_s=0.0)
            return await stack.enter_async_context(Client(server.address, api_key=key, end_user="ada", backoff=once))

        shop, remote = await client(pair.first, KEYS["shop"]), await client(pair.second, KEYS["shop"])
        limited, spent = await client(pair.first, KEYS["limited"]), await client(pair.first, KEYS["spent"])
        await asyncio.gather(
            _lose_the_owner(pair, remote, reader=shop),
            _complete(shop, "fast", "fast", "odd", "flaky"),
            _fail(shop, "locked", *["broken"] * BREAKER_FAILURES),
            _cancel_and_delete(shop),
        )
        await _complete(shop, "covered")
        await _complete(limited, "scripted")
        await _be_refused(limited.create_reply("Hello", model="scripted"))  # the second message in a minute
        await _be_refused((await client(pair.first, "wrong")).models())
        await _be_refused(spent.create_reply("Hello", model="scripted"))


async def _complete(client: Client, *models: str) -> None:
    for model in models:
        reply = await client.create_reply("Hello", model=model)
        assert reply.state == resources_pb2.Reply.STATE_COMPLETED, reply


async def _fail(client: Client, *models: str) -> None:
    for model in models:
        reply = await client.create_reply("Hello", model=model)
        assert reply.state == resources_pb2.Reply.STATE_FAILED, reply


async def _cancel_and_delete(client: Client) -> None:
    reply = await client.create_reply(SLOW, model="scripted", wait_s=0)
    await client.cancel(reply_id=reply.id)
    await client.conversations.delete(reply.conversation_id)


async def _lose_the_owner(pair: Pair, client: Client, *, reader: Client) -> None:
    """Start a reply, follow it through the other server, kill all workers of its own, and wait for its takeover."""
    reply = await client.create_reply(SLOW, model="scripted", wait_s=0)
    async for event in reader.resume(reply.id):
        if isinstance(event, Text):
            break
    for pid in pair.second.pids().values():
        os.kill(pid, signal.SIGKILL)

    async def taken_over() -> bool:
        return (await pair.first.metrics())["parley_replies_taken_over_total"] == 1

    await until(taken_over, "the reply is taken over", limit_s=30)


async def _be_refused(call: Awaitable[Any]) -> None:
    try:
        await call
    except ParleyError:
        return
    raise AssertionError("the call was not refused")
