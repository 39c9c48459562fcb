"""A forked server has only what its test gives it, and ends with the status of the command."""

from __future__ import annotations

import signal
from pathlib import Path

from parley_server.exit_status import CANNOT_RUN

from tests.processes import ServerProcess


async def test_a_forked_server_has_its_own_environment_folder_and_output(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PARLEY_MAX_REPLIES", "not a number")
    async with ServerProcess(tmp_path, forked=True, OTHER="yes") as server:
        process = Path(f"/proc/{server.pid}")
        assert (process / "cwd").readlink() == tmp_path
        assert (process / "fd/0").readlink() == (process / "fd/1").readlink() == Path("/dev/null")
        assert server.database.exists()
        assert await server.terminate() == 0
        assert server.events("stopped")


async def test_a_forked_server_that_cannot_start_exits_as_the_command_does(tmp_path) -> None:
    server = ServerProcess(tmp_path, toml="[server]\nmax_replies = 'many'\n", forked=True)
    await server.launch()
    assert await server.exited() == CANNOT_RUN
    assert "server.max_replies: must be a whole number" in server.output


async def test_the_status_of_a_killed_server_is_its_signal(tmp_path) -> None:
    async with ServerProcess(tmp_path, forked=True) as server:
        server.pause()
        await server.kill9()
        assert server.exit_status == -signal.SIGKILL
        await server.start()
        assert await server.health() == "SERVING"
