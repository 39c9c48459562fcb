"""Measures what identity, limits and quotas add to a reply, against an open server: CPU, and time to the first token.

python -m benchmarks.access_cost    exit status 1 if they need 0.5 ms of CPU more for a reply (with Redis 1 ms), or the
                                    first token comes 0.5 ms later

The servers of a mode run at the same time, and rounds on them alternate, so that a slow or busy machine slows all of
them. CPU is measured while 16 callers keep the server busy. The time to the first token is measured with one caller,
since a busy server would add the wait for its CPU; with several servers, it contains the waits for the database.
"""

from __future__ import annotations

import hashlib
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.driving import LoadProcess, measured_run, metrics
from benchmarks.load import Load
from benchmarks.parleys import start_embedded, start_redis
from benchmarks.report import number, table
from benchmarks.systems import RunningSystem, Upstream

ROUNDS = 12
MODEL = "t2-p0"
BUSY = {"replies": 160, "concurrency": 16}
ALONE = {"replies": 40, "concurrency": 1}
SETTLE_S, LIMIT_S = 0.1, 900.0
TRIES = 10
END_USERS = 50
"""So many that none of them reaches the limit of messages within a minute."""
KEY = "key-of-shop"
TENANT = f'[tenants.shop]\napi_keys_sha256 = ["{hashlib.sha256(KEY.encode()).hexdigest()}"]\n'
LIMITS = "limits = { messages_per_minute = 600, concurrent_replies = 10000 }\n"
# No load reaches these quotas. They need four rows: for the end user and for the tenant, a day and a month each.
QUOTAS = "quotas = { tokens_per_day = 1000000000000, cost_per_month = 1000000.0 }\n"
TOTALS = "totals = { tokens_per_day = 1000000000000, cost_per_month = 1000000.0 }\n"
OPEN = "open"
ACCESS = {
    OPEN: "",
    "identity": TENANT,
    "identity, limits": TENANT + LIMITS,
    "identity, limits, quotas": TENANT + LIMITS + QUOTAS,
    "identity, limits, quotas, totals": TENANT + LIMITS + QUOTAS + TOTALS,
}
WITH_REDIS = {name: access for name, access in ACCESS.items() if name != "identity"}
FIRST_TOKEN_LIMIT_MS = 0.5


class Mode(msgspec.Struct, frozen=True, kw_only=True):
    """Servers with one kind of storage, by their access, and the CPU that access may add to a reply."""

    name: str
    start: Callable[..., RunningSystem]
    access: dict[str, str]
    limit_ms: float


MODES = (
    Mode(name="SQLite", start=start_embedded, access=ACCESS, limit_ms=0.5),
    Mode(name="PostgreSQL, Redis", start=start_redis, access=WITH_REDIS, limit_ms=1.0),
)


class Costs(msgspec.Struct):
    """CPU per reply, and the median time to the first token, of each round in milliseconds."""

    cpu: list[float] = []
    first_token: list[float] = []


class Server:
    """A server with the process that calls it."""

    def __init__(self, system: RunningSystem, upstream: Upstream) -> None:
        self._system, self._upstream = system, upstream
        headers = {"authorization": f"Bearer {KEY}"}
        self._load = Load(address=system.address, model=MODEL, headers=headers, end_users=END_USERS, **BUSY)
        self.process = LoadProcess(msgspec.structs.replace(self._load, replies=1), LIMIT_S)
        self.process.expect_ready()

    def run(self, **load: Any) -> dict[str, float]:
        """The metrics of one load that was completed: on a busy machine, a server may refuse replies as OVERLOADED."""
        load_now = msgspec.structs.replace(self._load, **load)
        for _ in range(TRIES):
            run = measured_run(load_now, self.process, system=self._system, upstream=self._upstream, settle_s=SETTLE_S)
            found = metrics(run, load_now)
            if not found["incomplete"]:
                return found
        raise SystemExit(f"the load was not completed: {run.seen.statuses} {run.seen.faults}")


def measured(mode: Mode) -> dict[str, Costs]:
    """The costs of each server of a mode."""
    costs = {name: Costs([], []) for name in mode.access}
    with ExitStack() as stack:
        upstream = stack.enter_context(closing(Upstream()))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="parley-access-")))
        servers: dict[str, Server] = {}
        for position, (name, access) in enumerate(mode.access.items()):
            own = folder / str(position)
            own.mkdir()
            system = mode.start(own, upstream, [MODEL, "t20-p0"], access=access)
            stack.callback(system.stop)
            servers[name] = Server(system, upstream)
            stack.callback(servers[name].process.close)
        for turn in range(-1, ROUNDS):  # the first one warms up
            for name in servers if turn % 2 else reversed(servers):
                busy, alone = servers[name].run(**BUSY), servers[name].run(**ALONE)
                if turn >= 0:
                    costs[name].cpu.append(busy["cpu_ms_per_reply"])
                    costs[name].first_token.append(alone["first_token_p50_ms"])
    return costs


def more(own: list[float], base: list[float]) -> float:
    """The median of the differences between a server and the open one in the same round."""
    return statistics.median(mine - other for mine, other in zip(own, base, strict=True))


def main() -> int:
    """Measure, print a table, and compare with the limits."""
    rows, missed = [], False
    for mode in MODES:
        costs = measured(mode)
        base = costs[OPEN]
        for name, own in costs.items():
            cpu, first_token = more(own.cpu, base.cpu), more(own.first_token, base.first_token)
            missed |= cpu > mode.limit_ms or first_token > FIRST_TOKEN_LIMIT_MS
            medians = [statistics.median(own.cpu), cpu, statistics.median(own.first_token), first_token]
            rows.append([mode.name, name, *map(number, medians)])
    heads = ["mode", "server", "CPU per reply, ms", "more than open, ms", "first token, ms", "more than open, ms"]
    print(table(heads, rows))
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
