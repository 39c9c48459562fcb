"""The servers that other tests rely on are what they say: paused, killed, started again, and gone with pytest."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest
import redis
from redis.asyncio import Redis

from tests import watchdog
from tests.services import RedisServer

ROOT = Path(__file__).parents[3]

STARTS_AND_DIES = """
import os, sys
from pathlib import Path
from tests.services import PostgresServer, RedisServer
from tests.watchdog import children
folder = Path(sys.argv[1])
postgres = PostgresServer(folder / "postgres", template=Path(sys.argv[2])).start()
keeper = RedisServer(folder / "redis").start()
postgres.pause()
keeper.pause()
print(*children(postgres.pid), postgres.pid, keeper.pid, postgres.data, flush=True)
os.kill(os.getpid(), 9)
"""


async def gone(pid: int) -> None:
    """Wait until a process has ended."""
    async with asyncio.timeout(10):
        while watchdog.state(pid) not in ("", "Z"):
            await asyncio.sleep(0.01)


def test_databases_of_a_shared_server_are_apart(shared_postgres):
    first = shared_postgres.create_database()
    shared_postgres.rows("CREATE TABLE told (word text)", database=first)
    shared_postgres.rows("INSERT INTO told VALUES ($1)", "one", database=first)
    second = shared_postgres.create_database(template=first)
    shared_postgres.rows("INSERT INTO told VALUES ('two')", database=second)
    assert shared_postgres.rows("SELECT word FROM told", database=first) == [("one",)]
    assert shared_postgres.rows("SELECT word FROM told ORDER BY word", database=second) == [("one",), ("two",)]
    for each in (first, second):
        shared_postgres.drop_database(each)


async def test_committed_rows_survive_a_kill_and_connections_do_not(own_postgres):
    connection = await asyncpg.connect(own_postgres.url().replace("+asyncpg", ""))
    await connection.execute("CREATE TABLE told (word text)")
    await connection.execute("INSERT INTO told VALUES ('kept')")
    port = own_postgres.port
    own_postgres.kill9()
    with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, ConnectionError)):
        await connection.fetch("SELECT 1")
    with pytest.raises(ConnectionRefusedError):
        await own_postgres.query("SELECT 1")
    own_postgres.start()
    assert own_postgres.port == port
    assert await own_postgres.query("SELECT word FROM told") == [("kept",)]


async def test_a_paused_postgres_keeps_its_connections_and_answers_later(own_postgres):
    connection = await asyncpg.connect(own_postgres.url().replace("+asyncpg", ""))
    own_postgres.pause()
    asked = asyncio.ensure_future(connection.fetchval("SELECT 42"))
    dialled = asyncio.ensure_future(own_postgres.query("SELECT 43"))
    done, _ = await asyncio.wait((asked, dialled), timeout=0.5)
    assert not done
    own_postgres.resume()
    assert await asked == 42
    assert await dialled == [(43,)]
    await connection.close()


async def test_postgres_stops_and_returns_on_its_port(own_postgres):
    before = own_postgres.pid
    own_postgres.restart()
    assert own_postgres.pid != before
    assert own_postgres.running
    own_postgres.pause()
    own_postgres.stop()
    assert not own_postgres.running
    own_postgres.start()
    assert own_postgres.connections("postgres") == 1


async def test_redis_is_paused_killed_and_empty_again(own_redis):
    async with Redis.from_url(own_redis.url(), socket_timeout=0.3) as client:
        await client.set("word", "kept")
        own_redis.pause()
        with pytest.raises(redis.TimeoutError):
            await client.get("word")
        own_redis.resume()
        assert await client.get("word") == b"kept"
    own_redis.kill9()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", own_redis.port)
    own_redis.start()
    assert own_redis.command("GET", "word") is None


def test_redis_can_keep_its_keys(tmp_path, own_redis):
    with RedisServer(tmp_path / "kept", settings={"appendonly": "yes", "appendfsync": "always"}) as server:
        server.command("SET", "word", "kept")
        server.kill9()
        server.start()
        assert server.command("GET", "word") == "kept"


async def test_redis_with_a_password_and_tls(tmp_path, own_redis):
    with RedisServer(tmp_path / "secret", password="open sesame", tls=True) as server:
        assert server.url().startswith("rediss://")
        for url in (server.url(), server.url(tls=False)):
            async with Redis.from_url(url) as client:
                assert await client.ping()
        with pytest.raises(redis.ConnectionError, match="certificate verify failed"):
            async with Redis.from_url(server.url().partition("?")[0]) as client:
                await client.ping()
        with pytest.raises(redis.AuthenticationError):
            async with Redis.from_url(server.url(tls=False).replace("open%20sesame", "wrong")) as client:
                await client.ping()


def test_a_shared_redis_starts_empty_and_unchanged(shared_redis):
    shared_redis.command("SET", "word", "left")
    shared_redis.command("CONFIG", "SET", "maxmemory", "2mb")
    shared_redis.clear()
    assert shared_redis.command("DBSIZE") == 0
    assert shared_redis.command("CONFIG", "GET", "maxmemory") == {"maxmemory": "0"}


async def test_nothing_outlives_a_killed_run(tmp_path, postgres_template, own_redis):
    run = await asyncio.create_subprocess_exec(
        sys.executable, "-c", STARTS_AND_DIES, str(tmp_path / "run"), str(postgres_template),
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
    )  # fmt: skip
    told, _ = await run.communicate()
    assert run.returncode == -signal.SIGKILL
    *pids, data = told.decode().split()
    assert len(pids) > 5, "PostgreSQL's own, which are stopped"
    for pid in pids:
        await gone(int(pid))
    async with asyncio.timeout(10):
        while Path(data).exists() and os.geteuid() == 0:  # otherwise it lies in the folder of the run
            await asyncio.sleep(0.01)
