"""`parley serve --workers N`: workers share a port, each is a replica, and a supervisor restarts and stops them."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from parley.v1 import chat_pb2, chat_pb2_grpc, resources_pb2

from tests import watchdog
from tests.integration.process.test_start import command, messages, refusal
from tests.integration.process.watching import Watcher, reason_of, script, text_of, words
from tests.otlp import Collector
from tests.processes import ServerProcess, open_channel, until

QUICK = "[server]\nsweep_interval_s = 0.5\nreconcile_interval_s = 0.5\nrelay_heartbeat_s = 0.5\n"
STOPPED_S = 15.0
LEASE_S = 2


def draining(*, pause_s: float, grace_s: float, lease_s: int = 12) -> str:
    """Settings of workers. By default, no burst of work on the machine ends a lease."""
    return f"{QUICK}lease_s = {lease_s}\ndrain_pause_s = {pause_s}\ndrain_grace_s = {grace_s}\n"


class Workers(ServerProcess):
    """A supervisor and its workers, which are all stopped at the end of the `async with`. `pid`: of the supervisor."""

    def __init__(self, folder: Path, urls: dict[str, str], *, count: int = 2, toml: str = "", **more: str) -> None:
        toml = toml or draining(pause_s=0, grace_s=5)
        super().__init__(folder, toml=toml, **{"PARLEY_WORKERS": str(count), **urls, **more})
        self.count = count
        self._orphans: list[int] = []

    async def __aexit__(self, *details: object) -> None:
        await super().__aexit__(*details)
        for pid in self._orphans:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def kill_supervisor(self) -> list[int]:
        """Kill only the supervisor; returns the process ids of its workers."""
        self._orphans = list(self.pids().values())
        os.kill(self.pid, signal.SIGKILL)
        return self._orphans

    async def ready(self) -> None:
        """Wait for the line that all workers serve."""
        line = await self.line("Parley serves on")
        (serving,) = (event for event in self.events("serving") if "worker" not in event)
        assert line == f"Parley serves on {serving['address']} with {self.count} workers; Ctrl-C stops it"
        assert serving["workers"] == self.count
        self.port = int(serving["address"].rpartition(":")[2])
        self.metrics_port = int(serving["metrics"].rpartition(":")[2])
        assert await self.health() == "SERVING"

    def pids(self) -> dict[int, int]:
        """The process id of each running worker, by its index."""
        found = {}
        for pid in watchdog.children(self.pid):
            with suppress(OSError, ValueError, IndexError):
                found[int(Path(f"/proc/{pid}/cmdline").read_text().split("\0")[4])] = pid
        return found

    def incarnations(self) -> dict[int, list[str]]:
        """The replica names of each worker, oldest first: a restarted worker has another name."""
        found: dict[int, list[str]] = {}
        for event in self.events("serving"):
            if "worker" in event:
                found.setdefault(event["worker"], []).append(event["replica"])
        return found

    async def until_up(self, *expected: float) -> dict[str, float]:
        """Wait until `parley_worker_up` of each worker is as expected; returns all metrics."""

        async def as_expected() -> dict[str, float] | None:
            now = await self.metrics()
            up = tuple(now[f"parley_worker_up{{{index}}}"] for index in range(self.count))
            return now if up == expected else None

        return await until(as_expected, f"parley_worker_up {expected}")


class Readers:
    """Readers of replies, each with its own connection, which resume on a new connection after a failure."""

    def __init__(self, server: Workers) -> None:
        self.server = server
        self.watchers: list[Watcher] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def start(self, count: int, text: str, *, delay_s: float) -> None:
        """Start `count` replies, and wait until each has text."""
        for _ in range(count):
            watcher = Watcher(chat_pb2.ReplyRequest(text=script(text, delay_s=delay_s)))
            self.watchers.append(watcher)
            self.tasks.append(asyncio.create_task(self._read(watcher)))
        async with asyncio.timeout(20):
            await asyncio.gather(*(each.has_text.wait() for each in self.watchers))

    async def ended(self, *, limit_s: float = 30.0) -> list[Watcher]:
        """Wait until each reader has received its terminal chunk."""
        async with asyncio.timeout(limit_s):
            await asyncio.gather(*self.tasks)
        return self.watchers

    async def _read(self, watcher: Watcher) -> None:
        async with open_channel(self.server.address) as channel:
            await watcher.start(chat_pb2_grpc.ChatStub(channel))
        while watcher.terminal is None:
            assert watcher.status is grpc.StatusCode.UNAVAILABLE, watcher.error
            await asyncio.sleep(0.05)
            async with open_channel(self.server.address) as channel:
                await watcher.resume(chat_pb2_grpc.ChatStub(channel))


@pytest.fixture
def urls(postgres_url: str, shared_redis: Any) -> dict[str, str]:
    return {"PARLEY_DATABASE_URL": postgres_url, "PARLEY_REDIS_URL": shared_redis.url()}


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError:
            return False
    return True


async def test_two_workers_share_a_port(tmp_path, urls) -> None:
    async with AsyncExitStack() as stack:
        collector = await stack.enter_async_context(Collector())
        server = await stack.enter_async_context(Workers(tmp_path, urls, **collector.environment))
        channels = [await stack.enter_async_context(open_channel(server.address)) for _ in range(24)]
        request = chat_pb2.ReplyRequest(text=script("Hello.", delay_s=0))
        replies = await asyncio.gather(*(chat_pb2_grpc.ChatStub(each).CreateReply(request) for each in channels))
        assert {text_of(reply) for reply in replies} == {"Hello."}
        incarnations = server.incarnations()
        assert sorted(incarnations) == [0, 1]
        assert len({name for names in incarnations.values() for name in names}) == 2
        owners = Counter(owner for (owner,) in server.rows("SELECT owner FROM reply"))
        assert set(owners) == {incarnations[0][0], incarnations[1][0]}, "a worker has received no connection"
        now = await server.until_up(1, 1)
        for index in (0, 1):
            ended = f"parley_replies_total{{scripted,STOP,COMPLETED,{index}}}"
            assert now[ended] == owners[incarnations[index][0]]
            assert now[f"process_resident_memory_bytes{{{index}}}"] > 0
            assert now[f"parley_worker_restarts_total{{{index}}}"] == 0
        across = [
            chat_pb2_grpc.ChatStub(channel).GetReply(chat_pb2.GetReplyRequest(reply_id=reply.id))
            for channel, reply in zip(channels, replies[::-1], strict=True)
        ]
        assert {text_of(each) for each in await asyncio.gather(*across)} == {"Hello."}
        calls = Counter(event["worker"] for event in server.events("call") if "CreateReply" in event["method"])
        assert calls == {index: owners[incarnations[index][0]] for index in (0, 1)}
        groups = {os.getpgid(pid) for pid in (server.pid, *server.pids().values())}
        assert len(groups) == 3, "a terminal's Ctrl-C must reach the supervisor only, which passes it on once"
        assert await server.terminate() == 0
        assert server.events()[-1]["event"] == "workers_stopped"
        assert port_is_free(server.port)
        exported = Counter(span.resource["service.instance.id"] for span in collector.named("parley.reply"))
        assert sorted(exported.values()) == sorted(owners.values()), "each worker exports its own spans"


@pytest.mark.timeout(120)
async def test_a_killed_worker_is_restarted_and_its_replies_end(tmp_path, urls) -> None:
    async with Workers(tmp_path, urls, toml=draining(pause_s=0, grace_s=5, lease_s=LEASE_S)) as server:
        readers = Readers(server)
        await readers.start(12, words("w", 500), delay_s=0.02)
        lost_replica = server.incarnations()[0][0]
        lost = {each for (each,) in server.rows(f"SELECT id FROM reply WHERE owner = '{lost_replica}'")}
        assert 0 < len(lost) < 12
        os.kill(server.pids()[0], signal.SIGKILL)
        killed_s = time.monotonic()
        failed: dict[str, float] = {}

        async def all_failed() -> bool:
            for watcher in readers.watchers:
                if watcher.reply_id in lost and watcher.terminal is not None:
                    failed.setdefault(watcher.reply_id, time.monotonic() - killed_s)
            return failed.keys() == lost

        await until(all_failed, "the ends of the lost replies")
        print(f"ended {max(failed.values()):.2f} s after the kill")
        assert max(failed.values()) < LEASE_S + 0.5 + 4, "more than the lease, the sweep and 4 s for a busy machine"
        for watcher in await readers.ended():
            assert watcher.terminal is not None
            if watcher.reply_id in lost:
                assert reason_of(watcher.terminal.failed.error) == "OWNER_LOST"
                assert words("w", 500).startswith(watcher.text)
            else:
                assert watcher.terminal.finished.reason == resources_pb2.FINISH_REASON_STOP
                assert watcher.text == words("w", 500)
                assert watcher.snapshots == 0
        now = await server.until_up(1, 1)
        assert now["parley_worker_restarts_total{0}"] == 1
        assert now["parley_worker_restarts_total{1}"] == 0
        (ended,) = server.events("worker_exited")
        assert (ended["worker"], ended["status"], ended["restart_s"]) == (0, -signal.SIGKILL, 0.5)
        assert len(set(server.incarnations()[0])) == 2, "the restarted worker has the same replica name"
        assert await server.terminate() == 0


@pytest.mark.parametrize("to_all", [False, True], ids=["the supervisor alone", "every process of the group"])
async def test_workers_drain_together_without_losing_a_reply(tmp_path, urls, to_all: bool) -> None:
    text = words("s", 120)
    async with Workers(tmp_path, urls, toml=draining(pause_s=0.2, grace_s=60)) as server:
        readers = Readers(server)
        await readers.start(10, text, delay_s=0.02)
        for pid in (*(server.pids().values() if to_all else ()), server.pid):
            os.kill(pid, signal.SIGTERM)
        for watcher in await readers.ended():
            assert watcher.go_aways
            assert (watcher.text, watcher.snapshots) == (text, 0)
            assert watcher.status is grpc.StatusCode.OK
        assert await server.exited(limit_s=STOPPED_S) == 0
        assert server.events("worker_exited") == []
        assert Counter(server.rows("SELECT state, owner FROM reply")).total() == 10
        assert server.rows("SELECT DISTINCT state FROM reply") == [("COMPLETED",)]
        assert server.rows("SELECT count(*) FROM replica") == [(0,)], "a lease remains"


async def test_a_second_signal_skips_the_grace_of_all_workers(tmp_path, urls) -> None:
    async with Workers(tmp_path, urls, toml=draining(pause_s=0, grace_s=600)) as server:
        readers = Readers(server)
        await readers.start(6, words("long", 3000), delay_s=0.02)
        server.send(signal.SIGINT)
        async with asyncio.timeout(10):
            await asyncio.gather(*(each.has_go_away.wait() for each in readers.watchers))
        server.send(signal.SIGINT)
        assert await server.exited(limit_s=STOPPED_S) == 0
        assert server.rows("SELECT DISTINCT state FROM reply") == [("FAILED",)]
        for task in readers.tasks:
            task.cancel()
        await asyncio.gather(*readers.tasks, return_exceptions=True)


async def test_a_signal_to_one_worker_replaces_it(tmp_path, urls) -> None:
    async with Workers(tmp_path, urls) as server:
        former = server.pids()[1]
        os.kill(former, signal.SIGTERM)
        ended = await server.line('"worker_exited"')
        assert '"status":0' in ended

        async def replaced() -> bool:
            return server.pids().get(1, former) != former

        await until(replaced, "a new process")
        now = await server.until_up(1, 1)
        assert now["parley_worker_restarts_total{1}"] == 1
        assert await server.terminate() == 0


async def test_workers_of_a_killed_supervisor_drain_and_end(tmp_path, urls) -> None:
    text = words("o", 100)
    async with Workers(tmp_path, urls, toml=draining(pause_s=0, grace_s=60)) as server:
        readers = Readers(server)
        await readers.start(6, text, delay_s=0.02)
        pids = server.kill_supervisor()
        assert len(pids) == 2
        for watcher in await readers.ended():
            assert (watcher.text, watcher.status) == (text, grpc.StatusCode.OK)

        async def all_ended() -> bool:
            return all(watchdog.state(pid) in ("", "Z") for pid in pids)

        await until(all_ended, "the ends of the workers", limit_s=STOPPED_S)
        assert server.rows("SELECT DISTINCT state FROM reply") == [("COMPLETED",)]
        assert server.rows("SELECT count(*) FROM replica") == [(0,)]
        assert port_is_free(server.port)


async def test_the_metrics_omit_a_hanging_worker(tmp_path, urls) -> None:
    async with Workers(tmp_path, urls, toml=f"{QUICK}lease_s = 30\n") as server:
        pid = server.pids()[0]
        os.kill(pid, signal.SIGSTOP)
        now = await server.until_up(0, 1)
        assert "parley_replies_active{1}" in now
        assert "parley_replies_active{0}" not in now
        os.kill(pid, signal.SIGCONT)
        await server.until_up(1, 1)
        assert await server.terminate() == 0


async def test_another_server_cannot_bind_the_port(tmp_path, urls) -> None:
    (tmp_path / "other").mkdir()
    several = {**urls, "PARLEY_WORKERS": "2"}
    async with Workers(tmp_path, urls) as server:
        for others in ({}, several):
            output = refusal(command(tmp_path / "other", "serve", "--listen", server.address, **others))
            assert f"cannot listen on {server.address}: " in output
        assert await server.terminate() == 0
    async with ServerProcess(tmp_path) as single:
        output = refusal(command(tmp_path / "other", "serve", "--listen", single.address, **several))
        assert output == f"parley serve: cannot listen on {single.address}: the port is in use\n"


async def test_a_metrics_port_in_use_is_reported(tmp_path, urls) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        more = {**urls, "PARLEY_WORKERS": "2", "PARLEY_METRICS_LISTEN": address}
        output = refusal(command(tmp_path, "serve", **more))
        assert output.startswith(
            f"parley serve: metrics on {address}: the address is in use; set PARLEY_METRICS_LISTEN"
        )


def test_several_workers_without_postgresql_or_redis_are_refused(tmp_path, postgres_url) -> None:
    output = refusal(command(tmp_path, "serve", "--workers", "2"))
    assert (
        "workers: several workers cannot share a SQLite file: set PARLEY_REDIS_URL, and PARLEY_DATABASE_URL" in output
    )
    output = refusal(command(tmp_path, "serve", "--workers", "2", PARLEY_DATABASE_URL=postgres_url))
    assert "workers: several workers need a relay: set PARLEY_REDIS_URL" in output
    for count in ("0", "-1", "x", "65"):
        assert "--workers: must be a whole number from 1 to 64" in refusal(
            command(tmp_path, "serve", f"--workers={count}")
        )
    assert not list(tmp_path.iterdir()), "a file was created"


def test_a_missing_schema_ends_all_workers(tmp_path, empty_postgres_url, shared_redis) -> None:
    urls = {"PARLEY_DATABASE_URL": empty_postgres_url, "PARLEY_REDIS_URL": shared_redis.url()}
    output = refusal(command(tmp_path, "serve", "--workers", "3", **urls))
    (line,) = messages(output)
    assert re.match(r"parley serve: .*parley migrate", line)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_unusable_redis_is_refused(tmp_path, urls, shared_redis, workers: str) -> None:
    shared_redis.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    output = refusal(command(tmp_path, "serve", "--workers", workers, **urls))
    (line,) = messages(output)
    assert line.startswith("parley serve: the relay")
    assert "noeviction" in line


async def test_a_reload_reaches_every_worker(tmp_path, urls) -> None:
    async with Workers(tmp_path, urls) as server:
        config = tmp_path / "parley.toml"
        model = '[providers.s]\nkind = "scripted"\n[models.new]\nprovider = "s"\nname = "scripted"\n'
        changed = tmp_path / "changed"
        # The supervisor overrides the address of the page for its workers, so only the supervisor reports its change.
        changed.write_text('ui_listen = "127.0.0.1:0"\n' + config.read_text() + model)
        changed.replace(config)
        server.send(signal.SIGHUP)

        async def logged() -> bool:
            waiting = server.events("config_needs_restart")
            return len(server.events("config_reloaded")) == 2 and len(waiting) == 1

        await until(logged, "a reload by each worker")
        assert {each["worker"] for each in server.events("config_reloaded")} == {0, 1}
        (waiting,) = server.events("config_needs_restart")
        assert (waiting["keys"], "worker" in waiting) == (["ui_listen"], False)
        now = await server.until_up(1, 1)
        assert [now[f"parley_config_reloads_total{{applied,{index}}}"] for index in (0, 1)] == [1, 1]
        channels = [open_channel(server.address) for _ in range(8)]
        request = chat_pb2.ReplyRequest(text=script("Hello.", delay_s=0), model="new")
        replies = await asyncio.gather(*(chat_pb2_grpc.ChatStub(each).CreateReply(request) for each in channels))
        assert {reply.model for reply in replies} == {"new"}
        for channel in channels:
            await channel.close()

        async def unchanged(*workers: int) -> bool:
            return sorted(each["worker"] for each in server.events("config_unchanged")) == list(workers)

        server.send(signal.SIGHUP)  # without a change, workers log a reload only for a signal from the supervisor
        await until(lambda: unchanged(0, 1), "the signal reaches each worker")
        os.kill(server.pids()[0], signal.SIGHUP)
        await until(lambda: unchanged(0, 0, 1), "a worker takes the signal itself")
        assert await server.terminate() == 0


async def test_a_signal_during_start_ends_the_supervisor(tmp_path, urls) -> None:
    async with Workers(tmp_path, urls) as server:
        assert await server.terminate() == 0
        await server.launch()

        async def started() -> bool:
            return len(watchdog.children(server.pid)) == 2

        await until(started, "two worker processes")
        assert await server.terminate() == 0
        assert "Traceback" not in server.output
