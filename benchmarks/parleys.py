"""Starts `parley serve` in the measured configurations with all features on, and the bare server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from parley_server.store.migrate import migrate

from benchmarks import gauges
from benchmarks.systems import ROOT, RunningSystem, Upstream, accepts, free_address, launch, wait_until
from tests import watchdog
from tests.services import PostgresServer, RedisServer, initdb

UPSTREAM_KEY = "BENCHMARK_UPSTREAM_KEY"
FAR_S = 0.2
# The defaults of Debian: unlike in tests/services.py, a commit waits for the disk.
POSTGRES = {"fsync": "on", "shared_buffers": "128MB"}


def is_serving(address: str) -> bool:
    """Whether the standard health service says SERVING."""
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service="parley.v1.Chat"), timeout=2
            )
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def config(upstream: Upstream, models: list[str], server: dict[str, object], access: str) -> str:
    """A configuration with the upstream's models under the same names. `access`: lines of TOML."""
    provider = ["[providers.upstream]", 'kind = "openai"', f'base_url = "http://{upstream.address}/v1"']
    lines = [*provider, f'api_key = "env:{UPSTREAM_KEY}"', "[server]", f'default_model = "{models[0]}"']
    lines += [f"{name} = {value}" for name, value in server.items()]
    for model in models:
        lines += [f'[models."{model}"]', 'provider = "upstream"', f'name = "{model}"']
        lines += ["context_tokens = 128000", "max_output_tokens = 16384"]
        lines.append("prices = { prompt = 0.25, cached_prompt = 0.025, completion = 2.00 }")
    return "\n".join([*lines, access]) + "\n"


def serve(
    name: str,
    folder: Path,
    upstream: Upstream,
    models: list[str],
    *,
    server: dict[str, object] | None = None,
    access: str = "",
    database: str = "",
    redis: str = "",
    code: str = "",
    environment: Mapping[str, str] | None = None,
) -> RunningSystem:
    """Start `parley serve` with metrics and JSON logs, on a SQLite file if `database` is empty.

    `server` has settings of `[server]`. `code`: the `PYTHONPATH` of other code than this repository's.
    `environment`: further variables."""
    toml = folder / "parley.toml"
    toml.write_text(config(upstream, models, server or {}, access))
    address = free_address()
    env = {
        "PARLEY_CONFIG": str(toml),
        "PARLEY_LISTEN": address,
        "PARLEY_METRICS_LISTEN": free_address(),
        "PARLEY_DATABASE_URL": database or f"sqlite+aiosqlite:///{folder / 'parley.db'}",
        "PARLEY_REDIS_URL": redis,
        "PARLEY_LOG_LEVEL": "info",
        "PARLEY_LOG_FORMAT": "json",
        UPSTREAM_KEY: "sk-benchmark",
        **(environment or {}),
    }
    if code:
        env["PYTHONPATH"] = code
    command = [str(Path(sys.executable).parent / "parley"), "serve"]
    system = launch(name, command, address=address, folder=folder, env=env)
    system.metrics_address = env["PARLEY_METRICS_LISTEN"]
    system.database_url, system.redis_url = env["PARLEY_DATABASE_URL"], redis
    wait_until(system, lambda: is_serving(address))
    return system


def start_embedded(
    folder: Path,
    upstream: Upstream,
    models: list[str],
    *,
    server: dict[str, object] | None = None,
    access: str = "",
    code: str = "",
    environment: Mapping[str, str] | None = None,
) -> RunningSystem:
    """Parley on a SQLite file. `code` and `environment`: see `serve`."""
    return serve("parley", folder, upstream, models, server=server, access=access, code=code, environment=environment)


def start_postgres(folder: Path, upstream: Upstream, models: list[str]) -> RunningSystem:
    """Parley on PostgreSQL, without a relay."""
    return _with_services("parley-postgres", folder, upstream, models)


def start_redis(
    folder: Path, upstream: Upstream, models: list[str], *, server: dict[str, object] | None = None, access: str = ""
) -> RunningSystem:
    """Parley on PostgreSQL and Redis, like one of several replicas."""
    return _with_services("parley-redis", folder, upstream, models, redis_s=0.0, server=server, access=access)


def start_far_redis(folder: Path, upstream: Upstream, models: list[str]) -> RunningSystem:
    """Parley on PostgreSQL and a Redis with a round trip of `FAR_S`."""
    return _with_services("parley-redis-far", folder, upstream, models, redis_s=FAR_S)


def _with_services(
    name: str,
    folder: Path,
    upstream: Upstream,
    models: list[str],
    *,
    redis_s: float | None = None,
    server: dict[str, object] | None = None,
    access: str = "",
) -> RunningSystem:
    with ExitStack() as holding:
        postgres = holding.enter_context(
            PostgresServer(folder / "postgres", template=_empty_cluster(), settings=POSTGRES)
        )
        if gauges.file_system(postgres.data) in gauges.MEMORY_FILE_SYSTEMS:
            raise SystemExit("PostgreSQL's files would be in memory: set TMPDIR to a folder on a real disk")
        services, relay = {"postgres": postgres.pid}, ""
        if redis_s is not None:
            redis = holding.enter_context(RedisServer(folder / "redis"))
            services["redis"] = redis.pid
            relay = redis.url(port=_far(holding, redis.port, redis_s) if redis_s else 0)
        database = postgres.url(postgres.create_database("parley"))
        migrate(database)
        system = serve(name, folder, upstream, models, database=database, redis=relay, server=server, access=access)
        system.services = services
        system.holding = holding.pop_all()
    return system


def _far(holding: ExitStack, port: int, round_trip_s: float) -> int:
    """The port of a proxy process that adds this round trip time."""
    command = [sys.executable, "-m", "benchmarks.far", str(port), str(round_trip_s)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    holding.callback(process.wait)
    holding.callback(process.terminate)
    assert process.stdout is not None
    return int(process.stdout.readline())


@lru_cache(maxsize=1)
def _empty_cluster() -> Path:
    folder = Path(mkdtemp(prefix="parley-benchmark-initdb-"))
    watchdog.remove_at_end(folder)
    return initdb(folder)


def start_bare(folder: Path, _upstream: Upstream, _models: list[str]) -> RunningSystem:
    return start_bare_server(folder)


def start_bare_server(folder: Path) -> RunningSystem:
    """It needs no upstream."""
    address = free_address()
    command = [sys.executable, "-m", "benchmarks.bare_server", "--listen", address]
    system = launch("bare", command, address=address, folder=folder, env={"PYTHONPATH": str(ROOT)})
    wait_until(system, lambda: accepts(address))
    return system
