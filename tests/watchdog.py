"""Kills the processes of tests with their children, and removes their folders, when pytest has ended.

It also works if pytest is killed: a separate process reads from a pipe, which closes when pytest ends.
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
    """Kill the process with this id and its children when the current process has ended."""
    _send_line(f"+{pid} {_start_time(pid)}")


def forget(pid: int) -> None:
    """Stop watching a process that has ended."""
    _send_line(f"-{pid}")


def remove_at_end(folder: Path) -> None:
    """Remove the folder when the current process has ended."""
    _send_line(f"/{folder.resolve()}")


def children(pid: int) -> list[int]:
    """The process ids of its children."""
    running = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [each for each in running if _stat(each)[1:2] == [str(pid)]]


def state(pid: int) -> str:
    """The state letter of the kernel: T for stopped, Z for a zombie; empty if there is no process."""
    return (_stat(pid) or [""])[0]


def pause_tree(pid: int) -> None:
    """SIGSTOP to a process and its children; none of them runs when this returns."""
    _stop([pid])  # a stopped process starts no more children
    _stop(children(pid))


def resume_tree(pid: int) -> None:
    """SIGCONT to a process and its children."""
    for each in (*children(pid), pid):
        _send(each, signal.SIGCONT)


def kill_tree(pid: int) -> list[int]:
    """Stop a process, so that it starts no more children, then kill it and its children. Returns their ids."""
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
    """The fields of /proc/PID/stat from the third one on: state, parent, ...; empty if there is no process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _start_time(pid: int) -> str:
    """The start time, which differs between a process and a later one with the same id."""
    fields = _stat(pid)
    return fields[19] if fields else ""


def _send_line(line: str) -> None:
    os.write(_pipe(), f"{line}\n".encode())


@lru_cache(maxsize=1)
def _pipe() -> int:
    reading, writing = os.pipe()
    guard = subprocess.Popen(
        [sys.executable, "-IS", __file__],
        stdin=reading,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # so that a signal to the process group of pytest does not end it
    )
    guard.returncode = 0  # prevents the warning that it still runs when pytest ends
    os.close(reading)
    return writing


def _guard() -> None:
    watched: dict[int, str] = {}
    folders: list[str] = []
    for line in sys.stdin:
        if line[0] == "/":
            folders.append(line[1:].strip())
            continue
        pid, _, started = line[1:].strip().partition(" ")
        if line[0] == "+":
            watched[int(pid)] = started
        else:
            watched.pop(int(pid), None)
    for each, started in watched.items():
        if started and _start_time(each) == started:
            kill_tree(each)
    for folder in folders:
        if os.path.ismount(folder):
            subprocess.run(["umount", "--lazy", folder], check=False)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _guard()
