"""Tests of the group `loaded` run one at a time, in one sequence, with at most one other test beside them."""

import itertools
import subprocess
import sys
from pathlib import Path

from tests.processes import clean_environment

ROOT = Path(__file__).parents[3]
CONFTEST = """
import time

import pytest

from tests.conftest import pytest_configure as configure

class Gaps:
    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item):
        yield
        if "loaded" in item.name:
            time.sleep(0.15)  # time for others to begin, if they may
        return True

def pytest_configure(config):
    configure(config)
    config.pluginmanager.register(Gaps())
"""
TESTS = """
import time

import pytest

def stay(name, time_s):
    began_s = time.monotonic()
    time.sleep(time_s)
    with open("times", "a") as times:
        times.write(f"{name} {began_s} {time.monotonic()}\\n")

@pytest.mark.parametrize("number", range(12))
def test_light(number):
    stay(f"light{number}", 0.1)

@pytest.mark.xdist_group("loaded")
@pytest.mark.parametrize("number", range(4))
def test_loaded(number):
    stay(f"loaded{number}", 0.25)
"""


def test_loaded_tests_run_one_at_a_time_beside_one_other(tmp_path):
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_those.py").write_text(TESTS)
    environment = clean_environment() | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-q", "-n", "3", "--dist", "loadgroup", "--no-loadscope-reorder"]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "16 passed" in ran.stdout, ran.stdout + ran.stderr
    times = [line.split() for line in (tmp_path / "times").read_text().splitlines()]
    spans = sorted((float(began), float(ended), name) for name, began, ended in times)
    loaded = [span for span in spans if span[2].startswith("loaded")]
    begin_s, end_s = loaded[0][0], loaded[-1][1]
    assert [name for _, _, name in loaded] == [f"loaded{number}" for number in range(4)]
    assert all(earlier[1] <= later[0] for earlier, later in itertools.pairwise(loaded))
    beside = [span for span in spans if span[2].startswith("light") and begin_s <= span[0] and span[1] <= end_s]
    assert len(beside) > 2, "others run meanwhile"
    assert all(earlier[1] <= later[0] for earlier, later in itertools.pairwise(beside))
