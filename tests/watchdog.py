"""Kills the processes that tests have started, with their children, and removes their folders, when pytest has ended.

It also works if pytest is killed: a separate process holds the other end of a pipe, which closes with pytest.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import lru_cache
from pathlib import Path

STOP_S = 10.0


def watch(pid: int) -> None:
    """Kill this process and its children when this one has ended."""
    _tell(f"+{pid} {_born(pid)}")


def forget(pid: int) -> None:
    """It has ended."""
    _tell(f"-{pid}")


def remove_at_end(folder: Path) -> None:
    """Remove this folder when this process has ended."""
    _tell(f"/{folder.resolve()}")


def children(pid: int) -> list[int]:
    """The children of a process."""
    running = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [each for each in running if _stat(each)[1:2] == [str(pid)]]


def state(pid: int) -> str:
    """As the kernel names it: T is stopped, Z or nothing is gone."""
    return (_stat(pid) or [""])[0]


def pause_tree(pid: int) -> None:
    """SIGSTOP to a process and its children; none of them runs when this returns."""
    _stop([pid])  # from now on it makes no more
    _stop(children(pid))


def resume_tree(pid: int) -> None:
    """SIGCONT to a process and its children."""
    for each in (*children(pid), pid):
        _send(each, signal.SIGCONT)


def kill_tree(pid: int) -> list[int]:
    """SIGKILL to a process and its children; it can make no more of them meanwhile. Those killed."""
    _send(pid, signal.SIGSTOP)
    killed = [*children(pid), pid]
    for each in killed:
        _send(each, signal.SIGKILL)
    return killed


def _stop(pids: list[int]) -> None:
    for each in pids:
        _send(each, signal.SIGSTOP)
    limit = time.monotonic() + STOP_S
    while any(state(each) not in ("T", "Z", "") for each in pids):
        assert time.monotonic() < limit, f"{pids} do not stop"
        time.sleep(0.001)


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


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
    folders: list[str] = []
    for line in sys.stdin:
        if line[0] == "/":
            folders.append(line[1:].strip())
            continue
        pid, _, born = line[1:].strip().partition(" ")
        if line[0] == "+":
            watched[int(pid)] = born
        else:
            watched.pop(int(pid), None)
    for each, born in watched.items():
        if born and _born(each) == born:
            kill_tree(each)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _guard()
