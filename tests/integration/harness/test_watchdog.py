"""Nothing that tests have started outlives a test run that is killed."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests import watchdog
from tests.processes import clean_environment

ROOT = Path(__file__).parents[3]

STARTS_AND_DIES = """
import asyncio, os, sys
from pathlib import Path
from tests.processes import ServerProcess
from tests.services import PostgresServer, RedisServer
from tests.watchdog import children

async def main():
    folder = Path(sys.argv[1])
    postgres = PostgresServer(folder / "postgres", template=Path(sys.argv[2])).start()
    keeper = RedisServer(folder / "redis").start()
    server = ServerProcess(folder / "server")
    await server.start()
    for each in (postgres, keeper, server):
        each.pause()
    print(*children(postgres.pid), postgres.pid, keeper.pid, server.pid, postgres.data, flush=True)
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


async def gone(pid: int) -> None:
    """Wait until a process has ended."""
    async with asyncio.timeout(10):
        while watchdog.state(pid) not in ("", "Z"):
            await asyncio.sleep(0.01)


async def test_paused_services_and_servers_end_with_a_killed_run(tmp_path, postgres_template, own_redis):
    (tmp_path / "run/server").mkdir(parents=True)
    run = await asyncio.create_subprocess_exec(
        sys.executable, "-c", STARTS_AND_DIES, str(tmp_path / "run"), str(postgres_template),
        cwd=ROOT, env=clean_environment(PYTHONPATH=str(ROOT)), stdout=subprocess.PIPE,
    )  # fmt: skip
    printed, _ = await run.communicate()
    assert run.returncode == -signal.SIGKILL
    *pids, data = printed.decode().split()
    assert len(pids) > 6, "PostgreSQL's own processes, which are stopped, and the three parents"
    for pid in pids:
        await gone(int(pid))
    async with asyncio.timeout(10):
        while Path(data).exists() and os.geteuid() == 0:  # without root, it lies in the folder of the run
            await asyncio.sleep(0.01)
