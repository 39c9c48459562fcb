"""Tests of the group `loaded` run one at a time, in one sequence, with at most two other tests beside them."""

import itertools
import re
import subprocess
import sys
import threading
from pathlib import Path
from subprocess import PIPE
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from tests.lanes import LaneTimes, wait_for
from tests.processes import clean_environment

ROOT = Path(__file__).parents[3]
CONFTEST = """
import time

import pytest

from tests.lanes import lanes_of

class Gaps:
    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item):
        yield
        if "loaded" in item.name:
            time.sleep(0.15)  # time for others to begin, if they may
        return True

def pytest_configure(config):
    config.pluginmanager.register(lanes_of(config))
    config.pluginmanager.register(Gaps())
"""
TESTS = """
import os
import time

import pytest

def stay(name, time_s):
    began_s = time.monotonic()
    time.sleep(time_s)
    with open("times", "a") as times:
        times.write(f"{name} {began_s} {time.monotonic()} {os.getpid()}\\n")

@pytest.mark.xdist_group("conformance-python")
@pytest.mark.parametrize("number", range(4))
def test_waiting(number):
    stay(f"waiting{number}", 0.3)

@pytest.mark.parametrize("number", range(12))
def test_light(number):
    stay(f"light{number}", 0.1)

@pytest.mark.xdist_group("loaded")
@pytest.mark.parametrize("number", range(4))
def test_loaded(number):
    stay(f"loaded{number}", 0.25)
"""


def test_loaded_tests_run_one_at_a_time_beside_two_others(tmp_path):
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_those.py").write_text(TESTS)
    environment = clean_environment() | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-q", "-n", "4", "--dist", "loadgroup", "--no-loadscope-reorder"]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "20 passed" in ran.stdout, ran.stdout + ran.stderr
    assert re.search(r"time of tests by lane: .*\bloaded \d s", ran.stdout)
    assert re.search(r"time of tests by lane: .*\bordinary \d s", ran.stdout)
    assert re.search(r"time of tests by lane: .*\bwaiting \d s", ran.stdout)
    assert re.search(r"time of tests by group: .*\bloaded \d s", ran.stdout)
    times = [line.split() for line in (tmp_path / "times").read_text().splitlines()]
    spans = sorted(Span(float(began), float(ended), name, process) for name, began, ended, process in times)
    loaded = [span for span in spans if span.name.startswith("loaded")]
    assert [span.name for span in loaded] == [f"loaded{number}" for number in range(4)]
    assert one_at_a_time(loaded)
    beside = begun_after_the_check([span for span in spans if span.name.startswith("light")], loaded)
    assert len(beside) > 2, "others run meanwhile"
    assert most_at_a_time(beside) <= 2
    waiting = [span for span in spans if span.name.startswith("waiting")]
    assert any(overlap(one, other) for one in waiting for other in beside), "those that wait run beside both"


@pytest.mark.parametrize(
    ("suite", "test"),
    [
        ("image", "tests/image/test_image.py::test_user@image"),
        ("Chromium", "tests/browser/test_layout.py::test_wide"),
        ("Envoy", "tests/integration/mesh/test_mtls.py::test_a_forged_certificate_header_changes_nothing@loaded"),
        ("siege", "tests/siege/test_siege.py::test_a_short_siege_breaks_no_promise"),
        ("JVM", "tests/clients/test_suites.py::test_client[java]"),
        ("JVM", "tests/conformance/test_conformance.py::test_conformance[stream-java]@conformance-java"),
        ("JVM", "tests/products/test_s0.py::test_s0_1@product-spring-boot"),
        ("release", "tests/release/test_packages.py::test_the_published_protos_generate_stubs@release"),
        ("Prometheus", "tests/observability/test_queries.py::test_prometheus_evaluates_every_rule@loaded"),
        (None, "tests/clients/test_suites.py::test_client[node]"),
        (None, "tests/unit/core/test_log.py::test_text"),
    ],
)
def test_the_run_shows_the_time_of_each_heavy_suite(suite, test):
    times, shown = LaneTimes(), []
    for part, time_s in (("setup", 2.0), ("call", 1.0)):
        times.pytest_runtest_logreport(SimpleNamespace(nodeid=test, when=part, duration=time_s))
    times.pytest_terminal_summary(SimpleNamespace(write_line=shown.append))
    of_suites = [line for line in shown if line.startswith("time of tests by heavy suite")]
    assert of_suites == ([f"time of tests by heavy suite: {suite} 3 s"] if suite else [])


def test_tests_wait_for_a_build_beside_them(tmp_path):
    lock = tmp_path / "lock"
    wait_for(lock)
    with subprocess.Popen(["flock", lock, "sh", "-c", "echo begun; read _"], stdin=PIPE, stdout=PIPE) as build:
        assert build.stdout.readline() == b"begun\n"
        waiting = threading.Thread(target=wait_for, args=[lock])
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        build.stdin.close()
        waiting.join(10)
        assert not waiting.is_alive()


class Span(NamedTuple):
    """When a test ran, in seconds, and in which process."""

    began_s: float
    ended_s: float
    name: str
    process: str


def overlap(one: Span, other: Span) -> bool:
    return one.began_s < other.ended_s and other.began_s < one.ended_s


def one_at_a_time(spans: list[Span]) -> bool:
    return all(earlier.ended_s <= later.began_s for earlier, later in itertools.pairwise(spans))


def most_at_a_time(spans: list[Span]) -> int:
    return max(sum(other.began_s <= span.began_s < other.ended_s for other in spans) for span in spans)


def begun_after_the_check(light: list[Span], loaded: list[Span]) -> list[Span]:
    """The tests that ran between the first and the last loaded one, without the first of each process.

    That one may have asked for the lock before the first loaded test took it, and begun after that.
    """
    within = [span for span in light if loaded[0].began_s <= span.began_s and span.ended_s <= loaded[-1].ended_s]
    first = {span.process: span for span in reversed(within)}
    return [span for span in within if first[span.process] is not span]
