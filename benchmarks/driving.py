"""Runs the load process against a system, and computes metrics from its results and the kernel's counters."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec

from benchmarks import gauges
from benchmarks.load import Load, Seen
from benchmarks.systems import RunningSystem, Upstream

# CPU of the server is measured until this long after the last answer, so that deferred work is counted.
SETTLE_S = 0.3
# Memory of open streams is measured this long after the last acceptance, so that memory of the start is freed.
HELD_S = 1.0
ROOT = Path(__file__).parent.parent


class LoadProcess:
    """The load process, for any number of loads on one address; it is killed after `limit_s`."""

    def __init__(self, load: Load, limit_s: float) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.load", msgspec.json.encode(load).decode()],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._timer = threading.Timer(limit_s, self._process.kill)
        self._timer.start()

    def expect_ready(self) -> None:
        """Wait for the end of the warm-up."""
        self._line("ready")

    def begin(self, load: Load) -> None:
        """Start a measured load."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(load).decode() + "\n")
        self._process.stdin.flush()

    def expect_accepted(self) -> None:
        """Wait until all replies of a load with `tell_accepted` are accepted."""
        self._line("accepted")

    def seen(self) -> Seen:
        """Wait for the end of the load; returns its results."""
        return msgspec.json.decode(self._line("{"), type=Seen)

    def close(self) -> None:
        self._timer.cancel()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _line(self, beginning: str) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith(beginning):
            self._process.kill()
            raise RuntimeError(f"the load ended with status {self._process.wait()} before it printed {beginning!r}")
        return line


class MeasuredRun(msgspec.Struct, kw_only=True):
    """The load's results of one run, and the CPU time and memory of the processes during its `wall_s` seconds.

    `before` is the memory before the run, `held` the memory while all streams are open, and `idle` the share of a core
    that the server uses without load."""

    seen: Seen
    wall_s: float = 0.0
    server_cpu_s: float = 0.0
    services_cpu_s: dict[str, float] = {}
    upstream_cpu_s: float = 0.0
    idle: float | None = None
    before: gauges.Memory | None = None
    held: gauges.Memory | None = None
    memory: gauges.Memory | None = None
    upstream: dict[str, int]


def measure(
    load: Load, *, system: RunningSystem | None, upstream: Upstream, limit_s: float, idle_s: float = 0.0
) -> MeasuredRun:
    """Warm up, then measure one load. Without a system, the load calls the upstream directly."""
    process = LoadProcess(load, limit_s)
    try:
        process.expect_ready()
        idle = idle_share(system, idle_s) if system and idle_s else None
        return measured_run(load, process, system=system, upstream=upstream, idle=idle)
    finally:
        process.close()


def idle_share(system: RunningSystem, seconds: float) -> float:
    """The share of a core that an idle system uses."""
    time.sleep(SETTLE_S)
    start, cpu_s = time.monotonic(), system.cpu_s()
    time.sleep(seconds)
    return (system.cpu_s() - cpu_s) / (time.monotonic() - start)


def measured_run(
    load: Load,
    process: LoadProcess,
    *,
    system: RunningSystem | None,
    upstream: Upstream,
    idle: float | None = None,
    settle_s: float = SETTLE_S,
) -> MeasuredRun:
    """Run a load in a warm load process, and read the CPU clocks before and after."""
    upstream.reset()
    before = held = None
    if system is not None:
        system.reset_peak()
        before = system.memory()
    start, server_s, services_s, upstream_s = time.monotonic(), *_clocks(system, upstream)
    process.begin(load)
    if system is not None and load.tell_accepted:
        process.expect_accepted()
        time.sleep(HELD_S)
        held = system.memory()
    seen = process.seen()
    time.sleep(settle_s)
    after_s = _clocks(system, upstream)
    return MeasuredRun(
        seen=seen,
        wall_s=time.monotonic() - start,
        server_cpu_s=after_s[0] - server_s,
        services_cpu_s={name: after - services_s[name] for name, after in after_s[1].items()},
        upstream_cpu_s=after_s[2] - upstream_s,
        idle=idle,
        before=before,
        held=held,
        memory=system.memory() if system else None,
        upstream=upstream.stats(),
    )


def _clocks(system: RunningSystem | None, upstream: Upstream) -> tuple[float, dict[str, float], float]:
    """CPU seconds used so far by the server, by each of its services, and by the upstream."""
    if system is None:
        return 0.0, {}, upstream.cpu_s()
    return system.cpu_s(), system.services_cpu_s(), upstream.cpu_s()


def quantile(values: list[int], share: float) -> float:
    """The nearest-rank quantile of the values; `share` is between 0 and 1."""
    ordered = sorted(values)
    return float(ordered[min(len(ordered) - 1, max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1))])


def metrics(run: MeasuredRun, load: Load, *, fresh: bool = False) -> dict[str, float]:
    """The metrics of one run by name, without those that were not measured. Memory per stream is measured only on a
    system that was just started (`fresh`), because an older one reuses memory of earlier streams."""
    seen = run.seen
    out = {
        "wall_s": seen.wall_s,
        "tokens": seen.tokens,
        "replies": seen.replies,
        "tokens_per_s": seen.tokens / seen.wall_s,
        "replies_per_s": seen.replies / seen.wall_s,
        "incomplete": load.replies - seen.replies,
        "faults": sum(seen.faults.values()),
        "refused": sum(count for status, count in seen.statuses.items() if "/" in status),
        "shed": sum(count for status, count in seen.statuses.items() if status != "OK" and "/" not in status),
        "load_cpu_share": seen.load_cpu_s / seen.wall_s,
        "upstream_cpu_share": run.upstream_cpu_s / seen.wall_s,
    }
    out |= _upstream_metrics(run) | _server_metrics(run) | _memory_metrics(run, load, fresh=fresh)
    times = {
        "first_token": seen.first_token_us,
        "reply": seen.reply_us,
        "late": seen.late_us,
        "gap": seen.gaps_us,
        "gap_change": seen.gap_changes_us,
    }
    for name, values in times.items():
        if values:
            out |= {f"{name}_p{word}_ms": quantile(values, share) / 1e3 for word, share in QUANTILES.items()}
    return out


QUANTILES = {"50": 0.5, "99": 0.99, "999": 0.999}


def _server_metrics(run: MeasuredRun) -> dict[str, float]:
    seen = run.seen
    if run.memory is None or not seen.tokens or not seen.replies:
        return {}
    out = {
        "cpu_us_per_token": run.server_cpu_s * 1e6 / seen.tokens,
        "cpu_ms_per_reply": run.server_cpu_s * 1e3 / seen.replies,
        "cpu_share": run.server_cpu_s / seen.wall_s,
        "messages_per_token": seen.messages / seen.tokens,
    }
    for name, cpu_s in run.services_cpu_s.items():
        out[f"{name}_cpu_us_per_token"] = cpu_s * 1e6 / seen.tokens
        out[f"{name}_cpu_ms_per_reply"] = cpu_s * 1e3 / seen.replies
    if run.idle is not None:
        out["idle_share"] = run.idle
        out["net_cpu_us_per_token"] = (run.server_cpu_s - run.idle * run.wall_s) * 1e6 / seen.tokens
    return out


def _memory_metrics(run: MeasuredRun, load: Load, *, fresh: bool) -> dict[str, float]:
    if run.memory is None or run.before is None:
        return {}
    out = {name: float(value) for name, value in msgspec.to_builtins(run.memory).items()}
    if fresh:
        most = run.held.rss_mib if run.held else run.memory.peak_mib
        # The memory before the run includes the streams of the warm-up.
        streams = (load.concurrency or load.replies) - load.warmup_concurrency
        out["kib_per_stream"] = (most - run.before.rss_mib) * 1024 / streams
    return out


def _upstream_metrics(run: MeasuredRun) -> dict[str, float]:
    return {f"upstream_{name}": float(value) for name, value in run.upstream.items()}


def added(own: dict[str, float], direct: dict[str, float]) -> dict[str, float]:
    """The times of a system minus those of the direct run of the same pair."""
    return {
        f"added_{name}": own[name] - direct[name]
        for name in own
        if name.endswith("_ms") and name.startswith(("first_token", "late")) and name in direct
    }
