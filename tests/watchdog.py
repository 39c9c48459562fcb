"""Kills what tests have started, with its children, once this process is gone, however it ends.

A process of its own holds the other end of a pipe: whatever kills pytest also closes that.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from functools import lru_cache
from pathlib import Path


def watch(pid: int) -> None:
    """Kill this process and its children when this one has ended."""
    _tell(f"+{pid} {_born(pid)}")


def forget(pid: int) -> None:
    """It has ended."""
    _tell(f"-{pid}")


def children(pid: int) -> list[int]:
    """The children of a process."""
    running = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [each for each in running if _stat(each)[1:2] == [str(pid)]]


def state(pid: int) -> str:
    """As the kernel names it: T is stopped, Z or nothing is gone."""
    return (_stat(pid) or [""])[0]


def kill_tree(pid: int) -> list[int]:
    """SIGKILL to a process and its children; it can make no more of them meanwhile. Those killed."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    killed = [*children(pid), pid]
    for each in killed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    return killed


def _stat(pid: int) -> list[str]:
    """From the third field of /proc/PID/stat on: state, parent, ...; empty where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _born(pid: int) -> str:
    """Tells a process from a later one with the same number."""
    fields = _stat(pid)
    return fields[19] if fields else ""


def _tell(line: str) -> None:
    os.write(_pipe(), f"{line}\n".encode())


@lru_cache(maxsize=1)
def _pipe() -> int:
    reading, writing = os.pipe()
    guard = subprocess.Popen(
        [sys.executable, "-IS", __file__],
        stdin=reading,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # so that what ends pytest's group leaves it alone
    )
    guard.returncode = 0  # it is to outlive this process: no warning at the end that it still runs
    os.close(reading)
    return writing


def _guard() -> None:
    watched: dict[int, str] = {}
    for line in sys.stdin:
        pid, _, born = line[1:].strip().partition(" ")
        if line[0] == "+":
            watched[int(pid)] = born
        else:
            watched.pop(int(pid), None)
    for each, born in watched.items():
        if born and _born(each) == born:
            kill_tree(each)


if __name__ == "__main__":
    _guard()
