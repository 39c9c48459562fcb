"""Measurements of processes, the machine and the disk; only those of the disk write."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
import subprocess
import time
from importlib import metadata
from pathlib import Path

import msgspec

PROBES = 100
MEMORY_FILE_SYSTEMS = {"tmpfs", "ramfs", "devtmpfs"}
DISTRIBUTIONS = (
    *("grpcio", "protobuf", "uvloop", "openai", "httpx2", "httptools", "msgspec", "sqlalchemy", "asyncpg"),
    *("redis", "hiredis"),
)


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Resident memory of a system's processes in MiB, now and at its peak since the last reset."""

    rss_mib: float
    peak_mib: float


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """Medians of the latencies of the disk that holds the database, in milliseconds."""

    fsync_ms: float
    sqlite_commit_ms: float


def family(pid: int) -> list[int]:
    """The ids of a process and its descendants."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            found.extend(int(child) for child in task.read_text().split())
    return found


def cpu_s(pid: int) -> float:
    """User and system time of a process and its living descendants, threads that have ended included."""
    # The clock id of another process's CPU time: clock_getcpuclockid(3).
    return sum(time.clock_gettime_ns((~member << 3) | 2) for member in family(pid)) / 1e9


def memory(pid: int) -> Memory:
    rss, peak = 0, 0
    for member in family(pid):
        status = _fields(Path(f"/proc/{member}/status"))
        rss += status["VmRSS"]
        peak += status["VmHWM"]
    return Memory(rss_mib=rss / 1024, peak_mib=peak / 1024)


def reset_peak(pid: int) -> None:
    """Set the peak of resident memory to its current value."""
    for member in family(pid):
        Path(f"/proc/{member}/clear_refs").write_text("5")


def _fields(path: Path) -> dict[str, int]:
    lines = (line.split() for line in path.read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) == 3 and words[2] == "kB"}


def file_system(folder: Path) -> str:
    """The type of the file system that holds `folder`."""
    folder = folder.resolve()
    best, kind = Path("/"), "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, mount_kind, *_ = line.split()
        if folder.is_relative_to(mount) and len(mount) >= len(str(best)):
            best, kind = Path(mount), mount_kind
    return kind


def disk(folder: Path) -> Disk:
    """Time a 4 KiB append with fsync, and a one-row commit of SQLite in WAL mode with synchronous FULL."""
    return Disk(fsync_ms=_fsync_ms(folder / "probe.bin"), sqlite_commit_ms=_sqlite_commit_ms(folder / "probe.sqlite"))


def _fsync_ms(path: Path) -> float:
    times = []
    with path.open("ab", buffering=0) as file:
        for _ in range(PROBES):
            start = time.perf_counter()
            file.write(b"x" * 4096)
            os.fsync(file.fileno())
            times.append(time.perf_counter() - start)
    path.unlink()
    return statistics.median(times) * 1000


def _sqlite_commit_ms(path: Path) -> float:
    times = []
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE probe (id INTEGER PRIMARY KEY, text TEXT)")
    for _ in range(PROBES):
        start = time.perf_counter()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO probe (text) VALUES (?)", ("x" * 200,))
        connection.execute("COMMIT")
        times.append(time.perf_counter() - start)
    connection.close()
    for leftover in path.parent.glob(path.name + "*"):
        leftover.unlink()
    return statistics.median(times) * 1000


def machine(folder: Path) -> dict[str, str]:
    """The properties of the machine that affect the results."""
    cpu = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    total_kib = _fields(Path("/proc/meminfo"))["MemTotal"]
    return {
        "CPU": cpu.split(":", 1)[1].strip(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{total_kib / 1024**2:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "file system of the database": file_system(folder),
    }


def versions() -> dict[str, str]:
    """Versions of the interpreters, SQLite and DISTRIBUTIONS."""
    node = subprocess.run(["node", "--version"], check=True, capture_output=True, text=True).stdout.strip()
    found = {"Python": platform.python_version(), "Node": node.removeprefix("v"), "SQLite": sqlite3.sqlite_version}
    for name in DISTRIBUTIONS:
        try:
            found["redis-py" if name == "redis" else name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
