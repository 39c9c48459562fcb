"""What `Cluster` says of its servers is so: ways through proxies, owners over restarts, readers that go round."""

import asyncio

import pytest

from tests.cluster import Cluster
from tests.integration.process.watching import Watcher
from tests.integration.served import ask
from tests.lanes import LOADED
from tests.proxy import Proxy
from tests.upstream import Script, Wait, answer, text

pytestmark = pytest.mark.xdist_group(LOADED)


async def test_one_replica_goes_through_proxies(tmp_path, upstream, shared_postgres, shared_redis):
    async with Proxy(shared_postgres.port) as before_postgres, Proxy(shared_redis.port) as before_redis:
        ports = {"postgres_ports": {1: before_postgres.port}, "redis_ports": {1: before_redis.port}}
        async with Cluster(tmp_path, shared_postgres, shared_redis, upstream, replicas=2, **ports) as cluster:
            assert before_postgres.connections > 0
            assert before_redis.connections > 0
            had = before_postgres.bytes["to_target"], before_redis.bytes["to_target"]
            upstream.reply_with(answer("Hi"))
            watch = await cluster.caller(1).stream().end()
            assert watch.text == "Hi"
            assert before_postgres.bytes["to_target"] > had[0]
            assert before_redis.bytes["to_target"] > had[1]
            await before_postgres.cut()
            await cluster.none_active()
            await cluster[1].line("database_lost")
            assert await cluster[1].health() == "NOT_SERVING"
            assert await cluster[0].health() == "SERVING"
            await before_postgres.restore()
            await cluster[1].line("database_back")


async def test_owners_are_known_over_restarts_and_readers_go_round(tmp_path, upstream, shared_postgres, shared_redis):
    async with Cluster(tmp_path, shared_postgres, shared_redis, upstream, replicas=2) as cluster:
        upstream.reply_with(Script([text("Hi"), Wait(asyncio.Event())]))
        watch = await cluster.caller(1).stream().until_text("Hi")
        elsewhere = await cluster.caller(0).resume(watch.reply_id).until_text("Hi")
        before = cluster[1].replicas
        assert await cluster.owner_of(watch.reply_id) == 1
        await cluster.restart(1)
        assert cluster[1].replicas != before
        ended = await cluster.ended(watch.reply_id)
        assert (ended.state, ended.error, ended.text, ended.messages) == ("FAILED", "OWNER_LOST", "Hi", 1)
        await elsewhere.end()

        upstream.reply_with(answer("Again"))
        await cluster.kill9(0)
        watcher = await cluster.follow(Watcher(ask("Hi")), 0, 1)
        assert (watcher.text, await cluster.owner_of(watcher.reply_id)) == ("Again", 1)
        assert await cluster.stored("no-such-reply") is None
        assert cluster.calls == 2
        assert {each["index"] for each in cluster.events("serving")} == {0, 1}
