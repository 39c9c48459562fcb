"""A running server applies a changed configuration, after SIGHUP or its own check, without a change to its replies."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from parley.v1 import resources_pb2

from tests.endurance import rounds
from tests.integration.served import Caller, ask, refused, tenant
from tests.processes import PARLEY, ServerProcess, clean_environment, until
from tests.upstream import Script, Upstream, Wait, answer, done, finish, role, text, usage

KEY, NEW_KEY = "key-of-shop", "new-key-of-shop"
OUTCOMES = ("config_reloaded", "config_unchanged", "config_faulty")
RELOADS = rounds(100, short=32)

CONFIG = """
[providers.{provider}]
kind = "openai"
base_url = "{url}"
api_key = "file:up.key"
retries = 1
[models.test]
provider = "{provider}"
name = "m"
prices = {{ prompt = {price}, completion = {price} }}
[server]
default_model = "test"
"""


def configuration(upstream: Upstream, *keys: str, provider: str = "up", price: float = 1.0, more: str = "") -> str:
    return CONFIG.format(provider=provider, url=upstream.url, price=price) + more + tenant("shop", *(keys or (KEY,)))


def replace(file: Path, content: str) -> None:
    """Replace a file atomically."""
    other = file.with_name("other")
    other.write_text(content)
    other.replace(file)


class Reloading(ServerProcess):
    """A server whose configuration changes."""

    def __init__(self, folder: Path, toml: str, **environment: str) -> None:
        super().__init__(folder, toml=toml, forked=True, **environment)
        (folder / "up.key").write_text("sk-1")

    def outcomes(self) -> list[dict[str, Any]]:
        """The log lines of all reloads."""
        return [each for each in self.events() if each["event"] in OUTCOMES]

    async def next_outcome(self, before: int, *, limit_s: float = 20.0) -> dict[str, Any]:
        """Wait for the reload after the first `before` ones; returns its log line."""

        async def another() -> bool:
            return len(self.outcomes()) > before

        await until(another, "a reload", limit_s=limit_s)
        return self.outcomes()[before]

    async def reload(self, toml: str) -> dict[str, Any]:
        """Replace the configuration and send SIGHUP; returns the log line of the reload."""
        before = len(self.outcomes())
        replace(self.folder / "parley.toml", toml)
        self.send(signal.SIGHUP)
        return await self.next_outcome(before)


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as server:
        yield server


def answer_held(*texts: str, until: asyncio.Event) -> Script:
    """An answer that waits for the event before its last text."""
    *first, last = map(text, texts)
    return Script([role(), *first, Wait(until), last, finish(), usage(1000, 1000), done()])


async def is_refused(server: ServerProcess, key: str) -> bool:
    caller = Caller(server.port, bearer=key)
    try:
        await caller.create(wait=0)
    except grpc.aio.AioRpcError as error:
        return error.code() is grpc.StatusCode.UNAUTHENTICATED
    finally:
        await caller.channel.close()
    return False


async def test_a_reload_does_not_change_running_replies(tmp_path, upstream) -> None:
    """Keys, prices, providers and models change in steps, during an open stream and a failing attempt."""
    release, failing = asyncio.Event(), asyncio.Event()
    async with Upstream() as other, Reloading(tmp_path, configuration(upstream, price=1.0)) as server:
        old, new = Caller(server.port, bearer=KEY), Caller(server.port, bearer=NEW_KEY)
        upstream.reply_next(answer_held("before ", "after", until=release))
        stream = await old.stream().until_text("before ")
        upstream.reply_next(Script(before_head=[Wait(failing)], status=503), answer("second try"))
        retried = old.stream()
        await until(lambda: _true(len(upstream.requests) == 2), "the second request")

        outcome = await server.reload(configuration(other, NEW_KEY, provider="other", price=5.0))
        assert outcome["event"] == "config_reloaded"
        assert outcome["changed"] == ["providers.up", "providers.other", "models.test", "tenants.shop"]

        assert (await refused(old.chat.StreamReply(ask()))).code is grpc.StatusCode.UNAUTHENTICATED
        other.reply_next(Script([role(), text("from the other"), finish(), usage(1000, 1000), done()]))
        later = await new.create()
        assert (later.provider, later.usage.cost_nano_usd) == ("other", 10_000_000)
        assert len(upstream.requests) == 2

        failing.set()
        await retried.end()
        assert (retried.text, retried.kinds[-1]) == ("second try", "finished")
        release.set()
        await stream.end()
        assert (stream.text, stream.kinds[-1]) == ("before after", "finished")
        assert not other.aborts
        first = await new.get(stream.reply_id)
        assert (first.provider, first.usage.cost_nano_usd) == ("up", 2_000_000), "the price at its acceptance counts"
        async with asyncio.timeout(10):
            await upstream.no_connections()

        outcome = await server.reload(configuration(other, NEW_KEY, provider="other").replace("test", "next"))
        assert outcome["changed"] == ["models.test", "models.next", "server.default_model"]
        assert (await refused(new.chat.StreamReply(ask(model="test")))).reason == "MODEL_NOT_FOUND"
        assert (await new.create()).model == "next"
        for caller in (old, new):
            await caller.channel.close()
        assert await server.terminate() == 0


async def test_a_faulty_configuration_is_not_applied_and_other_keys_need_a_restart(tmp_path, upstream) -> None:
    async with Reloading(tmp_path, configuration(upstream)) as server:
        caller = Caller(server.port, bearer=KEY)
        before = await server.metrics()
        assert before["parley_config_faulty"] == 0
        assert abs(before["parley_config_loaded_timestamp_seconds"] - time.time()) < 60

        faulty = configuration(upstream, NEW_KEY, more="[models.x]\nprovider = 'typo'\n").replace("retries", "retrys")
        outcome = await server.reload(faulty)
        assert (outcome["event"], outcome["level"]) == ("config_faulty", "error")
        assert outcome["faults"] == [
            "providers.up.retrys: unknown key; did you mean retries?",
            "models.x.name: is required",
            'models.x.provider: no provider has the name "typo"',
        ]
        assert (await server.reload("[[["))["event"] == "config_faulty"
        opened = await server.reload(configuration(upstream).partition("[tenants")[0])
        assert opened["faults"][0].startswith("tenants, identity: without the last credential")
        unusable = configuration(upstream, more='[providers.s]\nkind = "scripted"\nscript = { pieces = "?" }\n')
        assert "the script of the provider s is wrong" in (await server.reload(unusable))["faults"][0]
        now = await server.metrics()
        assert (now["parley_config_faulty"], now["parley_config_reloads_total{faulty}"]) == (1, 4)
        assert now["parley_config_loaded_timestamp_seconds"] == before["parley_config_loaded_timestamp_seconds"]
        assert (await caller.create()).state == resources_pb2.Reply.STATE_COMPLETED
        assert await is_refused(server, NEW_KEY)

        more = "max_replies = 1\n[retention]\nusage_days = 3\n"
        outcome = await server.reload(
            'listen = "127.0.0.1:1"\nlog_level = "debug"\n' + configuration(upstream, KEY, NEW_KEY, more=more)
        )
        assert outcome["changed"] == ["tenants.shop"]
        (waiting,) = server.events("config_needs_restart")
        # PARLEY_LISTEN is set in the environment, which takes precedence over the file.
        assert waiting["keys"] == ["log_level", "server.max_replies", "retention.usage_days"]
        assert not await is_refused(server, NEW_KEY)
        now = await server.metrics()
        assert (now["parley_config_faulty"], now["parley_config_reloads_total{applied}"]) == (0, 1)
        assert now["parley_config_waiting_keys"] == 3
        assert now["parley_config_loaded_timestamp_seconds"] > before["parley_config_loaded_timestamp_seconds"]
        server.send(signal.SIGHUP)
        assert (await server.next_outcome(5))["event"] == "config_unchanged"
        await caller.channel.close()


async def test_a_key_that_is_removed_from_a_configmap_is_refused_without_a_signal(tmp_path, upstream) -> None:
    """The kubelet replaces the link `..data`; the path of the file and its times stay the same."""
    mount = tmp_path / "mount"
    for version, keys in (("..1", (KEY, NEW_KEY)), ("..2", (NEW_KEY,))):
        (mount / version).mkdir(parents=True)
        (mount / version / "parley.toml").write_text(configuration(upstream, *keys))
    (mount / "up.key").write_text("sk-1")
    (mount / "..data").symlink_to("..1")
    (mount / "parley.toml").symlink_to("..data/parley.toml")
    for version in ("..1", "..2"):
        os.utime(mount / version / "parley.toml", (1, 1))
    release = asyncio.Event()
    async with Reloading(tmp_path / "server", "", PARLEY_CONFIG=str(mount / "parley.toml")) as server:
        caller = Caller(server.port, bearer=KEY)
        upstream.reply_next(answer_held("an open ", "stream", until=release))
        stream = await caller.stream().until_text("an open ")
        upstream.reply_with(answer("Hello"))
        (mount / "..new").symlink_to("..2")
        (mount / "..new").rename(mount / "..data")
        changed_s = time.monotonic()

        async def key_is_refused() -> bool:
            return await is_refused(server, KEY)

        # tests/unit/test_reloading.py checks the interval with a manual clock, which a busy machine does not delay.
        await until(key_is_refused, "the key is refused", limit_s=30)
        print(f"refused after {time.monotonic() - changed_s:.2f} s")
        (line,) = server.outcomes()
        assert line["changed"] == ["tenants.shop"]
        release.set()
        assert (await stream.end()).text == "an open stream", "a stream outlives its credential"
        assert not await is_refused(server, NEW_KEY)
        # A changed file of a key is detected by its content, too.
        (mount / "up.key").write_text("sk-2")
        assert (await server.next_outcome(1))["changed"] == ["providers.up"]
        await caller.channel.close()


@pytest.mark.xdist_group("loaded")
async def test_many_reloads_under_traffic_leave_no_tasks_files_or_memory(tmp_path, upstream) -> None:
    upstream.reply_with(answer("Hello"))
    async with Reloading(tmp_path, configuration(upstream)) as server:
        callers = [Caller(server.port, bearer=KEY) for _ in range(4)]
        over, replies = asyncio.Event(), 0

        async def talk(caller: Caller) -> None:
            nonlocal replies
            while not over.is_set():
                assert (await caller.create()).state == resources_pb2.Reply.STATE_COMPLETED
                replies += 1

        async def resources() -> tuple[float, int]:
            """The numbers of tasks and open files, without the journal's two, which are opened when first needed."""
            files = [each for each in server.open_files() if ".tail" not in each]
            return (await server.metrics())["parley_loop_tasks"], len(files)

        for caller in callers:
            await caller.create()
        await server.idle()
        before = await resources()

        async def released() -> tuple[float, int] | None:
            tasks, files = now = await resources()
            return now if tasks <= before[0] + 3 and files <= before[1] + len(callers) else None

        async with asyncio.TaskGroup() as talking:
            tasks = [talking.create_task(talk(caller)) for caller in callers]
            try:
                for number in range(RELOADS):
                    changed = configuration(
                        upstream,
                        KEY,
                        f"key-{number}",
                        provider=f"up{number}",
                        price=float(number),
                        more=tenant(f"t{number}", f"key-of-{number}"),
                    )
                    assert (await server.reload(changed))["event"] == "config_reloaded"
                    if number == RELOADS // 4:
                        early = server.rss_bytes()
            finally:
                over.set()
            await asyncio.gather(*tasks)
        late = server.rss_bytes()
        print(f"{replies} replies; {(late - early) / 1e6:.1f} MB more after {RELOADS} reloads")
        assert replies >= RELOADS
        assert late - early < 24e6
        async with asyncio.timeout(10):  # the last provider keeps its idle connections
            while upstream.open_connections > len(callers):
                await asyncio.sleep(0.02)
        await server.idle()
        after = await until(released, f"as many tasks and open files as before: {before}")
        print(f"tasks and open files: {before} before, {after} after")
        for caller in callers:
            await caller.channel.close()
        assert not [each for each in server.events() if each["level"] in ("error", "warning")]
        statuses = {each["code"] for each in server.events("call")}
        assert statuses == {"OK"}
        assert await server.terminate() == 0


async def test_a_sighup_during_the_start_does_not_end_the_server(tmp_path) -> None:
    """The configuration is a pipe, so that the start waits for the test."""
    pipe = tmp_path / "parley.toml"
    os.mkfifo(pipe)
    process = await asyncio.create_subprocess_exec(
        PARLEY,
        "serve",
        env=clean_environment(PARLEY_LISTEN="127.0.0.1:0", PARLEY_METRICS_LISTEN="", PARLEY_CONFIG=str(pipe)),
        cwd=tmp_path,
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(60):
            writing = await asyncio.to_thread(os.open, pipe, os.O_WRONLY)  # waits until the server reads
            process.send_signal(signal.SIGHUP)
            os.write(writing, tenant("shop", KEY).encode())
            os.close(writing)
            assert process.stderr is not None
            while line := await process.stderr.readline():
                if b"Parley serves" in line:
                    break
            process.send_signal(signal.SIGTERM)
            await process.stderr.read()
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_hangup_after_the_terminal_is_closed_stops_the_server(tmp_path) -> None:
    ours, its = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        PARLEY,
        "serve",
        env=clean_environment(PARLEY_LISTEN="127.0.0.1:0", PARLEY_METRICS_LISTEN=""),
        cwd=tmp_path,
        stdin=its,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        os.close(its)
        assert process.stderr is not None
        async with asyncio.timeout(30):
            while b"Parley serves" not in await process.stderr.readline():
                continue
            process.send_signal(signal.SIGHUP)
            while b"config_unchanged" not in await process.stderr.readline():
                continue
            os.close(ours)
            process.send_signal(signal.SIGHUP)
            await process.stderr.read()
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _true(value: bool) -> bool:
    return value
