"""Measures the CPU per reply of a server that identifies its callers, without and with quotas, against an open one.

python -m benchmarks.access_cost    exit status 1 if one of them needs 0.5 ms more for a reply than the open server

The three servers run at the same time, and rounds on them alternate, so that a slow or busy machine slows all of them.
"""

from __future__ import annotations

import hashlib
import statistics
import sys
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path

import msgspec

from benchmarks.driving import LoadProcess, measured_run, metrics
from benchmarks.load import Load
from benchmarks.parleys import start_embedded
from benchmarks.report import number, table
from benchmarks.systems import RunningSystem, Upstream

LIMIT_MS = 0.5
ROUNDS = 10
REPLIES = 160
MODEL = "t2-p0"
SETTLE_S, LIMIT_S = 0.1, 300.0
KEY = "key-of-shop"
TENANT = f'[tenants.shop]\napi_keys_sha256 = ["{hashlib.sha256(KEY.encode()).hexdigest()}"]\n'
# No load reaches these quotas: a row of the end user and one of the tenant, for a day and a month each.
QUOTAS = """
quotas = { tokens_per_day = 1000000000000, cost_per_month = 1000000.0 }
totals = { tokens_per_day = 1000000000000, cost_per_month = 1000000.0 }
"""
OPEN = "open"
ACCESS = {OPEN: "", "identity": TENANT, "identity and quotas": TENANT + QUOTAS}
HEADERS = {"authorization": f"Bearer {KEY}", "x-end-user": "ada"}


def cpu_ms(load: Load, process: LoadProcess, system: RunningSystem, upstream: Upstream) -> float:
    """CPU per reply of one round, in milliseconds."""
    run = measured_run(load, process, system=system, upstream=upstream, settle_s=SETTLE_S)
    found = metrics(run, load)
    if found["incomplete"]:
        raise SystemExit(f"the load was not completed: {run.seen.statuses} {run.seen.faults}")
    return found["cpu_ms_per_reply"]


def measured() -> dict[str, list[float]]:
    """CPU per reply of each server in each round, in milliseconds."""
    costs: dict[str, list[float]] = {name: [] for name in ACCESS}
    with ExitStack() as stack:
        upstream = stack.enter_context(closing(Upstream()))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="parley-access-")))
        parts: dict[str, tuple[Load, LoadProcess, RunningSystem]] = {}
        for position, (name, access) in enumerate(ACCESS.items()):
            own = folder / str(position)
            own.mkdir()
            system = start_embedded(own, upstream, [MODEL, "t20-p0"], access=access)
            stack.callback(system.stop)
            load = Load(address=system.address, model=MODEL, replies=REPLIES, concurrency=16, headers=HEADERS)
            process = LoadProcess(msgspec.structs.replace(load, replies=1), LIMIT_S)
            stack.callback(process.close)
            process.expect_ready()
            parts[name] = (load, process, system)
        for turn in range(-1, ROUNDS):  # the first one warms up
            for name in ACCESS if turn % 2 else reversed(ACCESS):
                cost = cpu_ms(*parts[name], upstream)
                if turn >= 0:
                    costs[name].append(cost)
    return costs


def main() -> int:
    """Measure, print a table, and compare with the limit."""
    costs = measured()
    more = {
        name: statistics.median(own - base for own, base in zip(costs[name], costs[OPEN], strict=True))
        for name in costs
    }
    rows = [[name, number(statistics.median(costs[name])), number(more[name])] for name in costs]
    print(table(["server", "CPU per reply, ms", "more than open, ms"], rows))
    return int(max(more.values()) > LIMIT_MS)


if __name__ == "__main__":
    sys.exit(main())
