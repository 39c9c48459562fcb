"""The measured systems and the upstream as processes with separate files, which always end with the measurement."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from urllib.request import Request, urlopen

from benchmarks import gauges

HERE = Path(__file__).parent
ROOT = HERE.parent
START_LIMIT_S = 60.0
STOP_LIMIT_S = 15.0
KEPT_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "VIRTUAL_ENV")


class RunningSystem:
    """A process that serves at `address`. CPU and memory include its descendants, but not its services, such as a
    database, whose CPU is measured separately.

    A system with `headers` uses HTTP instead of gRPC. `holding` is closed with the system. The metrics address and the
    URLs are set for Parley only."""

    def __init__(
        self,
        name: str,
        *,
        address: str,
        process: subprocess.Popen[bytes],
        log: Path,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.name = name
        self.address = address
        self.headers = headers
        self.holding = ExitStack()
        self.services: dict[str, int] = {}
        self.metrics_address = self.database_url = self.redis_url = ""
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        """The id of the first process."""
        return self._process.pid

    def cpu_s(self) -> float:
        """User and system CPU time so far."""
        self.check()
        return gauges.cpu_s(self._process.pid)

    def services_cpu_s(self) -> dict[str, float]:
        """CPU time of each service so far."""
        return {name: gauges.cpu_s(pid) for name, pid in self.services.items()}

    def memory(self) -> gauges.Memory:
        """Current memory, and its peak since `reset_peak`."""
        self.check()
        return gauges.memory(self._process.pid)

    def reset_peak(self) -> None:
        gauges.reset_peak(self._process.pid)

    def check(self, *, until: float = math.inf) -> None:
        """Raise RuntimeError with the end of the log if the process has ended, or after the time `until`."""
        if self._process.poll() is None and time.monotonic() < until:
            return
        tail = self._log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{self.name} has ended or did not start in time ({self._process.returncode}):\n{tail}")

    def stop(self) -> None:
        """Send SIGTERM, after STOP_LIMIT_S SIGKILL, and stop the services."""
        self._process.terminate()
        try:
            self._process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.holding.close()


class Upstream:
    """The provider of all measured systems, a Node process."""

    def __init__(self) -> None:
        command = ["node", str(HERE / "upstream.js")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self.port: int = json.loads(self._process.stdout.readline())["port"]
        self.address = f"127.0.0.1:{self.port}"

    def cpu_s(self) -> float:
        return gauges.cpu_s(self._process.pid)

    def stats(self) -> dict[str, int]:
        """Its counters since the last reset."""
        with urlopen(f"http://{self.address}/stats", timeout=10) as answer:
            counted: dict[str, int] = json.load(answer)
        return counted

    def reset(self) -> None:
        """Set the counters to 0."""
        with urlopen(Request(f"http://{self.address}/stats/reset", method="POST"), timeout=10) as answer:
            answer.read()

    def close(self) -> None:
        """End the process by closing its input."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(STOP_LIMIT_S)


def free_address() -> str:
    """An unused address on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def launch(
    name: str,
    command: list[str],
    *,
    address: str,
    folder: Path,
    env: dict[str, str],
    headers: dict[str, str] | None = None,
) -> RunningSystem:
    """Start a process without proxies and keys of this environment, with its output in a file."""
    log = folder / f"{name}.log"
    kept = {key: os.environ[key] for key in KEPT_ENVIRONMENT if key in os.environ}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=kept | env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    return RunningSystem(name, address=address, process=process, log=log, headers=headers)


def wait_until(system: RunningSystem, ready: Callable[[], bool]) -> None:
    """Poll until the system is ready; stops it and raises RuntimeError if it ends or takes too long."""
    limit = time.monotonic() + START_LIMIT_S
    try:
        while not ready():
            system.check(until=limit)
            time.sleep(0.05)
    except BaseException:
        system.stop()
        raise


def accepts(address: str) -> bool:
    """Whether the port is open."""
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def answers(url: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        with urlopen(url, timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
