"""Stored keys on two replicas, their rotation beside traffic, the erasure of a user, and where marked data is found."""

import asyncio
import json
import urllib.request

import pytest
import redis
from parley.v1 import admin_pb2
from parley_server.core.store_types import KeyPlace
from parley_server.secrets.fernet import FernetCipher, new_encryption_key
from parley_server.store.schema import metadata

from tests.integration.process.test_start import command
from tests.integration.served import KEY, text_of
from tests.processes import until
from tests.upstream import Hang, Script, answer, role, text

OLD, NEW = new_encryption_key(), new_encryption_key()
STORED, PROMPT, ANSWER, USER = "sk-STORED-7f3a91bc", "PROMPT-c0de4d2e", "ANSWER-55aae1f0", "user-ada-88d1"
PROPAGATED_S = 3.0
PLACE = KeyPlace("up", "default")


async def set_key(caller, key=STORED):
    request = admin_pb2.SetProviderKeyRequest(provider="up", api_key=key, tenant="default")
    await caller.admin.SetProviderKey(request, timeout=20)


async def key_of(cluster, index):
    """The key that a reply of this replica sends."""
    before = cluster.calls
    await cluster.caller(index).stream().end()
    [request] = cluster.upstream.requests[before:]
    return request.headers["authorization"].removeprefix("Bearer ")


async def until_key(cluster, index, key):
    async def used():
        return await key_of(cluster, index) == key

    await until(used, f"replica {index} uses the key", limit_s=PROPAGATED_S + 1)


def run(cluster, tmp_path, *arguments, keys=f"{NEW},{OLD}"):
    environment = {"PARLEY_DATABASE_URL": cluster.postgres.url(cluster.database), "PARLEY_ENCRYPTION_KEYS": keys}
    return asyncio.to_thread(command, tmp_path, *arguments, PARLEY_REDIS_URL=cluster.redis.url(), **environment)


@pytest.mark.timeout(90)
async def test_s1_2_a_key_set_on_one_replica_is_used_and_rotated_on_all(start_cluster, tmp_path):
    cluster = await start_cluster(replicas=2, environment={"PARLEY_ENCRYPTION_KEYS": f"{NEW},{OLD}"})
    await set_key(cluster.caller(0))
    assert await key_of(cluster, 0) == STORED
    await until_key(cluster, 1, STORED)
    # a row from the time before the new encryption key
    [(token,)] = await cluster.rows("SELECT token FROM provider_key")
    key = FernetCipher([NEW]).decrypt(PLACE, token)
    await cluster.rows("UPDATE provider_key SET token = $1", FernetCipher([OLD]).encrypt(PLACE, key))
    traffic = [asyncio.create_task(cluster.caller(index).stream().end()) for index in (0, 1) * 5]
    done = await run(cluster, tmp_path, "rotate-keys")
    assert (done.returncode, done.stdout) == (0, "1 provider keys are encrypted with the newest encryption key\n")
    assert json.loads(done.stderr)["method"] == "rotate-keys"
    assert {watch.kinds[-1] for watch in await asyncio.gather(*traffic)} == {"finished"}
    [(token,)] = await cluster.rows("SELECT token FROM provider_key")
    assert FernetCipher([NEW]).decrypt(PLACE, token).reveal() == STORED
    assert (await run(cluster, tmp_path, "rotate-keys", keys=OLD)).returncode == 1
    await cluster.caller(1).admin.DeleteProviderKey(
        admin_pb2.DeleteProviderKeyRequest(provider="up", tenant="default"), timeout=20
    )
    assert await key_of(cluster, 1) == KEY
    await until_key(cluster, 0, KEY)


def redis_content(url):
    """Everything that a Redis holds, as text."""
    client = redis.Redis.from_url(url)
    readers = {b"stream": client.xrange, b"hash": client.hgetall, b"string": client.get, b"set": client.smembers}
    readers[b"zset"] = lambda key: client.zrange(key, 0, -1)
    with client:
        return repr([(key, readers[client.type(key)](key)) for key in client.scan_iter()])


async def everything(cluster):
    """The content of each place that holds data."""
    rows = [await cluster.rows(f'SELECT * FROM "{table.name}"') for table in metadata.sorted_tables]
    metrics = [
        await asyncio.to_thread(lambda port=each.metrics_port: _fetched(f"http://127.0.0.1:{port}/metrics"))
        for each in cluster._replicas
    ]
    return {
        "database": repr(rows),
        "redis": await asyncio.to_thread(redis_content, cluster.redis.url()),
        "metrics": "".join(metrics),
        "logs": "".join(each.output for each in cluster._replicas),
    }


def _fetched(url):
    return urllib.request.urlopen(url, timeout=5).read().decode()


async def places_of(cluster, *marks):
    found = await everything(cluster)
    return {mark: {place for place, content in found.items() if mark in content} for mark in marks}


@pytest.mark.timeout(90)
async def test_marked_data_is_only_where_it_belongs_and_gone_after_an_erasure(start_cluster, upstream, tmp_path):
    cluster = await start_cluster(replicas=2, environment={"PARLEY_ENCRYPTION_KEYS": NEW})
    await set_key(cluster.caller(0))
    upstream.reply_next(answer(ANSWER), Script([role(), text(ANSWER), Hang()]))
    ada, ben = cluster.caller(0, USER), cluster.caller(1, "ben")
    await ada.stream(PROMPT).end()
    running = await ada.stream(PROMPT).until_text(ANSWER)
    kept = await ben.stream().end()

    async def published():
        return ANSWER in await asyncio.to_thread(redis_content, cluster.redis.url())

    await until(published, "the running text is in Redis")
    content = {"database", "redis"}
    assert await places_of(cluster, STORED, KEY, PROMPT, ANSWER, USER) == {
        STORED: set(),
        KEY: set(),
        PROMPT: {"database"},
        ANSWER: content,
        USER: {"database", "logs"},
    }
    done = await run(cluster, tmp_path, "erase-user", "--tenant", "default", USER, keys=NEW)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["2 conversations", "2 replies", "2 request_ids", "0 quotas", "2 usage"]
    audit = json.loads(done.stderr)
    assert (audit["event"], audit["target_tenant"], USER in done.stderr) == ("audit", "default", False)
    await running.end()
    assert await places_of(cluster, PROMPT, ANSWER, USER, audit["name"]) == {
        PROMPT: set(),
        ANSWER: set(),
        USER: {"logs"},
        audit["name"]: {"database"},
    }
    assert text_of(await ben.get(kept.reply_id)) == "Hello, world"
    again = await run(cluster, tmp_path, "erase-user", "--tenant", "default", USER, keys=NEW)
    assert (again.returncode, again.stdout.splitlines()[0]) == (0, "0 conversations")


@pytest.mark.timeout(90)
async def test_without_redis_nothing_is_erased_and_the_status_says_so(start_cluster, tmp_path):
    cluster = await start_cluster(replicas=1)
    watch = await cluster.caller(0, USER).stream(PROMPT).end()
    erase = ("erase-user", "--tenant", "default", USER)
    await asyncio.to_thread(cluster.redis.pause)
    without = await run(cluster, tmp_path, *erase)
    await asyncio.to_thread(cluster.redis.resume)
    assert (without.returncode, without.stdout.splitlines()) == (
        1,
        ["0 conversations", "0 replies", "0 request_ids", "0 quotas", "0 usage"],
    )
    assert "Redis cannot be used, run this command again" in without.stderr
    assert await cluster.rows("SELECT id FROM reply") == [(watch.reply_id,)], "the next run must find the reply"
    done = await run(cluster, tmp_path, *erase)
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "1 conversations")
    assert await cluster.rows("SELECT id FROM reply") == []
