"""The status of a cluster: leases, versions and running replies as each replica and `parley status` see them."""

from __future__ import annotations

import asyncio
import json

from parley.v1 import admin_pb2
from parley_server import __version__

from tests.integration.process.test_start import command
from tests.processes import until
from tests.upstream import Hang, Script, role, text

A, B = range(2)
MARK = "MARK-0ddba11"
HANGING = Script([role(), text(MARK), Hang()])


async def test_replicas_leases_running_replies_and_a_killed_replica(start_cluster, own_redis, upstream, tmp_path):
    cluster = await start_cluster(replicas=2, lease_s=6.0, redis=own_redis)
    upstream.reply_with(HANGING)
    first = await cluster.caller(A).stream(f"{MARK} Hi").until_text(MARK)
    await cluster.caller(B).resume(first.reply_id).until_text(MARK)
    database = {"PARLEY_DATABASE_URL": cluster.postgres.url(cluster.database)}

    async def seen(index):
        return await cluster.caller(index).admin.GetStatus(admin_pb2.GetStatusRequest(), timeout=20)

    async def printed(*options, status, **environment):
        done = await asyncio.to_thread(command, tmp_path, "status", *options, **environment)
        assert (done.returncode, done.stderr) == (status, ""), done
        assert MARK not in done.stdout
        return done.stdout

    ids = [cluster[index].replicas[0] for index in (A, B)]
    of_a, of_b = await asyncio.gather(seen(A), seen(B))
    assert [of_a.replica.replica_id, of_b.replica.replica_id] == ids
    for found in (of_a, of_b):
        replica, stored = found.replica, found.database
        assert (replica.mode, replica.version) == (replica.MODE_CLUSTER, __version__)
        assert 0 < replica.lease_left.ToMilliseconds() < 6000
        assert [part.name for part in replica.relay] == ["publish", "follow", "presence", "subscribe", "tell", "rate"]
        assert not any(part.HasField("lost") for part in replica.relay)
        assert (stored.kind, stored.schema_release) == ("PostgreSQL", 3)
        leases = {lease.replica_id: (lease.version, lease.running_replies) for lease in stored.replicas}
        assert leases == {ids[A]: (__version__, 1), ids[B]: (__version__, 0)}
        assert all(0 < lease.lease_left.ToMilliseconds() <= 6000 for lease in stored.replicas)
        assert [(each.model, each.replies) for each in stored.running] == [("test", 1)]
        assert list(found.problems) == []
    assert [(each.model, each.replies) for each in of_a.replica.running] == [("test", 1)]
    assert (list(of_b.replica.running), of_b.replica.followed_replies, of_b.replica.readers) == ([], 1, 1)

    table = await printed(status=0, **database)
    for words in (*ids, f"  {__version__}  ", " s left", "test   1", "no problems"):
        assert words in table
    answer = json.loads(await printed("--json", "--server", cluster[B].address, status=0))
    assert answer["replica"]["replica_id"] == ids[B]
    assert answer["replica"]["draining"] is False

    own_redis.stop("fast")
    await until(lambda: has_lost_redis(seen), "B has lost Redis")
    await asyncio.gather(cluster.kill9(A), cluster.kill9(B))
    await cluster.rows(
        "UPDATE replica SET lease_until_us = lease_until_us - 120 * 1000000"
    )  # as if two minutes had passed
    problems = (await printed(status=1, **database)).partition("\nproblems\n")[2].splitlines()
    assert problems[0] == "  no replica holds a lease"
    assert sorted(problem.split(" expired ")[0] for problem in problems[1:]) == sorted(
        f"  the lease of replica {each}" for each in ids
    )


async def has_lost_redis(seen):
    found = await seen(B)
    lost = [part for part in found.replica.relay if part.HasField("lost")]
    return lost and found.problems[0].startswith("the connection to Redis has been lost for ")
