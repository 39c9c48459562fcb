"""The besieged cluster: replicas, PostgreSQL, Redis, two vendors' servers, Envoy, and a proxy in each connection."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol, Self

import msgspec
import redis
from parley_server.store.migrate import migrate

from benchmarks.siege.providers import DIALECTS
from benchmarks.siege.words import KEY_MARK
from tests.integration.mesh.proxies import HOST, Envoy
from tests.ports import free_port
from tests.processes import ServerProcess
from tests.proxy import Proxy
from tests.service import Service
from tests.services import PostgresServer, RedisServer
from tests.tools import ROOT

REPLICAS = 3
DEBUG, CLOCKED = 1, 2
"""The replica that logs at level debug, and the one whose wall clock can jump."""
VENDORS = dict(zip(("acme", "birch"), DIALECTS, strict=True))
KEYS = {name: f"{KEY_MARK}-{name}" for name in VENDORS}
TENANTS = {name: f"{KEY_MARK}-tenant-{name}" for name in ("shop", "kiosk")}
SCOPES = {"shop": ("user", "tenant"), "kiosk": ("user",)}
"""The scopes of the quotas that `CONFIG` has for each tenant; each has periods of a day and of a month."""
RESTART_PAUSE_S = 0.5
START_LIMIT_S = 120.0
JUMP_S = 3600
LEAST_PIECE_BYTES = 4096
WAL_MIB = 64

CONFIG = """
[providers.acme]
kind = "openai"
base_url = "http://{host}:{acme}/v1"
api_key = "env:ACME_KEY"
retries = 2
timeouts = {{ connect = 2, first_token = {first_token_s}, idle = {idle_s} }}

[providers.birch]
kind = "anthropic"
base_url = "http://{host}:{birch}"
api_key = "env:BIRCH_KEY"
retries = 2
timeouts = {{ connect = 2, first_token = {first_token_s}, idle = {idle_s} }}

[models.fast]
provider = "acme"
name = "acme-1"
context_tokens = 128000
max_output_tokens = 4096
prices = {{ prompt = 0.25, cached_prompt = 0.025, completion = 2.00 }}
fallback = ["calm"]

[models.calm]
provider = "birch"
name = "birch-1"
context_tokens = 128000
max_output_tokens = 4096
prices = {{ prompt = 1.00, cached_prompt = 0.10, cache_write = 1.25, completion = 5.00 }}
fallback = ["fast"]

[server]
default_model = "fast"
lease_s = {lease_s}
sweep_interval_s = {interval_s}
relay_heartbeat_s = {interval_s}
reconcile_interval_s = {interval_s}
orphan_ttl_s = 20
time_limit_s = 120
heartbeat_s = 2
hold_output_tokens = 64
max_replies = {most}

[tenants.shop]
api_keys_sha256 = ["{shop}"]
require_end_user = true
limits = {{ messages_per_minute = 36, concurrent_replies = {concurrent} }}
quotas = {{ tokens_per_day = 5000000, cost_per_month = 50.0 }}
totals = {{ tokens_per_month = 500000000, cost_per_day = 5000.0 }}

[tenants.kiosk]
api_keys_sha256 = ["{kiosk}"]
require_end_user = true
quotas = {{ tokens_per_day = 250, cost_per_month = 1.0 }}
"""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The size of a siege: its length, the callers, tokens per second of each reply, seconds between two mishaps."""

    minutes: float = 30.0
    streams: int = 300
    pace: float = 2.0
    every: float = 20.0
    seed: int = 1

    @property
    def lease_s(self) -> float:
        """The lease of replicas: shorter than the longest mishap, so that some owners lose their leases."""
        return max(1.0, min(12.0, 0.6 * self.every))


class Skipped(Exception):
    """A mishap is not possible on this machine, or at this moment."""


class Part(Protocol):
    """A process that can be killed and paused."""

    async def up(self) -> None:
        """Start it if it does not run, and again if it exits, until it serves."""

    async def kill9(self) -> None:
        """Kill it, as the kernel does when memory runs out."""

    def pause(self) -> None:
        """Stop it; its connections stay open."""

    def resume(self) -> None:
        """Continue it."""


class ServicePart:
    """A `Service` as a part."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._starting = asyncio.Lock()

    async def up(self) -> None:
        async with self._starting, asyncio.timeout(START_LIMIT_S):
            while not self._service.running:
                try:
                    await asyncio.to_thread(self._service.start)
                except (AssertionError, ChildProcessError):
                    await asyncio.sleep(RESTART_PAUSE_S)

    async def kill9(self) -> None:
        if not self._service.running:
            raise Skipped("it does not run")
        await asyncio.to_thread(self._service.kill9)

    def pause(self) -> None:
        if not self._service.running:
            raise Skipped("it does not run")
        self._service.pause()

    def resume(self) -> None:
        if self._service.running:
            self._service.resume()


class Replica(ServerProcess):
    """A replica that keeps its log over restarts."""

    def __init__(self, folder: Path, *, clock: Path | None, **options: Any) -> None:
        super().__init__(folder, **options)
        self._clock = clock
        self._starting = asyncio.Lock()
        self._earlier: list[str] = []

    @property
    def log(self) -> list[str]:
        """The lines of all its processes."""
        return self._earlier + self.lines

    async def launch(self) -> None:
        """As `ServerProcess.launch`."""
        self._earlier += self.lines
        await super().launch()

    async def up(self) -> None:
        """See `Part`. A replica without a database exits; its platform would start it again."""
        async with self._starting, asyncio.timeout(START_LIMIT_S):
            while True:
                if not self.running:
                    await self.launch()
                try:
                    await self.line("Parley serves on")
                except AssertionError:
                    if not self.running:
                        await self.exited()
                    await asyncio.sleep(RESTART_PAUSE_S)
                else:
                    return

    async def kill9(self) -> None:
        """As `ServerProcess.kill9`."""
        if not self.running:
            raise Skipped("it does not run")
        await super().kill9()

    def pause(self) -> None:
        """As `ServerProcess.pause`."""
        if not self.running:
            raise Skipped("it does not run")
        super().pause()

    def resume(self) -> None:
        """As `ServerProcess.resume`."""
        if self.running:
            super().resume()

    def set_clock(self, offset_s: int) -> None:
        """Set the offset of its wall clock, in seconds; its monotonic clocks do not change."""
        if self._clock is None:
            raise Skipped("libfaketime is not installed (Debian: apt-get install libfaketime)")
        self._clock.write_text(f"{offset_s:+d}\n")


class Vendor(Service):
    """The process of `benchmarks.siege.providers`."""

    def __init__(self, folder: Path, *, dialect: str, pace: float) -> None:
        super().__init__(folder, port=0)
        self.counts = folder / "counts.jsonl"
        self._dialect = dialect
        self._pace = pace

    def fill(self) -> None:
        """Refuse new requests as overloaded."""
        self._send(signal.SIGUSR1)

    def clear(self) -> None:
        """Accept requests again."""
        self._send(signal.SIGUSR2)

    def _send(self, number: signal.Signals) -> None:
        if self.running:
            os.kill(self.pid, number)

    def _prepare(self) -> None:
        pass

    def _working_folder(self) -> Path:
        return ROOT

    def _command(self) -> list[str]:
        options = {"port": self.port, "dialect": self._dialect, "pace": self._pace, "counts": self.counts}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        return [sys.executable, "-m", "benchmarks.siege.providers", *words]

    def _ready(self) -> bool:
        return _accepts(self.port)

    def _stop_signal(self, mode: str) -> signal.Signals:
        return {"fast": signal.SIGTERM, "immediate": signal.SIGKILL}[mode]


class SmallPostgres(PostgresServer):
    """A PostgreSQL on a file system of `size_mib` of its own that can be filled up, where mounting is allowed."""

    def __init__(self, folder: Path, *, size_mib: int) -> None:
        super().__init__(folder, settings={"max_wal_size": f"{WAL_MIB}MB", "min_wal_size": "5MB"})
        self._size_mib = size_mib
        self.refused = "not started"

    def __exit__(self, *_: object) -> None:
        self.stop("immediate")
        if not self.refused:
            subprocess.run(["umount", "--lazy", str(self.data)], check=False)
        super().__exit__()

    def fill(self) -> None:
        """Leave no free space."""
        if self.refused:
            raise Skipped(f"no file system of its own: {self.refused}")
        with self._ballast.open("ab") as ballast:
            piece = shutil.disk_usage(self.data).free
            while piece >= LEAST_PIECE_BYTES:
                try:
                    os.posix_fallocate(ballast.fileno(), ballast.seek(0, os.SEEK_END), piece)
                except OSError:
                    piece //= 2

    def clear(self) -> None:
        """Free the space again."""
        if not self.refused:
            self._ballast.unlink(missing_ok=True)

    @property
    def _ballast(self) -> Path:
        return self.data / "ballast"

    def _make_folder(self) -> Path:
        made = super()._make_folder()
        options = f"size={self._size_mib}m,mode=0700"
        command = ["mount", "-t", "tmpfs", "-o", options, "parley-siege", str(made)]
        try:
            mounted = subprocess.run(command, check=False, capture_output=True, text=True)
        except FileNotFoundError as missing:
            self.refused = str(missing)
        else:
            self.refused = (mounted.stderr.strip() or "mount failed") if mounted.returncode else ""
        return made


class SmallRedis(RedisServer):
    """A Redis whose memory can be limited to less than it uses."""

    def fill(self) -> None:
        """Refuse writes as out of memory."""
        self._limit("1")

    def clear(self) -> None:
        """Accept writes again."""
        self._limit("0")

    def _limit(self, maxmemory: str) -> None:
        try:
            self.command("CONFIG", "SET", "maxmemory", maxmemory)
        except redis.RedisError as error:
            raise Skipped("it does not run") from error


class EnvoyOfReplicas(Envoy):
    """Envoy in front of several replicas."""

    def __init__(self, folder: Path, ports: list[int]) -> None:
        super().__init__(folder, ports[0])
        self._ports = ports

    def _prepare(self) -> None:
        super()._prepare()
        file = self.folder / "envoy.json"
        config: dict[str, Any] = msgspec.json.decode(file.read_bytes())
        (cluster,) = config["static_resources"]["clusters"]
        (locality,) = cluster["load_assignment"]["endpoints"]
        locality["lb_endpoints"] = [
            {"endpoint": {"address": {"socket_address": {"address": HOST, "port_value": port}}}} for port in self._ports
        ]
        file.write_bytes(msgspec.json.encode(config))


class Fillable(Protocol):
    """A part that can be made full."""

    def fill(self) -> None:
        """Make it refuse writes or requests."""

    def clear(self) -> None:
        """Make it accept them again."""


class Stand:
    """The cluster. Use `async with`; within it, all parts serve.

    parts: the processes, by name. links: proxies, by the names of both ends, such as `replica-0 to redis`. full: the
    parts that can be made full, by name.
    """

    def __init__(self, folder: Path, options: Options) -> None:
        self._folder = folder
        self._options = options
        self._stack = AsyncExitStack()
        self.parts: dict[str, Part] = {}
        self.links: dict[str, Proxy] = {}
        self.full: dict[str, Fillable] = {}
        self.replicas: list[Replica] = []
        self.vendors: dict[str, Vendor] = {}
        self.postgres: SmallPostgres
        self.redis: SmallRedis
        self.envoy: EnvoyOfReplicas
        self.database = "siege"

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def clocked(self) -> Replica:
        """The replica whose wall clock can jump."""
        return self.replicas[CLOCKED]

    def logs(self) -> dict[str, list[str]]:
        """The lines of each part's log, over all its processes."""
        found = {name: replica.log for name, replica in zip(_replica_names(), self.replicas, strict=True)}
        services = {"postgres": self.postgres, "redis": self.redis, "envoy": self.envoy, **self.vendors}
        return found | {name: each.log.read_text(errors="replace").splitlines() for name, each in services.items()}

    async def repair(self) -> None:
        """End all faults, and wait until every part serves."""
        for part in self.parts.values():
            part.resume()
        for fillable in self.full.values():
            await asyncio.to_thread(_unless_skipped, fillable.clear)
        _unless_skipped(lambda: self.clocked.set_clock(0))
        for link in self.links.values():
            await link.restore()
        await asyncio.gather(*(part.up() for part in self.parts.values()))

    async def _start(self) -> None:
        options = self._options
        # A reply needs about 6 KB of disk, and each caller starts one every 12 s.
        size_mib = 256 + int(options.streams * options.minutes * 60 / 12 * 6 / 1024)
        self.postgres = SmallPostgres(self._folder / "postgres", size_mib=size_mib)
        self.redis = SmallRedis(self._folder / "redis")
        await asyncio.gather(self._serve("postgres", self.postgres), self._serve("redis", self.redis))
        self.full |= {"postgres": self.postgres, "redis": self.redis}
        database = await asyncio.to_thread(self.postgres.create_database, self.database)
        await asyncio.to_thread(migrate, self.postgres.url(database))
        for name, dialect in VENDORS.items():
            self.vendors[name] = Vendor(self._folder / name, dialect=dialect, pace=options.pace)
            await self._serve(name, self.vendors[name])
            self.full[name] = self.vendors[name]
            await self._link(f"replicas to {name}", self.vendors[name].port)
        for index, name in enumerate(_replica_names()):
            self.replicas.append(await self._replica(index, name))
            self.parts[name] = self.replicas[-1]
        await asyncio.gather(*(replica.up() for replica in self.replicas))
        ports = [self.links[f"envoy to {name}"].port for name in _replica_names()]
        self.envoy = EnvoyOfReplicas(self._folder / "envoy", ports)
        await self._serve("envoy", self.envoy)

    async def _serve(self, name: str, service: Service) -> None:
        await asyncio.to_thread(service.__enter__)
        self._stack.push_async_callback(asyncio.to_thread, service.__exit__, None, None, None)
        self.parts[name] = ServicePart(service)

    async def _link(self, name: str, port: int) -> int:
        self.links[name] = await self._stack.enter_async_context(Proxy(port))
        return self.links[name].port

    async def _replica(self, index: int, name: str) -> Replica:
        port = free_port()
        await self._link(f"envoy to {name}", port)
        postgres = await self._link(f"{name} to postgres", self.postgres.port)
        relay = await self._link(f"{name} to redis", self.redis.port)
        environment = {f"{vendor.upper()}_KEY": key for vendor, key in KEYS.items()}
        clock = None
        if index == CLOCKED and (library := _faketime()) is not None:
            clock = self._folder / "clock"
            clock.write_text("+0\n")
            environment |= _faked(library, clock)
        replica = Replica(
            self._folder / name,
            clock=clock,
            toml=self._toml(),
            rows_url=self.postgres.url(self.database),
            forked=clock is None,
            PARLEY_DATABASE_URL=self.postgres.url(self.database, port=postgres),
            PARLEY_REDIS_URL=self.redis.url(port=relay),
            PARLEY_LISTEN=f"{HOST}:{port}",
            PARLEY_METRICS_LISTEN=f"{HOST}:{free_port()}",
            PARLEY_LOG_LEVEL="debug" if index == DEBUG else "info",
            **environment,
        )
        replica.port = port
        self._stack.push_async_callback(_end, replica)
        return replica

    def _toml(self) -> str:
        lease_s = self._options.lease_s
        return CONFIG.format(
            host=HOST,
            acme=self.links["replicas to acme"].port,
            birch=self.links["replicas to birch"].port,
            first_token_s=1.5 + 1.5 / self._options.pace,
            idle_s=0.5 * self._options.every + 2 / self._options.pace,
            lease_s=lease_s,
            interval_s=lease_s / 4,
            most=max(1, self._options.streams // 2),  # two replicas reach this limit while the third one is down
            concurrent=max(1, int(0.8 * self._options.streams)),
            **{name: hashlib.sha256(key.encode()).hexdigest() for name, key in TENANTS.items()},
        )


def _replica_names() -> list[str]:
    return [f"replica-{index}" for index in range(REPLICAS)]


async def _end(replica: Replica) -> None:
    if replica.running:
        await replica.kill9()


def _faketime() -> Path | None:
    return next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)


def _faked(library: Path, clock: Path) -> dict[str, str]:
    """The environment of a process whose wall clock differs by the seconds in a file, which is read every second."""
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _unless_skipped(act: Callable[[], None]) -> None:
    try:
        act()
    except Skipped:
        return
