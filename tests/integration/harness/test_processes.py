"""`ServerProcess` on PostgreSQL: paused, resumed, its rows read, and nothing left of it when pytest is killed."""

import asyncio
import signal
import sys

from tests import watchdog
from tests.integration.harness.test_services import ROOT, gone
from tests.processes import ServerProcess, clean_environment

STARTS_AND_DIES = """
import asyncio, os, sys
from pathlib import Path
from tests.processes import ServerProcess

async def main():
    server = ServerProcess(Path(sys.argv[1]))
    await server.start()
    server.pause()
    print(server.pid, flush=True)
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


async def test_a_server_on_postgres_is_paused_and_asked(tmp_path, postgres_url):
    async with ServerProcess(tmp_path, PARLEY_DATABASE_URL=postgres_url) as server:
        (replica,) = server.replicas
        assert server.rows("SELECT id FROM replica") == [(replica,)]
        server.pause()
        assert watchdog.state(server.pid) == "T"
        asked = asyncio.ensure_future(server.health())
        done, _ = await asyncio.wait([asked], timeout=0.3)
        assert not done
        server.resume()
        assert await asked == "SERVING"
        address = server.address
        await server.kill9()
        assert not server.running
        await server.start()
        assert server.address == address
        assert server.replicas != [replica]


async def test_workers_are_paused_and_killed_with_their_server(tmp_path, postgres_url, shared_redis):
    urls = {"PARLEY_DATABASE_URL": postgres_url, "PARLEY_REDIS_URL": shared_redis.url()}
    async with ServerProcess(tmp_path, PARLEY_WORKERS="2", **urls) as server:
        pids = watchdog.children(server.pid)
        assert len(pids) == len(set(server.replicas)) == 2
        server.pause()
        assert [watchdog.state(each) for each in pids] == ["T", "T"]
        server.resume()
        assert "T" not in [watchdog.state(each) for each in pids]
        await server.kill9()
        for each in pids:
            await gone(each)


async def test_no_server_outlives_a_killed_run(tmp_path):
    run = await asyncio.create_subprocess_exec(
        sys.executable, "-c", STARTS_AND_DIES, str(tmp_path),
        cwd=ROOT, env=clean_environment(PYTHONPATH=str(ROOT)), stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    told, _ = await run.communicate()
    assert run.returncode == -signal.SIGKILL
    await gone(int(told))
