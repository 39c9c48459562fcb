"""Limits which tests run at the same time in a parallel run (pytest-xdist), so that measurements hold on two cores.

A test that loads the machine, measures it, or lets several servers race is marked `xdist_group("loaded")`. These run
first, one at a time, in one process. Meanwhile the other processes together run at most two tests at a time, and any
number of tests that mostly wait. Tests with JVMs and browsers, and the siege, run last.
"""

from __future__ import annotations

import fcntl
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

LOADED = "loaded"
"""The group's name."""
BESIDE = 2
"""Other tests that may run beside a loaded one. With one, two cores were idle for 40 % of the time."""
POLL_S = 0.05
WAITING = ("tests/contract/", "tests/integration/replicas/test_postgres_outage.py")
"""Tests that mostly wait for paused or unreachable services, and use a quarter of a core."""

WAITING_GROUPS = ("conformance-python", "conformance-python-sync", "conformance-node")
"""Groups of tests that mostly wait, for streams and pauses: 168 cases of the Python client take 7 s of CPU."""

NEED_HELM = ("tests/deploy/", "tests/release/")
"""Tests that wait until `tools/helm.sh` has ended: where Go's cache is empty it takes minutes, so that CI runs
it beside the first tests."""
HELM_LOCK = Path(__file__).parents[1] / ".tools/helm.lock"

HEAVY = (
    "tests/clients/test_suites.py",
    "tests/siege/",
    "tests/release/",
    "tests/products/",
    "tests/browser/",
    "tests/deploy/",
)
"""Tests that would disturb loaded ones: they have JVMs, browsers and several servers, or wait for Helm. The longest
come first."""

_JVM = r"tests/clients/test_suites\.py::test_client\[(java|spring-boot)\]|.*@(conformance-java|product-spring-boot)"
SUITES = {
    "image": re.compile(r"tests/image/"),
    "Chromium": re.compile(r"tests/browser/"),
    "Envoy": re.compile(r"tests/integration/mesh/"),
    "siege": re.compile(r"tests/siege/"),
    "JVM": re.compile(_JVM),
    "release": re.compile(r"tests/release/"),
    "Prometheus": re.compile(r"tests/observability/"),
}
"""Heavy suites, and the ids of their tests in a parallel run."""


class Lanes:
    """A pytest plugin. One file is locked while loaded tests run, one of `BESIDE` others by each test beside them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._loaded = _Lock(folder / "loaded")
        self._beside = [_Lock(folder / f"beside{number}") for number in range(BESIDE)]

    def pytest_unconfigure(self) -> None:
        """Remove the files. Other processes may still have them open."""
        self._loaded.close()
        for beside in self._beside:
            beside.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Sort loaded tests first, since other tests can run beside them, and those with browsers and JVMs last."""
        items.sort(key=_turn)

    @pytest.hookimpl(wrapper=True, tryfirst=True)  # the time limits of tests begin once they may run
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, object, object]:
        """Wait until the test may run. The lock is kept from one loaded test to the next."""
        if item.nodeid.startswith(NEED_HELM):
            wait_for(HELM_LOCK)
        if not is_loaded(item):
            if _waits(item):
                return (yield)
            with self._beside_loaded():
                return (yield)
        self._loaded.take()
        try:
            return (yield)
        finally:
            if nextitem is None or not is_loaded(nextitem):
                self._loaded.free()

    @contextmanager
    def _beside_loaded(self) -> Iterator[None]:
        if self._loaded.take(wait=False):
            self._loaded.free()
            yield
            return
        beside = self._take_beside()
        try:
            yield
        finally:
            beside.free()

    def _take_beside(self) -> _Lock:
        """Take the first of these locks that is free."""
        while True:
            for beside in self._beside:
                if beside.take(wait=False):
                    return beside
            time.sleep(POLL_S)


class LaneTimes:
    """A plugin of the process that controls a parallel run. At the end it shows how long the tests of each lane, each
    heavy suite and each group took together: the longest lane or group limits the time of the run."""

    def __init__(self) -> None:
        self._lanes_s: Counter[str] = Counter()
        self._suites_s: Counter[str] = Counter()
        self._groups_s: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add the time of a test's set-up, call or teardown."""
        self._lanes_s[_lane_of(report.nodeid)] += report.duration
        for suite, pattern in SUITES.items():
            if pattern.match(report.nodeid):
                self._suites_s[suite] += report.duration
        _, at, group = report.nodeid.rpartition("@")  # pytest-xdist adds the group
        if at and not group.endswith("]"):  # else it belongs to a parameter
            self._groups_s[group] += report.duration

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show the sums of at least a second, the longest first; of groups, the five longest."""
        sums = {"lane": self._lanes_s, "heavy suite": self._suites_s, "group": self._groups_s}
        for what, spent_s in sums.items():
            most = 5 if what == "group" else None
            times = [f"{name} {time_s:.0f} s" for name, time_s in spent_s.most_common(most) if time_s >= 0.5]
            if times:
                terminalreporter.write_line(f"time of tests by {what}: {', '.join(times)}")


def _lane_of(nodeid: str) -> str:
    if nodeid.endswith(f"@{LOADED}"):  # pytest-xdist adds the group
        return LOADED
    waits = nodeid.startswith(WAITING) or nodeid.rpartition("@")[2] in WAITING_GROUPS
    return "waiting" if waits else "ordinary"


class _Lock:
    """A lock between processes; the kernel releases it when the process ends."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")

    def take(self, *, wait: bool = True) -> bool:
        """False if another process has the lock and `wait` is False."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True

    def free(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        self._file.close()


def wait_for(lock: Path) -> None:
    """Wait until no process has locked the file, if it exists."""
    with suppress(FileNotFoundError), lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)


def _turn(item: pytest.Item) -> int:
    if is_loaded(item):
        return 0
    return next((turn for turn, folder in enumerate(HEAVY, start=2) if item.nodeid.startswith(folder)), 1)


def _waits(item: pytest.Item) -> bool:
    in_group = any(mark.args[0] in WAITING_GROUPS for mark in item.iter_markers("xdist_group"))
    return in_group or item.nodeid.startswith(WAITING)


def is_loaded(item: pytest.Item) -> bool:
    """Whether the test belongs to the group."""
    return any(mark.args == (LOADED,) for mark in item.iter_markers("xdist_group"))


def lanes_of(config: pytest.Config) -> Lanes | LaneTimes | None:
    """The plugin for this process of a parallel run; None in a run with one process."""
    run = getattr(config, "workerinput", {}).get("testrunuid")
    if run is not None:
        return Lanes(Path(tempfile.gettempdir(), f"parley-tests-{run}"))
    return None if config.getoption("dist", "no") == "no" else LaneTimes()
