"""The systems under measurement, as real processes: started with their own files, watched, and always ended.

A system is one function here that starts it; adding one to `SYSTEMS` is all that a comparison needs.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks import gauges

HERE = Path(__file__).parent
START_LIMIT_S = 30.0
STOP_LIMIT_S = 15.0
KEPT_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "VIRTUAL_ENV")
UPSTREAM_KEY = "BENCHMARK_UPSTREAM_KEY"


class RunningSystem:
    """A process that serves at `address`; CPU and memory are those of the process and its descendants."""

    def __init__(self, name: str, *, address: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.address = address
        self._process = process
        self._log = log

    def cpu_s(self) -> float:
        """CPU time so far, user and system."""
        self.check()
        return gauges.cpu_s(self._process.pid)

    def memory(self) -> gauges.Memory:
        """Memory now, and its peak since `reset_peak`."""
        self.check()
        return gauges.memory(self._process.pid)

    def reset_peak(self) -> None:
        """Count the peak from now."""
        gauges.reset_peak(self._process.pid)

    def check(self) -> None:
        """Raise with the end of its log where the process has ended."""
        if self._process.poll() is None:
            return
        tail = self._log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{self.name} ended with status {self._process.returncode}:\n{tail}")

    def stop(self) -> None:
        """SIGTERM, and SIGKILL where that does not end it in time."""
        self._process.terminate()
        try:
            self._process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Upstream:
    """The upstream in Node that stands in for the provider."""

    def __init__(self) -> None:
        command = ["node", str(HERE / "upstream.js")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self.port: int = json.loads(self._process.stdout.readline())["port"]
        self.address = f"127.0.0.1:{self.port}"

    def cpu_s(self) -> float:
        """CPU time so far."""
        return gauges.cpu_s(self._process.pid)

    def stats(self) -> dict[str, object]:
        """What it has counted since the last reset."""
        with urlopen(f"http://{self.address}/stats", timeout=10) as answer:
            counted: dict[str, object] = json.load(answer)
        return counted

    def reset(self) -> None:
        """Count anew."""
        with urlopen(Request(f"http://{self.address}/stats/reset", method="POST"), timeout=10) as answer:
            answer.read()

    def stop(self) -> None:
        """End it by closing its input."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(STOP_LIMIT_S)


def free_address() -> str:
    """An address on loopback that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def launch(name: str, command: list[str], *, address: str, folder: Path, env: dict[str, str]) -> RunningSystem:
    """Start a process with an environment of its own (no proxy, no key from outside) and its output in a file."""
    log = folder / f"{name}.log"
    kept = {key: os.environ[key] for key in KEPT_ENVIRONMENT if key in os.environ}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=kept | env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    return RunningSystem(name, address=address, process=process, log=log)


def wait_until(system: RunningSystem, ready: Callable[[], bool]) -> None:
    """Poll until it is ready; a system that ends, or takes too long, is an error."""
    limit = time.monotonic() + START_LIMIT_S
    while not ready():
        system.check()
        if time.monotonic() > limit:
            raise RuntimeError(f"{system.name} was not ready within {START_LIMIT_S:.0f} s")
        time.sleep(0.05)


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


def accepts(address: str) -> bool:
    """Whether the port is open."""
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def parley_config(upstream: Upstream, models: list[str]) -> str:
    """A configuration whose models are the upstream's, under the same names."""
    provider = ["[providers.upstream]", 'kind = "openai"', f'base_url = "http://{upstream.address}/v1"']
    lines = [*provider, f'api_key = "env:{UPSTREAM_KEY}"', "[server]", f'default_model = "{models[0]}"']
    for model in models:
        lines += [f'[models."{model}"]', 'provider = "upstream"', f'name = "{model}"']
        lines += ["context_tokens = 128000", "max_output_tokens = 16384"]
        lines.append("prices = { prompt = 0.25, cached_prompt = 0.025, completion = 2.00 }")
    return "\n".join(lines) + "\n"


def start_parley(folder: Path, upstream: Upstream, models: list[str]) -> RunningSystem:
    """Parley embedded, everything on: SQLite file, durable acceptance, journal, metrics, JSON logs."""
    config = folder / "parley.toml"
    config.write_text(parley_config(upstream, models))
    address = free_address()
    env = {
        "PARLEY_CONFIG": str(config),
        "PARLEY_LISTEN": address,
        "PARLEY_METRICS_LISTEN": free_address(),
        "PARLEY_DATABASE_URL": f"sqlite+aiosqlite:///{folder / 'parley.db'}",
        "PARLEY_LOG_LEVEL": "info",
        "PARLEY_LOG_FORMAT": "json",
        UPSTREAM_KEY: "sk-benchmark",
    }
    command = [str(Path(sys.executable).parent / "parley"), "serve"]
    system = launch("parley", command, address=address, folder=folder, env=env)
    wait_until(system, lambda: is_serving(address))
    return system


def start_bare(folder: Path, _upstream: Upstream, _models: list[str]) -> RunningSystem:
    """The bare grpc.aio server."""
    address = free_address()
    command = [sys.executable, "-m", "benchmarks.bare_server", "--listen", address]
    system = launch("bare", command, address=address, folder=folder, env={"PYTHONPATH": str(HERE.parent)})
    wait_until(system, lambda: accepts(address))
    return system


SYSTEMS: dict[str, Callable[[Path, Upstream, list[str]], RunningSystem]] = {
    "parley": start_parley,
    "bare": start_bare,
}


@contextmanager
def running(names: list[str], *, folder: Path, upstream: Upstream, models: list[str]) -> Iterator[list[RunningSystem]]:
    """Start the named systems, each in a folder of its own, and stop them whatever happens."""
    started: list[RunningSystem] = []
    try:
        for name in names:
            own = folder / name
            own.mkdir(parents=True)
            started.append(SYSTEMS[name](own, upstream, models))
        yield started
    finally:
        for system in started:
            system.stop()
