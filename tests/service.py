"""A server process in its own folder that tests pause, kill and restart on the same port.

`watchdog` kills it when pytest ends.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from tests import watchdog
from tests.ports import free_port

START_S = 30.0
POLL_S = 0.005
STARTS = 3


class Service:
    """One server process in a folder, on a port that it keeps over restarts."""

    start_s = START_S
    """Longest wait until it is ready."""

    def __init__(self, folder: Path, *, port: int) -> None:
        self.folder = folder
        self.port = port or free_port()
        self._chosen = port == 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """Its standard output and error."""
        return self.folder / "log"

    @property
    def pid(self) -> int:
        """The id of the process that was started last."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether there is a process, paused or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_status(self) -> int:
        """After its end; negative for the signal that ended it."""
        assert self._process is not None
        assert self._process.returncode is not None, "the service runs"
        return self._process.returncode

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> Self:
        """Start it and wait until it takes connections."""
        assert not self.running, "the service runs already"
        for last in range(STARTS - 1, -1, -1):
            try:
                self._start_once()
                break
            except ChildProcessError:
                if not last:
                    raise
                if self._chosen:
                    self.port = free_port()
        self._chosen = False
        return self

    def restart(self) -> None:
        """Stop it at once if it runs, and start it again on the same port with the same files."""
        self.stop("immediate")
        self.start()

    def stop(self, mode: str = "fast") -> None:
        """Stop it, "fast" with a clean shutdown or "immediate" without. A paused process is resumed first."""
        if not self.running:
            return
        self.resume()
        assert self._process is not None
        os.kill(self.pid, self._stop_signal(mode))
        self._process.wait(START_S)
        watchdog.forget(self.pid)

    def kill9(self) -> None:
        """Kill all its processes, also if paused; client connections are reset."""
        if not self.running:
            return
        assert self._process is not None
        killed = watchdog.kill_tree(self.pid)
        self._process.wait(START_S)
        _wait(lambda: all(watchdog.state(each) in ("", "Z") for each in killed), "killed processes are gone")
        watchdog.forget(self.pid)

    def pause(self) -> None:
        """SIGSTOP to all its processes: connections stay open without answers, and new ones are queued."""
        watchdog.pause_tree(self.pid)

    def resume(self) -> None:
        """SIGCONT to all its processes."""
        watchdog.resume_tree(self.pid)

    def _start_once(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._prepare()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", **self._environment()},
                cwd=self._working_folder(),
                start_new_session=True,  # so that Ctrl-C reaches pytest alone
            )
        watchdog.watch(self.pid)
        try:
            _wait(self._ready_or_ended, f"{self._process.args} is ready", limit_s=self.start_s)
        except AssertionError:
            self.kill9()
            raise

    def _ready_or_ended(self) -> bool:
        if not self.running:
            watchdog.forget(self.pid)
            output = self.log.read_text(errors="replace")[-2000:]
            raise ChildProcessError(f"{type(self).__name__} did not start: {output}")
        return self._ready()

    def _environment(self) -> dict[str, str]:
        """Variables beside the path and the locale."""
        return {}

    def _working_folder(self) -> Path | None:
        """None: that of the tests."""
        return None

    def _prepare(self) -> None:
        raise NotImplementedError

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _ready(self) -> bool:
        raise NotImplementedError

    def _stop_signal(self, mode: str) -> signal.Signals:
        raise NotImplementedError


def _wait(condition: Callable[[], bool], what: str, *, limit_s: float = START_S) -> None:
    limit = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < limit, f"not within {limit_s:g} s: {what}"
        time.sleep(POLL_S)
