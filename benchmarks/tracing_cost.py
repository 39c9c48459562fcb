"""Measures the CPU that traces add to a reply, against a server without them.

python -m benchmarks.tracing_cost         exit status 1 if a sampled reply needs 0.15 ms of CPU more
python -m benchmarks.tracing_cost 8       8 starts of the servers in place of 4, about a minute each

The servers run at the same time, and rounds on them alternate, so that a slow or busy machine slows all of them. One
exports every call, reply and attempt to a collector, which is part of this process; one has traces on, but samples
none.
CPU is measured while 16 callers keep the server busy, and until the last spans have been exported. Equal servers differ
by up to 3 %, each from its start to its end, so all are started several times; the table shows the median of all rounds
and those of the lowest and the highest start.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import grpc
import msgspec
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from benchmarks.driving import LoadProcess, measured_run, metrics
from benchmarks.load import Load
from benchmarks.parleys import start_embedded
from benchmarks.report import number, shown, table
from benchmarks.results import Spread
from benchmarks.systems import RunningSystem, Upstream

STARTS, ROUNDS = 4, 5
MODEL = "t2-p0"
BUSY = {"replies": 320, "concurrency": 16}
SPANS_PER_REPLY = 3
EXPORT_EVERY_S = 0.6
SETTLE_S, LIMIT_S = 0.8, 900.0
"""SETTLE_S is longer than the interval of exports, so that the spans of a round are exported within the round."""
TRIES = 10
LIMIT_MS = 0.15
OFF, UNSAMPLED, SAMPLED = "off", "on, none sampled", "on, all sampled"
SAMPLERS = {UNSAMPLED: "always_off", SAMPLED: "always_on"}


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Counts spans. It runs in this process, so that its CPU is not measured."""

    def __init__(self) -> None:
        self.spans = 0
        self._server = grpc.server(ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def Export(self, request: Any, context: Any) -> trace_service_pb2.ExportTraceServiceResponse:  # noqa: ARG002, N802
        self.spans += sum(len(scope.spans) for each in request.resource_spans for scope in each.scope_spans)
        return trace_service_pb2.ExportTraceServiceResponse()

    def close(self) -> None:
        self._server.stop(0)


class Server:
    """A server with the process that calls it."""

    def __init__(self, system: RunningSystem, upstream: Upstream) -> None:
        self._system, self._upstream = system, upstream
        self._load = Load(address=system.address, model=MODEL, **BUSY)
        self.process = LoadProcess(msgspec.structs.replace(self._load, replies=1), LIMIT_S)
        self.process.expect_ready()

    def cpu_ms_per_reply(self) -> float:
        """CPU of one load that was completed: on a busy machine, a server may refuse replies as OVERLOADED."""
        for _ in range(TRIES):
            run = measured_run(
                self._load, self.process, system=self._system, upstream=self._upstream, settle_s=SETTLE_S
            )
            found = metrics(run, self._load)
            if not found["incomplete"]:
                return found["cpu_ms_per_reply"]
        raise SystemExit(f"the load was not completed: {run.seen.statuses} {run.seen.faults}")


def environment(name: str, collector: Collector) -> Mapping[str, str]:
    """The variables that make a server trace."""
    if name == OFF:
        return {}
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}",
        "OTEL_TRACES_SAMPLER": SAMPLERS[name],
        "OTEL_BSP_SCHEDULE_DELAY": str(int(EXPORT_EVERY_S * 1000)),
    }


Costs = dict[str, list[float]]
"""CPU per reply of each server in each round, in milliseconds."""


def measured(starts: int) -> Iterator[Costs]:
    """The costs of each start."""
    with closing(Upstream()) as upstream, closing(Collector()) as collector:
        for start in range(starts):
            costs: Costs = {name: [] for name in (OFF, UNSAMPLED, SAMPLED)}
            with ExitStack() as stack:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="parley-tracing-")))
                servers = _started(folder, upstream, collector, stack)
                for turn in range(-1, ROUNDS):  # the first one warms up
                    for name in servers if (start + turn) % 2 else reversed(servers):
                        cpu_ms = _cpu_ms(servers[name], collector, SPANS_PER_REPLY if name == SAMPLED else 0)
                        if turn >= 0:
                            costs[name].append(cpu_ms)
            yield costs


def _started(folder: Path, upstream: Upstream, collector: Collector, stack: ExitStack) -> dict[str, Server]:
    servers = {}
    for position, name in enumerate((OFF, UNSAMPLED, SAMPLED)):
        own = folder / str(position)
        own.mkdir()
        system = start_embedded(own, upstream, [MODEL, "t20-p0"], environment=environment(name, collector))
        stack.callback(system.stop)
        servers[name] = Server(system, upstream)
        stack.callback(servers[name].process.close)
    return servers


def _cpu_ms(server: Server, collector: Collector, spans_per_reply: int) -> float:
    """CPU per reply of one round, whose spans must have been exported."""
    before, expected = collector.spans, spans_per_reply * BUSY["replies"]
    cpu_ms = server.cpu_ms_per_reply()
    if collector.spans - before < expected:
        raise SystemExit(f"only {collector.spans - before} of {expected} spans were exported")
    return cpu_ms


def added_ms(name: str, starts: Iterable[Costs]) -> float:
    """The median of what a server needed more than the one without traces in the same round, in milliseconds."""
    pairs = [pair for costs in starts for pair in zip(costs[name], costs[OFF], strict=True)]
    return statistics.median(mine - base for mine, base in pairs)


def added_share(name: str, starts: Iterable[Costs]) -> float:
    """The same as a share of what the server without traces needed."""
    pairs = [pair for costs in starts for pair in zip(costs[name], costs[OFF], strict=True)]
    return statistics.median(mine / base - 1 for mine, base in pairs)


def main() -> int:
    """Measure, print a table, and compare with the limit."""
    starts = list(measured(int(sys.argv[1]) if len(sys.argv) > 1 else STARTS))
    rows = []
    for name in (OFF, UNSAMPLED, SAMPLED):
        cpu_ms = statistics.median(cost for costs in starts for cost in costs[name])
        each = [added_ms(name, [costs]) for costs in starts]
        added = shown(Spread(added_ms(name, starts), min(each), max(each)))
        rows.append([name, number(cpu_ms), added, f"{added_share(name, starts) * 100:.1f} %"])
    print(table(["traces", "CPU per reply, ms", "more than off, ms (starts)", "more than off"], rows))
    return int(added_ms(SAMPLED, starts) > LIMIT_MS)


if __name__ == "__main__":
    sys.exit(main())
