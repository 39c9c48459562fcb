"""What is not installed skips tests, and the run ends with how to install it; in CI it fails them."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.needs import INSTALL, missing, summary
from tests.processes import clean_environment

ROOT = Path(__file__).parents[3]
CONFTEST = """
from tests.needs import skipped_of

def pytest_configure(config):
    if skipped := skipped_of(config):
        config.pluginmanager.register(skipped)
"""
TESTS = """
import pytest

from tests.needs import CLIENTS, missing

@pytest.mark.parametrize("number", range(2))
def test_of_postgres(number):
    missing("PostgreSQL")

def test_of_redis():
    missing("Redis")

def test_of_a_build():
    missing("the build of a client", CLIENTS)

def test_of_something_else():
    pytest.skip("only on Mondays")

def test_of_nothing():
    pass
"""


def run(folder: Path, *options: str, **variables: str) -> str:
    """The output of pytest with these tests."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_those.py").write_text(TESTS)
    environment = {name: value for name, value in clean_environment().items() if name != "CI"}
    environment |= {"PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-m", "pytest", "-q", *options]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("options", [(), ("-n", "2", "--dist", "loadgroup")], ids=["one-process", "parallel"])
def test_a_run_ends_with_how_to_install_what_was_missing(tmp_path, options):
    lines = run(tmp_path, *options).splitlines()
    assert lines.count("skipped 1: only on Mondays") == 1
    (named,) = [line for line in lines if line.startswith("skipped 4 ")]
    assert all(each in named for each in ("PostgreSQL (2)", "Redis (1)", "the build of a client (1)")), named
    (command,) = [line for line in lines if line.startswith("to run them")]
    assert command.endswith(": apt-get install postgresql redis-server; make clients")


def test_in_ci_the_tests_fail(tmp_path):
    output = run(tmp_path, CI="true")
    assert "4 failed, 1 passed, 1 skipped" in output
    assert "PostgreSQL is missing: apt-get install postgresql" in output


def test_nothing_is_said_of_a_run_without_skipped_tests():
    assert summary(Counter()) == []


def test_commands_of_apt_are_merged():
    lacks = Counter(
        {f"Skipped: {what} is missing: {INSTALL[what]}": 1 for what in ("psql", "envoy", "PostgreSQL", "nginx")}
    )
    envoy = INSTALL["envoy"]
    assert summary(lacks)[-1] == f"to run them, on Debian: apt-get install postgresql nginx; {envoy}"


def test_every_program_that_tests_name_has_its_command():
    """Where it is missing, `missing` would raise KeyError in place of a skip."""
    own = Path(__file__)
    sources = [path.read_text() for path in (ROOT / "tests").rglob("*.py") if path != own]
    named = {name for text in sources for name in re.findall(r"\b(?:tool|missing)\(\"([\w -]+)\"\)", text)}
    assert {"openssl", "PostgreSQL"} <= named, "the expression finds them"
    assert named - INSTALL.keys() == set()


def test_what_has_no_command_is_an_error():
    with pytest.raises(KeyError):
        missing("an unknown program")
