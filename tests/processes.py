"""Runs `parley serve` as a process that tests start, query, signal and kill.

Every wait is for a condition: a log line, health, a metric or the exit. The process ends with its `async with`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from tests import watchdog
from tests.forked import ForkedServer
from tests.services import query_postgres
from tests.threads import in_thread

PARLEY = str(Path(sys.executable).with_name("parley"))
READY_S = 30.0
EXIT_S = 30.0
POLL_S = 0.02
MIB = 1024 * 1024

CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment without what configures a server, a provider or a proxy, and with `more`."""
    unwanted = ("PARLEY_", "OPENAI_", "OTEL_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(unwanted)}
    return kept | more


def open_channel(address: str, *, options: tuple[tuple[str, Any], ...] = ()) -> grpc.aio.Channel:
    """A channel with its own connection, quick reconnects and no retries."""
    return grpc.aio.insecure_channel(address, options=(*CHANNEL_OPTIONS, *options))


async def until(condition: Callable[[], Awaitable[Any]], what: str, *, limit_s: float = 20.0) -> Any:
    """Call `condition` until its result is true, and return the result. Fails with `what` and the last result."""
    last: Any = None
    try:
        async with asyncio.timeout(limit_s):
            while not (last := await condition()):
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise AssertionError(f"not within {limit_s:g} s: {what} (last: {last!r})") from None
    return last


class ServerProcess:
    """A server process. A restarted one keeps its address and its database: `parley.db` in the folder, or the value of
    `PARLEY_DATABASE_URL`.

    folder: its working directory. toml: its configuration file. environment: overrides the variables that this class
    sets, such as `PARLEY_LISTEN` and `PARLEY_METRICS_LISTEN` with ports that the system chooses. rows_url: the database
    for `rows`, if the server reaches its database through a proxy in the event loop of the test. forked: start it
    without the command, quicker (`tests/forked.py`), for tests that start many servers.
    """

    def __init__(
        self, folder: Path, *, toml: str = "", rows_url: str = "", forked: bool = False, **environment: str
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.database = folder / "parley.db"
        config = folder / "parley.toml"
        config.write_text(toml)
        self.environment = {
            "PARLEY_CONFIG": str(config),
            "PARLEY_DATABASE_URL": f"sqlite+aiosqlite:///{self.database}",
            "PARLEY_LISTEN": "127.0.0.1:0",
            "PARLEY_METRICS_LISTEN": "127.0.0.1:0",
            **environment,
        }
        self._rows_url = rows_url or self.environment["PARLEY_DATABASE_URL"]
        self.lines: list[str] = []
        self.port = 0
        self.metrics_port = 0
        self._forked = forked
        self._process: asyncio.subprocess.Process | ForkedServer | None = None
        self._reading: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The id of the process that was started last."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether there is a process, paused or not."""
        return self._process is not None and self.exit_status is None

    @property
    def replicas(self) -> list[str]:
        """The replica ids that have logged `serving` since the last start: one, or one for each worker."""
        return [each["replica"] for each in self.events("serving") if "replica" in each]

    @property
    def exit_status(self) -> int | None:
        """None while it runs; negative for the signal that ended it."""
        return self._process.returncode if self._process else None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.running:
            await self.kill9()
        elif self._reading is not None and not self._reading.done():
            await self.exited()  # after the end of the process: read its pipe to the end and close it

    async def start(self) -> None:
        """Start it and wait until it is ready."""
        await self.launch()
        await self.ready()

    async def launch(self) -> None:
        """Start it without waiting until it is ready."""
        assert not self.running, "the server runs already"
        self.lines = []
        environment = clean_environment(**self.environment)
        start = ForkedServer.start if self._forked else _start_command
        self._process = await start(environment, self.folder)
        watchdog.watch(self.pid)
        self._reading = asyncio.create_task(self._read(self._process))

    async def ready(self) -> None:
        """Wait until it has logged that it serves, then check its health."""
        await self.line("Parley serves on")
        (serving,) = (each for each in self.events("serving") if "worker" not in each)
        self.port = int(serving["address"].rpartition(":")[2])
        self.environment["PARLEY_LISTEN"] = self.address
        if "metrics" in serving:
            self.metrics_port = int(serving["metrics"].rpartition(":")[2])
            self.environment["PARLEY_METRICS_LISTEN"] = f"127.0.0.1:{self.metrics_port}"
        assert await self.health() == "SERVING"

    async def health(self, service: str = "") -> str:
        """The health of a service by name, or the status code of the failed call."""
        async with open_channel(self.address) as channel:
            try:
                answer = await health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(service=service), timeout=5, wait_for_ready=True
                )
            except grpc.aio.AioRpcError as error:
                return error.code().name
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    async def line(self, words: str, *, limit_s: float = READY_S) -> str:
        """Wait for a line of standard error that contains these words. Fails if the process ends before."""
        try:
            async with asyncio.timeout(limit_s):
                while True:
                    self._news.clear()
                    for line in self.lines:
                        if words in line:
                            return line
                    assert not self._all_read(), f"the server ended without {words!r}: {self.output}"
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"no line with {words!r} within {limit_s:g} s: {self.output}") from None

    @property
    def output(self) -> str:
        """The lines of standard error since the last start."""
        return "\n".join(self.lines)

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """Its log lines, or those of one event."""
        logged = [json.loads(line) for line in self.lines if line.startswith("{")]
        return [each for each in logged if name in ("", each["event"])]

    async def kill9(self) -> None:
        """Kill it and its workers, also if paused, and return once it has ended."""
        watchdog.kill_tree(self.pid)
        await self.exited()

    def pause(self) -> None:
        """SIGSTOP to it and its workers: connections stay open, and the lease expires."""
        watchdog.pause_tree(self.pid)

    def resume(self) -> None:
        """SIGCONT to it and its workers."""
        watchdog.resume_tree(self.pid)

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    async def terminate(self) -> int:
        """Send SIGTERM, and return the exit status."""
        self.send(signal.SIGTERM)
        return await self.exited()

    async def exited(self, *, limit_s: float = EXIT_S) -> int:
        """Wait for its end and the end of its output; return the exit status."""
        assert self._process is not None
        assert self._reading is not None
        try:
            async with asyncio.timeout(limit_s):
                status = await self._process.wait()
                await self._reading
        except TimeoutError:
            raise AssertionError(f"the server still runs after {limit_s:g} s: {self.output}") from None
        watchdog.forget(self.pid)
        return status

    async def metrics(self) -> dict[str, float]:
        """Samples by `name`, summed over the labels, and by `name{value,value}` in the order of label names."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        text = await asyncio.to_thread(_fetch, url)
        samples: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                named = f"{sample.name}{{{','.join(value for _, value in sorted(sample.labels.items()))}}}"
                samples[named] = sample.value
                samples[sample.name] = samples.get(sample.name, 0.0) + sample.value
        return samples

    async def idle(self, *, limit_s: float = 30.0) -> None:
        """Wait until there are no running replies and no readers."""

        async def is_idle() -> bool:
            now = await self.metrics()
            return now["parley_replies_active"] == 0 == now["parley_readers_active"]

        await until(is_idle, "no replies and no readers", limit_s=limit_s)

    def rss_bytes(self) -> int:
        """Its resident memory."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    def open_files(self) -> list[str]:
        """Its open descriptors: paths, or kinds such as `socket`."""
        kinds = []
        for entry in Path(f"/proc/{self.pid}/fd").iterdir():
            try:
                kinds.append(str(entry.readlink()).partition(":[")[0])
            except FileNotFoundError:
                continue
        return kinds

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of a query in its database, also while it runs."""
        if not self._rows_url.startswith("sqlite"):
            return in_thread(lambda: asyncio.run(query_postgres(self._rows_url, query)))
        connection = sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=10)
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()

    def _all_read(self) -> bool:
        return self._reading is not None and self._reading.done()

    async def _read(self, process: asyncio.subprocess.Process | ForkedServer) -> None:
        assert process.stderr is not None
        try:
            while line := await process.stderr.readline():
                self.lines.append(line.decode(errors="replace").rstrip("\n"))
                self._news.set()
        finally:
            asyncio.get_running_loop().call_soon(self._news.set)


async def _start_command(environment: dict[str, str], folder: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        PARLEY,
        "serve",
        env=environment,
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )


def _fetch(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as answer:
        return str(answer.read().decode())
