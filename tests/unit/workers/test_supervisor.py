"""When a worker that has exited is started again, with real processes that exit at once."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from parley_server.settings import Address, SettingsSource, load_settings
from parley_server.workers import supervisor as module
from parley_server.workers.supervisor import Supervisor
from parley_server.workers.supervisor_protocol import STOP
from parley_server.workers.worker import Worker

SETTINGS = load_settings(
    {
        "PARLEY_DATABASE_URL": "postgresql+asyncpg://h/d",
        "PARLEY_REDIS_URL": "redis://h",
        "PARLEY_WORKERS": "2",
        "PARLEY_METRICS_LISTEN": "",
    }
)


@pytest.fixture
def pauses(caplog: pytest.LogCaptureFixture) -> Any:
    """The pauses before restarts."""
    caplog.set_level(logging.INFO, "parley_server.workers")

    def pauses_of(worker: int) -> list[float]:
        fields = [getattr(record, "fields", {}) for record in caplog.records if record.message == "worker_exited"]
        return [each["restart_s"] for each in fields if each["worker"] == worker]

    return pauses_of


PRELUDE = f"""#!{sys.executable} -IS
import os, pathlib, sys, time
index, line = int(sys.argv[4]), int(sys.argv[5])
folder = pathlib.Path(sys.argv[0]).parent
"""


def supervisor_of(folder: Path, program: str, monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    """A supervisor whose workers run `program`, which has `index`, `line` (the socket's descriptor) and `folder`."""
    path = folder / "worker"
    path.write_text(PRELUDE + textwrap.dedent(program))
    path.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(path))
    return Supervisor(SETTINGS, Address(host="127.0.0.1", port=1), {}, SettingsSource(lambda: SETTINGS, ""))


async def stop_after(count: int, pauses: Any) -> None:
    async with asyncio.timeout(20):
        while min(len(pauses(0)), len(pauses(1))) < count:
            await asyncio.sleep(0.01)
    signal.raise_signal(signal.SIGTERM)


async def test_pauses_double_up_to_a_limit(tmp_path, monkeypatch, pauses) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(module, "LONGEST_PAUSE_S", 0.1)
    supervisor = supervisor_of(tmp_path, "sys.exit(3)", monkeypatch)
    running = asyncio.create_task(supervisor.run())
    await stop_after(5, pauses)
    await running
    for worker in (0, 1):
        assert pauses(worker)[:5] == [0.02, 0.04, 0.08, 0.1, 0.1]


async def test_a_worker_that_ran_long_restarts_after_the_shortest_pause(tmp_path, monkeypatch, pauses) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(module, "SETTLED_S", 0.0)
    supervisor = supervisor_of(tmp_path, "sys.exit(3)", monkeypatch)
    running = asyncio.create_task(supervisor.run())
    await stop_after(4, pauses)
    await running
    assert set(pauses(0)) == {0.01}


async def test_a_refused_first_start_stops_all_workers(tmp_path, monkeypatch, capsys, pauses) -> None:
    """Worker 0 refuses to start with a problem; worker 1 exits when it is ordered to."""
    program = """
    if index == 0:
        os.write(line, b'{"type":"Refused","problem":"no such thing"}\\n')
        sys.exit(2)
    os.read(line, 1)
    """
    supervisor = supervisor_of(tmp_path, program, monkeypatch)
    async with asyncio.timeout(20):
        assert await supervisor.run() == 2
    assert capsys.readouterr().err == "parley serve: no such thing\n"
    assert pauses(0) == pauses(1) == []


async def test_a_refused_later_start_is_retried(tmp_path, monkeypatch, capsys, pauses) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(module, "LONGEST_PAUSE_S", 0.02)
    program = """
    mark = folder / f"served.{index}"
    if mark.exists():
        os.write(line, b'{"type":"Refused","problem":"no such thing"}\\n')
        sys.exit(2)
    os.write(line, b'{"type":"Ready","metrics_port":0}\\n')
    mark.touch()
    while not (folder / "announced").exists():
        time.sleep(0.01)
    sys.exit(1)
    """
    supervisor = supervisor_of(tmp_path, program, monkeypatch)
    running = asyncio.create_task(supervisor.run())
    said = ""
    async with asyncio.timeout(20):
        while not (said := said + capsys.readouterr().err):
            await asyncio.sleep(0.01)
    (tmp_path / "announced").touch()
    await stop_after(4, pauses)
    await running
    assert said + capsys.readouterr().err == "Parley serves on 127.0.0.1:1 with 2 workers; Ctrl-C stops it\n"


async def test_a_worker_that_starts_during_a_stop_receives_the_order(tmp_path, monkeypatch) -> None:
    supervisor_of(tmp_path, "sys.exit(7 if os.read(line, 1) == b's' else 1)", monkeypatch)
    worker = Worker(0)
    worker.stop(STOP)
    async with asyncio.timeout(20):
        assert (await worker.run_once({})).status == 7


async def test_a_worker_that_cannot_be_spawned_counts_as_exited(monkeypatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/program")
    ended = await Worker(0).run_once({})
    assert (ended.status, ended.problem) == (1, "cannot be started: No such file or directory")


async def test_a_failed_exit_during_a_stop_sets_the_exit_status(tmp_path, monkeypatch) -> None:
    program = """
    (folder / f"up.{index}").touch()
    os.read(line, 1)
    sys.exit(index)
    """
    supervisor = supervisor_of(tmp_path, program, monkeypatch)
    running = asyncio.create_task(supervisor.run())
    async with asyncio.timeout(20):
        while len(list(tmp_path.glob("up.*"))) < 2:
            await asyncio.sleep(0.01)
    signal.raise_signal(signal.SIGTERM)
    assert await running == 1
