"""Runs the load processes against a system, and computes metrics from their results and the counters of the kernel."""

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

# Work that a server leaves for after the last answer is counted too.
SETTLE_S = 0.3
# Streams that are weighed have been open for this long, so that what their start took is freed.
HELD_S = 1.0
ROOT = Path(__file__).parent.parent


class LoadProcess:
    """One process of the load, for any number of loads on one address; it is killed where it outlives its limit."""

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
        """Wait until all replies of a load with `tell_accepted` are."""
        self._line("accepted")

    def seen(self) -> Seen:
        """Wait for the load's end and what it saw."""
        return msgspec.json.decode(self._line("{"), type=Seen)

    def close(self) -> None:
        """End it."""
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
            raise RuntimeError(f"the load ended with status {self._process.wait()} before it said {beginning!r}")
        return line


class FlushWindow(msgspec.Struct, kw_only=True):
    """One measured run: what the load saw, and what the processes used meanwhile, `wall_s` long.

    `before` is the memory before it, `held` that of all streams open at once, `idle` the share of a core that the
    server took without any load."""

    seen: Seen
    wall_s: float = 0.0
    server_cpu_s: float = 0.0
    services_cpu_s: dict[str, float] = {}
    upstream_cpu_s: float = 0.0
    idle: float | None = None
    before: gauges.Memory | None = None
    held: gauges.Memory | None = None
    memory: gauges.Memory | None = None
    upstream: dict[str, object]


def split(load: Load, processes: int) -> list[Load]:
    """The load in equal parts, one for each process."""
    if load.replies % processes or load.concurrency % processes:
        raise ValueError("the load does not divide by its processes")
    part = {"replies": load.replies // processes, "concurrency": load.concurrency // processes}
    return [msgspec.structs.replace(load, **part) for _ in range(processes)]


def merged(parts: list[Seen]) -> Seen:
    """What several processes saw, as one."""
    whole = parts[0]
    for part in parts[1:]:
        whole.wall_s = max(whole.wall_s, part.wall_s)
        whole.load_cpu_s += part.load_cpu_s
        whole.replies += part.replies
        whole.tokens += part.tokens
        whole.messages += part.messages
        for mine, other in ((whole.statuses, part.statuses), (whole.faults, part.faults)):
            for key, count in other.items():
                mine[key] = mine.get(key, 0) + count
        for name in ("first_token_us", "reply_us", "late_us", "gaps_us", "gap_changes_us"):
            getattr(whole, name).extend(getattr(part, name))
    return whole


def measure(
    load: Load, *, system: RunningSystem | None, upstream: Upstream, processes: int, limit_s: float, idle_s: float = 0.0
) -> FlushWindow:
    """Warm up, then measure one load. Without a system the load goes straight to the upstream."""
    parts = split(load, processes)
    workers = [LoadProcess(part, limit_s) for part in parts]
    try:
        for worker in workers:
            worker.expect_ready()
        idle = idle_share(system, idle_s) if system and idle_s else None
        return window(parts, workers, system=system, upstream=upstream, idle=idle)
    finally:
        for worker in workers:
            worker.close()


def idle_share(system: RunningSystem, seconds: float) -> float:
    """The share of a core that a system takes while it is idle."""
    time.sleep(SETTLE_S)
    start, cpu_s = time.monotonic(), system.cpu_s()
    time.sleep(seconds)
    return (system.cpu_s() - cpu_s) / (time.monotonic() - start)


def window(
    parts: list[Load],
    workers: list[LoadProcess],
    *,
    system: RunningSystem | None,
    upstream: Upstream,
    idle: float | None = None,
    settle_s: float = SETTLE_S,
) -> FlushWindow:
    """Have workers that are warm run their parts, and read the clocks around it."""
    upstream.reset()
    before = held = None
    if system is not None:
        system.reset_peak()
        before = system.memory()
    start, server_s, services_s, upstream_s = time.monotonic(), *_clocks(system, upstream)
    for worker, part in zip(workers, parts, strict=True):
        worker.begin(part)
    if system is not None and parts[0].tell_accepted:
        for worker in workers:
            worker.expect_accepted()
        time.sleep(HELD_S)
        held = system.memory()
    seen = merged([worker.seen() for worker in workers])
    time.sleep(settle_s)
    after_s = _clocks(system, upstream)
    return FlushWindow(
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
    """CPU seconds of the server, of each of its services and of the upstream so far."""
    if system is None:
        return 0.0, {}, upstream.cpu_s()
    return system.cpu_s(), system.services_cpu_s(), upstream.cpu_s()


def quantile(values: list[int], share: float) -> float:
    """The value that `share` of all do not exceed, by the nearest rank."""
    ordered = sorted(values)
    return float(ordered[min(len(ordered) - 1, max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1))])


def metrics(window: FlushWindow, load: Load, *, weighed: bool = False) -> dict[str, float]:
    """One run as named figures; what cannot be known of it is left out. Memory per stream is known, or `weighed`, only
    on a system that was just started: one that has run before has room from then."""
    seen = window.seen
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
        "upstream_cpu_share": window.upstream_cpu_s / seen.wall_s,
    }
    out |= _upstream_metrics(window) | _server_metrics(window) | _memory_metrics(window, load, weighed=weighed)
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


def _server_metrics(window: FlushWindow) -> dict[str, float]:
    seen = window.seen
    if window.memory is None or not seen.tokens or not seen.replies:
        return {}
    out = {
        "cpu_us_per_token": window.server_cpu_s * 1e6 / seen.tokens,
        "cpu_ms_per_reply": window.server_cpu_s * 1e3 / seen.replies,
        "cpu_share": window.server_cpu_s / seen.wall_s,
        "messages_per_token": seen.messages / seen.tokens,
    }
    for name, cpu_s in window.services_cpu_s.items():
        out[f"{name}_cpu_us_per_token"] = cpu_s * 1e6 / seen.tokens
        out[f"{name}_cpu_ms_per_reply"] = cpu_s * 1e3 / seen.replies
    if window.idle is not None:
        out["idle_share"] = window.idle
        out["net_cpu_us_per_token"] = (window.server_cpu_s - window.idle * window.wall_s) * 1e6 / seen.tokens
    return out


def _memory_metrics(window: FlushWindow, load: Load, *, weighed: bool) -> dict[str, float]:
    if window.memory is None or window.before is None:
        return {}
    out = {name: float(value) for name, value in msgspec.to_builtins(window.memory).items()}
    if weighed:
        most = window.held.rss_mib if window.held else window.memory.peak_mib
        # What the warm-up had open at once is part of the memory before.
        streams = (load.concurrency or load.replies) - load.warmup_concurrency
        out["kib_per_stream"] = (most - window.before.rss_mib) * 1024 / streams
    return out


def _upstream_metrics(window: FlushWindow) -> dict[str, float]:
    lag = window.upstream["lag_ms"]
    assert isinstance(lag, dict)
    counts = {f"upstream_{name}": window.upstream[name] for name in ("requests", "aborted", "refused")}
    return {name: float(str(value)) for name, value in counts.items()} | {"upstream_lag_p999_ms": float(lag["p999"])}


def added(own: dict[str, float], direct: dict[str, float]) -> dict[str, float]:
    """What a system adds to the direct run beside it."""
    return {
        f"added_{name}": own[name] - direct[name]
        for name in own
        if name.endswith("_ms") and name.startswith(("first_token", "late")) and name in direct
    }
