"""Admin.GetStatus of one process: running replies, readers, breakers, quotas, problems, and what it never contains."""

import asyncio

from google.protobuf.json_format import MessageToJson
from parley.v1 import admin_pb2
from parley_server import __version__
from parley_server.core import status

from tests.clock import ManualClock, until
from tests.integration.served import KEY
from tests.integration.test_storage import Outage
from tests.upstream import Hang, Script, answer, refusal, role, text

MARK = "MARK-51c0ffee"
HANGING = Script([role(), text(MARK), Hang()])
QUOTAS = """
[tenants.default]
quotas = { tokens_per_day = 4000 }
"""


async def shown(caller, **options):
    return await caller.admin.GetStatus(admin_pb2.GetStatusRequest(), timeout=20, **options)


async def test_running_replies_readers_and_quotas_without_text_or_keys(serve, upstream):
    clock = ManualClock()
    server = await serve(clock=clock, models=QUOTAS)
    upstream.reply_with(HANGING)
    ada = server.caller("ada")
    watches = [await ada.stream(f"{MARK} Hi").until_text(MARK)]
    await clock.advance(15.0)
    watches.append(await ada.stream(f"{MARK} Hi").until_text(MARK))
    watches.append(await ada.resume(watches[0].reply_id).until_text(MARK))

    found = await shown(server)
    replica, database = found.replica, found.database
    assert (replica.replica_id, replica.version, replica.mode) == ("", __version__, replica.MODE_STANDALONE)
    assert (replica.uptime.seconds, replica.configuration_time.seconds) == (15, 1_700_000_000)
    assert not replica.HasField("lease_left")
    assert not replica.draining
    assert not replica.relay
    assert (replica.readers, replica.followed_replies) == (3, 0)
    [running] = replica.running
    counts = (running.replies, running.over_10_seconds, running.over_1_minute, running.over_10_minutes)
    assert (running.model, counts, running.oldest_age.seconds) == ("test", (2, 1, 0, 0), 15)
    assert [(each.provider, each.model, each.open) for each in replica.breakers] == [
        ("typewriter", "scripted", False),
        ("up", "vendor/plain-1", False),
        ("up", "vendor/test-1", False),
    ]
    assert (database.kind, database.schema_release, list(database.replicas)) == ("SQLite", 3, [])
    assert [(each.model, each.replies) for each in database.running] == [("test", 2)]
    [quota] = database.quotas
    assert (quota.tenant, quota.end_user, quota.quota.name, quota.quota.limit) == (
        "default",
        "ada",
        "tokens_per_day",
        4000,
    )
    assert 2000 < quota.quota.used < 2500, "what both replies hold"
    printed = MessageToJson(found)
    assert MARK not in printed
    assert KEY not in printed

    for watch in watches:
        await server.in_time(ada.cancel(watch.reply_id))
    for watch in watches:
        await server.in_time(watch.end())
    after = (await shown(server)).replica
    assert (after.readers, list(after.running)) == (0, [])


async def test_an_open_breaker_is_a_problem(serve, upstream):
    server = await serve(clock=ManualClock())
    assert list((await shown(server)).problems) == []
    upstream.reply_with(refusal(503))
    for _ in range(5):
        await server.in_time(server.stream().end())
    found = await shown(server)
    [breaker] = [each for each in found.replica.breakers if each.open]
    assert (breaker.provider, breaker.model) == ("up", "vendor/test-1")
    left_ms = breaker.next_probe_in.ToMilliseconds()
    assert 0 < left_ms <= 5000, "`in_time` moves the clock until the stream ends"
    await server._clock.advance(0.1)
    [later] = [each for each in (await shown(server)).replica.breakers if each.open]
    assert abs(left_ms - 100 - later.next_probe_in.ToMilliseconds()) <= 1, "the clock stands still otherwise"
    assert list(found.problems) == ["requests for vendor/test-1 at up are stopped by its circuit breaker"]
    upstream.reply_with(answer("Hello"))
    await server._clock.advance(6.0)
    await server.in_time(server.stream().end())
    assert list((await shown(server)).problems) == []


async def test_the_replica_answers_while_the_database_is_unavailable_or_silent(serve, monkeypatch):
    server = await serve()
    outage = Outage(server)
    found = await shown(server)
    assert found.replica.version == __version__
    assert found.database.problem == "the database is unavailable"
    assert list(found.problems) == ["the database cannot be read: the database is unavailable"]
    outage.on = False

    async def silent():
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(status, "DATABASE_S", 0.05)
    monkeypatch.setattr(server.app.mode.store, "read_status", silent)
    assert "did not answer within 0.05 s" in (await shown(server)).problems[0]


async def test_calls_at_the_same_time_and_after_a_time_limit_share_one_read(serve, monkeypatch):
    server = await serve(models=QUOTAS)
    store, may_end, reads = server.app.mode.store, asyncio.Event(), []
    quota_spots = store.quota_spots

    async def slow(*given):
        reads.append(given)
        await may_end.wait()
        return await quota_spots(*given)

    monkeypatch.setattr(status, "DATABASE_S", 0.2)
    monkeypatch.setattr(store, "quota_spots", slow)
    late = ["the use of quotas could not be compared in time"]
    for _ in range(2):
        found = await asyncio.gather(*(shown(server) for _ in range(10)))
        assert [list(each.problems) for each in found] == [late] * 10
    assert len(reads) == 1, "the database still runs the first one"
    may_end.set()
    monkeypatch.setattr(status, "DATABASE_S", 20.0)
    assert list((await shown(server)).problems) == []


async def test_a_reply_that_nobody_ends_is_a_problem(serve, upstream, monkeypatch):
    clock = ManualClock()
    server = await serve(clock=clock)
    upstream.reply_with(HANGING)
    watch = await server.stream().until_text(MARK)
    await server.in_time(server.cancel(watch.reply_id))
    await server.in_time(watch.end())
    await until(lambda: not server.running)
    server.sql("UPDATE reply SET state = 'STREAMING', create_time_us = 1")
    [problem] = (await shown(server)).problems
    assert problem.startswith("a reply of the model test has run for ")
    assert problem.endswith(" s, and the time limit is 600 s")


async def test_a_draining_replica_says_so(serve, upstream):
    server = await serve()
    upstream.reply_with(HANGING)
    watch = await server.stream().until_text(MARK)
    stopping = server.begin_stop(grace_s=20.0)
    await until(lambda: server.app.mode.core.acceptances.draining is not None)
    assert (await shown(server)).replica.draining
    server.app.hurry()
    await watch.end()
    await stopping
