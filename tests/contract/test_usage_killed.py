"""The job that adds up usage is killed at each of its steps: no row is lost, and none is added twice."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from parley_server.core.usage_values import UsageGroup, UsageQuery

from tests import watchdog
from tests.contract.test_store_usage import everything, ledger  # noqa: F401 - a fixture
from tests.usage_sums import DIFFERENCES, ROLLED

PROGRAM = str(Path(__file__).parents[1] / "rollup_program.py")
PART = 7
LEAST_STEPS = 7
"""Both ends of three statements (take, add, mark), and the commit."""
QUERY = UsageQuery(groups=(UsageGroup.DAY, UsageGroup.TENANT, UsageGroup.OUTCOME))


@pytest.fixture
def add_up(store_url):
    """Runs the job in a process that is killed at a step; returns how it has ended."""
    command = [sys.executable, PROGRAM, store_url, str(PART)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        watchdog.watch(program.pid)

        def until_step(step):
            program.stdin.write(f"{step}\n")
            program.stdin.flush()
            return int(program.stdout.readline())

        yield until_step
        program.stdin.close()
        assert program.wait() == 0
        watchdog.forget(program.pid)


async def test_sums_are_exact_after_a_kill_at_each_step(store, add_up, ledger, query):  # noqa: F811
    step, rolled = 0, 0
    while not rolled:
        step += 1
        assert add_up(step) == -signal.SIGKILL
        [(rolled,)] = query(ROLLED)
        assert query(DIFFERENCES) == []
        assert await everything(store, QUERY) == ledger.sums(QUERY)
    assert rolled == PART
    assert step > LEAST_STEPS
    assert add_up(0) == 0
    assert (query(ROLLED), query(DIFFERENCES)) == ([(30,)], [])
    assert await everything(store, QUERY) == ledger.sums(QUERY)
